//! Steps that fail by an `Err`, a panic or a timeout, and a `handle` that fails itself.

use std::{sync::Arc, time::Duration};

use gen_durable::prelude::*;
use sqlx::PgPool;

use crate::support::{Breakpoint, WAIT_MAX, database, engine, sql, until};

#[derive(Clone, Debug, PartialEq, DurableState)]
pub struct Fate {
    how: String,
    #[serde(default)]
    touched: bool,
}

#[derive(Debug, thiserror::Error)]
#[error("outer")]
struct Outer(#[source] std::io::Error);

#[durable_fsm(state = Fate, output = String, timeout = "50ms")]
pub enum Fails {
    Go,
}

#[durable_fsm]
impl Fails {
    async fn go(mut cx: Context<Self>) -> StepResult<Self> {
        cx.state.touched = true;
        match cx.state.how.as_str() {
            "err" => Err(Outer(std::io::Error::other("inner")))?,
            "panic" | "handle panics" | "handle fails" => panic!("at {}", cx.state.how),
            "panic with a number" => std::panic::panic_any(7),
            "timeout" => std::future::pending::<()>().await,
            _ => {}
        }
        Ok(cx.done("fine".to_owned()))
    }

    async fn handle(cx: Context<Self>, error: StepError) -> StepResult<Self> {
        assert!(!cx.state.touched, "`handle` sees the state that the step began with");
        match cx.state.how.as_str() {
            "handle panics" => panic!("in handle"),
            "handle fails" => Err(std::io::Error::other("from handle"))?,
            _ => {}
        }
        let known = error.downcast_ref::<Outer>().is_some();
        Ok(cx.done(format!("{:?} {known}: {error}", error.kind())))
    }
}

fn fate(how: &str) -> Fate {
    Fate { how: how.to_owned(), touched: false }
}

#[tokio::test(flavor = "multi_thread")]
async fn p12_every_failure_reaches_handle_with_the_original_state() {
    let db = database().await;
    let engine = engine(&db).machine::<Fails>().start().await.unwrap();
    for (how, told) in [
        ("err", "Failed true: outer: inner"),
        ("panic", "Panicked false: panicked: at panic"),
        ("panic with a number", "Panicked false: panicked: a value that is not text"),
        ("timeout", "TimedOut false: ran longer than its timeout of 50ms"),
        ("nothing", "fine"),
    ] {
        let id = Fails::insert(fate(how)).execute(&engine).await.unwrap();
        assert_eq!(engine.wait(id, WAIT_MAX).await.unwrap(), told);
    }
    engine.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn p12_a_handle_that_fails_fails_the_instance() {
    let db = database().await;
    let engine = engine(&db).machine::<Fails>().start().await.unwrap();
    for (how, reason) in [
        ("handle panics", "panicked: at handle panics; then `handle` failed: panicked: in handle"),
        ("handle fails", "panicked: at handle fails; then `handle` failed: from handle"),
    ] {
        let id = Fails::insert(fate(how)).execute(&engine).await.unwrap();
        let row = until(db.pool(), id, "failed").await;
        assert_eq!(row.last_error.as_deref(), Some(reason));
        assert_eq!(row.state["touched"], false);
    }
    engine.shutdown().await.unwrap();
}

/// A machine without a `handle` of its own. Its step returns errors of any type.
#[durable_fsm(state = u32, output = ())]
pub enum Plain {
    Any,
}

#[durable_fsm]
impl Plain {
    async fn any(cx: Context<Self>) -> anyhow::Result<Outcome<Self>> {
        anyhow::ensure!(cx.state > 1, "{} is not enough", cx.state);
        Ok(cx.done(()))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_handle_an_error_stops_the_instance() {
    let db = database().await;
    let engine = engine(&db).machine::<Plain>().start().await.unwrap();
    let id = Plain::insert(1).execute(&engine).await.unwrap();
    let error = engine.wait(id, WAIT_MAX).await.unwrap_err();
    assert_eq!(error.to_string(), format!("instance {id} failed: 1 is not enough"));
    let fine = Plain::insert(2).execute(&engine).await.unwrap();
    engine.wait(fine, WAIT_MAX).await.unwrap();
    engine.shutdown().await.unwrap();
}

#[durable_fsm(state = (), output = u32)]
pub enum Retries {
    Fail,
}

#[durable_fsm]
impl Retries {
    async fn fail(cx: Context<Self>) -> StepResult<Self> {
        if cx.attempt() < 3 {
            return Err(std::io::Error::other("not yet").into());
        }
        let attempt = cx.attempt();
        Ok(cx.done(attempt))
    }

    async fn handle(cx: Context<Self>, _error: StepError) -> Outcome<Self> {
        cx.replay(Duration::from_millis(1))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handle_may_replay_and_each_attempt_counts() {
    let db = database().await;
    let engine = engine(&db).machine::<Retries>().start().await.unwrap();
    let id = Retries::insert(()).execute(&engine).await.unwrap();
    assert_eq!(engine.wait(id, WAIT_MAX).await.unwrap(), 3);
    engine.shutdown().await.unwrap();
}

#[durable_fsm(state = (), output = ())]
pub enum Refused {
    Go,
}

#[durable_fsm]
impl Refused {
    async fn go(cx: Context<Self>, breakpoint: &Arc<Breakpoint>) -> Outcome<Self> {
        breakpoint.pass(cx.id()).await;
        cx.done(())
    }
}

/// The database refuses an outcome, then the outcome that `handle` returned, then the failure of
/// the instance. The engine has nothing else to try. It leaves the instance alone for a while, and
/// then its step runs again.
#[tokio::test(flavor = "multi_thread")]
async fn an_instance_whose_every_outcome_is_refused_is_left_alone() {
    let db = database().await;
    let pool = db.pool();
    sql(
        pool,
        "create sequence tries;
         create function refuse() returns trigger language plpgsql as $$
         begin
             -- A rollback does not set a sequence back.
             perform nextval('tries');
             raise exception 'refused' using errcode = 'check_violation';
         end $$;
         create trigger refuse before update on gen_durable.instances for each row
         when (new.priority = 7 and new.status in ('done', 'failed')) execute function refuse();",
    )
    .await;
    let breakpoint = Arc::new(Breakpoint::new());
    let engine = engine(&db).machine::<Refused>().resource(Arc::clone(&breakpoint));
    // The engine looks for rows that were given up as often as it renews its lease.
    let engine = engine.lease_ttl(Duration::from_secs(3)).start().await.unwrap();
    let refused = Refused::insert(()).priority(7).execute(&engine).await.unwrap();
    for run in 1..=2 {
        assert_eq!(breakpoint.arrival().await, refused.get());
        assert_eq!(tries(pool).await, 3 * (run - 1), "three for each run");
        breakpoint.open(1);
    }
    // Other instances go on, in one batch with the refused outcome or not.
    let others = Refused::insert_many([(); 20]).execute(&engine).await.unwrap();
    breakpoint.open(20);
    for other in others {
        engine.wait(other.unwrap(), WAIT_MAX).await.unwrap();
    }
    sql(pool, "drop trigger refuse on gen_durable.instances").await;
    breakpoint.open(1);
    engine.wait(refused, WAIT_MAX).await.unwrap();
    engine.shutdown().await.unwrap();
}

async fn tries(pool: &PgPool) -> i64 {
    let tries = "select case when is_called then last_value else 0 end from tries";
    sqlx::query_scalar(tries).fetch_one(pool).await.unwrap()
}
