//! Processes with limits, and a counter outside of Postgres that tells how many run.

use std::{path::Path, time::Duration};

use gen_durable_postgres::Server;
use gen_durable_tests::{
    clock::Clock,
    process::Worker,
    random::Random,
    turnstile::{Counted, Turnstile},
};
use sqlx::{PgPool, postgres::PgPoolOptions};

use crate::support::{count, database, eventually, log};

/// The lease of the processes, in milliseconds.
const LEASE: u64 = 2000;
const KEYS: [&str; 3] = ["a", "b", "c"];

fn worker(url: &str, limit: &str, clock: Option<&Clock>) -> Worker {
    let program = Path::new(env!("CARGO_BIN_EXE_chaos"));
    let arguments = ["--limit", limit, "--crashes", "1000000"];
    Worker::start(program, url, LEASE, &arguments, clock).expect("a worker process")
}

async fn insert(pool: &PgPool, turnstile: &Turnstile, stays: u64, each: usize) {
    for key in KEYS {
        let passages = (0..each).map(|_| Counted::insert(turnstile.passage(key, stays)));
        Counted::insert_many(passages).execute(pool).await.unwrap();
    }
}

fn most(turnstile: &Turnstile) -> u32 {
    KEYS.iter().map(|key| turnstile.take_most(key)).max().unwrap()
}

async fn until_done(pool: &PgPool, wanted: i64) {
    let mut seen = -1;
    loop {
        let done = count(pool, "done").await;
        if done >= wanted {
            return;
        }
        assert!(done >= seen);
        seen = done;
        eventually("instances end", async || (count(pool, "done").await > seen).then_some(()))
            .await;
    }
}

fn end(workers: Vec<Worker>) {
    for worker in workers {
        let ended = worker.shut_down().unwrap();
        assert!(ended.success(), "{ended:?}");
        assert_eq!(ended.panics().collect::<Vec<_>>(), Vec::<&str>::new());
    }
}

/// Eight processes, and kills at random moments. A run of a killed process holds its place until
/// the lease has run out, and no longer.
#[tokio::test(flavor = "multi_thread")]
async fn p44_eight_processes_and_kills_keep_to_the_bound() {
    let db = database().await;
    let pool = db.pool();
    let turnstile = Turnstile::open().unwrap();
    let mut random = Random::new(44);
    let mut workers: Vec<Worker> = (0..8).map(|_| worker(db.url(), "4,,,", None)).collect();
    insert(pool, &turnstile, 20, 100).await;
    for _ in 0..8 {
        let runs = turnstile.runs() + usize::try_from(random.between(5, 40)).unwrap();
        eventually("runs begin", async || (turnstile.runs() >= runs).then_some(())).await;
        let killed = usize::try_from(random.between(0, 7)).unwrap();
        workers.swap_remove(killed).kill().unwrap();
        workers.push(worker(db.url(), "4,,,", None));
    }
    until_done(pool, 300).await;
    assert!(most(&turnstile) <= 4);
    // Nothing was lost: all places can be taken at once.
    insert(pool, &turnstile, 600_000, 4).await;
    eventually("all places are taken", async || {
        KEYS.iter().all(|key| turnstile.now(key) == 4).then_some(())
    })
    .await;
    for worker in workers {
        worker.kill().unwrap();
    }
}

/// Programs with other numbers come and go. At each moment the bound is that of one of them, and
/// never their sum.
#[tokio::test(flavor = "multi_thread")]
async fn p44_deployments_with_other_numbers_keep_to_the_larger_bound() {
    let db = database().await;
    let pool = db.pool();
    let turnstile = Turnstile::open().unwrap();
    let mut workers: Vec<Worker> = (0..3).map(|_| worker(db.url(), "4,,,", None)).collect();
    insert(pool, &turnstile, 10, 150).await;
    for limit in ["2,,,", "6,,,", "2,,,", "4,,,"] {
        for _ in 0..3 {
            let runs = turnstile.runs() + 20;
            eventually("runs begin", async || (turnstile.runs() >= runs).then_some(())).await;
            workers.push(worker(db.url(), limit, None));
            end(vec![workers.remove(0)]);
        }
        assert!(most(&turnstile) <= 6);
    }
    // The last program's bound is in force, and is reached.
    turnstile_of_the_last(pool, &turnstile).await;
    end(workers);
}

async fn turnstile_of_the_last(pool: &PgPool, turnstile: &Turnstile) {
    until_done(pool, 450).await;
    most(turnstile);
    insert(pool, turnstile, 10, 20).await;
    until_done(pool, 510).await;
    assert_eq!(most(turnstile), 4);
}

/// An operator changes the bound while everything runs, up and down.
#[tokio::test(flavor = "multi_thread")]
async fn p44_a_bound_that_changes_in_use_is_kept() {
    let db = database().await;
    let pool = db.pool();
    let turnstile = Turnstile::open().unwrap();
    let workers: Vec<Worker> = (0..4).map(|_| worker(db.url(), "3,,,", None)).collect();
    insert(pool, &turnstile, 10, 200).await;
    for bound in [8_u32, 2, 5, 2, 3] {
        let set = format!(
            "update gen_durable.limits
             set set_at_once = {bound}, set_at = now(), revision = revision + 1"
        );
        sqlx::query(sqlx::AssertSqlSafe(set)).execute(pool).await.unwrap();
        // Runs from before may still go on. From when it has ended, the new bound holds.
        eventually("what was too much ends", async || {
            KEYS.iter().all(|key| turnstile.now(key) <= bound).then_some(())
        })
        .await;
        most(&turnstile);
        let runs = turnstile.runs() + 60;
        eventually("runs begin", async || (turnstile.runs() >= runs).then_some(())).await;
        assert!(most(&turnstile) <= bound, "the bound was {bound}");
    }
    until_done(pool, 600).await;
    end(workers);
}

/// The starts of four processes keep to the rate, and use it up. The counter measures when a run
/// comes to it, which is later than when it was admitted, by as much as the machine is busy.
#[tokio::test(flavor = "multi_thread")]
async fn p44_the_starts_of_several_processes_keep_to_the_rate() {
    let db = database().await;
    let pool = db.pool();
    let turnstile = Turnstile::open().unwrap();
    let limit = ",100,1000,5";
    let workers: Vec<Worker> = (0..4).map(|_| worker(db.url(), limit, None)).collect();
    for _ in 0..200 {
        Counted::insert(turnstile.passage("a", 0)).execute(pool).await.unwrap();
    }
    until_done(pool, 200).await;
    // 600 starts of weight. A run that was two seconds late would make 200 too many.
    let beyond = turnstile.beyond(100.0, Duration::from_secs(1), 5.0);
    assert!(beyond < 200.0, "{beyond} starts beyond the bound");
    end(workers);
}

/// The clocks of the database and of processes jump. Leases run out early or late, and the bound
/// holds all the same.
#[tokio::test(flavor = "multi_thread")]
async fn p44_clocks_that_jump_keep_to_the_bound() {
    let Some(clock) = Clock::new().unwrap() else {
        eprintln!("WITHOUT wrong clocks: libfaketime is not installed");
        return;
    };
    log();
    let server = clock
        .environment()
        .into_iter()
        .fold(Server::builder().fast(true), |server, (name, value)| server.env(name, value));
    let server = server.start().expect("a Postgres server");
    let url = server.url("postgres");
    let pool = PgPoolOptions::new().connect(&url).await.unwrap();
    gen_durable_migrate::up(&pool).await.unwrap();
    let turnstile = Turnstile::open().unwrap();
    // Rows that came at a later time than it is now would wait for that, with or without limits.
    // All jumps together stay within the retention, so that each instance is there to be counted.
    clock.set(-3 * 24 * 3600).unwrap();
    let own = Clock::new().unwrap().expect("it was there before");
    own.set(-86_400).unwrap();
    let workers = vec![
        worker(&url, "3,100,1000,3", None),
        worker(&url, "3,100,1000,3", Some(&own)),
        worker(&url, "3,100,1000,3", None),
    ];
    insert(&pool, &turnstile, 5, 60).await;
    for jump in [0, 3600, -3600, 3 * 24 * 3600, -24 * 3600] {
        let runs = turnstile.runs() + 20;
        eventually("runs begin", async || (turnstile.runs() >= runs).then_some(())).await;
        clock.set(jump).unwrap();
    }
    until_done(&pool, 180).await;
    assert!(most(&turnstile) <= 3);
    end(workers);
}
