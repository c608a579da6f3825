//! Engines in one process. On one database they share the work, and on two databases they share
//! nothing.

use std::{sync::Arc, time::Duration};

use gen_durable::{Engine, prelude::*};
use gen_durable_postgres::TestDb;

use crate::support::{Breakpoint, WAIT_MAX, count, database, engine, until};

#[durable_fsm(state = u32, output = ())]
pub enum Quick {
    Do,
}

#[durable_fsm]
impl Quick {
    async fn r#do(cx: Context<Self>) -> Outcome<Self> {
        cx.done(())
    }
}

async fn quick(db: &TestDb) -> Engine {
    engine(db).machine::<Quick>().start().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn p28_two_engines_in_one_process_share_the_work_and_two_databases_share_nothing() {
    let (db, other) = (database().await, database().await);
    let (one, two) = (quick(&db).await, quick(&db).await);
    let apart = quick(&other).await;
    let ids = Quick::insert_many(0..200).execute(&one).await.unwrap();
    for id in ids {
        two.wait(id.unwrap(), WAIT_MAX).await.unwrap();
    }
    assert_eq!((count(db.pool(), "done").await, count(other.pool(), "done").await), (200, 0));
    assert_eq!(apart.metrics().steps, 0);
    for engine in [one, two, apart] {
        engine.shutdown().await.unwrap();
    }
    let id = Quick::insert(1).execute(other.pool()).await.unwrap();
    let again = quick(&other).await;
    until(other.pool(), id, "done").await;
    again.shutdown().await.unwrap();
}

#[durable_fsm(state = u32, output = u32)]
pub enum Echo {
    Answer,
}

#[durable_fsm]
impl Echo {
    async fn answer(cx: Context<Self>, breakpoint: &Arc<Breakpoint>) -> Outcome<Self> {
        breakpoint.pass(cx.id()).await;
        let n = cx.state;
        cx.done(n)
    }
}

/// Each database counts its ids from one. Therefore instances with the same ids run in one process
/// at once, and callers wait for them at once.
#[tokio::test(flavor = "multi_thread")]
async fn p28_the_same_ids_in_two_databases_are_told_apart() {
    const ROWS: u32 = 5;
    let (db, other_db) = (database().await, database().await);
    let (breakpoint, other_breakpoint) = (Arc::new(Breakpoint::new()), Arc::new(Breakpoint::new()));
    // A shutdown that waited for the other database's steps would not end.
    let start = async |db: &TestDb, breakpoint: &Arc<Breakpoint>| {
        let engine = engine(db).machine::<Echo>().drain_timeout(Duration::from_hours(1));
        engine.resource(Arc::clone(breakpoint)).start().await.unwrap()
    };
    let (one, other) = (start(&db, &breakpoint).await, start(&other_db, &other_breakpoint).await);
    let insert = async |engine: &Engine, states: std::ops::Range<u32>| -> Vec<i64> {
        let ids = Echo::insert_many(states).execute(engine).await.unwrap();
        ids.into_iter().map(|id| id.unwrap().get()).collect()
    };
    let ids = insert(&one, 0..ROWS).await;
    assert_eq!(insert(&other, 100..100 + ROWS).await, ids);
    for _ in 0..ROWS {
        breakpoint.arrival().await;
        other_breakpoint.arrival().await;
    }
    // All waits begin before any instance ends: each wait is polled once.
    let wait = async |engine: &Engine| {
        let mut waits = Vec::new();
        for id in &ids {
            let id = InstanceId::<Echo>::from_raw(*id);
            let client = engine.client().clone();
            let mut wait = Box::pin(async move { client.wait(id, WAIT_MAX).await.unwrap() });
            tokio::select! {
                biased;
                _ = &mut wait => panic!("it has not ended"),
                () = tokio::task::yield_now() => {}
            }
            waits.push(wait);
        }
        waits
    };
    let (waits, other_waits) = (wait(&one).await, wait(&other).await);
    other_breakpoint.open(ROWS as usize);
    for (n, wait) in (100..).zip(other_waits) {
        assert_eq!(wait.await, n);
    }
    let shutdown = tokio::time::timeout(WAIT_MAX, other.shutdown());
    shutdown.await.expect("it waits for none of the other database's steps").unwrap();
    assert_eq!(count(db.pool(), "executing").await, i64::from(ROWS));
    breakpoint.open(ROWS as usize);
    for (n, wait) in (0..).zip(waits) {
        assert_eq!(wait.await, n);
    }
    one.shutdown().await.unwrap();
}
