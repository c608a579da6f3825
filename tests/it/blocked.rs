//! Rows that wait for their partition key. They are out of the claim's index from the insert on,
//! and come back when their key is freed.

use std::{sync::Arc, time::Duration};

use gen_durable::prelude::*;
use sqlx::Row;

use crate::{
    secrets::Kept,
    support::{
        Breakpoint, WAIT_MAX, count, database, engine, eventually, expire_lease, row, sql, until,
        until_a_session_waits,
    },
};

#[durable_fsm(name = "waits", state = i64, output = i64)]
pub enum Waits {
    Go,
}

#[durable_fsm]
impl Waits {
    async fn go(cx: Context<Self>, breakpoint: &Arc<Breakpoint>) -> Outcome<Self> {
        breakpoint.pass(cx.state).await;
        let n = cx.state;
        cx.done(n)
    }
}

/// Returns the states of the blocked rows, in order. The state of a row here is its number.
pub(crate) async fn blocked(pool: &sqlx::PgPool) -> Vec<i64> {
    sqlx::query_scalar(
        "select state::text::bigint from gen_durable.instances where blocked_by & 1 = 1 order by 1",
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
        // A row with a unique key may be left out as a duplicate, and a scheduled row is due later.
        // No other row is blocked because of such a row.
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

    // If no row has a unique key, another statement inserts the rows.
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
    let breakpoint = Arc::new(Breakpoint::new());
    let engine =
        engine(&db).machine::<Waits>().resource(Arc::clone(&breakpoint)).start().await.unwrap();
    breakpoint.open(2);
    assert_eq!([breakpoint.arrival().await, breakpoint.arrival().await], [2, 3]);
    engine.shutdown().await.unwrap();
}

/// A transaction inserts rows and stays open while their key is freed. When it commits, the rows
/// run, although the key is not freed again.
#[tokio::test(flavor = "multi_thread")]
async fn rows_that_become_visible_after_their_key_was_freed_are_not_stranded() {
    let db = database().await;
    let pool = db.pool();
    let breakpoint = Arc::new(Breakpoint::new());
    let engine =
        engine(&db).machine::<Waits>().resource(Arc::clone(&breakpoint)).start().await.unwrap();
    let first = Waits::insert(1).partition_key("k").execute(pool).await.unwrap();
    assert_eq!(breakpoint.arrival().await, 1);
    let mut open = pool.begin().await.unwrap();
    let rows = (2..5).map(|n| Waits::insert(n).partition_key("k"));
    Waits::insert_many(rows).execute(&mut *open).await.unwrap();
    breakpoint.open(4);
    until(pool, first, "done").await;
    assert_eq!(blocked(pool).await, [0_i64; 0], "the others are not there yet");
    open.commit().await.unwrap();
    for n in 2..5 {
        assert_eq!(breakpoint.arrival().await, n);
    }
    engine.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn p06_a_dead_holder_frees_what_was_inserted_with_it() {
    let db = database().await;
    let breakpoint = Arc::new(Breakpoint::new());
    let start = async || {
        let engine = engine(&db).machine::<Waits>().resource(Arc::clone(&breakpoint));
        engine.start().await.unwrap()
    };
    let dead = start().await;
    let rows = (1..4).map(|n| Waits::insert(n).partition_key("k"));
    Waits::insert_many(rows).execute(&dead).await.unwrap();
    assert_eq!(breakpoint.arrival().await, 1);
    let alive = start().await;
    expire_lease(db.pool(), dead.worker()).await;
    alive.maintain().await.unwrap();
    assert_eq!(breakpoint.arrival().await, 1, "the first row runs again, before the others");
    breakpoint.open(10);
    assert_eq!([breakpoint.arrival().await, breakpoint.arrival().await], [2, 3]);
    eventually("all have run", async || (count(db.pool(), "done").await == 3).then_some(())).await;
    alive.shutdown().await.unwrap();
    drop(dead);
}

/// A claim takes a key for free, as its snapshot shows no holder. When it writes, there is a
/// holder, and the unique index on holders refuses the whole claim. The engine repeats the claim
/// without logging a failure, and the other rows of the claim run.
// The test has one thread, as it sees only what this thread logs.
#[tokio::test]
async fn p06_a_claim_that_a_holder_has_overtaken_is_made_again() {
    let (log, _here) = Kept::log("info");
    let db = database().await;
    let pool = db.pool();
    let rows = [
        Waits::insert(1).partition_key("k"),
        Waits::insert(2).partition_key("other"),
        Waits::insert(3),
    ];
    let inserted = Waits::insert_many(rows).execute(pool).await.unwrap();
    let ids: Vec<_> = inserted.into_iter().map(Result::unwrap).collect();
    // The transaction stays open: no snapshot shows the holder, but the unique index has its entry.
    let mut open = pool.begin().await.unwrap();
    let holder: i64 = sqlx::query_scalar(
        "insert into gen_durable.instances
             (fsm, fsm_version, step, state, status, locked_by, partition_key)
         values ('waits', 1, 'go', '0', 'executing', 99, 'k') returning id",
    )
    .fetch_one(&mut *open)
    .await
    .unwrap();
    let breakpoint = Arc::new(Breakpoint::new());
    breakpoint.open(10);
    let engine =
        engine(&db).machine::<Waits>().resource(Arc::clone(&breakpoint)).start().await.unwrap();
    until_a_session_waits(pool, 1).await;
    open.commit().await.unwrap();
    for id in &ids[1..] {
        engine.wait(*id, WAIT_MAX).await.unwrap();
    }
    assert!(!log.text().contains("could not claim"), "{}", log.text());
    assert_eq!(row(pool, ids[0]).await.status, "runnable");
    // The holder's worker does not exist. Therefore the reaper takes the holder, and this frees the
    // key.
    engine.maintain().await.unwrap();
    engine.wait(ids[0], WAIT_MAX).await.unwrap();
    until(pool, holder, "done").await;
    engine.shutdown().await.unwrap();
}

/// Rows of a busy key are all in the claim's index, as if each had been inserted by itself. The
/// claims that find some of them take these out of the index, and the rows behind them as well.
/// When the key is freed, the rows run in their order.
#[tokio::test(flavor = "multi_thread")]
async fn p06_a_crowd_behind_a_busy_key_is_moved_out_of_the_way_and_keeps_its_order() {
    const CROWD: i64 = 3_000;
    let db = database().await;
    let pool = db.pool();
    let breakpoint = Arc::new(Breakpoint::new());
    let engine =
        engine(&db).machine::<Waits>().resource(Arc::clone(&breakpoint)).start().await.unwrap();
    Waits::insert(1).partition_key("k").execute(pool).await.unwrap();
    assert_eq!(breakpoint.arrival().await, 1);
    // The two rows of the other key come last, behind the whole crowd.
    sqlx::query(
        "insert into gen_durable.instances (fsm, fsm_version, step, state, partition_key)
         select 'waits', 1, 'go', to_json(n), case when n <= $1 then 'k' else 'other' end
         from generate_series(2, $1 + 2) as n",
    )
    .bind(CROWD)
    .execute(pool)
    .await
    .unwrap();
    assert_eq!(breakpoint.arrival().await, CROWD + 1, "the crowd waits, and nobody else does");
    eventually("those that wait are out of the index", async || {
        (blocked(pool).await.len() == usize::try_from(CROWD).unwrap()).then_some(())
    })
    .await;
    breakpoint.open(10_000);
    let mut ran = Vec::new();
    for _ in 1..=CROWD {
        ran.push(breakpoint.arrival().await);
    }
    ran.retain(|n| *n <= CROWD);
    assert!(ran.is_sorted(), "{ran:?}");
    eventually("all have run", async || (count(pool, "runnable").await == 0).then_some(())).await;
    engine.shutdown().await.unwrap();
}

/// Locks the row with this state, as a transaction that signals it does. The lock lasts until the
/// returned transaction ends.
async fn lock(pool: &sqlx::PgPool, place: i64) -> sqlx::Transaction<'_, sqlx::Postgres> {
    let mut signal = pool.begin().await.unwrap();
    let lock =
        "select id from gen_durable.instances where state::text = $1::text for no key update";
    sqlx::query(lock).bind(place).execute(&mut *signal).await.unwrap();
    signal
}

/// The only row that waits for a key is locked when the key is freed. The engine frees the key
/// again when that lock has ended. Maintenance would do it too, so it is off here.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_freed_while_all_that_waits_is_locked_is_freed_again() {
    let db = database().await;
    let pool = db.pool();
    let breakpoint = Arc::new(Breakpoint::new());
    let engine =
        engine(&db).maintenance(false).machine::<Waits>().resource(Arc::clone(&breakpoint));
    let engine = engine.start().await.unwrap();
    let rows = [1, 2].map(|n| Waits::insert(n).partition_key("k"));
    let ids = Waits::insert_many(rows).execute(pool).await.unwrap();
    assert_eq!(breakpoint.arrival().await, 1);
    let signal = lock(pool, 2).await;
    breakpoint.open(2);
    until(pool, *ids[0].as_ref().unwrap(), "done").await;
    assert_eq!(blocked(pool).await, [2]);
    signal.rollback().await.unwrap();
    assert_eq!(breakpoint.arrival().await, 2);
    engine.shutdown().await.unwrap();
}

/// The row that comes next is locked when its key is freed, so a later row comes back into the
/// claim's index. Claims find the key by that later row. They leave it in the index and claim
/// nothing of the key until the first row's lock has ended.
#[tokio::test(flavor = "multi_thread")]
async fn p06_a_locked_head_is_waited_for_and_not_overtaken() {
    let db = database().await;
    let pool = db.pool();
    let breakpoint = Arc::new(Breakpoint::new());
    let engine =
        engine(&db).maintenance(false).machine::<Waits>().resource(Arc::clone(&breakpoint));
    let engine = engine.start().await.unwrap();
    let rows = [1, 2, 3, 4].map(|n| Waits::insert(n).partition_key("k"));
    let ids = Waits::insert_many(rows).execute(pool).await.unwrap();
    assert_eq!(breakpoint.arrival().await, 1);
    let signal = lock(pool, 2).await;
    breakpoint.open(10);
    until(pool, *ids[0].as_ref().unwrap(), "done").await;
    assert_eq!(blocked(pool).await, [2, 4]);
    // A claim that runs now, as the engine's own claims do, claims nothing and leaves row 3 in the
    // index.
    let three = ids[2].as_ref().unwrap().get();
    for _ in 0..2 {
        let mut claim = pool.begin().await.unwrap();
        sqlx::query("select pg_advisory_xact_lock(hashtextextended('k', 5297))")
            .execute(&mut *claim)
            .await
            .unwrap();
        let rows = claim_partitions(&mut claim, engine.worker(), three).await;
        claim.commit().await.unwrap();
        assert_eq!(rows, [None], "nothing is claimed");
        assert_eq!(blocked(pool).await, [2, 4]);
    }
    signal.rollback().await.unwrap();
    for n in 2..=4 {
        assert_eq!(breakpoint.arrival().await, n);
    }
    engine.shutdown().await.unwrap();
}

/// A worker whose lease has run out claims nothing. Therefore it must not block rows either: no
/// commit of its own would free their key.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_without_a_lease_takes_nothing_out_of_the_claims_index() {
    let db = database().await;
    let pool = db.pool();
    let rows = [1, 2].map(|n| Waits::insert(n).partition_key("k"));
    let ids = Waits::insert_many(rows).execute(pool).await.unwrap();
    sql(pool, "update gen_durable.instances set blocked_by = 1 - blocked_by").await;
    let mut claim = pool.acquire().await.unwrap();
    let second = ids[1].as_ref().unwrap().get();
    assert_eq!(claim_partitions(&mut claim, 99, second).await, [None]);
    assert_eq!(blocked(pool).await, [1]);
}

/// Another worker may have claimed and run a candidate since a claim found it. The row may be
/// runnable again and scheduled for later: then it waits for no key. If it were blocked, it would
/// later be unblocked in the place of a row that does wait.
#[tokio::test(flavor = "multi_thread")]
async fn a_candidate_that_has_run_and_comes_back_later_is_not_blocked() {
    let db = database().await;
    let pool = db.pool();
    sql(
        pool,
        "insert into gen_durable.workers (id, name, lease_expires_at)
         overriding system value values (7, 'w', now() + interval '1 hour');
         insert into gen_durable.instances
             (id, fsm, fsm_version, step, state, partition_key, priority, eligible_at, blocked_by)
         overriding system value
         values (1, 'waits', 1, 'go', '1', 'k', -1, now() + interval '1 hour', 0),
                (2, 'waits', 1, 'go', '2', 'k', 0, now(), 0),
                (3, 'waits', 1, 'go', '3', 'k', 0, now(), 1)",
    )
    .await;
    let mut connection = pool.acquire().await.unwrap();
    assert_eq!(claim_partitions(&mut connection, 7, 1).await, [Some(2)]);
    sql(pool, "update gen_durable.instances set status = 'done', locked_by = null where id = 2")
        .await;
    sqlx::query(include_str!("../../gen_durable/src/storage/sql/unblock_partitions.sql"))
        .bind(vec!["k"])
        .execute(&mut *connection)
        .await
        .unwrap();
    assert_eq!(blocked(pool).await, [0_i64; 0], "the row that is due is let in");
}

/// Runs `claim_partitions.sql` for a candidate of the key "k". Returns the ids of the claimed rows,
/// or one null if there are none.
async fn claim_partitions(
    connection: &mut sqlx::PgConnection,
    worker: i64,
    candidate: i64,
) -> Vec<Option<i64>> {
    let statement = include_str!("../../gen_durable/src/storage/sql/claim_partitions.sql");
    sqlx::query_scalar(statement)
        .bind(worker)
        .bind(vec![candidate])
        .bind(vec!["k"])
        .bind(vec!["waits"])
        .bind(vec![1_i32])
        .bind(Vec::<String>::new())
        .bind(vec!["default"])
        .bind(i64::MAX)
        .bind(false)
        .fetch_all(connection)
        .await
        .unwrap()
}

/// A commit that frees a key waits for the key's lock. Therefore a claim must not take the lock of
/// a key of which it claims no row.
#[tokio::test(flavor = "multi_thread")]
async fn a_claim_locks_the_keys_that_it_takes_and_no_others() {
    let db = database().await;
    let pool = db.pool();
    sql(
        pool,
        "insert into gen_durable.workers (name, lease_expires_at) values ('w', now() + interval '1 hour');
         insert into gen_durable.instances
             (fsm, fsm_version, step, state, partition_key, status, locked_by)
         values ('waits', 1, 'go', '0', 'busy', 'executing', 1),
                ('waits', 1, 'go', '1', 'busy', 'runnable', null),
                ('waits', 1, 'go', '2', 'free', 'runnable', null)",
    )
    .await;
    let mut claim = pool.begin().await.unwrap();
    let steps: Vec<Option<String>> =
        sqlx::query(include_str!("../../gen_durable/src/storage/sql/claim.sql"))
            .bind(1_i64)
            .bind(vec!["default"])
            .bind(vec![10_i64])
            .bind(vec!["waits"])
            .bind(vec![1_i32])
            .bind(Vec::<String>::new())
            .bind(Vec::<String>::new())
            .bind(true)
            .bind(Vec::<i64>::new())
            .bind(Vec::<i16>::new())
            .bind(Vec::<i64>::new())
            .bind(2_097_152_i64)
            .bind(false)
            .fetch_one(&mut *claim)
            .await
            .unwrap()
            .get("steps");
    assert_eq!(steps, [None, Some("go".to_owned())]);
    let free: Vec<bool> = sqlx::query_scalar(
        "select pg_try_advisory_xact_lock(hashtextextended(k, 5297))
         from unnest('{busy,free}'::text[]) as k",
    )
    .fetch_all(pool)
    .await
    .unwrap();
    assert_eq!(free, [true, false]);
}
