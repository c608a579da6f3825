//! The databases of `#[gen_durable::test]`: each test has one of its own, a copy of what its setup
//! has prepared once, and it is gone with the test.
//!
//! The attribute makes functions that other tests here call.

use std::{
    env,
    process::{Command, Output, Stdio},
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread::{self, ThreadId},
    time::Duration,
};

use gen_durable::{prelude::*, testing::PgPool};
use gen_durable_postgres::Server;
use sqlx::{Connection, PgConnection};

use crate::support::eventually;

#[durable_job]
async fn double(cx: JobContext<i64>) -> i64 {
    cx.state * 2
}

async fn name(pool: &PgPool) -> String {
    sqlx::query_scalar("select current_database()::text").fetch_one(pool).await.expect("a name")
}

async fn is_there(pool: &PgPool, database: &str) -> bool {
    sqlx::query_scalar("select exists (select from pg_database where datname = $1)")
        .bind(database)
        .fetch_one(pool)
        .await
        .expect("an answer")
}

#[gen_durable::test]
async fn a_test_has_a_migrated_database(pool: PgPool) -> Result<(), Box<dyn std::error::Error>> {
    let engine = Engine::builder(pool).machine::<Double>().start().await?;
    let id = Double::insert(21).execute(&engine).await?;
    assert_eq!(engine.wait(id, Duration::from_mins(1)).await?, 42);
    engine.shutdown().await?;
    Ok(())
}

#[gen_durable::test]
async fn what_a_test_leaves_running_ends_with_it(pool: PgPool) {
    let engine = Engine::builder(pool.clone()).machine::<Double>().start().await.expect("starts");
    let held = pool.acquire().await.expect("a connection");
    tokio::spawn(async move {
        let _held = (held, engine);
        std::future::pending::<()>().await;
    });
    tokio::task::yield_now().await;
}

static SEEN: Mutex<Vec<String>> = Mutex::new(Vec::new());

#[gen_durable::test]
async fn a_table_is_made(pool: PgPool) {
    let database = name(&pool).await;
    SEEN.lock().unwrap().push(database);
    sqlx::query("create table public.made ()").execute(&pool).await.expect("there is none");
}

#[test]
fn each_test_has_a_database_of_its_own() {
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(a_table_is_made);
        }
    });
    let seen = SEEN.lock().unwrap().clone();
    assert!(seen.len() >= 4, "{seen:?}");
    for (index, database) in seen.iter().enumerate() {
        assert!(!seen[..index].contains(database), "{seen:?}");
    }
}

/// Names that the expansion could take for its own, and attributes that stay.
mod names {
    use ::gen_durable::testing::PgPool as Pool;

    mod gen_durable {}

    mod setup {
        pub(super) async fn pool(_: super::Pool) -> Result<(), String> {
            Ok(())
        }
    }

    #[expect(non_camel_case_types, reason = "the expansion could name it")]
    type str = u32;

    /// Documented.
    #[::gen_durable::test(setup = setup::pool)]
    async fn pool(pool: Pool) {
        let size: str = pool.size();
        assert!(size > 0);
    }

    #[::gen_durable::test(crate = ::gen_durable)]
    #[should_panic(expected = "it waits for nothing")]
    pub async fn r#match(mut _pool: Pool) {
        panic!("it waits for nothing");
    }

    #[::gen_durable::test]
    async fn run_test(_: Pool) -> impl std::process::Termination {
        std::process::ExitCode::SUCCESS
    }
}

static SETUPS: AtomicUsize = AtomicUsize::new(0);

async fn stock(pool: PgPool) -> Result<(), sqlx::Error> {
    SETUPS.fetch_add(1, Ordering::Relaxed);
    sqlx::query("create table stock as select 3 as n").execute(&pool).await?;
    Ok(())
}

#[gen_durable::test(setup = stock)]
async fn a_test_takes_one(pool: PgPool) -> Result<(), sqlx::Error> {
    let left: i32 =
        sqlx::query_scalar("update stock set n = n - 1 returning n").fetch_one(&pool).await?;
    assert_eq!(left, 2);
    Ok(())
}

#[gen_durable::test(setup = self::stock)]
async fn another_one_by_another_path(pool: PgPool) {
    let left: i32 = sqlx::query_scalar("select n from stock").fetch_one(&pool).await.unwrap();
    assert_eq!(left, 3);
}

#[test]
fn a_setup_runs_once() {
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| a_test_takes_one().expect("the table is there"));
            scope.spawn(another_one_by_another_path);
        }
    });
    assert_eq!(SETUPS.load(Ordering::Relaxed), 1);
}

/// The databases of the runs that panicked, by their threads.
static PANICKED: Mutex<Vec<(ThreadId, String)>> = Mutex::new(Vec::new());

#[gen_durable::test]
#[should_panic(expected = "on purpose")]
async fn a_test_panics(pool: PgPool) {
    let mut held = pool.acquire().await.expect("a connection");
    let database: String = sqlx::query_scalar("select current_database()::text")
        .fetch_one(&mut *held)
        .await
        .expect("a name");
    PANICKED.lock().unwrap().push((thread::current().id(), database));
    panic!("on purpose");
}

#[gen_durable::test]
async fn after_a_panic_the_database_is_gone(pool: PgPool) {
    // The test has a runtime of its own, and so needs a thread of its own here.
    let run = thread::spawn(a_test_panics);
    let id = run.thread().id();
    run.join().expect_err("it panics");
    let noted = PANICKED.lock().unwrap().clone();
    let (_, database) = noted.iter().find(|(thread, _)| *thread == id).expect("it has noted it");
    assert!(is_there(&pool, &name(&pool).await).await);
    assert!(!is_there(&pool, database).await, "{database} is gone");
}

async fn refused(pool: PgPool) -> Result<(), String> {
    let error = sqlx::query("select 1 / 0").execute(&pool).await.expect_err("it is refused");
    Err(format!("no stock: {error}"))
}

#[gen_durable::test(setup = refused)]
#[should_panic(expected = "the setup `refused` failed: no stock: ")]
async fn a_failed_setup_is_named(_pool: PgPool) {
    unreachable!("there is no database");
}

async fn broken(_: PgPool) -> Result<(), std::convert::Infallible> {
    panic!("out of lamps");
}

#[gen_durable::test(setup = broken)]
#[should_panic(expected = "the setup `broken` panicked: out of lamps")]
async fn a_setup_that_panics_is_named(_pool: PgPool) {
    unreachable!("there is no database");
}

#[gen_durable::test(setup = broken)]
#[should_panic(expected = "the setup `broken` panicked: out of lamps")]
async fn each_test_says_that_its_setup_panicked(_pool: PgPool) {
    unreachable!("there is no database");
}

/// Runs `a_test_has_a_migrated_database` in a process with these variables.
fn in_a_process(variables: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env::current_exe().expect("a program"));
    command.args(["--exact", "test_databases::a_test_has_a_migrated_database"]);
    command.env_remove("DATABASE_URL").env_remove("PG_BIN_DIR");
    command.envs(variables.iter().copied()).stdin(Stdio::null());
    command.output().expect("the program runs")
}

#[test]
fn a_test_without_a_server_says_what_to_do() {
    for (variables, expected) in [
        (("PG_BIN_DIR", "/nowhere"), "PG_BIN_DIR is /nowhere"),
        (("PG_BIN_DIR", "/nowhere"), "DATABASE_URL may name one that runs"),
        (("DATABASE_URL", "postgres://127.0.0.1:1/none"), "set it to one that runs"),
        (("DATABASE_URL", "127.0.0.1"), "if DATABASE_URL is set"),
    ] {
        let output = in_a_process(&[variables]);
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(!output.status.success() && said.contains(expected), "{expected}: {said}");
    }
}

#[tokio::test]
async fn the_server_of_database_url_keeps_no_copy() {
    let server = Server::builder().fast(true).start().expect("it starts");
    let url = server.url("postgres");
    let mut connection = PgConnection::connect(&url).await.expect("it answers");
    for _ in 0..2 {
        let output = in_a_process(&[("DATABASE_URL", &url)]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        // The lock on the run's number ends with the last session of the process.
        eventually("the sessions of the process have ended", async || {
            let sessions: i64 = sqlx::query_scalar(
                "select count(*) from pg_stat_activity
                 where backend_type = 'client backend' and pid <> pg_backend_pid()",
            )
            .fetch_one(&mut connection)
            .await
            .expect("a count");
            (sessions == 0).then_some(())
        })
        .await;
    }
    let left: Vec<String> = sqlx::query_scalar(
        "select datname::text from pg_database where datname like 'gen_durable_%'",
    )
    .fetch_all(&mut connection)
    .await
    .expect("an answer");
    // The second process has dropped the template of the first one.
    assert!(matches!(&left[..], [template] if template.ends_with("_template")), "{left:?}");
}
