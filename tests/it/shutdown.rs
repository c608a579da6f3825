//! Shutdown and drop.

use std::{sync::Arc, time::Duration};

use gen_durable::prelude::*;

use crate::support::{
    Gate, PATIENCE, count, database, engine, eventually, row, until_somebody_waits,
};

#[durable_fsm(state = u32, output = u32)]
pub enum Slow {
    Run,
    After,
}

#[durable_fsm]
impl Slow {
    async fn run(mut cx: Context<Self>, gate: &Arc<Gate>) -> Outcome<Self> {
        gate.pass(cx.id()).await;
        cx.state += 1;
        cx.next(Slow::After)
    }

    async fn after(cx: Context<Self>) -> Outcome<Self> {
        let n = cx.state;
        cx.done(n)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn p14_a_step_may_finish_and_what_has_not_begun_is_released() {
    let db = database().await;
    let pool = db.pool();
    let gate = Arc::new(Gate::new());
    let start = async || {
        let engine = engine(&db).machine::<Slow>().queue("default", 1);
        engine.resource(Arc::clone(&gate)).start().await.unwrap()
    };
    let engine = start().await;
    // Quick ones first: the faster a queue goes, the more is claimed ahead.
    let quick = (0..2_000).map(|_| Slow::insert(1).step(Slow::After).priority(-1));
    Slow::insert_many(quick).execute(&engine).await.unwrap();
    let ids = Slow::insert_many([0; 20]).execute(&engine).await.unwrap();
    let running = gate.arrival().await;
    let shutdown = tokio::spawn(engine.shutdown());
    eventually("what waits is released", async || {
        (count(pool, "runnable").await == 19).then_some(())
    })
    .await;
    assert!(!shutdown.is_finished(), "it waits for the step");
    gate.open(1);
    shutdown.await.unwrap().unwrap();
    let after = row(pool, running).await;
    assert_eq!(
        (after.status.as_str(), after.step.as_str(), after.locked_by),
        ("runnable", "after", None)
    );
    for id in &ids {
        let row = row(pool, *id.as_ref().unwrap()).await;
        assert_eq!((row.status.as_str(), row.attempt, row.crashes), ("runnable", 0, 0));
    }
    let workers: i64 = sqlx::query_scalar("select count(*) from gen_durable.workers")
        .fetch_one(pool)
        .await
        .unwrap();
    assert_eq!(workers, 0);
    gate.open(100);
    let again = start().await;
    for id in ids {
        assert_eq!(again.wait(id.unwrap(), PATIENCE).await.unwrap(), 1);
    }
    again.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn p14_a_step_that_outlives_the_drain_time_is_cut_off_and_released() {
    let db = database().await;
    let gate = Arc::new(Gate::new());
    let engine = engine(&db)
        .machine::<Slow>()
        .resource(Arc::clone(&gate))
        .drain_timeout(Duration::from_millis(50))
        .start()
        .await
        .unwrap();
    let id = Slow::insert(0).partition_key("k").execute(&engine).await.unwrap();
    gate.arrival().await;
    engine.shutdown().await.unwrap();
    let row = row(db.pool(), id).await;
    assert_eq!((row.status.as_str(), row.attempt, row.locked_by), ("runnable", 0, None));
    assert_eq!(row.state, 0);
}

/// The claim is under way when the shutdown begins: its rows arrive later, and are given back.
#[tokio::test(flavor = "multi_thread")]
async fn p26_a_shutdown_waits_for_the_claim_that_is_under_way() {
    let db = database().await;
    let pool = db.pool();
    let gate = Arc::new(Gate::new());
    let id = Slow::insert(0).execute(pool).await.unwrap();
    let mut lock = pool.begin().await.unwrap();
    sqlx::query("lock table gen_durable.instances in access exclusive mode")
        .execute(&mut *lock)
        .await
        .unwrap();
    let engine = engine(&db).maintenance(false).machine::<Slow>().resource(Arc::clone(&gate));
    let engine = engine.start().await.unwrap();
    until_somebody_waits(pool, 1).await;
    let shutdown = tokio::spawn(engine.shutdown());
    // Nothing runs, so a shutdown that looked at the running steps alone would be over: it has
    // removed its worker by now, or it never will before the claim's answer is in.
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    lock.commit().await.unwrap();
    shutdown.await.unwrap().unwrap();
    let row = row(pool, id).await;
    assert_eq!((row.status.as_str(), row.attempt, row.locked_by), ("runnable", 0, None));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_is_dropped_gives_its_rows_back() {
    let db = database().await;
    let gate = Arc::new(Gate::new());
    let engine = engine(&db).machine::<Slow>().resource(Arc::clone(&gate)).start().await.unwrap();
    let id = Slow::insert(0).execute(&engine).await.unwrap();
    gate.arrival().await;
    drop(engine);
    crate::support::until(db.pool(), id, "runnable").await;
}
