//! The statements, as files: each prepares against the migrated schema, and chained commits stay on
//! their pages.

use std::path::Path;

use gen_durable::prelude::*;
use sqlx::{AssertSqlSafe, Executor, SqlSafeStr};

use crate::support::{PATIENCE, database, engine};

#[tokio::test(flavor = "multi_thread")]
async fn p15_every_statement_prepares() {
    let db = database().await;
    let mut connection = db.pool().acquire().await.unwrap();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../gen_durable/src/storage/sql");
    let mut statements = 0;
    for entry in folder.read_dir().unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        if path.ends_with("begin.sql") {
            // Two commands, which cannot be prepared; they take no parameters.
            sqlx::raw_sql(AssertSqlSafe(text)).execute(&mut *connection).await.unwrap();
            sqlx::raw_sql("rollback").execute(&mut *connection).await.unwrap();
            continue;
        }
        let prepared = connection.prepare(AssertSqlSafe(text).into_sql_str()).await;
        prepared.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        statements += 1;
    }
    assert!(statements >= 25, "{statements} statements were found");
}

#[durable_fsm(state = u32, output = ())]
pub enum Chain {
    Link,
}

#[durable_fsm]
impl Chain {
    async fn link(mut cx: Context<Self>) -> Outcome<Self> {
        cx.state += 1;
        if cx.state == 20 { cx.done(()) } else { cx.next(Chain::Link) }
    }
}

/// One step at a time: on a loaded machine, a statement that is held up in its middle keeps old versions on
/// their pages for all others. The benchmark measures the share of an engine at full speed.
#[tokio::test(flavor = "multi_thread")]
async fn chained_commits_are_heap_only_updates() {
    const INSTANCES: usize = 100;
    let db = database().await;
    let engine = engine(&db).machine::<Chain>().queue("default", 1).start().await.unwrap();
    let ids = Chain::insert_many([0; INSTANCES]).execute(&engine).await.unwrap();
    for id in ids {
        engine.wait(id.unwrap(), PATIENCE).await.unwrap();
    }
    engine.shutdown().await.unwrap();
    let (updates, hot): (i64, i64) = crate::support::eventually("statistics arrive", async || {
        let seen: (i64, i64) = sqlx::query_as(
            "select n_tup_upd, n_tup_hot_upd from pg_stat_user_tables
             where schemaname = 'gen_durable' and relname = 'instances'",
        )
        .fetch_one(db.pool())
        .await
        .unwrap();
        // A claim, twenty commits.
        (seen.0 >= 21 * INSTANCES as i64).then_some(seen)
    })
    .await;
    // The claim and the last commit change the status, which indexes name: they cannot be heap-only.
    let chained = updates - 2 * INSTANCES as i64;
    #[allow(clippy::cast_precision_loss, reason = "a share")]
    let share = hot as f64 / chained as f64;
    assert!(share >= 0.95, "{hot} of {chained} chained commits were heap-only");
}

/// A row that has been due for long, as it is locked or its queue is full, hides none that is due later.
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
