//! Several engines and processes with the same schedules: kills, and clocks that jump.

use std::{path::Path, time::Duration};

use gen_durable::{Engine, Missed, Overlap, Schedule};
use gen_durable_postgres::{Server, TestDb};
use gen_durable_tests::{clock::Clock, process::Worker, random::Random};
use sqlx::{PgPool, postgres::PgPoolOptions};

use super::{Note, note, ticks};
use crate::support::{WAIT_MAX, database, engine, eventually, log, sql};

const BEATS: i64 = 5;

fn worker(db: &TestDb, lease: u64) -> Worker {
    let program = Path::new(env!("CARGO_BIN_EXE_chaos"));
    let beats = BEATS.to_string();
    Worker::start(program, db.url(), lease, &["--beats", &beats], None).expect("a worker process")
}

/// Checks that each schedule of the workers has fired each tick once, from its first to its last.
async fn check_beats(pool: &PgPool) {
    let wrong: Vec<String> = sqlx::query_scalar(
        "select concat_ws(' ', name, count(*), count(distinct at), min(at), max(at))
         from (
             select state ->> 'name' as name, (state ->> 'at')::bigint / 1000 as at
             from gen_durable.instances where fsm = 'beat'
         ) as beats
         group by name
         having count(*) <> max(at) - min(at) + 1 or count(distinct at) <> count(*)",
    )
    .fetch_all(pool)
    .await
    .unwrap();
    assert_eq!(wrong, Vec::<String>::new());
}

async fn beats(pool: &PgPool) -> i64 {
    let count = "select count(*) from gen_durable.instances where fsm = 'beat'";
    sqlx::query_scalar(count).fetch_one(pool).await.unwrap()
}

/// Processes are killed at random moments, most of them in the middle of a look. Each tick fires
/// once all the same, also those of a time at which no process was there.
#[tokio::test(flavor = "multi_thread")]
async fn p45_each_tick_fires_once_whoever_is_killed() {
    let db = database().await;
    let pool = db.pool();
    let mut random = Random::new(45);
    let mut workers = vec![worker(&db, 500), worker(&db, 500), worker(&db, 500)];
    for kill in 0..8 {
        let seen = beats(pool).await;
        let more = i64::try_from(random.between(1, 6)).unwrap();
        eventually("schedules fire", async || (beats(pool).await >= seen + more).then_some(()))
            .await;
        workers.swap_remove(0).kill().unwrap();
        if kill == 4 {
            for worker in workers.drain(..) {
                worker.kill().unwrap();
            }
            // Ticks pass while nobody is there.
            let overdue = "select count(*) from gen_durable.schedules
                           where next_at < now() - interval '2 seconds'";
            eventually("ticks are missed", async || {
                let overdue: i64 = sqlx::query_scalar(overdue).fetch_one(pool).await.unwrap();
                (overdue == BEATS).then_some(())
            })
            .await;
            workers.extend([worker(&db, 500), worker(&db, 500)]);
        }
        workers.push(worker(&db, 500));
    }
    let seen = beats(pool).await;
    eventually("they go on", async || (beats(pool).await >= seen + 2 * BEATS).then_some(())).await;
    for worker in workers {
        let ended = worker.shut_down().unwrap();
        assert!(ended.success(), "{ended:?}");
        assert_eq!(ended.panics().collect::<Vec<_>>(), Vec::<&str>::new());
    }
    check_beats(pool).await;
    let schedules = "select count(*) from gen_durable.schedules where last_error is null";
    let schedules: i64 = sqlx::query_scalar(schedules).fetch_one(pool).await.unwrap();
    assert_eq!(schedules, BEATS);
}

/// The database's clock jumps ahead and back. No tick fires twice, and none waits for the time to
/// which the clock had jumped.
#[tokio::test(flavor = "multi_thread")]
async fn p45_a_jump_of_the_databases_clock_fires_no_tick_twice_and_holds_nothing_up() {
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
    let pool = PgPoolOptions::new().connect(&server.url("postgres")).await.unwrap();
    gen_durable_migrate::up(&pool).await.unwrap();
    let start = async || {
        let often = Schedule::every(Duration::from_secs(1)).overlap(Overlap::Allow);
        Engine::builder(pool.clone())
            .machine::<Note>()
            .poll_interval(Duration::from_millis(200))
            .schedule("once", often.clone(), note)
            .schedule("all", often.missed(Missed::All { max: 5 }), note)
            .start()
            .await
            .unwrap()
    };
    let engines = [start().await, start().await];
    let fired = async || -> i64 {
        let count = "select count(*) from gen_durable.instances";
        sqlx::query_scalar(count).fetch_one(&pool).await.unwrap()
    };
    for jump in [7 * 24 * 3600, 0, 3600, -3600, 600, 0] {
        clock.set(jump).unwrap();
        let seen = fired().await;
        // The ticks of the hour before the start never fired, nor those that were jumped over.
        eventually("schedules fire", async || (fired().await >= seen + 5).then_some(())).await;
    }
    let twice: Vec<String> = sqlx::query_scalar(
        "select state #>> '{}' from gen_durable.instances group by 1 having count(*) > 1",
    )
    .fetch_all(&pool)
    .await
    .unwrap();
    assert_eq!(twice, Vec::<String>::new());
    for engine in engines {
        engine.shutdown().await.unwrap();
    }
}

/// A row that another transaction has locked, and a unique key that one is inserting, hold up
/// nothing but their own schedule.
#[tokio::test(flavor = "multi_thread")]
async fn p45_a_lock_delays_no_other_schedule() {
    let db = database().await;
    let pool = db.pool();
    let often = || Schedule::every(Duration::from_secs(1)).overlap(Overlap::Allow);
    let engine = engine(&db)
        .machine::<Note>()
        .schedule("a: locked", often(), note)
        .schedule("b: held", often(), |tick| note(tick).unique_key("one"))
        .schedule("c: free", often(), note)
        .start()
        .await
        .unwrap();
    let last = async |name: &str| {
        let seen = engine.client().schedule(name).get().await.unwrap();
        seen.and_then(|seen| seen.last)
    };
    eventually("it fires", async || last("a: locked").await).await;
    let mut tx = pool.begin().await.unwrap();
    sqlx::query("select from gen_durable.schedules where name = 'a: locked' for update")
        .execute(&mut *tx)
        .await
        .unwrap();
    eventually("the last note has given its key back", async || {
        let held = Note::insert("held".to_owned()).unique_key("one");
        held.execute(&mut *tx).await.ok()
    })
    .await;
    let (locked, held) = (last("a: locked").await, last("b: held").await);
    let free = last("c: free").await;
    eventually("the free one goes on", async || (last("c: free").await > free).then_some(())).await;
    let free = last("c: free").await;
    eventually("and on", async || (last("c: free").await > free).then_some(())).await;
    assert_eq!(last("a: locked").await, locked);
    assert_eq!(last("b: held").await, held);
    tx.rollback().await.unwrap();
    eventually("it goes on", async || (last("a: locked").await > locked).then_some(())).await;
    eventually("it goes on", async || (last("b: held").await > held).then_some(())).await;
    let error = engine.client().schedule("b: held").get().await.unwrap().unwrap().last_error;
    assert_eq!(error, None, "its ticks were late, and were not refused");
    engine.shutdown().await.unwrap();
}

/// Two engines that look rarely know when the next tick comes, also after one that they fired, and
/// after one that the other engine fired.
#[tokio::test(flavor = "multi_thread")]
async fn p45_a_tick_is_not_found_by_the_poll() {
    let db = database().await;
    let start = async || {
        let often = Schedule::every(Duration::from_secs(1)).overlap(Overlap::Allow);
        let builder = engine(&db).machine::<Note>().poll_interval(WAIT_MAX * 10);
        builder.schedule("often", often, note).start().await.unwrap()
    };
    let engines = [start().await, start().await];
    // A look of the poll comes after half a minute or more.
    eventually("it fires again and again", async || {
        (ticks(db.pool(), "often").await.len() >= 6).then_some(())
    })
    .await;
    for engine in engines {
        engine.shutdown().await.unwrap();
    }
}

/// Thousands of schedules cost one statement a look while none is due. An engine without any runs
/// none.
#[tokio::test(flavor = "multi_thread")]
async fn p45_schedules_that_are_not_due_cost_one_statement_a_look() {
    let db = database().await;
    let pool = db.pool();
    // Maintenance reads all of them, once a minute.
    let mut builder = engine(&db).machine::<Note>().maintenance(false);
    builder = builder.poll_interval(Duration::from_millis(20));
    for n in 0..3_000 {
        builder = builder.schedule(format!("{n}"), Schedule::cron("0 0 29 2 *"), note);
    }
    let engine = builder.start().await.unwrap();
    let declared = async || -> i64 {
        let count = "select count(*) from gen_durable.schedules";
        sqlx::query_scalar(count).fetch_one(pool).await.unwrap()
    };
    eventually("all are declared", async || (declared().await == 3_000).then_some(())).await;
    let read = async |relation: &str| -> (i64, i64) {
        sqlx::query_as(
            "select coalesce(idx_scan, 0), coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0)
             from pg_stat_user_tables where schemaname = 'gen_durable' and relname = $1",
        )
        .bind(relation)
        .fetch_one(pool)
        .await
        .unwrap()
    };
    // Postgres counts what a session has read once it is idle, and a little later. The first look
    // here is one after which all that the start has read is counted.
    let more = async |looks: i64| {
        eventually("it looks", async || {
            let seen = read("schedules").await;
            (seen.0 >= looks).then_some(seen)
        })
        .await
    };
    let began = read("schedules").await;
    more(began.0 + 100).await;
    // A session that ends counts all that it has read. Those of the start may be idle for long.
    sql(
        pool,
        "select pg_terminate_backend(pid) from pg_stat_activity
         where datname = current_database() and pid <> pg_backend_pid()",
    )
    .await;
    let began = read("schedules").await;
    let before = more(began.0 + 100).await;
    let declarations = read("declarations").await;
    let after = more(before.0 + 300).await;
    let (looks, rows) = (after.0 - before.0, after.1 - before.1);
    assert!(rows <= looks, "{looks} scans of an index read {rows} rows");
    assert_eq!(read("declarations").await, declarations);
    engine.shutdown().await.unwrap();
}
