//! Trace contexts: what the statements store of them, and what they make of them.

use gen_durable::Client;
use serde_json::{Value, json};
use sqlx::{PgConnection, PgPool, Row};

use super::{
    FUTURE, PAST,
    claim::{Request, answer, ten},
    each, rows, run, see, session, worker,
};
use crate::support::{database, sql};

const NO_TEXT: Option<&str> = None;
const NO_NUMBER: Option<i64> = None;

async fn stored(pool: &PgPool) -> Value {
    each(pool, "i.trace_context").await
}

#[tokio::test(flavor = "multi_thread")]
async fn p70_inserts_store_the_contexts_that_they_are_given() {
    let db = database().await;
    let pool = db.pool();
    worker(pool).await;
    let contexts = [Some("a"), None];
    sqlx::query(include_str!("../../../gen_durable/src/storage/sql/insert_plain.sql"))
        .bind(["m", "m"])
        .bind([1, 1])
        .bind(["s", "s"])
        .bind(["0", "1"])
        .bind(["q", "q"])
        .bind([0_i16, 0])
        .bind([0_i64, 0])
        .bind([NO_NUMBER, None])
        .bind([NO_TEXT, None])
        .bind([false, false])
        .bind([NO_NUMBER, None])
        .bind(contexts)
        .execute(pool)
        .await
        .unwrap();
    sqlx::query(include_str!("../../../gen_durable/src/storage/sql/insert.sql"))
        .bind(["m", "m"])
        .bind([1, 1])
        .bind(["s", "s"])
        .bind(["0", "1"])
        .bind(["q", "q"])
        .bind([0_i16, 0])
        .bind([0_i64, 0])
        .bind([NO_NUMBER, None])
        .bind([NO_TEXT, None])
        .bind([false, false])
        .bind([NO_TEXT, None])
        .bind([NO_TEXT, None])
        .bind(NO_TEXT)
        .bind([NO_NUMBER, None])
        .bind(contexts)
        .execute(pool)
        .await
        .unwrap();
    sqlx::query(include_str!("../../../gen_durable/src/storage/sql/insert_claimed.sql"))
        .bind(["m", "m"])
        .bind([1, 1])
        .bind(["s", "s"])
        .bind(["0", "1"])
        .bind(["q", "q"])
        .bind([0_i16, 0])
        .bind([NO_TEXT, None])
        .bind([NO_TEXT, None])
        .bind([true, false])
        .bind(NO_TEXT)
        .bind(7_i64)
        .bind(["q"])
        .bind(["m"])
        .bind([1])
        .bind([NO_NUMBER, None])
        .bind(contexts)
        .execute(pool)
        .await
        .unwrap();
    sqlx::query(include_str!("../../../gen_durable/src/storage/sql/insert_alike.sql"))
        .bind("m")
        .bind(1)
        .bind("s")
        .bind(["0"])
        .bind("q")
        .bind(0_i16)
        .bind(NO_NUMBER)
        .bind("alike")
        .execute(pool)
        .await
        .unwrap();
    sqlx::query(include_str!("../../../gen_durable/src/storage/sql/insert_born.sql"))
        .bind("m")
        .bind(1)
        .bind("s")
        .bind(["0"])
        .bind("q")
        .bind(0_i16)
        .bind(NO_NUMBER)
        .bind(7_i64)
        .bind(1_i64)
        .bind(["m"])
        .bind([1])
        .bind("born")
        .execute(pool)
        .await
        .unwrap();
    let expected = json!(["a", null, "a", null, "a", null, "alike", "born"]);
    assert_eq!(stored(pool).await, expected);
}

/// Starts or signals the instance that holds this key.
#[tokio::test(flavor = "multi_thread")]
async fn p70_an_insert_by_name_stores_the_context_that_it_is_given() {
    let db = database().await;
    let pool = db.pool();
    sql(
        pool,
        "insert into gen_durable.machines (fsm, fsm_version, queue, initial, steps, signals)
         values ('m', 1, 'q', 's', '{s}', '{}')",
    )
    .await;
    for context in [Some("a"), None] {
        sqlx::query(include_str!("../../../gen_durable/src/storage/sql/insert_by_name.sql"))
            .bind("m")
            .bind("0")
            .bind(None::<i32>)
            .bind(NO_TEXT)
            .bind(NO_TEXT)
            .bind(0)
            .bind(NO_NUMBER)
            .bind(NO_NUMBER)
            .bind(NO_TEXT)
            .bind(NO_TEXT)
            .bind(NO_NUMBER)
            .bind(context)
            .execute(pool)
            .await
            .unwrap();
    }
    assert_eq!(stored(pool).await, json!(["a", null]));
}

async fn start_or_signal(pool: &PgPool, key: &str, context: Option<&str>) {
    let statement = include_str!("../../../gen_durable/src/storage/sql/insert_or_signal.sql");
    sqlx::query(statement)
        .bind("m")
        .bind(1_i32)
        .bind("s")
        .bind("0")
        .bind("q")
        .bind(0_i16)
        .bind(0_i64)
        .bind(NO_NUMBER)
        .bind(NO_TEXT)
        .bind(key)
        .bind("runnable,awaiting_signal")
        .bind("go")
        .bind("7")
        .bind(NO_TEXT)
        .bind(NO_TEXT)
        .bind(NO_NUMBER)
        .bind(context)
        .execute(pool)
        .await
        .unwrap();
}

/// A row that is parked for `more` signals `go`, and came with this context.
fn parked(id: i64, context: Option<&str>, more: Option<i32>) -> Value {
    json!({ "id": id, "status": "awaiting_signal", "awaits": ["go"], "awaits_more": more,
            "unique_key": format!("k{id}"), "unique_scope": ["awaiting_signal", "runnable"],
            "trace_context": context })
}

const SENT: &str = "select json_agg(s.trace_context order by s.id) from gen_durable.signals s";

#[tokio::test(flavor = "multi_thread")]
async fn p70_a_wake_takes_the_senders_context_or_links_to_the_old_one() {
    let db = database().await;
    let pool = db.pool();
    let all = json!([
        parked(1, Some("a"), Some(2)),
        parked(2, Some("b"), None),
        parked(3, Some("-c"), None),
        parked(4, None, None),
        parked(5, Some("e"), Some(2)),
        { "id": 6, "status": "executing", "trace_context": "f" },
        parked(7, None, None),
    ]);
    rows(pool, all).await;
    // Row 1 wakes with the second of its signals, rows 2 and 3 with one that has no context. Row 5
    // waits for another one.
    let sent: [(i64, Option<&str>); 8] = [
        (1, Some("x")),
        (2, None),
        (1, Some("y")),
        (3, None),
        (4, Some("z")),
        (5, Some("v")),
        (6, Some("w")),
        (7, None),
    ];
    sqlx::query(include_str!("../../../gen_durable/src/storage/sql/deliver.sql"))
        .bind(sent.map(|signal| signal.0))
        .bind(vec![NO_TEXT; 8])
        .bind(vec!["go"; 8])
        .bind(vec!["7"; 8])
        .bind(vec![NO_TEXT; 8])
        .bind(false)
        .bind(NO_TEXT)
        .bind(vec![NO_TEXT; 8])
        .bind(sent.map(|signal| signal.1))
        .execute(pool)
        .await
        .unwrap();
    assert_eq!(stored(pool).await, json!(["y", "-b", "-c", "z", "e", "f", null]));
    assert_eq!(see(pool, SENT).await, json!(["x", null, "y", null, "z", "v", "w", null]));
}

#[tokio::test(flavor = "multi_thread")]
async fn p70_start_or_signal_passes_the_context_to_row_and_signal() {
    let db = database().await;
    let pool = db.pool();
    rows(pool, json!([parked(101, Some("a"), None), parked(102, Some("b"), None)])).await;
    start_or_signal(pool, "k101", Some("x")).await;
    start_or_signal(pool, "k102", None).await;
    run(
        &mut session(pool, "select").await,
        "alter sequence gen_durable.instances_id_seq restart with 200",
    )
    .await;
    start_or_signal(pool, "new", Some("y")).await;
    assert_eq!(stored(pool).await, json!(["x", "-b", "y"]));
    assert_eq!(see(pool, SENT).await, json!(["x", null, "y"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn p70_a_report_carries_the_context_of_the_run_that_ended() {
    let db = database().await;
    let pool = db.pool();
    let waits = |id, context: Option<&str>| {
        json!({ "id": id, "status": "awaiting_signal", "awaits": ["ended(m)"],
                "trace_context": context })
    };
    let ended = |id, receiver| json!({ "id": id, "status": "done", "report_to": receiver });
    let all = json!([
        waits(1, Some("a")),
        waits(2, Some("b")),
        waits(3, None),
        ended(11, 1),
        ended(12, 2),
        ended(13, 3)
    ]);
    rows(pool, all).await;
    let report = async |ids: &[i64], contexts: Option<Vec<Option<&str>>>| {
        sqlx::query(include_str!("../../../gen_durable/src/storage/sql/report.sql"))
            .bind(ids)
            .bind(contexts)
            .execute(pool)
            .await
            .unwrap();
    };
    report(&[12, 11], Some(vec![None, Some("x")])).await;
    report(&[13], None).await;
    assert_eq!(stored(pool).await, json!(["x", "-b", null, null, null, null]));
    assert_eq!(see(pool, SENT).await, json!(["x", null, null]));
}

/// Four rows: one was due at once, one was due later, one was so before, and one has no context.
fn due(keyed: bool) -> Value {
    let row = |id: i64, since: &str, context: Option<&str>| {
        json!({ "id": id, "eligible_at": PAST, "updated_at": since, "trace_context": context,
                "partition_key": keyed.then(|| id.to_string()) })
    };
    let before = "2019-01-01T00:00:00+00:00";
    json!([
        row(1, PAST, Some("a")),
        row(2, before, Some("b")),
        row(3, before, Some("-c")),
        row(4, before, None)
    ])
}

fn linked() -> Value {
    json!(["a", "-b", "-c", null])
}

async fn contexts_of(connection: &mut PgConnection, query: &'static str) -> Value {
    let claim = sqlx::query(query)
        .bind(7_i64)
        .bind(["default"])
        .bind([10_i64])
        .bind(["m"])
        .bind([1])
        .bind([1_i64])
        .bind([0_i16])
        .bind([1_577_836_800_000_000_i64])
        .bind(["default"])
        .bind(["m"])
        .bind([1])
        .bind([Some(0_i16)])
        .bind(1_000_000_i64);
    let row = claim.fetch_one(connection).await.unwrap();
    json!(row.get::<Vec<Option<String>>, _>("trace_contexts"))
}

#[tokio::test(flavor = "multi_thread")]
async fn p70_a_claim_links_a_row_that_was_due_later() {
    for keyed in [false, true] {
        let db = database().await;
        let pool = db.pool();
        worker(pool).await;
        rows(pool, due(keyed)).await;
        let mut connection = session(pool, "select").await;
        let row = answer(&mut connection, &Request { ..ten() }).await;
        let contexts: Vec<Option<String>> = row.get("trace_contexts");
        assert_eq!(json!(contexts), linked());
        assert_eq!(stored(pool).await, linked());
    }
    let db = database().await;
    let pool = db.pool();
    worker(pool).await;
    rows(pool, due(false)).await;
    let mut connection = session(pool, "select").await;
    let known = include_str!("../../../gen_durable/src/storage/sql/claim_known.sql");
    assert_eq!(contexts_of(&mut connection, known).await, linked());
    assert_eq!(stored(pool).await, linked());
}

#[tokio::test(flavor = "multi_thread")]
async fn p70_heads_and_woken_rows_are_linked_as_others_are() {
    let db = database().await;
    let pool = db.pool();
    worker(pool).await;
    rows(pool, due(true)).await;
    let heads =
        sqlx::query(include_str!("../../../gen_durable/src/storage/sql/claim_partitions.sql"))
            .bind(7_i64)
            .bind([1_i64, 2, 3, 4])
            .bind(["1", "2", "3", "4"])
            .bind(["m"])
            .bind([1])
            .bind(Vec::<&str>::new())
            .bind(["default"])
            .bind(1_000_000_i64)
            .bind(false)
            .fetch_all(pool)
            .await
            .unwrap();
    let contexts: Vec<Option<String>> = heads.iter().map(|row| row.get("trace_context")).collect();
    assert_eq!(json!(contexts), linked());
    assert_eq!(stored(pool).await, linked());

    let db = database().await;
    let pool = db.pool();
    worker(pool).await;
    rows(pool, due(false)).await;
    let woken = sqlx::query(include_str!("../../../gen_durable/src/storage/sql/claim_woken.sql"))
        .bind(7_i64)
        .bind([1_i64, 2, 3, 4])
        .bind(["default"])
        .bind(["m"])
        .bind([1])
        .fetch_all(pool)
        .await
        .unwrap();
    let mut contexts: Vec<(i64, Option<String>)> =
        woken.iter().map(|row| (row.get("id"), row.get("trace_context"))).collect();
    contexts.sort();
    let contexts: Vec<Option<String>> = contexts.into_iter().map(|(_, context)| context).collect();
    assert_eq!(json!(contexts), linked());
    assert_eq!(stored(pool).await, linked());
}

#[tokio::test(flavor = "multi_thread")]
async fn p70_a_timeout_and_an_operator_link_the_run_that_follows() {
    let db = database().await;
    let pool = db.pool();
    let all = json!([
        { "id": 1, "status": "awaiting_signal", "awaits": ["go"], "wake_at": PAST,
          "trace_context": "a" },
        { "id": 2, "status": "awaiting_signal", "awaits": ["go"], "wake_at": PAST },
        { "id": 3, "eligible_at": FUTURE, "trace_context": "-c" },
        { "id": 4, "status": "failed", "finished_at": PAST, "trace_context": "d" },
    ]);
    rows(pool, all).await;
    crate::support::sql(
        pool,
        "insert into gen_durable.machines (fsm, fsm_version, initial, steps)
         values ('m', 1, 's', '{s}')",
    )
    .await;
    sqlx::query(include_str!("../../../gen_durable/src/storage/sql/wake_timed_out.sql"))
        .bind(10_i64)
        .execute(pool)
        .await
        .unwrap();
    let client = Client::new(pool.clone());
    client.instance_by_id(3).run_now().execute(pool).await.unwrap();
    client.instance_by_id(4).retry().execute(pool).await.unwrap();
    assert_eq!(stored(pool).await, json!(["-a", null, "-c", "-d"]));
}

/// Gives the instance 1 two signals, the second of which has a context.
async fn two_signals(pool: &PgPool) {
    crate::support::sql(
        pool,
        "insert into gen_durable.signals (target_id, id, name, payload, trace_context)
         overriding system value values (1, 8, 'go', '8', null), (1, 9, 'go', '9', 'x')",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p70_an_inbox_brings_the_contexts_of_its_senders() {
    let db = database().await;
    let pool = db.pool();
    worker(pool).await;
    rows(pool, json!([{ "id": 1 }])).await;
    two_signals(pool).await;
    let expected = json!([[8, "go", 8, null], [9, "go", 9, "x"]]);
    let new = include_str!("../../../gen_durable/src/storage/sql/new_signals.sql");
    let inbox: String =
        sqlx::query_scalar(new).bind(1_i64).bind(0_i64).fetch_one(pool).await.unwrap();
    let inbox: Value = serde_json::from_str(&inbox).unwrap();
    assert_eq!(inbox[0], expected);
    let load = sqlx::query(include_str!("../../../gen_durable/src/storage/sql/load_inbox.sql"))
        .bind(1_i64)
        .bind(0_i64)
        .bind(10_i64)
        .bind(10_000_i64)
        .bind(NO_TEXT)
        .bind(0_i64);
    let inbox: String = load.fetch_one(pool).await.unwrap().get("inbox");
    assert_eq!(serde_json::from_str::<Value>(&inbox).unwrap(), expected);
    let mut connection = session(pool, "select").await;
    let row = answer(&mut connection, &Request { listening: &["m"], ..ten() }).await;
    let inboxes: Vec<Option<String>> = row.get("inboxes");
    let inbox: Value = serde_json::from_str(inboxes[0].as_deref().unwrap()).unwrap();
    assert_eq!(inbox[0], expected);
}
