//! The SQL files: each statement prepares against the migrated schema, chained commits stay on
//! their pages, and the statements keep some promises that only Postgres can show.

use std::path::Path;

use gen_durable_postgres::Server;
use sqlx::{AssertSqlSafe, Executor, PgPool, Row, SqlSafeStr, postgres::PgListener};

use crate::support::database;

/// True if a file has several commands, or one that has no plan.
pub(crate) fn has_several_commands(path: &Path) -> bool {
    let name = path.file_name().unwrap().to_str().unwrap();
    let others = ["reset_and_begin.sql", "reset_step.sql", "step_session.sql"];
    name.starts_with("begin") || others.contains(&name)
}

#[tokio::test(flavor = "multi_thread")]
async fn p15_every_statement_prepares() {
    let db = database().await;
    let mut connection = db.pool().acquire().await.unwrap();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../gen_durable/src/storage/sql");
    let mut statements = 0;
    for entry in folder.read_dir().unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        if has_several_commands(&path) {
            // They cannot be prepared, and take no parameters.
            sqlx::raw_sql(AssertSqlSafe(text)).execute(&mut *connection).await.unwrap();
            let end = "rollback; set default_transaction_read_only = off";
            sqlx::raw_sql(end).execute(&mut *connection).await.unwrap();
            continue;
        }
        let prepared = connection.prepare(AssertSqlSafe(text).into_sql_str()).await;
        prepared.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        statements += 1;
    }
    assert!(statements >= 25, "{statements} statements were found");
}

/// Runs the commit statement alone, twenty times for each row, on a server of its own. On a shared
/// server a session of any database may have an old snapshot, which keeps old row versions on their
/// pages. Nearly all updates must be heap-only. The benchmark measures the share for a whole
/// engine.
#[tokio::test(flavor = "multi_thread")]
async fn chained_commits_are_heap_only_updates() {
    const ROWS: usize = 100;
    const COMMITS: i64 = 20;
    let server = Server::builder().fast(true).start().unwrap();
    let pool = PgPool::connect(&server.url("postgres")).await.unwrap();
    gen_durable_migrate::up(&pool).await.unwrap();
    let mut connection = pool.acquire().await.unwrap();
    sqlx::raw_sql(
        "alter table gen_durable.instances set (autovacuum_enabled = off);
         insert into gen_durable.instances (fsm, fsm_version, step, state, status, locked_by)
         select 'm', 1, 's', '{}', 'executing', 1 from generate_series(1, 100)",
    )
    .execute(&mut *connection)
    .await
    .unwrap();
    let ids: Vec<i64> = sqlx::query_scalar("select id from gen_durable.instances order by id")
        .fetch_all(&mut *connection)
        .await
        .unwrap();
    for revision in 0..COMMITS {
        let row = sqlx::query(include_str!("../../gen_durable/src/storage/sql/commit.sql"))
            .bind(&ids)
            .bind([1_i64; ROWS])
            .bind([revision; ROWS])
            .bind(["executing"; ROWS])
            .bind([Some(["s", "t"][usize::try_from(revision % 2).unwrap()]); ROWS])
            .bind([Some(r#"{"n":1}"#); ROWS])
            .bind([None::<&str>; ROWS])
            .bind([None::<&str>; ROWS])
            .bind([0_i32; ROWS])
            .bind([None::<i64>; ROWS])
            .bind([None::<&str>; ROWS])
            .bind([None::<i64>; ROWS])
            .bind([false; ROWS])
            .bind(Vec::<i64>::new())
            .bind([None::<i32>; ROWS])
            .bind([0_i32; ROWS])
            .bind(Vec::<i64>::new())
            .bind([0_i64; ROWS])
            .fetch_one(&mut *connection)
            .await
            .unwrap();
        let applied: Vec<i64> = sqlx::Row::get(&row, 0);
        assert_eq!(applied.len(), ROWS);
    }
    // A session reports its statistics when it ends.
    connection.close().await.unwrap();
    let (updates, hot): (i64, i64) = crate::support::eventually("statistics arrive", async || {
        let seen: (i64, i64) = sqlx::query_as(
            "select n_tup_upd, n_tup_hot_upd from pg_stat_user_tables
             where schemaname = 'gen_durable' and relname = 'instances'",
        )
        .fetch_one(&pool)
        .await
        .unwrap();
        (seen.0 >= COMMITS * ROWS as i64).then_some(seen)
    })
    .await;
    assert!(hot * 100 >= updates * 95, "{hot} of {updates} chained commits were heap-only");
}

/// A row has been due for long, because it is locked or its queue is full. It must not hide the
/// rows that are due later.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_due_later_is_not_hidden_by_what_is_overdue() {
    let db = database().await;
    sqlx::raw_sql(
        "insert into gen_durable.instances (fsm, fsm_version, step, state, queue, eligible_at)
         select 'm', 1, 's', '{}', queue, now() + after * interval '1 second'
         from (values ('full', -60), ('full', 600), ('idle', 60)) as t (queue, after)",
    )
    .execute(db.pool())
    .await
    .unwrap();
    let next_due = include_str!("../../gen_durable/src/storage/sql/next_due.sql");
    let look = async |since: i64| -> i64 {
        let due: (Option<i64>, Option<i64>) = sqlx::query_as(next_due)
            .bind(["full", "idle"])
            .bind(["m", "m"])
            .bind([1, 1])
            .bind(since)
            .fetch_one(db.pool())
            .await
            .unwrap();
        due.0.unwrap() / 1_000_000
    };
    assert!((50..=60).contains(&look(1_000_000).await), "the idle queue's");
    assert!(look(3_600_000_000).await < 0, "what has been due for less than an hour counts");
}

/// An announcement does not wait for the disk. A statement that follows on the same connection must
/// be acknowledged only when it is on disk, as before.
#[tokio::test(flavor = "multi_thread")]
async fn an_announcement_waits_for_no_disk_and_nothing_else_does_without() {
    let db = database().await;
    let mut listener = PgListener::connect_with(db.pool()).await.unwrap();
    listener.listen("gen_durable").await.unwrap();
    let mut connection = db.pool().acquire().await.unwrap();
    sqlx::raw_sql("set synchronous_commit = 'on'").execute(&mut *connection).await.unwrap();
    let announce = include_str!("../../gen_durable/src/storage/sql/announce.sql");
    let rows = sqlx::query(announce).bind(["a", "b"]).fetch_all(&mut *connection).await.unwrap();
    assert_eq!(rows.len(), 2);
    assert!(rows.iter().all(|row| row.get::<String, _>(0) == "off"), "the statement itself");
    for queue in ["a", "b"] {
        assert_eq!(listener.recv().await.unwrap().payload(), queue);
    }
    let setting: String =
        sqlx::query_scalar("show synchronous_commit").fetch_one(&mut *connection).await.unwrap();
    assert_eq!(setting, "on");
}
