//! The ledger of migrations. It shows if a schema belongs to `gen_durable`, and which programs and
//! engines the schema serves.

use gen_durable::prelude::*;
use gen_durable_migrate::{Down, Error, down, roles, script, status, up};
use gen_durable_postgres::TestDb;
use sqlx::{AssertSqlSafe, PgPool, postgres::PgPoolOptions};

use crate::support::{WAIT_MAX, database, empty_database, engine, sql};

#[durable_fsm(output = ())]
pub enum Nothing {
    Do,
}

#[durable_fsm]
impl Nothing {
    async fn r#do(cx: Context<Self>) -> Outcome<Self> {
        cx.done(())
    }
}

async fn run(db: &TestDb, statement: String) {
    sqlx::raw_sql(AssertSqlSafe(statement)).execute(db.pool()).await.unwrap();
}

/// Creates a login that may create no schemas, and connects with it.
async fn login(db: &TestDb, name: &str) -> PgPool {
    run(db, format!("create role {name} login")).await;
    let options = (*db.pool().connect_options()).clone().username(name);
    PgPoolOptions::new().max_connections(2).connect_with(options).await.unwrap()
}

async fn remove(db: &TestDb, name: &str) {
    run(db, format!("drop owned by {name}; drop role {name}")).await;
}

/// Returns the owner of the schema, if the schema exists.
async fn owner(db: &TestDb) -> Option<String> {
    sqlx::query_scalar(
        "select pg_get_userbyid(nspowner)::text from pg_namespace where nspname = 'gen_durable'",
    )
    .fetch_optional(db.pool())
    .await
    .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn p68_an_administrator_makes_the_schema_and_an_owner_fills_it() {
    let db = empty_database().await;
    let (mine, other) = (format!("{}_mine", db.name()), format!("{}_other", db.name()));
    let (pool, others) = (login(&db, &mine).await, login(&db, &other).await);
    let error = up(&pool).await.unwrap_err();
    assert!(error.to_string().contains("could not make the ledger: permission denied"), "{error}");
    run(&db, format!("create schema gen_durable authorization {mine}")).await;
    let error = up(&others).await.unwrap_err();
    let said = format!("belongs to `{mine}`, and this login may make no tables in it");
    assert!(matches!(error, Error::NoRight { .. }), "{error}");
    assert!(error.to_string().contains(&said), "{error}");
    // `down` leaves the schema, as this login could not create it again.
    for _ in 0..2 {
        up(&pool).await.unwrap();
        up(&pool).await.unwrap();
        assert!(status(&pool).await.unwrap().iter().all(|one| one.applied_at.is_some()));
        down(&pool, Down::default()).await.unwrap();
        assert_eq!(owner(&db).await.as_ref(), Some(&mine));
        assert!(status(&pool).await.unwrap().iter().all(|one| one.applied_at.is_none()));
    }
    sqlx::raw_sql(AssertSqlSafe(script())).execute(&pool).await.unwrap();
    // `down` removes the schema for a login that could create it again.
    down(db.pool(), Down::default()).await.unwrap();
    assert_eq!(owner(&db).await, None);
    for (name, pool) in [(&mine, pool), (&other, others)] {
        pool.close().await;
        remove(&db, name).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn p68_a_schema_that_is_somebody_elses_is_an_error_and_is_left_alone() {
    let columns =
        "select coalesce(string_agg(table_name || column_name || data_type, ',' order by 1), '')
                   from information_schema.columns where table_schema = 'gen_durable'";
    for (theirs, is_ledger) in [
        ("create table gen_durable.migrations (version text primary key, name text)", true),
        ("create table gen_durable.migrations (version bigint, description text)", true),
        ("create table gen_durable.migrations (id int, run_on timestamptz)", true),
        (
            "create table gen_durable.migrations (version int, name text, applied_at int, serves int)",
            true,
        ),
        ("create table gen_durable.migrations ()", true),
        ("create view gen_durable.migrations as select 'one'::text as version", true),
        ("create table gen_durable.orders (id int)", false),
    ] {
        let db = empty_database().await;
        run(&db, format!("create schema gen_durable; {theirs}")).await;
        let look =
            async || -> String { sqlx::query_scalar(columns).fetch_one(db.pool()).await.unwrap() };
        let before = look().await;
        for error in [
            up(db.pool()).await.unwrap_err(),
            down(db.pool(), Down { to: 0, force: true }).await.unwrap_err(),
            status(db.pool()).await.unwrap_err(),
            roles(db.pool()).await.unwrap_err(),
        ] {
            let expected = match error {
                Error::ForeignLedger { .. } => is_ledger,
                Error::ForeignSchema { .. } => !is_ledger,
                _ => false,
            };
            assert!(expected, "{theirs}: {error}");
            assert!(error.to_string().contains("somebody else's"), "{error}");
        }
        let error = engine(&db).machine::<Nothing>().start().await.unwrap_err();
        let text = error.to_string();
        match (is_ledger, theirs.contains("serves")) {
            // The ledger has the columns that an engine reads, or there is no ledger.
            (true, true) | (false, _) => assert!(text.contains("schema version 0"), "{text}"),
            (true, false) => assert!(text.contains("somebody else's"), "{theirs}: {text}"),
        }
        assert_eq!(look().await, before, "it is as it was");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn p68_an_older_program_and_engine_accept_a_newer_schema_that_serves_them() {
    let db = database().await;
    let pool = db.pool();
    roles(pool).await.unwrap();
    // A newer program would leave such rows.
    sql(
        pool,
        "insert into gen_durable.migrations (version, name, serves)
         values (2, 'more', 1), (3, 'even_more', 1)",
    )
    .await;
    up(pool).await.expect("there is nothing to do");
    roles(pool).await.expect("there is nothing to do");
    let last = status(pool).await.unwrap().pop().unwrap();
    assert_eq!((last.version, last.serves, last.known), (3, 1, false));
    let started = engine(&db).machine::<Nothing>().start().await.unwrap();
    let id = Nothing::insert(()).execute(&started).await.unwrap();
    started.wait(id, WAIT_MAX).await.unwrap();
    started.shutdown().await.unwrap();
    let error = down(pool, Down { to: 0, force: true }).await.unwrap_err();
    assert!(matches!(error, Error::TooNew { found: 3, serves: 1, .. }), "{error}");

    // Migration 2 serves no engine before version 2. Migration 3 cannot change that back, although
    // it serves version 1 by its own row.
    sql(pool, "update gen_durable.migrations set serves = 2 where version = 2").await;
    for error in [up(pool).await.unwrap_err(), roles(pool).await.unwrap_err()] {
        assert!(matches!(error, Error::TooNew { found: 3, serves: 2, .. }), "{error}");
        assert!(error.to_string().contains("use a newer gen_durable_migrate"), "{error}");
    }
    let error = engine(&db).machine::<Nothing>().start().await.unwrap_err();
    let text = error.to_string();
    for part in ["schema version 3", "serves engines from version 2 on", "newer gen_durable"] {
        assert!(text.contains(part), "{text}");
    }
}
