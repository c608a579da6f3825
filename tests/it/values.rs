//! Values of every kind: each is stored and read back, or is refused with a clear error and harms
//! no other one.

use gen_durable::{EncodeError, InsertError, SignalError, StepErrorKind, prelude::*};
use serde_json::{Value, json};

use crate::support::{NOT_HELD, WAIT_MAX, database, engine, fitting, holds, row, until};

#[derive(Clone, Debug, DurableSignal)]
pub struct Give {
    value: Value,
}

/// Copies the value of a signal into its state and its result.
#[durable_fsm(state = Value, output = Value, signals(Give))]
pub enum Copy {
    Take,
}

#[durable_fsm]
impl Copy {
    async fn take(mut cx: Context<Self>) -> StepResult<Self> {
        let Some(give) = cx.take_signal::<Give>()? else { return Ok(cx.await_signal::<Give>()) };
        cx.state = json!([cx.state, give.value]);
        let both = cx.state.clone();
        Ok(cx.done(both))
    }
}

fn nested(depth: usize) -> Value {
    (0..depth).fold(json!(1), |inner, _| json!([inner]))
}

#[tokio::test(flavor = "multi_thread")]
async fn p09_values_round_trip() {
    let db = database().await;
    let engine = engine(&db).machine::<Copy>().start().await.unwrap();
    let values = [
        json!(null),
        json!("plain"),
        json!("quotes \" ' \\ ` $1 -- ; {} %s"),
        json!("ünïcödé 漢字 🦀 \u{200b}\u{feff} \u{7f} \u{1} \n\r\t"),
        json!({ "": "", "a\"b": [1, -2, 0.5, 1e15, i64::MAX, u64::MAX, true, null] }),
        json!("\\u0000"),
        json!("x".repeat(1024 * 1024)),
        nested(100),
    ];
    for value in values {
        let text = value.to_string();
        if !holds(db.pool(), &text).await {
            let error = Copy::insert(value).execute(&engine).await.unwrap_err();
            assert!(error.to_string().contains(NOT_HELD), "{error}");
        }
        let value: Value = serde_json::from_str(&fitting(db.pool(), &text).await).unwrap();
        let id = Copy::insert(value.clone()).execute(&engine).await.unwrap();
        Copy::signal_give(id, Give { value: value.clone() }).execute(&engine).await.unwrap();
        assert_eq!(engine.wait(id, WAIT_MAX).await.unwrap(), json!([value, value]));
    }
    engine.shutdown().await.unwrap();
}

/// The state of a machine whose step does what `what` says.
#[derive(Clone, Debug, DurableState)]
pub struct Wish {
    what: String,
    #[serde(default)]
    value: Value,
}

#[durable_fsm(state = Wish, output = Value)]
pub enum Wisher {
    Grant,
}

#[durable_fsm]
impl Wisher {
    async fn grant(mut cx: Context<Self>) -> StepResult<Self> {
        let bad = match cx.state.what.split('/').next_back() {
            Some("nul") => json!("a\0b"),
            Some("large") => json!("x".repeat(10_000)),
            Some("deep") => nested(500),
            _ => json!("fine"),
        };
        if cx.state.what.starts_with("state") {
            cx.state.value = bad;
            return Ok(cx.done(json!(1)));
        }
        if cx.state.what.starts_with("insert") {
            return Ok(cx.done(json!(1)).insert(Copy::insert(bad)));
        }
        if cx.state.what.starts_with("signal") {
            let target = InstanceId::from_raw(1);
            return Ok(cx.done(json!(1)).signal(Copy::signal_give(target, Give { value: bad })));
        }
        if cx.state.what.starts_with("error") {
            return Err(std::io::Error::other(bad.to_string().replace("\\u0000", "\0")).into());
        }
        Ok(cx.done(bad))
    }

    async fn handle(cx: Context<Self>, error: StepError) -> Outcome<Self> {
        assert!(cx.state.value.is_null(), "`handle` sees the state that the step began with");
        cx.stop(format!("handled: {error}"))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn p09_what_cannot_be_stored_fails_into_handle_and_its_neighbours_commit() {
    let db = database().await;
    let pool = db.pool();
    let engine =
        engine(&db).machine::<Copy>().machine::<Wisher>().value_max(5_000).start().await.unwrap();
    let mut rows = Vec::new();
    for place in ["state", "result", "insert", "signal"] {
        for what in ["nul", "large", "deep", "fine"] {
            rows.push(format!("{place}/{what}"));
        }
    }
    let wishes = rows.iter().map(|what| Wish { what: what.clone(), value: Value::Null });
    let ids = Wisher::insert_many(wishes).execute(&engine).await.unwrap();
    for (what, id) in rows.iter().zip(ids) {
        let id = id.unwrap();
        let result = engine.wait(id, WAIT_MAX).await;
        let reason = match what.split('/').next_back() {
            Some("nul") => "NUL character",
            Some("large") => "over the limit of 5000",
            Some("deep") => "nests deeper",
            _ => {
                result.unwrap_or_else(|error| panic!("{what}: {error}"));
                continue;
            }
        };
        let error = result.expect_err(what).to_string();
        assert!(error.contains("handled: ") && error.contains(reason), "{what}: {error}");
    }
    // The text of an error is stored whatever it contains.
    let id = Wisher::insert(Wish { what: "error/nul".into(), value: Value::Null });
    let id = id.execute(&engine).await.unwrap();
    let row = until(pool, id, "failed").await;
    let (error, expected) = (row.last_error.unwrap(), "handled: \"a\u{fffd}b\"");
    if holds(pool, expected).await {
        assert_eq!(error, expected);
    } else {
        // This database cannot store the character that replaces NUL either, so its refusal is the
        // reason.
        assert!(error.contains("handled: ") && error.contains(NOT_HELD), "{error}");
    }
    engine.shutdown().await.unwrap();
}

/// Postgres refuses some outcomes by a constraint that the engine cannot foresee. Each must fail
/// alone, in `handle`, and all other outcomes must be committed.
#[tokio::test(flavor = "multi_thread")]
async fn p09_what_postgres_refuses_fails_alone() {
    let db = database().await;
    let pool = db.pool();
    crate::support::sql(
        pool,
        "alter table gen_durable.instances add check (result::text is distinct from '\"forbidden\"')",
    )
    .await;
    let engine = engine(&db)
        .machine::<Copy>()
        .machine::<Wisher>()
        .queue("default", 50)
        .start()
        .await
        .unwrap();
    let ids =
        Copy::insert_many((0..100).map(|_| json!("forbidden"))).execute(&engine).await.unwrap();
    for (n, id) in ids.iter().enumerate() {
        let id = *id.as_ref().unwrap();
        let value = if n % 10 == 3 { json!(null) } else { json!(n) };
        Copy::signal_give(id, Give { value }).execute(&engine).await.unwrap();
    }
    let refused = Refused::insert_many((0..50).map(|n| n % 7 == 0)).execute(&engine).await.unwrap();
    let second = crate::support::engine(&db).machine::<Refused>().queue("default", 50);
    let second = second.start().await.unwrap();
    for id in ids {
        engine.wait(id.unwrap(), WAIT_MAX).await.unwrap();
    }
    for (n, id) in refused.into_iter().enumerate() {
        let result = engine.wait(id.unwrap(), WAIT_MAX).await;
        if n % 7 == 0 {
            let error = result.unwrap_err().to_string();
            assert!(error.contains("told: "), "{error}");
        } else {
            assert_eq!(result.unwrap(), json!("allowed"));
        }
    }
    second.shutdown().await.unwrap();
    engine.shutdown().await.unwrap();
}

#[durable_fsm(state = bool, output = Value)]
pub enum Refused {
    Try,
}

#[durable_fsm]
impl Refused {
    async fn r#try(cx: Context<Self>) -> Outcome<Self> {
        let result = if cx.state { json!("forbidden") } else { json!("allowed") };
        cx.done(result)
    }

    async fn handle(cx: Context<Self>, error: StepError) -> Outcome<Self> {
        cx.stop(format!("told: {error}"))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn p09_calls_with_values_that_cannot_be_stored_are_refused() {
    let db = database().await;
    let client = Client::new(db.pool().clone());
    let error = Copy::insert(json!("\0")).execute(&client).await.unwrap_err();
    assert!(matches!(error, InsertError::Encode(EncodeError::Nul { .. })), "{error}");
    let large = json!("x".repeat(9 * 1024 * 1024));
    let error = Copy::insert(large.clone()).execute(db.pool()).await.unwrap_err();
    assert!(matches!(error, InsertError::Encode(EncodeError::TooLarge { .. })), "{error}");
    let error = Copy::insert(json!(1)).partition_key("a\0").execute(&client).await.unwrap_err();
    assert!(matches!(error, InsertError::Encode(EncodeError::Nul { .. })), "{error}");
    let id = Copy::insert(json!(1)).execute(&client).await.unwrap();
    let error = Copy::signal_give(id, Give { value: large }).execute(&client).await.unwrap_err();
    assert!(matches!(error, SignalError::Encode(EncodeError::TooLarge { .. })), "{error}");
    assert_eq!(row(db.pool(), id).await.inbox, 0);
}

#[derive(Clone, Debug, DurableState)]
pub struct Strict {
    nested: Inner,
}

#[derive(Clone, Debug, DurableState)]
pub struct Inner {
    n: u8,
}

#[durable_fsm(version = 3, state = Strict, output = (), signals(Give))]
pub enum Reader {
    Read,
}

#[durable_fsm]
impl Reader {
    async fn read(mut cx: Context<Self>) -> StepResult<Self> {
        cx.take_signal::<Give>()?;
        Ok(cx.done(()))
    }

    async fn handle(cx: Context<Self>, error: StepError) -> Outcome<Self> {
        assert_eq!(error.kind(), StepErrorKind::Undecodable, "a state does not reach `handle`");
        cx.stop(error)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn p10_a_row_that_does_not_decode_fails_and_is_left_as_it_is() {
    let db = database().await;
    let pool = db.pool();
    let state = Strict { nested: Inner { n: 1 } };
    let by_state = Reader::insert(state.clone()).execute(pool).await.unwrap();
    let stored = json!({ "nested": { "n": 300 }, "more": true });
    sqlx::query("update gen_durable.instances set state = $1")
        .bind(&stored)
        .execute(pool)
        .await
        .unwrap();
    let by_payload = Reader::insert(state).execute(pool).await.unwrap();
    let client = Client::new(pool.clone());
    client.signal_by_name(by_payload.get(), "give", &json!({ "valu": 1 }), None).await.unwrap();
    let engine = engine(&db).machine::<Reader>().start().await.unwrap();

    let row = until(pool, by_state, "failed").await;
    assert_eq!(row.state, stored, "nothing is overwritten");
    let error = row.last_error.unwrap();
    for part in ["state", "`nested.n`", "machine `reader` version 3", "integer, expected u8"] {
        assert!(error.contains(part), "{error}");
    }
    assert!(!error.contains("300"), "the value is not repeated: {error}");
    let row = until(pool, by_payload, "failed").await;
    assert_eq!(row.inbox, 1, "the payload is kept");
    let error = row.last_error.unwrap();
    for part in ["payload of signal `give`", "missing field `value`", "version 3"] {
        assert!(error.contains(part), "{error}");
    }
    engine.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn p10_a_step_that_no_longer_exists_fails_the_instance() {
    let db = database().await;
    let id = Reader::insert(Strict { nested: Inner { n: 1 } }).execute(db.pool()).await.unwrap();
    sqlx::query("update gen_durable.instances set step = 'gone'").execute(db.pool()).await.unwrap();
    let engine = engine(&db).machine::<Reader>().start().await.unwrap();
    let row = until(db.pool(), id, "failed").await;
    assert_eq!(
        row.last_error.as_deref(),
        Some("machine `reader` version 3 has no step `gone`; it has read")
    );
    engine.shutdown().await.unwrap();
}
