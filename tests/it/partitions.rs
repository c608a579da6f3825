//! Partition keys: instances of one key run one at a time and in order, on all engines of a
//! database.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use gen_durable::prelude::*;

use crate::support::{
    Breakpoint, WAIT_MAX, count, database, engine, eventually, expire_lease, row, sql, until,
    until_a_session_waits,
};

/// The instances that ran, in order, and how often two of one key ran at once.
#[derive(Debug, Default)]
pub struct Watch {
    ran: Mutex<Vec<(String, i64)>>,
    running: Mutex<Vec<String>>,
    overlaps: AtomicI64,
}

#[durable_fsm(state = i64, output = ())]
pub enum Keyed {
    First,
    Second,
}

#[durable_fsm]
impl Keyed {
    async fn first(cx: Context<Self>, watch: &Arc<Watch>) -> Outcome<Self> {
        let key = cx.partition_key().unwrap_or_default().to_owned();
        {
            let mut running = watch.running.lock().unwrap();
            if running.contains(&key) {
                watch.overlaps.fetch_add(1, Ordering::Relaxed);
            }
            running.push(key.clone());
        }
        tokio::task::yield_now().await;
        watch.ran.lock().unwrap().push((key.clone(), cx.state));
        cx.next(Keyed::Second)
    }

    async fn second(cx: Context<Self>, watch: &Arc<Watch>) -> Outcome<Self> {
        let key = cx.partition_key().unwrap_or_default();
        let mut running = watch.running.lock().unwrap();
        let place = running.iter().position(|other| other == key);
        running.remove(place.expect("it is running"));
        drop(running);
        cx.done(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn p06_one_key_never_overlaps_and_keeps_its_order() {
    const KEYS: i64 = 7;
    const ROWS: i64 = 600;
    let db = database().await;
    let watch = Arc::new(Watch::default());
    let start = async || {
        let engine = engine(&db).machine::<Keyed>().resource(Arc::clone(&watch));
        engine.start().await.unwrap()
    };
    let (one, other) = (start().await, start().await);
    for batch in 0..6 {
        let rows = (0..ROWS / 6).map(|n| {
            let n = batch * (ROWS / 6) + n;
            Keyed::insert(n).partition_key(format!("key {}", n % KEYS))
        });
        Keyed::insert_many(rows).execute(&one).await.unwrap();
    }
    eventually("all have run", async || (count(db.pool(), "done").await == ROWS).then_some(()))
        .await;
    assert_eq!(watch.overlaps.load(Ordering::Relaxed), 0);
    for key in 0..KEYS {
        let key = format!("key {key}");
        let ran = watch.ran.lock().unwrap();
        let order: Vec<i64> = ran.iter().filter(|(of, _)| *of == key).map(|(_, n)| *n).collect();
        assert!(order.is_sorted(), "{key}: {order:?}");
    }
    one.shutdown().await.unwrap();
    other.shutdown().await.unwrap();
}

#[durable_fsm(state = i64, output = i64)]
pub enum Held {
    Hold,
}

#[durable_fsm]
impl Held {
    async fn hold(cx: Context<Self>, breakpoint: &Arc<Breakpoint>) -> Outcome<Self> {
        breakpoint.pass(cx.state).await;
        let n = cx.state;
        cx.done(n)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn p06_a_key_is_served_by_priority_and_other_keys_are_not_held_up() {
    let db = database().await;
    let breakpoint = Arc::new(Breakpoint::new());
    let engine =
        engine(&db).machine::<Held>().resource(Arc::clone(&breakpoint)).start().await.unwrap();
    let insert = |n: i64| Held::insert(n).partition_key("busy");
    insert(1).execute(&engine).await.unwrap();
    assert_eq!(breakpoint.arrival().await, 1);
    insert(4).execute(&engine).await.unwrap();
    insert(3).execute(&engine).await.unwrap();
    insert(2).priority(-1).execute(&engine).await.unwrap();
    Held::insert(10).partition_key("other").execute(&engine).await.unwrap();
    Held::insert(11).execute(&engine).await.unwrap();
    let mut arrived = [breakpoint.arrival().await, breakpoint.arrival().await];
    arrived.sort_unstable();
    assert_eq!(arrived, [10, 11], "the rows of the busy key wait, and no other row does");
    breakpoint.open(3);
    for n in [2, 4, 3] {
        assert_eq!(breakpoint.arrival().await, n);
        breakpoint.open(1);
    }
    eventually("all have run", async || (count(db.pool(), "done").await == 6).then_some(())).await;
    engine.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn p06_a_dead_holder_frees_its_key() {
    let db = database().await;
    let breakpoint = Arc::new(Breakpoint::new());
    let start = async || {
        let engine = engine(&db).machine::<Held>().resource(Arc::clone(&breakpoint));
        engine.start().await.unwrap()
    };
    let dead = start().await;
    let first = Held::insert(1).partition_key("k").execute(&dead).await.unwrap();
    assert_eq!(breakpoint.arrival().await, 1);
    let alive = start().await;
    let second = Held::insert(2).partition_key("k").execute(&alive).await.unwrap();
    expire_lease(db.pool(), dead.worker()).await;
    alive.maintain().await.unwrap();
    assert_eq!(breakpoint.arrival().await, 1, "the first row runs again, before the second");
    breakpoint.open(10);
    until(db.pool(), second, "done").await;
    assert_eq!(alive.wait(first, WAIT_MAX).await.unwrap(), 1);
    assert_eq!(dead.metrics().steps, 1, "the dead one's step ran out, to no effect");
    alive.shutdown().await.unwrap();
    drop(dead);
}

#[durable_fsm(name = "plain", output = ())]
pub enum Plain {
    Go,
}

#[durable_fsm]
impl Plain {
    async fn go(cx: Context<Self>) -> Outcome<Self> {
        cx.done(())
    }
}

/// Some rows of a key have version 2. An engine that knew this version has blocked them, and no
/// engine knows it any more. The rows of version 1 behind them must run.
#[tokio::test(flavor = "multi_thread")]
async fn p11_a_waiting_row_of_an_unknown_version_does_not_starve_its_key() {
    let db = database().await;
    let pool = db.pool();
    let mut ids = Vec::new();
    for _ in 0..4 {
        ids.push(Plain::insert(()).partition_key("k").execute(pool).await.unwrap());
    }
    sqlx::query("update gen_durable.instances set fsm_version = 2 where id = any ($1)")
        .bind([ids[1].get(), ids[2].get()])
        .execute(pool)
        .await
        .unwrap();
    sql(pool, "update gen_durable.instances set blocked_by = 1 where id > 1").await;
    let engine = engine(&db).machine::<Plain>().start().await.unwrap();
    engine.wait(ids[0], WAIT_MAX).await.unwrap();
    engine.wait(ids[3], WAIT_MAX).await.unwrap();
    assert_eq!(row(pool, ids[1]).await.status, "runnable");
    engine.shutdown().await.unwrap();
}

/// A key has rows in two queues, and the engine serves only one of them. The row in its queue must
/// run, although the older row of the key waits in the other queue.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_may_span_queues_that_nobody_here_serves() {
    let db = database().await;
    let pool = db.pool();
    let elsewhere = Plain::insert(()).partition_key("k").queue("elsewhere");
    let elsewhere = elsewhere.execute(pool).await.unwrap();
    let here = Plain::insert(()).partition_key("k").execute(pool).await.unwrap();
    let engine = engine(&db).machine::<Plain>().start().await.unwrap();
    engine.wait(here, WAIT_MAX).await.unwrap();
    assert_eq!(row(pool, elsewhere).await.status, "runnable");
    engine.shutdown().await.unwrap();
}

/// A transaction makes a row of a key executing without the key's lock, and does not commit. A
/// claim cannot see this until it waits for that transaction in the index. The claim must give the
/// key up and go on with other rows; after the rollback the key's rows must run.
#[tokio::test(flavor = "multi_thread")]
async fn a_claim_gives_a_key_up_whose_holder_does_not_commit() {
    let db = database().await;
    let pool = db.pool();
    let head = Plain::insert(()).partition_key("k").execute(pool).await.unwrap();
    let behind = Plain::insert(()).partition_key("k").execute(pool).await.unwrap();
    let without = Plain::insert_many([(); 5]).execute(pool).await.unwrap();
    let mut holder = pool.begin().await.unwrap();
    sqlx::query(
        "update gen_durable.instances
         set status = 'executing', locked_by = 0, revision = revision + 1 where id = $1",
    )
    .bind(behind.get())
    .execute(&mut *holder)
    .await
    .unwrap();
    // The engine gives no statement up within an hour, so that nothing else can end the wait.
    let engine = engine(&db).machine::<Plain>().lease_ttl(Duration::from_hours(1));
    let engine = engine.start().await.unwrap();
    until_a_session_waits(pool, 1).await;
    for id in without {
        engine.wait(id.unwrap(), WAIT_MAX).await.unwrap();
    }
    assert_eq!(row(pool, head).await.status, "runnable");
    holder.rollback().await.unwrap();
    engine.wait(head, WAIT_MAX).await.unwrap();
    engine.wait(behind, WAIT_MAX).await.unwrap();
    engine.shutdown().await.unwrap();
}
