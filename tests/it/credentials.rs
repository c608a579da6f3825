//! An engine's own connections. They are made with the pool's present options, have a bounded age,
//! and are tested after idleness. The engine waits for one for a bounded time.

use std::{collections::BTreeSet, time::Duration};

use gen_durable::{Engine, EngineBuilder, prelude::*};
use gen_durable_migrate::roles;
use gen_durable_postgres::Server;
use sqlx::{
    AssertSqlSafe, PgPool,
    postgres::{PgConnectOptions, PgPoolOptions},
};

use crate::support::{WAIT_MAX, database, eventually, log, sql};

/// An interval longer than any test. An engine that finds rows all the same was told of them, or
/// has just connected.
const NEVER: Duration = Duration::from_hours(24);

#[durable_fsm(state = u32, output = u32)]
pub enum Echo {
    Say,
}

#[durable_fsm]
impl Echo {
    async fn say(cx: Context<Self>) -> Outcome<Self> {
        let said = cx.state;
        cx.done(said)
    }
}

fn echo(pool: PgPool) -> EngineBuilder {
    log();
    Engine::builder(pool).machine::<Echo>()
}

/// Inserts an instance as another process does, and waits until the engine has run it.
async fn runs_what_others_insert(engine: &Engine, others: &PgPool, n: u32) {
    let id = Echo::insert(n).execute(others).await.unwrap();
    assert_eq!(engine.wait(id, WAIT_MAX).await.unwrap(), n);
}

async fn until_it_listens(admin: &PgPool) {
    eventually("the engine listens", async || {
        let listening: i64 = sqlx::query_scalar(
            "select count(*) from pg_stat_activity
             where usename = 'rotated' and state = 'idle' and query ilike 'listen%'",
        )
        .fetch_one(admin)
        .await
        .unwrap();
        (listening > 0).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p67_a_rotated_password_reaches_every_connection_of_an_engine() {
    let server = Server::builder().fast(true).start().expect("a Postgres server");
    let admin = PgPool::connect(&server.url("postgres")).await.unwrap();
    gen_durable_migrate::up(&admin).await.unwrap();
    roles(&admin).await.unwrap();
    sql(&admin, "create role rotated login password 'first' in role gen_durable_worker").await;
    let path: String = sqlx::query_scalar("show hba_file").fetch_one(&admin).await.unwrap();
    let rules = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, format!("local all rotated scram-sha-256\n{rules}")).unwrap();
    sql(&admin, "select pg_reload_conf()").await;
    let login = |password: &str| -> PgConnectOptions {
        (*admin.connect_options()).clone().username("rotated").password(password)
    };
    eventually("a wrong password is refused", async || {
        PgPool::connect_with(login("wrong")).await.err()
    })
    .await;

    let pool = PgPoolOptions::new().connect_with(login("first")).await.unwrap();
    let engine = echo(pool.clone())
        .lease_ttl(Duration::from_secs(3))
        .poll_interval(NEVER)
        .start()
        .await
        .unwrap();
    until_it_listens(&admin).await;
    runs_what_others_insert(&engine, &admin, 1).await;

    sql(&admin, "alter role rotated password 'second'").await;
    pool.set_connect_options(login("second"));
    sql(
        &admin,
        "select pg_terminate_backend(pid, 60000) from pg_stat_activity where usename = 'rotated'",
    )
    .await;
    // Two kinds of connections have the new password: the listener's, which hears of the insert,
    // and those of the engine's statements.
    until_it_listens(&admin).await;
    runs_what_others_insert(&engine, &admin, 2).await;
    // The lease has a thread and a connection of its own, which has the new password too.
    let expires = async || -> i64 {
        sqlx::query_scalar(
            "select (extract(epoch from lease_expires_at) * 1000)::bigint from gen_durable.workers",
        )
        .fetch_one(&admin)
        .await
        .unwrap()
    };
    let before = expires().await;
    eventually("the lease is renewed", async || (expires().await > before).then_some(())).await;
    engine.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn p67_no_connection_of_an_engine_outlives_the_pools_longest_life() {
    let db = database().await;
    let options = (*db.pool().connect_options()).clone().application_name("aged");
    let pool = PgPoolOptions::new().max_lifetime(Duration::from_millis(400));
    let engine = echo(pool.connect_lazy_with(options))
        .lease_ttl(Duration::from_secs(1))
        .poll_interval(Duration::from_millis(10))
        .start()
        .await
        .unwrap();
    let backends = async || -> BTreeSet<i32> {
        let pids = "select pid from pg_stat_activity where application_name = 'aged'";
        sqlx::query_scalar(pids).fetch_all(db.pool()).await.unwrap().into_iter().collect()
    };
    runs_what_others_insert(&engine, db.pool(), 1).await;
    // Many calls at once need many connections, and nothing needs most of these afterwards.
    let calls: Vec<_> = (0..50)
        .map(|n| {
            let client = engine.client().clone();
            tokio::spawn(async move { client.find(n).await })
        })
        .collect();
    for call in calls {
        call.await.unwrap().unwrap();
    }
    for n in 2..5 {
        let old = backends().await;
        assert!(old.len() >= 3, "its statements', its lease's, its listener's: {old:?}");
        eventually("all of these are gone", async || {
            backends().await.is_disjoint(&old).then_some(())
        })
        .await;
        runs_what_others_insert(&engine, db.pool(), n).await;
    }
    engine.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn p67_a_connection_that_was_idle_for_long_is_tested_before_its_use() {
    let db = database().await;
    let options = (*db.pool().connect_options()).clone().application_name("idle");
    // With this timeout, a connection counts as idle for long after any time.
    let pool = PgPoolOptions::new().idle_timeout(Duration::from_nanos(1));
    let engine = echo(pool.connect_lazy_with(options))
        .poll_only()
        .poll_interval(NEVER)
        .maintenance(false)
        .start()
        .await
        .unwrap();
    for n in 0..5 {
        let id = Echo::insert(n).execute(&engine).await.unwrap();
        assert_eq!(engine.wait(id, WAIT_MAX).await.unwrap(), n);
        sql(
            db.pool(),
            "select pg_terminate_backend(pid, 60000) from pg_stat_activity
             where application_name = 'idle'",
        )
        .await;
        engine.client().find(id.get()).await.expect("it never meets a connection that is gone");
    }
    engine.shutdown().await.unwrap();
}

/// A server refuses a login, as the role has reached its limit of connections. The engine tries
/// again until the pool's acquire timeout or a third of its lease is over, whichever is shorter.
#[tokio::test(flavor = "multi_thread")]
async fn p67_an_engine_waits_for_a_connection_as_long_as_its_pool_and_a_third_of_its_lease() {
    let db = database().await;
    let role = format!("{}_full", db.name());
    let run = async |statement: String| {
        sqlx::raw_sql(AssertSqlSafe(statement)).execute(db.pool()).await.unwrap();
    };
    run(format!("create role {role} login connection limit 0")).await;
    let options = (*db.pool().connect_options()).clone().username(&role);
    let short = Duration::from_secs(1);
    for (acquire_timeout, lease) in [(NEVER, short), (short, NEVER)] {
        let pool = PgPoolOptions::new().acquire_timeout(acquire_timeout);
        let pool = pool.connect_lazy_with(options.clone());
        let started = tokio::time::timeout(WAIT_MAX, echo(pool).lease_ttl(lease).start()).await;
        let error = started.expect("it gives up").unwrap_err();
        assert!(error.to_string().contains("too many connections for role"), "{error}");
    }
    run(format!("drop role {role}")).await;
}
