//! The server's settings, its clock, its tables and its transactions.

use gen_durable::{
    operate::{Finding, Illness, Severity},
    prelude::*,
};
use gen_durable_postgres::Server;
use sqlx::{Connection, PgPool};

use super::{WORKER, names};
use crate::support::{eventually, sql};

async fn migrated(server: &Server) -> PgPool {
    let pool = PgPool::connect(&server.url("postgres")).await.unwrap();
    gen_durable_migrate::up(&pool).await.unwrap();
    sql(&pool, WORKER).await;
    pool
}

async fn diagnose(pool: &PgPool) -> Vec<Finding> {
    Client::new(pool.clone()).diagnose().await.unwrap()
}

/// Moves the database's clock ahead, as a lab does.
const LATER: &str = "
    create or replace function gen_durable.clock() returns timestamptz language sql volatile parallel safe
        as 'select pg_catalog.clock_timestamp() + interval ''2 hours''';
    create or replace function gen_durable.now() returns timestamptz language sql stable parallel safe
        as 'select pg_catalog.now() + interval ''2 hours''';
    update gen_durable.workers set lease_expires_at = lease_expires_at + interval '2 hours'";

#[tokio::test(flavor = "multi_thread")]
async fn p76_dangerous_settings_are_found() {
    let server = Server::builder()
        .fast(true)
        .setting("autovacuum", "off")
        .setting("track_counts", "off")
        .setting("statement_timeout", "9s")
        .start()
        .unwrap();
    let pool = migrated(&server).await;
    sql(
        &pool,
        "create role slow login;
         create role fast login;
         alter role fast set idle_in_transaction_session_timeout = '200ms';
         alter role slow set idle_in_transaction_session_timeout = '10s';
         alter role slow set statement_timeout = 0;
         alter database template1 set idle_in_transaction_session_timeout = 5",
    )
    .await;
    let findings = diagnose(&pool).await;
    let expected = [
        (Illness::UnsafeSetting, "setting fsync"),
        (Illness::UnsafeSetting, "setting full_page_writes"),
        (Illness::UnsafeSetting, "setting synchronous_commit"),
        (Illness::NoAutovacuum, "setting autovacuum"),
        (Illness::NoAutovacuum, "setting track_counts"),
        (Illness::ShortTimeout, "setting idle_in_transaction_session_timeout of role fast"),
        (Illness::ShortTimeout, "setting statement_timeout"),
    ];
    assert_eq!(names(&findings), expected.map(|(illness, subject)| (illness, subject.to_owned())));
    assert!(findings[0].cure.starts_with("alter system set fsync = on"), "{}", findings[0].cure);
    assert_eq!((findings[4].severity, findings[6].severity), (Severity::Error, Severity::Warning));
    // The cures.
    for cure in [
        "alter system set fsync = on",
        "alter role \"fast\" reset idle_in_transaction_session_timeout",
    ] {
        sqlx::raw_sql(sqlx::AssertSqlSafe(cure.to_owned())).execute(&pool).await.unwrap();
    }
    let left = diagnose(&pool).await;
    assert_eq!(left.len(), 6, "{left:#?}");
    // A session may have a short timeout of its own, which is no setting of the server.
    let options = (*pool.connect_options()).clone().options([("statement_timeout", "8s")]);
    let own = diagnose(&PgPool::connect_with(options).await.unwrap()).await;
    let timeout = (Illness::ShortTimeout, "setting statement_timeout".to_owned());
    assert!(names(&left).contains(&timeout) && !names(&own).contains(&timeout), "{own:#?}");
    assert_eq!(own.len(), 5, "{own:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn p76_old_transactions_and_clocks_that_differ_are_found() {
    let server = Server::builder().setting("max_prepared_transactions", "2").start().unwrap();
    let pool = migrated(&server).await;
    sql(&pool, "begin; create table mine (); prepare transaction 'mine'").await;
    let mut open = pool.acquire().await.unwrap().detach();
    sqlx::raw_sql("set application_name = 'report'; begin; select 1")
        .execute(&mut open)
        .await
        .unwrap();
    assert_eq!(names(&diagnose(&pool).await), []);
    sql(&pool, LATER).await;
    let findings = diagnose(&pool).await;
    let session: i32 =
        sqlx::query_scalar("select pg_backend_pid()").fetch_one(&mut open).await.unwrap();
    let session = format!("session {session} (report)");
    let expected = [
        (Illness::ClockSkew, "the clocks"),
        (Illness::OldTransaction, &session),
        (Illness::OldPreparedTransaction, "prepared transaction mine"),
    ];
    assert_eq!(names(&findings), expected.map(|(illness, subject)| (illness, subject.to_owned())));
    let said = "the database's clock is 119 min ahead of that of this process";
    let also = said.replace("119 min", "2 h");
    assert!([said, &also].contains(&&*findings[0].explanation), "{}", findings[0].explanation);
    open.close().await.unwrap();
    sql(&pool, "commit prepared 'mine'").await;
    eventually("the session has ended", async || (diagnose(&pool).await.len() == 1).then_some(()))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p76_tables_that_are_not_vacuumed_are_found() {
    // Only the settings of the table say that it is not vacuumed: its server would do so.
    let server = Server::builder().setting("autovacuum_naptime", "1d").start().unwrap();
    let pool = migrated(&server).await;
    sql(
        &pool,
        "alter table gen_durable.signals set (autovacuum_enabled = off);
         insert into gen_durable.queues (name) values ('q');
         insert into gen_durable.history (day, instance_id, fsm, fsm_version, step, attempt, outcome, started_at, ended_at)
         select current_date + 100, 1, 'm', 1, 's', 0, 'done', now(), now()",
    )
    .await;
    sql(
        &pool,
        "insert into gen_durable.instances (fsm, fsm_version, step, state, status)
         select 'm', 1, 's', '{}', 'done' from generate_series(1, 100100)",
    )
    .await;
    sql(&pool, "delete from gen_durable.instances").await;
    let today: String =
        sqlx::query_scalar("select to_char(now() at time zone 'UTC', 'YYYY-MM-DD')")
            .fetch_one(&pool)
            .await
            .unwrap();
    let partition = format!("drop table gen_durable.history_{}", today.replace('-', ""));
    sqlx::raw_sql(sqlx::AssertSqlSafe(partition)).execute(&pool).await.unwrap();
    let expected = |all: &[(Illness, &str)]| -> Vec<(Illness, String)> {
        all.iter().map(|(illness, subject)| (*illness, (*subject).to_owned())).collect()
    };
    let early = [
        (Illness::NoAutovacuum, "table signals"),
        (Illness::HistoryPartitions, "table history"),
        (Illness::HistoryPartitions, "table history_default"),
    ];
    let findings = diagnose(&pool).await;
    assert_eq!(names(&findings), expected(&early));
    assert!(findings[1].explanation.ends_with(&today), "{}", findings[1].explanation);

    // Vacuum has its time. After that the table counts as bloated.
    sql(&pool, "update gen_durable.queues set registered_at = now() - interval '1 h'").await;
    let bloat = eventually("the dead rows are counted", async || {
        let findings = diagnose(&pool).await;
        findings.into_iter().find(|finding| finding.illness == Illness::Bloat)
    })
    .await;
    assert_eq!(bloat.subject, "table instances");
    assert!(bloat.explanation.starts_with("it has 100100 dead rows and 0 others"), "{bloat:?}");

    sql(&pool, "alter table gen_durable.signals reset (autovacuum_enabled)").await;
    sql(&pool, "delete from gen_durable.history_default").await;
    sql(&pool, "select gen_durable.keep_history(null)").await;
    // A vacuum leaves a table as long as it is, if another session looks at it at that moment.
    eventually("all is well", async || {
        for vacuum in ["vacuum gen_durable.history_default", "vacuum gen_durable.instances"] {
            sqlx::raw_sql(vacuum).execute(&pool).await.unwrap();
        }
        diagnose(&pool).await.is_empty().then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p76_a_schema_of_another_version_is_found() {
    let server = Server::builder().start().unwrap();
    let pool = migrated(&server).await;
    sql(&pool, "insert into gen_durable.migrations (version, name, serves) values (9, 'later', 1)")
        .await;
    let found = diagnose(&pool).await;
    assert_eq!(names(&found), [(Illness::SchemaAhead, "the schema".to_owned())]);
    assert_eq!(found[0].severity, Severity::Info);
    sql(&pool, "update gen_durable.migrations set serves = 2 where version = 9").await;
    let found = diagnose(&pool).await;
    assert_eq!((found[0].illness, found[0].severity), (Illness::SchemaAhead, Severity::Error));
    sql(&pool, "delete from gen_durable.migrations where version = 9").await;
    assert_eq!(names(&diagnose(&pool).await), []);
}
