//! Races of limits, forced with locks and with a proxy.

use std::{path::Path, sync::Arc, time::Duration};

use gen_durable::{Engine, EngineBuilder, Limit};
use gen_durable_postgres::TestDb;
use gen_durable_tests::{
    proxy::Proxy,
    turnstile::{self, Counted, Turnstile},
};
use sqlx::{PgPool, postgres::PgPoolOptions};

use crate::support::{
    WAIT_MAX, count, database, engine, eventually, proxy, sql, until_a_session_waits,
};

/// An engine whose only way to Postgres is the proxy.
fn behind(proxy: &Proxy, db: &TestDb) -> EngineBuilder {
    let pool = PgPoolOptions::new()
        .acquire_timeout(Duration::from_secs(1))
        .connect_lazy(&proxy.url(db.name()))
        .unwrap();
    Engine::builder(pool)
}

async fn counting(builder: EngineBuilder, limit: Limit) -> Engine {
    let builder = builder.machine::<Counted>().queue("counted", 50);
    builder.limit(turnstile::LIMIT, limit).start().await.unwrap()
}

/// An engine whose network is gone drops its run before its lease ends. Another engine takes the
/// place when the lease has ended, for the same instance or another one. There are never two.
#[tokio::test(flavor = "multi_thread")]
async fn p44_an_engine_that_cannot_renew_its_lease_drops_its_limited_runs_in_time() {
    let db = database().await;
    let turnstile = Turnstile::open().unwrap();
    let proxy = proxy().await;
    let lease = Duration::from_secs(2);
    let cut = counting(behind(&proxy, &db).lease_ttl(lease), Limit::new().at_once(2)).await;
    let passage = turnstile.passage("k", 600_000);
    Counted::insert(passage).step(Counted::Heavy).execute(&cut).await.unwrap();
    eventually("it runs", async || (turnstile.now("k") == 2).then_some(())).await;
    let other = counting(engine(&db).lease_ttl(lease), Limit::new().at_once(2)).await;
    Counted::insert(turnstile.passage("k", 0)).execute(&other).await.unwrap();
    eventually("it waits", async || (waiting(db.pool()).await == 1).then_some(())).await;
    proxy.move_to(Path::new("/nowhere"));
    proxy.freeze();
    eventually("another run begins", async || (turnstile.runs() >= 2).then_some(())).await;
    assert_eq!(turnstile.take_most("k"), 2);
    drop((cut, other));
}

async fn waiting(pool: &PgPool) -> i64 {
    let waiting = "select count(*) from gen_durable.instances
                   where status = 'runnable' and blocked_by & 16 = 16";
    sqlx::query_scalar(waiting).fetch_one(pool).await.unwrap()
}

/// An open transaction of an operator changes the bounds. Nothing waits for it, and what runs keeps
/// to the old ones.
#[tokio::test(flavor = "multi_thread")]
async fn p44_an_open_transaction_of_an_operator_holds_up_nothing() {
    let db = database().await;
    let pool = db.pool();
    let turnstile = Turnstile::open().unwrap();
    let first = counting(engine(&db), Limit::new().at_once(4)).await;
    let mut tx = pool.begin().await.unwrap();
    sqlx::query(
        "update gen_durable.limits set set_at_once = 1, set_at = now(), revision = revision + 1",
    )
    .execute(&mut *tx)
    .await
    .unwrap();
    for _ in 0..10 {
        let passage = turnstile.passage("k", 20);
        Counted::insert(passage).execute(&first).await.unwrap();
    }
    // A program with other bounds starts meanwhile.
    let second = counting(engine(&db), Limit::new().at_once(3)).await;
    eventually("all end", async || (count(pool, "done").await == 10).then_some(())).await;
    assert!(turnstile.take_most("k") <= 4);
    tx.commit().await.unwrap();
    for engine in [first, second] {
        engine.shutdown().await.unwrap();
    }
}

/// A bucket that a hand has locked holds up its own runs, and no longer than the lock lasts.
#[tokio::test(flavor = "multi_thread")]
async fn p44_a_locked_bucket_is_waited_out() {
    let db = database().await;
    let pool = db.pool();
    let turnstile = Turnstile::open().unwrap();
    let engine = counting(engine(&db), Limit::new().at_once(4)).await;
    let passage = || turnstile.passage("k", 0);
    let id = Counted::insert(passage()).execute(&engine).await.unwrap();
    engine.wait(id, WAIT_MAX).await.unwrap();
    let mut tx = pool.begin().await.unwrap();
    sqlx::query("select from gen_durable.limit_buckets for update")
        .execute(&mut *tx)
        .await
        .unwrap();
    let id = Counted::insert(passage()).execute(&engine).await.unwrap();
    until_a_session_waits(pool, 1).await;
    assert_eq!(turnstile.runs(), 2);
    tx.rollback().await.unwrap();
    engine.wait(id, WAIT_MAX).await.unwrap();
    engine.shutdown().await.unwrap();
}

/// Rows of the table of buckets are deleted by hand: the rows that wait come in all the same.
#[tokio::test(flavor = "multi_thread")]
async fn p44_buckets_that_are_deleted_strand_nobody() {
    let db = database().await;
    let pool = db.pool();
    let turnstile = Turnstile::open().unwrap();
    let engine = counting(engine(&db), Limit::new().at_once(2)).await;
    let holder = Counted::insert(turnstile.passage("k", 600_000)).step(Counted::Heavy);
    let holder = holder.execute(&engine).await.unwrap();
    eventually("it runs", async || (turnstile.now("k") == 2).then_some(())).await;
    let id = Counted::insert(turnstile.passage("k", 0)).execute(&engine).await.unwrap();
    eventually("it waits", async || (waiting(pool).await == 1).then_some(())).await;
    sql(pool, "delete from gen_durable.limit_buckets").await;
    engine.client().instance(holder).kill("on purpose").execute(engine.client()).await.unwrap();
    engine.maintain().await.unwrap();
    engine.wait(id, WAIT_MAX).await.unwrap();
    engine.shutdown().await.unwrap();
}

/// The answers of the engine's statements are lost while its runs take their turns. No place is
/// lost with them: afterwards all of them can be had at once.
#[tokio::test(flavor = "multi_thread")]
async fn p44_a_lost_answer_leaves_no_place_behind() {
    let db = database().await;
    let pool = db.pool();
    let turnstile = Arc::new(Turnstile::open().unwrap());
    let proxy = proxy().await;
    let builder = behind(&proxy, &db).lease_ttl(Duration::from_secs(30));
    let engine = counting(builder, Limit::new().at_once(4)).await;
    for round in 0..10 {
        for _ in 0..4 {
            Counted::insert(turnstile.passage("k", 5)).execute(pool).await.unwrap();
        }
        eventually("runs begin", async || (turnstile.runs() > round * 8).then_some(())).await;
        proxy.cut();
        eventually("all end", async || {
            (count(pool, "done").await >= i64::try_from(round).unwrap() * 4 + 4).then_some(())
        })
        .await;
    }
    assert!(turnstile.take_most("k") <= 4);
    for _ in 0..4 {
        let long = Counted::insert(turnstile.passage("k", 600_000));
        long.execute(pool).await.unwrap();
    }
    eventually("all places are taken", async || (turnstile.now("k") == 4).then_some(())).await;
    drop(engine);
}
