//! Clocks that are wrong, and clocks that jump. A worker's own clock decides nothing. Nothing
//! inside the database happens twice, whatever the database's clock does.
//!
//! The tests need libfaketime (Debian's package `faketime`, which `.ci/run` installs). Without it
//! they print that they show nothing.

use std::{path::Path, sync::Arc, time::Duration};

use gen_durable::{Engine, prelude::*};
use gen_durable_postgres::Server;
use gen_durable_tests::{
    clock::Clock,
    machines::{
        Chain, ChainState, Collector, CollectorState, EXTERNAL, HOLD_LOCK, Held as HeldProcess,
        Keyed, KeyedState, Ping,
    },
    oracle,
    process::Worker,
};
use sqlx::{PgPool, postgres::PgPoolOptions};

use crate::support::{
    Breakpoint, WAIT_MAX, count, database, eventually, log, row, sql, until, until_a_session_waits,
};

const HOUR: i64 = 3600;
const DAY: i64 = 24 * HOUR;

fn none<T>() -> Option<T> {
    eprintln!("WITHOUT wrong clocks: libfaketime is not installed (Debian's package `faketime`)");
    None
}

/// The clock of one worker is days ahead, that of another one days behind, and that of a third one
/// right. The first two change places during the test. Leases, schedules, timeouts and the order of
/// keys are as if all clocks were right.
#[tokio::test(flavor = "multi_thread")]
async fn p23_workers_whose_clocks_are_wrong_and_jump_do_what_they_should() {
    let clock = |seconds| {
        let clock = Clock::threaded().unwrap().or_else(none)?;
        clock.set(seconds).unwrap();
        Some(clock)
    };
    let (Some(ahead), Some(behind)) = (clock(3 * DAY), clock(-3 * DAY)) else { return };
    let lease = Duration::from_secs(10);
    let db = database().await;
    let pool = db.pool();
    oracle::install(pool).await.unwrap();
    let program = Path::new(env!("CARGO_BIN_EXE_chaos"));
    let start = |clock| {
        let millis = u64::try_from(lease.as_millis()).unwrap();
        Worker::start(program, db.url(), millis, &[], clock).expect("a worker process")
    };
    let workers = [start(Some(&ahead)), start(Some(&behind)), start(None)];

    let client = Client::new(pool.clone());
    let chains = (0..60).map(|seed| ChainState { hops: 10, seed, ..ChainState::default() });
    Chain::insert_many(chains).execute(&client).await.unwrap();
    let keyed =
        (0..60).map(|n| Keyed::insert(KeyedState::default()).partition_key(format!("{}", n % 4)));
    Keyed::insert_many(keyed).execute(&client).await.unwrap();
    // The collectors wait with timeouts of 300 ms, again and again.
    let state = CollectorState { leaves: 2, external: 1, ..CollectorState::default() };
    let collectors = Collector::insert_many(vec![state; 20]).execute(&client).await.unwrap();
    let late = Chain::insert(ChainState::default()).schedule_in(Duration::from_hours(1));
    let late = late.execute(&client).await.unwrap();
    // All instances end but the collectors, which lack a signal, and the chain that is not due.
    eventually("the rest has ended", async || (live(pool).await == 21).then_some(())).await;
    ahead.set(-3 * DAY).unwrap();
    behind.set(3 * DAY).unwrap();
    for id in collectors {
        let ping = Collector::signal_ping(id.unwrap(), Ping { n: EXTERNAL });
        ping.execute(&client).await.unwrap();
    }
    eventually("the collectors have ended", async || (live(pool).await == 1).then_some(())).await;

    let leases: Vec<f64> = sqlx::query_scalar(
        "select extract(epoch from lease_expires_at - clock_timestamp())::float8
         from gen_durable.workers",
    )
    .fetch_all(pool)
    .await
    .unwrap();
    assert_eq!(leases.len(), 3, "none counts as lost");
    assert!(leases.iter().all(|left| (0.0..=10.0).contains(left)), "{leases:?}");
    assert_eq!(row(pool, late).await.status, "runnable", "its hour is the database's");
    sql(pool, "update gen_durable.instances set eligible_at = now() where status = 'runnable'")
        .await;
    until(pool, late, "done").await;
    for worker in workers {
        assert_eq!(worker.lost_commits(), 0);
        let status = tokio::task::spawn_blocking(|| worker.shut_down()).await.unwrap().unwrap();
        assert!(status.success(), "{status:?}");
    }
    let crashes: i64 = sqlx::query_scalar("select sum(crashes) from gen_durable.instances")
        .fetch_one(pool)
        .await
        .unwrap();
    assert_eq!(crashes, 0);
    assert_eq!(oracle::check(pool).await.unwrap(), Vec::<String>::new());
}

/// A worker's clock jumps to and fro in the middle of a step. The step's outcome is committed, as
/// the worker has not lost its lease.
#[tokio::test(flavor = "multi_thread")]
async fn p23_a_jump_of_a_workers_clock_in_the_middle_of_a_step_costs_nothing() {
    let Some(clock) = Clock::threaded().unwrap().or_else(none) else { return };
    let db = database().await;
    let pool = db.pool();
    let mut held = pool.begin().await.unwrap();
    sqlx::query("select pg_advisory_xact_lock($1)")
        .bind(HOLD_LOCK)
        .execute(&mut *held)
        .await
        .unwrap();
    let program = Path::new(env!("CARGO_BIN_EXE_chaos"));
    let worker = Worker::start(program, db.url(), 600, &[], Some(&clock)).unwrap();
    let id = HeldProcess::insert(KeyedState::default()).execute(pool).await.unwrap();
    until_a_session_waits(pool, 1).await;
    let before = row(pool, id).await;
    for jump in [DAY, -DAY, 0] {
        clock.set(jump).unwrap();
        // The worker goes on renewing its lease: twice after each jump.
        for _ in 0..2 {
            let seen = lease_end(pool).await;
            eventually("the lease is renewed", async || {
                (lease_end(pool).await > seen).then_some(())
            })
            .await;
        }
    }
    assert_eq!(row(pool, id).await, before);
    held.commit().await.unwrap();
    let after = until(pool, id, "done").await;
    assert_eq!((after.attempt, after.crashes, worker.lost_commits()), (0, 0, 0));
    assert!(worker.shut_down().unwrap().success());
}

async fn lease_end(pool: &PgPool) -> f64 {
    sqlx::query_scalar(
        "select extract(epoch from lease_expires_at)::float8 from gen_durable.workers",
    )
    .fetch_one(pool)
    .await
    .unwrap()
}

async fn live(pool: &PgPool) -> i64 {
    sqlx::query_scalar("select count(*) from gen_durable.instances where finished_at is null")
        .fetch_one(pool)
        .await
        .unwrap()
}

#[durable_fsm(state = u32, output = u32)]
pub enum Held {
    Hold,
    Finish,
}

#[durable_fsm]
impl Held {
    async fn hold(mut cx: Context<Self>, breakpoint: &Arc<Breakpoint>) -> Outcome<Self> {
        breakpoint.pass(cx.id()).await;
        cx.state += 1;
        cx.next(Held::Finish).insert(Child::insert(()))
    }

    async fn finish(cx: Context<Self>) -> Outcome<Self> {
        let n = cx.state;
        cx.done(n)
    }
}

#[durable_fsm(state = (), output = ())]
pub enum Child {
    Do,
}

#[durable_fsm]
impl Child {
    async fn r#do(cx: Context<Self>) -> Outcome<Self> {
        cx.done(())
    }
}

/// The database's clock jumps ahead, so that every lease has run out, and back again. A step that
/// was running runs again, and is committed once. A scheduled row waits for its time, and no row is
/// stuck.
#[tokio::test(flavor = "multi_thread")]
async fn p23_a_jump_of_the_databases_clock_doubles_nothing() {
    let Some(clock) = Clock::new().unwrap().or_else(none) else { return };
    log();
    let server = clock
        .environment()
        .into_iter()
        .fold(Server::builder().fast(true), |server, (name, value)| server.env(name, value));
    let server = server.start().expect("a Postgres server");
    let pool = PgPoolOptions::new().connect(&server.url("postgres")).await.unwrap();
    gen_durable_migrate::up(&pool).await.unwrap();
    oracle::install(&pool).await.unwrap();
    // The leases are long and renewed rarely, so that no renewal makes up for the jump at once.
    let start = async |breakpoint: &Arc<Breakpoint>| {
        Engine::builder(pool.clone())
            .machine::<Held>()
            .machine::<Child>()
            .queue("default", 10)
            .poll_interval(Duration::from_millis(200))
            .lease_ttl(Duration::from_mins(10))
            .resource(Arc::clone(breakpoint))
            .start()
            .await
            .unwrap()
    };
    let (old_breakpoint, breakpoint) = (Arc::new(Breakpoint::new()), Arc::new(Breakpoint::new()));
    let old = start(&old_breakpoint).await;
    let id = Held::insert(0).partition_key("k").execute(&pool).await.unwrap();
    let behind = Held::insert(0).partition_key("k").execute(&pool).await.unwrap();
    old_breakpoint.arrival().await;

    clock.set(HOUR).unwrap();
    let heir = start(&breakpoint).await;
    heir.maintain().await.unwrap();
    assert_eq!(
        breakpoint.arrival().await,
        id.get(),
        "its lease has run out by the database's clock"
    );
    // The old worker's step ends as well, and its outcome has no effect.
    let before = row(&pool, id).await;
    assert_eq!((before.locked_by, before.attempt), (Some(heir.worker()), 1));
    old_breakpoint.open(1);
    eventually("the outcome was dropped", async || (old.metrics().lost_commits == 1).then_some(()))
        .await;
    assert_eq!(row(&pool, id).await, before);

    // The clock is back. The heir's lease now ends in an hour and ten minutes, and the heir goes
    // on. Rows that become runnable from here on are due by the clock as it is now.
    clock.set(0).unwrap();
    breakpoint.open(2);
    old_breakpoint.open(2);
    assert_eq!(heir.wait(id, WAIT_MAX).await.unwrap(), 1);
    assert_eq!(heir.wait(behind, WAIT_MAX).await.unwrap(), 1);
    eventually("the children have run", async || (count(&pool, "done").await == 4).then_some(()))
        .await;

    // A row that is inserted while the clock is ahead waits until that time has come. The row is
    // not lost: it runs then.
    clock.set(HOUR).unwrap();
    let early = Child::insert(()).schedule_in(Duration::from_secs(1)).execute(&pool).await.unwrap();
    clock.set(0).unwrap();
    heir.maintain().await.unwrap();
    let now = Child::insert(()).execute(&pool).await.unwrap();
    heir.wait(now, WAIT_MAX).await.unwrap();
    assert_eq!(row(&pool, early).await.status, "runnable");
    clock.set(HOUR + 60).unwrap();
    until(&pool, early, "done").await;
    clock.set(0).unwrap();
    old.shutdown().await.unwrap();
    heir.shutdown().await.unwrap();
    let lost: Vec<String> = oracle::check(&pool).await.unwrap();
    // The oracle does not know the edges and ends of these machines, so its other findings do not
    // count. Steps that were undone or done twice, and executions that overlap, it finds in any
    // machine.
    let bad: Vec<_> = lost
        .iter()
        .filter(|problem| problem.contains("undone") || problem.contains("overlap"))
        .collect();
    assert_eq!(bad, Vec::<&String>::new());
}
