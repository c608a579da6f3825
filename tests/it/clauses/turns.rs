//! Statements that take turns, hold rows back or look at buckets, and wait for others meanwhile.

use serde_json::json;
use sqlx::{PgConnection, PgPool};
use tokio::task::JoinHandle;

use super::{
    buckets::hold_back,
    insert,
    limits::{answers, buckets, take_later, workers},
    rows, run, see, without_indexes,
};
use crate::support::{database, sql, until_a_session_waits};

/// A worker registers and takes places, while the statement of another one waits for the bucket.
/// The latter counts the places, though its snapshot does not have the worker.
#[tokio::test(flavor = "multi_thread")]
async fn p70_places_of_a_worker_that_came_meanwhile_are_taken() {
    let db = database().await;
    let pool = db.pool();
    workers(pool).await;
    insert(pool, "limits", &["name, body, at_once: 'a', '', 3"]).await;
    insert(pool, "limit_buckets", &["bucket, limit_name: 'a', 'a'"]).await;
    let alive = "insert into gen_durable.workers (id, name, lease_expires_at)
                 overriding system value values (3, 'w', gen_durable.now())";
    let lost = "insert into gen_durable.lost_workers (worker, counts_until)
                values (3, gen_durable.now() + interval '1 s')";
    for (number, come) in [(1, alive), (2, lost)] {
        let mut first = pool.begin().await.unwrap();
        run(&mut first, "select from gen_durable.limit_buckets for no key update").await;
        let second = take_later(pool, (8, number), ("a", "a", 0, 1, "{1,2,3}")).await;
        until_a_session_waits(pool, 1).await;
        run(&mut first, come).await;
        let hold = "update gen_durable.limit_buckets
                    set workers = '{3,6}', held = '{2,3}', said = '{1,1}'";
        run(&mut first, hold).await;
        first.commit().await.unwrap();
        assert_eq!(second.await.unwrap(), json!([[[1], 3, false]]), "{come}");
        sql(pool, "delete from gen_durable.workers where id = 3").await;
    }
}

/// Others use up the rate, while a statement waits for the bucket. The time of the statement is
/// older, and it does not take back what they have used.
#[tokio::test(flavor = "multi_thread")]
async fn p70_a_rate_that_was_used_up_meanwhile_stays_so() {
    let db = database().await;
    let pool = db.pool();
    workers(pool).await;
    let limit = "name, body, starts, period, burst: 'a', '', 1, 100, 1";
    insert(pool, "limits", &[limit]).await;
    insert(pool, "limit_buckets", &["bucket, limit_name: 'a', 'a'"]).await;
    // Postgres reads the clock when the function is called.
    sql(
        pool,
        "create table public.clock (at timestamptz not null);
         insert into public.clock select gen_durable.now();
         create or replace function gen_durable.clock() returns timestamptz language plpgsql volatile
         as $$ begin return (select c.at from public.clock c); end $$",
    )
    .await;
    let mut first = pool.begin().await.unwrap();
    let used = "update gen_durable.limit_buckets set used_until = 1000000001100";
    run(&mut first, used).await;
    let second = take_later(pool, (8, 1), ("a", "a", 0, 1, "{1}")).await;
    until_a_session_waits(pool, 1).await;
    sql(pool, "update public.clock set at = at + interval '1 ms'").await;
    first.commit().await.unwrap();
    assert_eq!(second.await.unwrap(), json!([[[], 0, false]]));
    assert_eq!(
        see(pool, "select used_until from gen_durable.limit_buckets").await,
        json!(1_000_000_001_100_i64)
    );
    // A time that lies further ahead is one of a clock that went back.
    let mut connection = pool.acquire().await.unwrap();
    run(&mut connection, "update gen_durable.limit_buckets set used_until = 1000000001101").await;
    let asks = [("a", "a", 0, 1, "{1}")];
    let found = answers(&mut connection, "admitted, used", (8, 2), &asks, 0).await;
    assert_eq!(found, json!([[[], 1100]]));
}

/// A statement waits for `a`, and has not locked `b`, which lies before it in the table.
async fn locks_in_order(pool: &PgPool, statement: impl FnOnce(PgConnection) -> JoinHandle<()>) {
    let mut barrier = pool.begin().await.unwrap();
    run(&mut barrier, "select from gen_durable.limit_buckets where bucket = 'a' for update").await;
    let mut own = without_indexes(pool).await;
    // Postgres joins the buckets as they lie.
    run(&mut own, "set enable_mergejoin = off; set enable_hashagg = off").await;
    let waiting = statement(own);
    until_a_session_waits(pool, 1).await;
    let free = "select json_agg(bucket) from (
                    select bucket from gen_durable.limit_buckets for update skip locked) as b";
    let mut other = pool.begin().await.unwrap();
    let free: serde_json::Value = sqlx::query_scalar(free).fetch_one(&mut *other).await.unwrap();
    assert_eq!(free, json!(["b"]));
    other.rollback().await.unwrap();
    barrier.rollback().await.unwrap();
    waiting.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn p70_buckets_that_are_not_asked_are_not_locked() {
    let db = database().await;
    let pool = db.pool();
    workers(pool).await;
    insert(pool, "limits", &["name, body, at_once: 'l', '', 3"]).await;
    let known = ["bucket, limit_name: 'b', 'l'", "bucket, limit_name: 'a', 'l'"];
    insert(pool, "limit_buckets", &known).await;
    let mut other = pool.begin().await.unwrap();
    run(&mut other, "select from gen_durable.limit_buckets where bucket = 'b' for update").await;
    let mut own = without_indexes(pool).await;
    run(&mut own, "set lock_timeout = '5s'").await;
    let found = answers(&mut own, "admitted", (7, 1), &[("a", "l", 0, 1, "{1}")], 0).await;
    assert_eq!(found, json!([[[1]]]));
}

#[tokio::test(flavor = "multi_thread")]
async fn p70_buckets_are_locked_in_their_order() {
    let db = database().await;
    let pool = db.pool();
    workers(pool).await;
    insert(pool, "limits", &["name, body, at_once: 'l', '', 3"]).await;
    let known = ["bucket, limit_name: 'b', 'l'", "bucket, limit_name: 'a', 'l'"];
    insert(pool, "limit_buckets", &known).await;
    let executing = |id: i64| json!({ "id": id, "status": "executing", "locked_by": 7 });
    rows(pool, json!([executing(1), executing(2)])).await;
    locks_in_order(pool, |mut own| {
        tokio::spawn(async move {
            let asks = [("a", "l", 0, 1, "{1}"), ("b", "l", 0, 1, "{2}")];
            let found = answers(&mut own, "admitted", (7, 1), &asks, 0).await;
            assert_eq!(found, json!([[[1]], [[2]]]));
        })
    })
    .await;
    locks_in_order(pool, |mut own| {
        tokio::spawn(async move {
            let marked = hold_back(&mut own, &[(1, 0, "b", 1), (2, 0, "a", 1)]).await;
            assert_eq!(marked, [(1, true), (2, true)]);
        })
    })
    .await;
    assert_eq!(buckets(pool, "bucket, waits").await, json!([["a", 1], ["b", 1]]));
}
