//! The engine behind a transaction pooler, where each statement may run in another session of
//! Postgres.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use gen_durable::{Delivery, Engine, EngineBuilder, InsertError, prelude::*};
use gen_durable_postgres::TestDb;
use gen_durable_tests::{
    machines::{
        Chain, ChainState, Collector, CollectorState, EXTERNAL, Keyed, KeyedState, Leaf, Once,
        Ping, Stopper,
    },
    oracle,
    pooler::{self, Pooler},
};
use sqlx::{
    PgPool,
    postgres::{PgConnectOptions, PgPoolOptions},
};

use crate::support::{WAIT_MAX, empty_database, eventually, log, server_dir};

/// The number of the pooler's sessions of Postgres. It is far smaller than the number of
/// connections that share them.
const SESSIONS: usize = 4;

/// Returns the pooler's program. If it is not installed, prints a message and returns none: the
/// test is skipped.
fn program() -> Option<PathBuf> {
    pooler::find().map_err(|why| println!("skipped: {why}")).ok()
}

/// Starts a pooler with a database behind it, and returns them with a pool that goes through the
/// pooler. The migrations go through the pooler too.
async fn pooled(program: &Path) -> (Pooler, TestDb, PgPool) {
    log();
    let pooler = Pooler::start(program, &server_dir().await, SESSIONS).unwrap();
    let db = empty_database().await;
    let connect: PgConnectOptions = pooler.url(db.name()).parse().unwrap();
    let connect = connect.application_name("pooled");
    let options = PgPoolOptions::new().acquire_timeout(WAIT_MAX);
    let pool = options.connect_with(connect).await.unwrap();
    gen_durable_migrate::up(&pool).await.unwrap();
    oracle::install(&pool).await.unwrap();
    (pooler, db, pool)
}

fn engine(pool: &PgPool) -> EngineBuilder {
    Engine::builder(pool.clone())
        .poll_only()
        .machine::<Chain>()
        .machine::<Collector>()
        .machine::<Leaf>()
        .machine::<Keyed>()
        .machine::<Stopper>()
        .machine::<Once>()
        .queue("default", 20)
        .queue("keyed", 10)
        .lease_ttl(Duration::from_secs(10))
        .poll_interval(Duration::from_millis(200))
}

/// Makes every kind of call, and inserts machines that have every kind of outcome. Returns the
/// collectors, which still wait for their signals.
async fn insert_all(pool: &PgPool) -> Vec<InstanceId<Collector>> {
    let client = Client::new(pool.clone());
    let chains = (0..60).map(|seed| ChainState { hops: 20, seed, ..ChainState::default() });
    Chain::insert_many(chains).execute(&client).await.unwrap();
    let keyed = (0..60)
        .map(|n| Keyed::insert(KeyedState::default()).partition_key(format!("key {}", n % 5)));
    Keyed::insert_many(keyed).execute(pool).await.unwrap();
    Stopper::insert(KeyedState::default()).execute(&client).await.unwrap();
    let always = [Status::Runnable, Status::Executing, Status::Done];
    let once = || Once::insert(KeyedState::default()).unique_key("once").unique_while(always);
    let first = once().execute(pool).await.unwrap();
    let second = once().execute(&client).await;
    assert!(matches!(&second, Err(InsertError::Duplicate(held)) if held.id == first), "{second:?}");
    let mut collectors = Vec::new();
    for _ in 0..10 {
        // Several statements in one transaction of the caller: they stay in one session.
        let mut transaction = pool.begin().await.unwrap();
        let state = CollectorState { leaves: 3, external: 2, ..CollectorState::default() };
        let id = Collector::insert(state).execute(&mut *transaction).await.unwrap();
        send(id, EXTERNAL, &mut *transaction).await;
        transaction.commit().await.unwrap();
        collectors.push(id);
    }
    collectors
}

async fn send(id: InstanceId<Collector>, n: u32, on: impl gen_durable::ExecuteOn<'_>) {
    let signal = Collector::signal_ping(id, Ping { n }).dedup_key(n.to_string());
    assert_eq!(signal.execute(on).await.unwrap(), Delivery::Delivered);
}

/// Returns how many sessions the pooler has in this database.
async fn sessions(db: &TestDb) -> i64 {
    sqlx::query_scalar(
        "select count(*) from pg_stat_activity
         where datname = current_database() and application_name = 'pooled'",
    )
    .fetch_one(db.pool())
    .await
    .unwrap()
}

/// Waits until all instances have ended, and lets the oracle judge.
async fn judge(db: &TestDb) {
    eventually("everything has ended", async || {
        let live: i64 = sqlx::query_scalar(
            "select count(*) from gen_durable.instances where finished_at is null",
        )
        .fetch_one(db.pool())
        .await
        .unwrap();
        (live == 0).then_some(())
    })
    .await;
    assert_eq!(oracle::check(db.pool()).await.unwrap(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn p13_everything_works_behind_a_transaction_pooler() {
    let Some(program) = program() else { return };
    let (_pooler, db, pool) = pooled(&program).await;
    let engines = [engine(&pool).start().await, engine(&pool).start().await];
    let engines = engines.map(Result::unwrap);
    let collectors = insert_all(&pool).await;
    for id in &collectors {
        send(*id, EXTERNAL + 1, &engines[0]).await;
    }
    for id in collectors {
        let got = engines[1].wait(id, WAIT_MAX).await.unwrap();
        assert_eq!(got, [0, 1, 2, EXTERNAL, EXTERNAL + 1]);
    }
    judge(&db).await;
    let sessions = sessions(&db).await;
    assert!((1..=SESSIONS as i64).contains(&sessions), "{sessions} sessions: they were not shared");
    for engine in engines {
        engine.shutdown().await.unwrap();
    }
    let workers: i64 = sqlx::query_scalar("select count(*) from gen_durable.workers")
        .fetch_one(db.pool())
        .await
        .unwrap();
    assert_eq!(workers, 0);
    pool.close().await;
}

/// Alternately, sessions are terminated in the middle of a statement and the pooler is killed. The
/// engine must lose nothing and do nothing twice.
#[tokio::test(flavor = "multi_thread")]
async fn p13_a_transaction_pooler_that_fails_loses_nothing_and_doubles_nothing() {
    let Some(program) = program() else { return };
    let (mut pooler, db, pool) = pooled(&program).await;
    let engine = engine(&pool).start().await.unwrap();
    let collectors = insert_all(&pool).await;
    let steps = async |more: u64| {
        let seen = engine.metrics().steps;
        eventually("steps have run, or all that can", async || {
            let runnable: i64 = sqlx::query_scalar(
                "select count(*) from gen_durable.instances
                 where status in ('runnable', 'executing')",
            )
            .fetch_one(db.pool())
            .await
            .unwrap();
            (runnable == 0 || engine.metrics().steps >= seen + more).then_some(())
        })
        .await;
    };
    for round in 0..6 {
        steps(60).await;
        if round % 2 == 0 {
            sqlx::query(
                "select pg_terminate_backend(pid) from pg_stat_activity
                 where datname = current_database() and backend_type = 'client backend'
                   and pid <> pg_backend_pid()",
            )
            .execute(db.pool())
            .await
            .unwrap();
        } else {
            pooler.kill().unwrap();
            pooler.start_again().unwrap();
        }
    }
    for id in &collectors {
        eventually("the signal is accepted", async || {
            let signal = Collector::signal_ping(*id, Ping { n: EXTERNAL + 1 }).dedup_key("second");
            signal.execute(&engine).await.ok()
        })
        .await;
    }
    judge(&db).await;
    engine.shutdown().await.unwrap();
    pool.close().await;
}
