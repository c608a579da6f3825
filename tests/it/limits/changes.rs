//! Limits whose bounds, engines or declarations change while rows wait.

use gen_durable::{Engine, Limit};
use sqlx::PgPool;

use super::turns::{Call, Free, of, start, until_waiting, waiting};
use crate::support::{WAIT_MAX, count, database, engine, eventually, row, sql};

/// The bounds change while rows wait: an operator sets others, and takes them back.
#[tokio::test(flavor = "multi_thread")]
async fn p44_new_bounds_hold_at_once_and_a_lowered_limit_starts_nothing() {
    let db = database().await;
    let pool = db.pool();
    let (engine, breakpoint) = start(&db, Limit::new().at_once(3)).await;
    let dial = || Call::insert(of("ada")).step(Call::Dial);
    for _ in 0..8 {
        dial().execute(&engine).await.unwrap();
    }
    until_waiting(pool, 5).await;
    set(pool, "1").await;
    breakpoint.open(2);
    eventually("two end", async || (count(pool, "done").await == 2).then_some(())).await;
    // One still runs. A look has come since the ends: it let in nothing.
    looks(pool, &engine).await;
    assert_eq!(waiting(pool).await, 5);
    set(pool, "4").await;
    until_waiting(pool, 2).await;
    sql(pool, "update gen_durable.limits set set_at = null, revision = revision + 1").await;
    breakpoint.open(100);
    eventually("all end", async || (count(pool, "done").await == 8).then_some(())).await;
    engine.shutdown().await.unwrap();
}

/// Sets the bound of runs at once, as an operator does.
async fn set(pool: &PgPool, at_once: &str) {
    let set = format!(
        "update gen_durable.limits set set_at_once = {at_once}, set_at = now(), revision = revision + 1"
    );
    sqlx::query(sqlx::AssertSqlSafe(set)).execute(pool).await.unwrap();
}

/// Waits until each bucket was looked at since now.
async fn looks(pool: &PgPool, engine: &Engine) {
    sql(pool, "update gen_durable.limit_buckets set wakes_at = 1 where wakes_at is not null").await;
    engine.client().schedules(None).await.unwrap();
    eventually("a look", async || {
        let due = "select count(*) from gen_durable.limit_buckets where wakes_at = 1";
        let due: i64 = sqlx::query_scalar(due).fetch_one(pool).await.unwrap();
        (due == 0).then_some(())
    })
    .await;
}

/// The engine that held the places is lost. Its rows and its places come back together.
#[tokio::test(flavor = "multi_thread")]
async fn p44_the_places_of_a_lost_worker_are_free() {
    let db = database().await;
    let pool = db.pool();
    let (engine, breakpoint) = start(&db, Limit::new().at_once(2)).await;
    // A worker that says it holds both, and is gone.
    sql(
        pool,
        "insert into gen_durable.workers (id, name, lease_expires_at)
         overriding system value values (1000000, 'lost', now() + interval '1 hour');
         insert into gen_durable.limit_buckets (bucket, limit_name, workers, held, said)
         values ('line' || chr(31) || 'ada', 'line', '{1000000}', '{2}', '{1}')",
    )
    .await;
    breakpoint.open(100);
    let id = Call::insert(of("ada")).step(Call::Dial).execute(&engine).await.unwrap();
    until_waiting(pool, 1).await;
    looks(pool, &engine).await;
    assert_eq!(waiting(pool).await, 1);
    sql(pool, "delete from gen_durable.workers where id = 1000000").await;
    engine.wait(id, WAIT_MAX).await.unwrap();
    engine.shutdown().await.unwrap();
}

/// The newer version of a program has no limit there. The rows that wait come in by the
/// maintenance of any engine.
#[tokio::test(flavor = "multi_thread")]
async fn p44_rows_that_wait_for_a_limit_of_nobody_come_in() {
    let db = database().await;
    let pool = db.pool();
    let (first, breakpoint) = start(&db, Limit::new().at_once(1)).await;
    let holder = Call::insert(of("ada")).step(Call::Dial).execute(&first).await.unwrap();
    assert_eq!(breakpoint.arrival().await, holder.get());
    let id = Call::insert(of("ada")).step(Call::Dial).execute(&first).await.unwrap();
    until_waiting(pool, 1).await;
    breakpoint.open(1);
    first.wait(holder, WAIT_MAX).await.unwrap();
    first.shutdown().await.unwrap();
    sql(
        pool,
        "update gen_durable.instances set blocked_by = 16, limited_by = 'line' || chr(31) || 'ada'
         where status = 'runnable';
         update gen_durable.limit_buckets set wakes_at = 1",
    )
    .await;
    let other = engine(&db).machine::<Free>().queue("calls", 1).start().await.unwrap();
    other.maintain().await.unwrap();
    assert_eq!(waiting(pool).await, 0);
    assert_eq!(row(pool, id).await.status, "runnable");
    other.shutdown().await.unwrap();
}

/// An engine whose steps are not limited, and one that declares a limit which no step names.
#[tokio::test(flavor = "multi_thread")]
async fn p44_steps_without_a_limit_ask_for_nothing() {
    let db = database().await;
    let builder = engine(&db).machine::<Free>().queue("calls", 1);
    let engine = builder.limit("line", Limit::new().at_once(1)).start().await.unwrap();
    let id = Free::insert(()).execute(&engine).await.unwrap();
    engine.wait(id, WAIT_MAX).await.unwrap();
    let buckets: i64 = sqlx::query_scalar("select count(*) from gen_durable.limit_buckets")
        .fetch_one(db.pool())
        .await
        .unwrap();
    assert_eq!(buckets, 0);
    engine.shutdown().await.unwrap();
}
