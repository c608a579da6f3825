//! Claims of several processes. One claim of a queue runs at a time, but a claim lock that is never
//! given back holds up no engine. Also announcements that an engine follows late, but follows.

use std::time::Duration;

use gen_durable::prelude::*;
use sqlx::{PgConnection, PgPool, Postgres, Row, Transaction, postgres::PgRow};

use crate::support::{WAIT_MAX, database, engine, eventually, sql};

const CLAIM: &str = include_str!("../../gen_durable/src/storage/sql/claim.sql");

#[durable_fsm(state = (), output = ())]
pub enum Short {
    Go,
}

#[durable_fsm]
impl Short {
    async fn go(cx: Context<Self>) -> Outcome<Self> {
        cx.done(())
    }
}

#[durable_fsm(name = "short", queue = "other", state = (), output = ())]
pub enum Elsewhere {
    Go,
}

#[durable_fsm]
impl Elsewhere {
    async fn go(cx: Context<Self>) -> Outcome<Self> {
        cx.done(())
    }
}

/// Claims two rows of each queue. Returns their ids, and the queues whose claim lock was refused.
async fn claim(
    connection: &mut PgConnection,
    queues: &[&str],
    without_lock: &[&str],
) -> (Vec<i64>, Vec<String>) {
    let each = queues.len();
    let row: PgRow = sqlx::query(CLAIM)
        .bind(1_i64)
        .bind(queues)
        .bind(vec![2_i64; each])
        .bind(vec!["short"; each])
        .bind(vec![1_i32; each])
        .bind(Vec::<String>::new())
        .bind(without_lock)
        .bind(true)
        .bind(Vec::<i64>::new())
        .bind(Vec::<i16>::new())
        .bind(Vec::<i64>::new())
        .bind(2_097_152_i64)
        .bind(false)
        .fetch_one(connection)
        .await
        .unwrap();
    let ids: Option<Vec<i64>> = row.try_get("ids").unwrap();
    (ids.unwrap_or_default(), row.try_get("refused").unwrap())
}

/// The first claim's statement has ended, but its transaction has not: it keeps the claim lock and
/// the locks of its rows.
#[tokio::test(flavor = "multi_thread")]
async fn claims_of_a_queue_run_one_at_a_time_and_wait_for_no_other() {
    let db = database().await;
    let pool = db.pool();
    let mut ids = Vec::new();
    for id in Short::insert_many(vec![(); 4]).execute(pool).await.unwrap() {
        ids.push(id.unwrap().get());
    }
    let other = Elsewhere::insert(()).execute(pool).await.unwrap().get();
    sql(
        pool,
        "insert into gen_durable.workers (name, lease_expires_at) values ('w', now() + interval '1 hour')",
    )
    .await;
    let mut first = pool.begin().await.unwrap();
    let mut second = pool.acquire().await.unwrap();
    let refused = |queues: &[&str]| -> Vec<String> { queues.iter().map(|&q| q.into()).collect() };
    assert_eq!(claim(&mut first, &["default"], &[]).await, (ids[..2].to_vec(), vec![]));
    // A claim is refused only the queue whose claim lock is taken.
    assert_eq!(
        claim(&mut second, &["default", "other"], &[]).await,
        (vec![other], refused(&["default"]))
    );
    // A claim that has waited too long goes without the claim lock. It takes the rows of that queue
    // that the first claim has not locked.
    let mut third = pool.begin().await.unwrap();
    assert_eq!(claim(&mut third, &["other"], &[]).await, (vec![], vec![]));
    let elsewhere = Elsewhere::insert(()).execute(pool).await.unwrap().get();
    let (rows, mut both) = claim(&mut second, &["default", "other"], &["default"]).await;
    both.sort();
    assert_eq!((rows, both), (ids[2..].to_vec(), refused(&["default", "other"])));
    third.rollback().await.unwrap();
    first.rollback().await.unwrap();
    assert_eq!(
        claim(&mut second, &["default", "other"], &[]).await,
        ([&ids[..2], &[elsewhere]].concat(), vec![])
    );
}

/// Takes the claim lock of the queue `default`, as a claim that does not end.
async fn hold_claim_lock(pool: &PgPool) -> Transaction<'_, Postgres> {
    let mut holder = pool.begin().await.unwrap();
    sqlx::query("select pg_advisory_xact_lock(hashtextextended('default', 5298))")
        .execute(&mut *holder)
        .await
        .unwrap();
    holder
}

/// A claim lock is never given back. This happens if a process is stopped in the middle of a claim,
/// while the answer fills its socket.
#[tokio::test(flavor = "multi_thread")]
async fn a_claim_lock_that_is_never_released_holds_up_no_process() {
    let db = database().await;
    let pool = db.pool();
    let holder = hold_claim_lock(pool).await;
    let engine = engine(&db).machine::<Short>().start().await.unwrap();
    for _ in 0..3 {
        let id = Short::insert(()).execute(&engine).await.unwrap();
        engine.wait(id, WAIT_MAX).await.unwrap();
    }
    engine.shutdown().await.unwrap();
    holder.rollback().await.unwrap();
}

/// The claim lock of the queue `default` is refused, and the queue `other` is served all the same.
/// The engine takes the announcements for those of another process, and would poll hours later.
#[tokio::test(flavor = "multi_thread")]
async fn a_claim_lock_that_is_refused_holds_up_no_other_queue() {
    let db = database().await;
    let pool = db.pool();
    let holder = hold_claim_lock(pool).await;
    let engine = engine(&db)
        .queue("default", 1)
        .queue("other", 1)
        .poll_interval(Duration::from_hours(100))
        .machine::<Short>()
        .start()
        .await
        .unwrap();
    // The first round runs before the engine has waited too long for the claim lock, and the second
    // one after that.
    for _ in 0..2 {
        for _ in 0..3 {
            let id = Elsewhere::insert(()).execute(pool).await.unwrap();
            sql(pool, "select pg_notify('gen_durable', 'other')").await;
            engine.wait(id, WAIT_MAX).await.unwrap();
        }
        let id = Short::insert(()).execute(pool).await.unwrap();
        sql(pool, "select pg_notify('gen_durable', 'default')").await;
        engine.wait(id, WAIT_MAX).await.unwrap();
    }
    engine.shutdown().await.unwrap();
    holder.rollback().await.unwrap();
}

/// An engine whose claim is refused tries again by itself, as no announcement tells that a claim
/// lock is free.
#[tokio::test(flavor = "multi_thread")]
async fn a_refused_claim_is_made_again_when_the_claim_lock_is_free() {
    let db = database().await;
    let pool = db.pool();
    let holder = hold_claim_lock(pool).await;
    let engine = engine(&db)
        .poll_interval(Duration::from_hours(1))
        .machine::<Short>()
        .start()
        .await
        .unwrap();
    let id = Short::insert(()).execute(&engine).await.unwrap();
    holder.rollback().await.unwrap();
    engine.wait(id, WAIT_MAX).await.unwrap();
    engine.shutdown().await.unwrap();
}

/// After several announcements that led to nothing, an engine follows the next one later: this is
/// the wake backoff. The poll would come hours later, as its pause has doubled with each look that
/// found nothing.
#[tokio::test(flavor = "multi_thread")]
async fn an_announcement_after_wakes_in_vain_is_followed() {
    let db = database().await;
    let pool = db.pool();
    let engine = engine(&db)
        .poll_interval(Duration::from_hours(100))
        .lease_ttl(Duration::from_hours(100))
        .machine::<Short>()
        .start()
        .await
        .unwrap();
    for round in 0..30 {
        for _ in 0..10 {
            // Each announcement has a transaction of its own, as Postgres merges equal ones of a
            // transaction.
            sql(pool, "select pg_notify('gen_durable', 'default')").await;
        }
        // The insert does not go through the engine's client, so the engine takes it for one of
        // another process.
        let id = Short::insert(()).execute(pool).await.unwrap();
        sql(pool, "select pg_notify('gen_durable', 'default')").await;
        let done = async || {
            let status: String =
                sqlx::query_scalar("select status from gen_durable.instances where id = $1")
                    .bind(id.get())
                    .fetch_one(pool)
                    .await
                    .unwrap();
            (status == "done").then_some(())
        };
        eventually(&format!("round {round} is done"), done).await;
    }
    engine.shutdown().await.unwrap();
}
