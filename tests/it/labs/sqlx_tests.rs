//! Tests of `#[sqlx::test]` beside tests of ours: labs and engines run on its databases, and leave
//! no session that would keep it from dropping them.
//!
//! Such a test reads `DATABASE_URL` when it runs, and drops its database only if it passes. The
//! test here therefore starts a server and runs its own program again, with the server's address.

use std::{
    env,
    process::{Command, Output, Stdio},
    thread,
    time::Duration,
};

use gen_durable::{prelude::*, testing::PgPool};
use gen_durable_postgres::Server;
use sqlx::{Connection, PgConnection};

use super::{Calls, Checkout, End, Mail, Order, books, checkout, with_book};

/// Says that this process is the one that the test has started.
const IS_CHILD: &str = "GEN_DURABLE_SQLX_TESTS";
const TEST: &str = "labs::sqlx_tests::p75_labs_and_engines_run_in_tests_of_sqlx";

/// Runs the tests, at the same time and each on a thread of its own, as a test harness does.
///
/// They stand inside of a function, or the harness would run them without a server as well.
#[expect(unnameable_test_items, reason = "this function calls them")]
fn run_all() {
    #[sqlx::test]
    async fn a_lab(pool: PgPool) {
        with_book(&pool).await;
        let calls = Calls::default();
        let mut lab = checkout(&pool, &calls).await;
        lab.run_each_step_twice();
        let id = Checkout::insert(Order::default()).execute(&lab).await.unwrap();
        lab.advance(Duration::from_mins(20)).await.unwrap();
        lab.assert_done(id, &End::Expired).await.unwrap();
        let order = Order { number: 7, paid: None };
        let ship = Checkout::insert(order).step(Checkout::Ship);
        let id = ship.execute(&lab).await.unwrap();
        lab.run_until_idle().await.unwrap();
        lab.assert_done(id, &End::Shipped).await.unwrap();
        assert_eq!(books(&pool).await, 1);
    }

    #[sqlx::test]
    async fn an_engine(pool: PgPool) -> Result<(), Box<dyn std::error::Error>> {
        gen_durable_migrate::up(&pool).await?;
        with_book(&pool).await;
        let engine = Engine::builder(pool.clone()).machine::<Checkout>().machine::<Mail>();
        let engine = engine.queue("orders", 5).queue("mail", 5).resource(Calls::default());
        // sqlx has 20 connections for all tests, and panics if an engine asks for more.
        let engine = engine.max_transactions(20).start().await?;
        let order = Order { number: 7, paid: None };
        let id = Checkout::insert(order).step(Checkout::Ship).execute(&engine).await?;
        assert_eq!(engine.wait(id, crate::support::WAIT_MAX).await?, End::Shipped);
        engine.shutdown().await?;
        Ok(())
    }

    #[gen_durable::test]
    async fn a_lab_of_ours(pool: PgPool) {
        with_book(&pool).await;
        let mut lab = checkout(&pool, &Calls::default()).await;
        let ship = Checkout::insert(Order::default()).step(Checkout::Ship);
        let id = ship.execute(&lab).await.unwrap();
        lab.run_until_idle().await.unwrap();
        lab.assert_done(id, &End::Shipped).await.unwrap();
    }

    thread::scope(|scope| {
        scope.spawn(a_lab);
        scope.spawn(|| an_engine().unwrap());
        scope.spawn(a_lab_of_ours);
    });
}

#[test]
fn p75_labs_and_engines_run_in_tests_of_sqlx() {
    if env::var_os(IS_CHILD).is_some() {
        return run_all();
    }
    let server = Server::builder().fast(true).start().expect("it starts");
    let url = server.url("postgres");
    let mut command = Command::new(env::current_exe().expect("a program"));
    command.args(["--exact", TEST, "--nocapture"]).stdin(Stdio::null());
    let Output { status, stdout, stderr } =
        command.env(IS_CHILD, "1").env("DATABASE_URL", &url).output().expect("the program runs");
    let (said, errors) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    assert!(status.success() && said.contains("1 passed"), "{said}{errors}");
    // sqlx prints it if a pool is still in use, or if a session keeps a database from its drop.
    assert!(!errors.contains("held onto") && !errors.contains("failed to delete"), "{errors}");
    assert_eq!(databases_of_sqlx(&url), [""; 0]);
}

/// Returns the databases of sqlx's tests that are still there. Fails if there was no such test.
#[tokio::main(flavor = "current_thread")]
async fn databases_of_sqlx(url: &str) -> Vec<String> {
    let mut connection = PgConnection::connect(url).await.expect("it answers");
    let names = "select db_name from _sqlx_test.databases
                 union select datname::text from pg_database where starts_with(datname, '_sqlx')";
    sqlx::query_scalar(names).fetch_all(&mut connection).await.expect("sqlx has made its table")
}
