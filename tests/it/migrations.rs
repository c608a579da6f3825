//! Migrations: up, down, status, and the program.

use gen_durable::prelude::*;
use gen_durable_migrate::{Down, Error, LATEST, down, script, status, up, up_to};

use crate::support::{database, empty_database, sql};

#[durable_fsm(output = ())]
pub enum Live {
    Wait,
}

#[durable_fsm]
impl Live {
    async fn wait(cx: Context<Self>) -> Outcome<Self> {
        cx.done(())
    }
}

/// The columns, constraints and indexes of the schema, as text.
async fn shape(pool: &sqlx::PgPool) -> Vec<String> {
    sqlx::query_scalar(
        "select format('%s.%s %s %s', table_name, column_name, data_type, column_default)
         from information_schema.columns where table_schema = 'gen_durable'
         union all
         select indexdef from pg_indexes where schemaname = 'gen_durable'
         union all
         select conname || pg_get_constraintdef(oid) from pg_constraint
         where connamespace = 'gen_durable'::regnamespace
         order by 1",
    )
    .fetch_all(pool)
    .await
    .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn p16_up_from_nothing_up_twice_and_from_every_version() {
    let db = empty_database().await;
    assert!(status(db.pool()).await.unwrap().iter().all(|one| one.applied_at.is_none()));
    up(db.pool()).await.unwrap();
    up(db.pool()).await.unwrap();
    assert!(status(db.pool()).await.unwrap().iter().all(|one| one.applied_at.is_some()));
    let expected = shape(db.pool()).await;
    assert!(!expected.is_empty());
    for version in 1..=LATEST {
        let db = empty_database().await;
        up_to(db.pool(), version).await.unwrap();
        up(db.pool()).await.unwrap();
        assert_eq!(shape(db.pool()).await, expected);
        // Then down to this version and up again.
        down(db.pool(), Down { to: version, force: false }).await.unwrap();
        up(db.pool()).await.unwrap();
        assert_eq!(shape(db.pool()).await, expected);
    }
    let error = up_to(db.pool(), LATEST + 1).await.unwrap_err();
    assert!(matches!(error, Error::UnknownVersion { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn p16_concurrent_ups_from_many_processes() {
    let db = empty_database().await;
    let runs: Vec<_> = (0..10)
        .map(|_| {
            let url = db.url().to_owned();
            tokio::spawn(async move {
                // A pool of its own, as another process would have.
                let pool = sqlx::PgPool::connect(&url).await.unwrap();
                up(&pool).await
            })
        })
        .collect();
    for run in runs {
        run.await.unwrap().expect("no run fails");
    }
    let applied: i64 = sqlx::query_scalar("select count(*) from gen_durable.migrations")
        .fetch_one(db.pool())
        .await
        .unwrap();
    assert_eq!(applied, i64::from(LATEST));
}

#[tokio::test(flavor = "multi_thread")]
async fn p16_down_leaves_nothing_and_refuses_while_instances_live() {
    let db = database().await;
    let pool = db.pool();
    Live::insert(()).execute(pool).await.unwrap();
    let error = down(pool, Down::default()).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "1 live instances would be lost; let them end first, or force it (`--force`)"
    );
    down(pool, Down { to: 0, force: true }).await.unwrap();
    let left: Option<String> =
        sqlx::query_scalar("select nspname::text from pg_namespace where nspname = 'gen_durable'")
            .fetch_optional(pool)
            .await
            .unwrap();
    assert_eq!(left, None);
    down(pool, Down::default()).await.expect("down from nothing does nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn p16_a_newer_database_is_left_alone() {
    let db = database().await;
    sql(
        db.pool(),
        "insert into gen_durable.migrations (version, name, serves) values (999, 'future', 999)",
    )
    .await;
    for error in
        [up(db.pool()).await.unwrap_err(), down(db.pool(), Down::default()).await.unwrap_err()]
    {
        assert!(matches!(error, Error::TooNew { found: 999, .. }), "{error}");
    }
    let last = status(db.pool()).await.unwrap().pop().unwrap();
    assert_eq!((last.version, last.known), (999, false));
}

#[tokio::test(flavor = "multi_thread")]
async fn p16_the_printed_script_makes_the_same_schema() {
    let (printed, migrated) = (empty_database().await, database().await);
    sqlx::raw_sql(sqlx::AssertSqlSafe(script())).execute(printed.pool()).await.unwrap();
    assert_eq!(shape(printed.pool()).await, shape(migrated.pool()).await);
    up(printed.pool()).await.expect("the ledger says that it is up to date");
}

/// A type of the same name stands in the way of the first migration. It fails, and must leave
/// nothing.
#[tokio::test(flavor = "multi_thread")]
async fn p16_a_migration_that_fails_changes_nothing() {
    let db = empty_database().await;
    let pool = db.pool();
    sql(pool, "create schema gen_durable; create type gen_durable.workers as enum ();").await;
    let error = up(pool).await.unwrap_err();
    assert!(matches!(error, Error::Migration { version: 1, .. }), "{error}");
    let tables: i64 =
        sqlx::query_scalar("select count(*) from pg_tables where schemaname = 'gen_durable'")
            .fetch_one(pool)
            .await
            .unwrap();
    assert_eq!(tables, 0, "not even the ledger");
}
