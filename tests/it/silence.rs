//! Work that nothing will run, and messages that were dropped, are reported in the log.

use gen_durable::prelude::*;

use crate::{
    secrets::Kept,
    support::{WAIT_MAX, database, engine, expire_lease},
};

#[derive(Clone, Debug, DurableSignal)]
pub struct Go {}

#[durable_fsm(queue = "attic", output = ())]
pub enum Attic {
    Run,
}

#[durable_fsm]
impl Attic {
    async fn run(cx: Context<Self>) -> Outcome<Self> {
        cx.done(())
    }
}

/// Rows wait in queues that no engine serves. The log must name these queues, and must not name a
/// queue for as long as a worker that serves it has a lease.
#[tokio::test]
async fn p56_rows_in_a_queue_that_nobody_serves_are_logged() {
    let (log, _here) = Kept::log("gen_durable=warn");
    let db = database().await;
    let attic = engine(&db).machine::<Attic>().queue("attic", 1).start().await.unwrap();
    let worker = attic.worker();
    attic.shutdown().await.unwrap();
    Attic::insert(()).execute(db.pool()).await.unwrap();
    Attic::insert(()).queue("cellar").execute(db.pool()).await.unwrap();
    let engine = engine(&db).start().await.unwrap();
    let said = "queues that no running engine serves: attic, cellar";
    assert!(!log.text().contains(said));
    engine.maintain().await.unwrap();
    assert!(log.text().contains(said), "{}", log.text());
    // Another engine serves one of the queues, until its lease runs out.
    sqlx::query(
        "insert into gen_durable.workers (name, lease_expires_at, queues)
         values ('other', now() + interval '1 hour', '{attic}')",
    )
    .execute(db.pool())
    .await
    .unwrap();
    engine.maintain().await.unwrap();
    let said = "queues that no running engine serves: cellar";
    assert!(log.text().contains(said), "{}", log.text());
    let other: i64 = sqlx::query_scalar("select max(id) from gen_durable.workers")
        .fetch_one(db.pool())
        .await
        .unwrap();
    assert_ne!(other, worker);
    expire_lease(db.pool(), other).await;
    let before = log.text().len();
    engine.maintain().await.unwrap();
    assert!(log.text()[before..].contains("attic, cellar"), "{}", log.text());
    engine.shutdown().await.unwrap();
}

/// The await of one step has no way out. That of the other step has a timeout, so it is no trap.
#[durable_fsm(output = (), signals(Go))]
pub enum Trap {
    Listen,
    Expire,
}

#[durable_fsm]
impl Trap {
    async fn listen(mut cx: Context<Self>) -> StepResult<Self> {
        cx.take_signals::<Go>()?;
        Ok(cx.await_signal::<Go>())
    }

    #[step(entry)]
    async fn expire(mut cx: Context<Self>) -> StepResult<Self> {
        cx.take_signals::<Go>()?;
        Ok(cx.await_signal_for::<Go>(WAIT_MAX))
    }
}

#[tokio::test]
async fn p56_a_park_without_a_way_out_is_logged_at_start() {
    let (log, _here) = Kept::log("gen_durable=warn");
    let db = database().await;
    let engine = engine(&db).machine::<Trap>().machine::<Attic>().queue("attic", 1);
    let engine = engine.start().await.unwrap();
    let log = log.text();
    assert!(log.contains("step=\"listen\"") && log.contains("never ends"), "{log}");
    assert!(!log.contains("expire") && !log.contains("attic"), "{log}");
    engine.shutdown().await.unwrap();
}

/// Inserts a unique key that another instance holds, and signals an instance that does not exist.
#[durable_fsm(state = u32, output = ())]
pub enum Twin {
    Run,
}

#[durable_fsm]
impl Twin {
    async fn run(cx: Context<Self>) -> Outcome<Self> {
        let one = Attic::insert(()).unique_key("the one");
        let gone = Trap::signal_go(InstanceId::from_raw(404), Go {});
        cx.done(()).insert(one).signal(gone)
    }
}

#[tokio::test]
async fn p56_what_an_outcome_could_not_send_is_logged_once_a_minute() {
    let (log, _here) = Kept::log("gen_durable=warn");
    let db = database().await;
    Attic::insert(()).unique_key("the one").execute(db.pool()).await.unwrap();
    let engine = engine(&db).machine::<Twin>().start().await.unwrap();
    for n in 0..5 {
        let id = Twin::insert(n).execute(&engine).await.unwrap();
        engine.wait(id, WAIT_MAX).await.unwrap();
    }
    let log = log.text();
    assert_eq!(log.matches("an outcome's insert was dropped").count(), 1, "{log}");
    assert_eq!(log.matches("an outcome's signal was dropped").count(), 1, "{log}");
    assert!(log.contains("the one"), "{log}");
    engine.shutdown().await.unwrap();
}
