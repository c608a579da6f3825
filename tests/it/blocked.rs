//! Rows that wait for their partition key: out of the claim's index from the insert on, and taken back.

use std::{sync::Arc, time::Duration};

use gen_durable::prelude::*;
use tracing_subscriber::EnvFilter;

use crate::{
    secrets::Kept,
    support::{
        Gate, PATIENCE, count, database, engine, eventually, expire_lease, row, sql, until,
        until_somebody_waits,
    },
};

#[durable_fsm(name = "waits", state = i64, output = i64)]
pub enum Waits {
    Go,
}

#[durable_fsm]
impl Waits {
    async fn go(cx: Context<Self>, gate: &Arc<Gate>) -> Outcome<Self> {
        gate.pass(cx.state).await;
        let n = cx.state;
        cx.done(n)
    }
}

/// The places of rows, by their state, that are out of the claim's index.
async fn blocked(pool: &sqlx::PgPool) -> Vec<i64> {
    sqlx::query_scalar(
        "select state::bigint from gen_durable.instances where blocked order by state::bigint",
    )
    .fetch_all(pool)
    .await
    .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_insert_leaves_in_the_claims_index_what_may_go_first() {
    let db = database().await;
    let pool = db.pool();
    let hour = Duration::from_hours(1);
    let rows = [
        Waits::insert(0).partition_key("a"),
        Waits::insert(1).partition_key("a"),
        Waits::insert(2).partition_key("a").priority(-1),
        Waits::insert(3).partition_key("a").queue("other"),
        Waits::insert(4).partition_key("a").queue("other"),
        // What has a unique key may be left out, and what has a schedule comes later: neither goes first.
        Waits::insert(5).partition_key("b").schedule_in(hour),
        Waits::insert(6).partition_key("b").unique_key("u"),
        Waits::insert(7).partition_key("b"),
        Waits::insert(8).partition_key("b"),
        Waits::insert(9).partition_key("b").unique_key("v"),
        Waits::insert(10).partition_key("b").schedule_in(hour),
        Waits::insert(11).partition_key("b").priority(-1).unique_key("w"),
        Waits::insert(12).partition_key("c").unique_key("x"),
        Waits::insert(13).partition_key("c").unique_key("y"),
        Waits::insert(14),
        Waits::insert(15),
    ];
    Waits::insert_many(rows).execute(pool).await.unwrap();
    assert_eq!(blocked(pool).await, [0, 1, 4, 8, 9]);

    // Without a unique key among them it is another statement that inserts.
    sql(pool, "truncate gen_durable.instances").await;
    let rows = (0..4).map(|n| Waits::insert(n).partition_key(format!("key {}", n % 2)));
    Waits::insert_many(rows).execute(pool).await.unwrap();
    assert_eq!(blocked(pool).await, [2, 3]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_duplicate_that_is_left_out_leaves_somebody_in_the_claims_index() {
    let db = database().await;
    let pool = db.pool();
    let taken = Waits::insert(0).unique_key("u").schedule_in(Duration::from_hours(1));
    taken.execute(pool).await.unwrap();
    let rows = [
        Waits::insert(1).partition_key("k").unique_key("u"),
        Waits::insert(2).partition_key("k"),
        Waits::insert(3).partition_key("k"),
    ];
    let answers = Waits::insert_many(rows).execute(pool).await.unwrap();
    assert!(answers[0].is_err() && answers[1].is_ok() && answers[2].is_ok());
    assert_eq!(blocked(pool).await, [3]);
    let gate = Arc::new(Gate::new());
    let engine = engine(&db).machine::<Waits>().resource(Arc::clone(&gate)).start().await.unwrap();
    gate.open(2);
    assert_eq!([gate.arrival().await, gate.arrival().await], [2, 3]);
    engine.shutdown().await.unwrap();
}

/// The rows of a transaction that is open come after their key was freed: nobody has to free it again.
#[tokio::test(flavor = "multi_thread")]
async fn rows_that_become_visible_after_their_key_was_freed_are_not_stranded() {
    let db = database().await;
    let pool = db.pool();
    let gate = Arc::new(Gate::new());
    let engine = engine(&db).machine::<Waits>().resource(Arc::clone(&gate)).start().await.unwrap();
    let first = Waits::insert(1).partition_key("k").execute(pool).await.unwrap();
    assert_eq!(gate.arrival().await, 1);
    let mut open = pool.begin().await.unwrap();
    let rows = (2..5).map(|n| Waits::insert(n).partition_key("k"));
    Waits::insert_many(rows).execute(&mut *open).await.unwrap();
    gate.open(4);
    until(pool, first, "done").await;
    assert_eq!(blocked(pool).await, [0_i64; 0], "the others are not there yet");
    open.commit().await.unwrap();
    for n in 2..5 {
        assert_eq!(gate.arrival().await, n);
    }
    engine.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn p06_a_dead_holder_frees_what_was_inserted_with_it() {
    let db = database().await;
    let gate = Arc::new(Gate::new());
    let start = async || {
        let engine = engine(&db).machine::<Waits>().resource(Arc::clone(&gate));
        engine.start().await.unwrap()
    };
    let dead = start().await;
    let rows = (1..4).map(|n| Waits::insert(n).partition_key("k"));
    Waits::insert_many(rows).execute(&dead).await.unwrap();
    assert_eq!(gate.arrival().await, 1);
    let alive = start().await;
    expire_lease(db.pool(), dead.worker()).await;
    alive.maintain().await.unwrap();
    assert_eq!(gate.arrival().await, 1, "the first row runs again, before the others");
    gate.open(10);
    assert_eq!([gate.arrival().await, gate.arrival().await], [2, 3]);
    eventually("all have run", async || (count(db.pool(), "done").await == 3).then_some(())).await;
    alive.shutdown().await.unwrap();
    drop(dead);
}

/// A claim that takes a key for free, as its snapshot knows no holder, and finds that there is one when it writes: the
/// index refuses it, and it is made again without a failure, for the others in it too.
// One thread, so that all that is logged goes where this test looks.
#[tokio::test]
async fn p06_a_claim_that_a_holder_has_overtaken_is_made_again() {
    let log = Kept::default();
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new("info"))
        .with_ansi(false)
        .with_writer(log.clone())
        .finish();
    let _here = tracing::subscriber::set_default(subscriber);
    let db = database().await;
    let pool = db.pool();
    let rows = [
        Waits::insert(1).partition_key("k"),
        Waits::insert(2).partition_key("other"),
        Waits::insert(3),
    ];
    let inserted = Waits::insert_many(rows).execute(pool).await.unwrap();
    let ids: Vec<_> = inserted.into_iter().map(Result::unwrap).collect();
    // Nobody sees the holder, and the index knows of it.
    let mut open = pool.begin().await.unwrap();
    let holder: i64 = sqlx::query_scalar(
        "insert into gen_durable.instances
             (fsm, fsm_version, step, state, status, locked_by, partition_key)
         values ('waits', 1, 'go', '0', 'executing', 99, 'k') returning id",
    )
    .fetch_one(&mut *open)
    .await
    .unwrap();
    let gate = Arc::new(Gate::new());
    gate.open(10);
    let engine = engine(&db).machine::<Waits>().resource(Arc::clone(&gate)).start().await.unwrap();
    until_somebody_waits(pool, 1).await;
    open.commit().await.unwrap();
    for id in &ids[1..] {
        engine.wait(*id, PATIENCE).await.unwrap();
    }
    assert!(!log.text().contains("could not claim"), "{}", log.text());
    assert_eq!(row(pool, ids[0]).await.status, "runnable");
    // The holder's worker is none: it is reaped, and frees the key.
    engine.maintain().await.unwrap();
    engine.wait(ids[0], PATIENCE).await.unwrap();
    until(pool, holder, "done").await;
    engine.shutdown().await.unwrap();
}

/// Rows that each came by itself, and are all in the claim's index: the claims that find them take them out,
/// those behind what they have found too, and what is freed goes on in its order.
#[tokio::test(flavor = "multi_thread")]
async fn p06_a_crowd_behind_a_busy_key_is_moved_out_of_the_way_and_keeps_its_order() {
    const CROWD: i64 = 3_000;
    let db = database().await;
    let pool = db.pool();
    let gate = Arc::new(Gate::new());
    let engine = engine(&db).machine::<Waits>().resource(Arc::clone(&gate)).start().await.unwrap();
    Waits::insert(1).partition_key("k").execute(pool).await.unwrap();
    assert_eq!(gate.arrival().await, 1);
    // Those of the other key come last, and are behind the whole crowd.
    sqlx::query(
        "insert into gen_durable.instances (fsm, fsm_version, step, state, partition_key)
         select 'waits', 1, 'go', to_jsonb(n), case when n <= $1 then 'k' else 'other' end
         from generate_series(2, $1 + 2) as n",
    )
    .bind(CROWD)
    .execute(pool)
    .await
    .unwrap();
    assert_eq!(gate.arrival().await, CROWD + 1, "the crowd waits, and nobody else does");
    eventually("those that wait are out of the index", async || {
        (blocked(pool).await.len() == usize::try_from(CROWD).unwrap()).then_some(())
    })
    .await;
    gate.open(10_000);
    let mut ran = Vec::new();
    for _ in 1..=CROWD {
        ran.push(gate.arrival().await);
    }
    ran.retain(|n| *n <= CROWD);
    assert!(ran.is_sorted(), "{ran:?}");
    eventually("all have run", async || (count(pool, "runnable").await == 0).then_some(())).await;
    engine.shutdown().await.unwrap();
}
