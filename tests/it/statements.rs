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

/// The statements that run all the time, and those that run while something is wrong.
const HOT: &[&str] = &[
    "claim",
    "claim_partitions",
    "commit",
    "deliver",
    "ended",
    "insert",
    "inspect",
    "lock_free_partitions",
    "lock_instances",
    "next_due",
    "orphans",
    "unblock_partitions",
    "unique_holders",
    "wake_parked",
    "wake_timed_out",
];

/// Far below what makes Postgres compile a statement (`jit_above_cost`, 100,000).
const COST_MAX: f64 = 30_000.0;

#[derive(Debug, serde::Deserialize)]
struct Plan {
    #[serde(rename = "Node Type")]
    node: String,
    #[serde(rename = "Relation Name")]
    relation: Option<String>,
    #[serde(rename = "Total Cost")]
    cost: f64,
    #[serde(rename = "Plans", default)]
    plans: Vec<Plan>,
}

impl Plan {
    fn scans_instances(&self) -> bool {
        let own = self.node.contains("Seq Scan") && self.relation.as_deref() == Some("instances");
        own || self.plans.iter().any(Self::scans_instances)
    }
}

/// The plan that Postgres makes once and keeps, whatever the parameters.
async fn generic_plan(connection: &mut sqlx::PgConnection, statement: &str) -> Plan {
    #[derive(serde::Deserialize)]
    struct Explained {
        #[serde(rename = "Plan")]
        plan: Plan,
    }
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../gen_durable/src/storage/sql");
    let text = std::fs::read_to_string(folder.join(format!("{statement}.sql"))).unwrap();
    let parameters = (1..=20).rev().find(|n| text.contains(&format!("${n}"))).unwrap_or(0);
    let nulls = vec!["null"; parameters].join(", ");
    let run = async |connection: &mut sqlx::PgConnection, sql: String| {
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(connection).await.unwrap();
    };
    run(connection, format!("prepare hot as {text}")).await;
    let explain = format!("explain (format json) execute hot({nulls})");
    let row = sqlx::raw_sql(AssertSqlSafe(explain)).fetch_one(&mut *connection).await.unwrap();
    let json: serde_json::Value = sqlx::Row::get(&row, 0);
    run(connection, "deallocate hot".to_owned()).await;
    let mut explained: Vec<Explained> = serde_json::from_value(json).unwrap();
    explained.remove(0).plan
}

/// Whatever the statistics say: taken while nothing ran, while nothing could run, while all ran.
#[tokio::test(flavor = "multi_thread")]
async fn p15_no_hot_statement_reads_the_table_or_is_compiled() {
    let db = database().await;
    let mut connection = db.pool().acquire().await.unwrap();
    sqlx::raw_sql(
        "set plan_cache_mode = force_generic_plan;
         insert into gen_durable.instances
             (fsm, fsm_version, step, state, partition_key, unique_key, unique_scope)
         select 'm', 1, 's', '{}', 'key ' || n % 1000, 'u' || n,
                '{runnable,executing,awaiting_signal}'
         from generate_series(1, 200000) as n;
         insert into gen_durable.signals (target_id, name, payload)
         select id, 'a', '{}' from gen_durable.instances;",
    )
    .execute(&mut *connection)
    .await
    .unwrap();
    let moments = [
        ("all are runnable", "select 1"),
        (
            "all are executing",
            "update gen_durable.instances set status = 'executing', locked_by = 1, partition_key = null",
        ),
        (
            "all are parked",
            "update gen_durable.instances
             set status = 'awaiting_signal', locked_by = null, awaits = '{a}'",
        ),
        (
            "all are done",
            "update gen_durable.instances
             set status = 'done', awaits = null, finished_at = now(), result = '1'",
        ),
    ];
    for (moment, change) in moments {
        sqlx::raw_sql(change).execute(&mut *connection).await.unwrap();
        sqlx::raw_sql("analyze gen_durable.instances").execute(&mut *connection).await.unwrap();
        for statement in HOT {
            let plan = generic_plan(&mut connection, statement).await;
            assert!(!plan.scans_instances(), "{statement} when {moment}: {plan:#?}");
            assert!(plan.cost < COST_MAX, "{statement} when {moment} costs {}", plan.cost);
        }
    }
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

#[tokio::test(flavor = "multi_thread")]
async fn chained_commits_are_heap_only_updates() {
    const INSTANCES: usize = 500;
    let db = database().await;
    let engine = engine(&db).machine::<Chain>().queue("default", 50).start().await.unwrap();
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
