//! The plans of the hot statements in a table of a million rows, whatever the statistics say.
//!
//! The statistics are taken while a million rows have one status: all are done, so that no row is
//! executing or runnable; or all are executing; and so on. Then rows of every other status arrive.
//! Each statement runs with a batch of them, under a generic plan and under one for its parameters.
//! If the planner believes that an index is empty, as it was when the statistics were taken, the
//! statement scans all rows that came since. It then touches more rows than it was given, and the
//! test fails.

mod cases;
mod limits;
mod looks;

use std::{collections::BTreeSet, path::Path};

use sqlx::{AssertSqlSafe, Connection, PgConnection, Row};

use self::cases::{Case, batch, cases};
use crate::support::database;

/// The number of rows that a statement is given.
const BATCH: usize = 200;
/// The number of rows of each kind that arrive after the statistics were taken. The same number of
/// rows is executing in the name of worker 7.
const ARRIVED: f64 = 5_000.0;
/// The greatest estimated cost of a statement. It is far below 100,000, the cost at which Postgres
/// compiles a statement (`jit_above_cost`).
const COST_MAX: f64 = 30_000.0;
/// The most pages that a statement may look at for each row of the batch. They include the pages of
/// the indexes that the row is in.
const BUFFERS_PER_ROW: f64 = 50.0;

/// The moments at which the statistics are taken, with the million rows that are there then.
const MOMENTS: [(&str, &str); 5] = [
    (
        "all are done",
        "insert into gen_durable.instances
             (fsm, fsm_version, step, state, queue, status, result, finished_at)
         select 'm', 1, 's', '{}', 'q', 'done', '1', now() from generate_series(1, 1000000)",
    ),
    (
        "all are runnable",
        "insert into gen_durable.instances
             (fsm, fsm_version, step, state, queue, partition_key, unique_key, unique_scope)
         select 'm', 1, 's', '{}', 'q', case when n % 10 = 0 then 'key ' || n % 100000 end,
                case when n % 10 = 0 then 'u' || n end, '{runnable,executing,awaiting_signal}'
         from generate_series(1, 1000000) as n",
    ),
    (
        "all are executing",
        "insert into gen_durable.instances
             (fsm, fsm_version, step, state, queue, status, locked_by, partition_key)
         select 'm', 1, 's', '{}', 'q', 'executing', 1, case when n % 10 = 0 then 'key ' || n end
         from generate_series(1, 1000000) as n",
    ),
    (
        "all are parked",
        "insert into gen_durable.instances
             (fsm, fsm_version, step, state, queue, status, awaits, wake_at)
         select 'm', 1, 's', '{}', 'q', 'awaiting_signal', '{b}', now() + interval '1 day'
         from generate_series(1, 1000000)",
    ),
    (
        "all wait for room",
        "insert into gen_durable.instances
             (fsm, fsm_version, step, state, queue, blocked_by, limited_by)
         select 'm', 1, 's', '{}', 'q', 16, 'w' from generate_series(1, 1000000)",
    ),
];

/// The rows that arrive after the statistics were taken. Their order is such that the rows which
/// are claimed first have no key.
const ARRIVALS: &str = "
    insert into gen_durable.workers (id, name, lease_expires_at)
    overriding system value values (7, 'w', now() + interval '1 day') on conflict do nothing;
    insert into gen_durable.instances (fsm, fsm_version, step, state, queue)
    select 'm', 1, 's', '{}', 'q' from generate_series(1, 5000);
    insert into gen_durable.instances
        (fsm, fsm_version, step, state, queue, partition_key, unique_key, unique_scope)
    select 'm', 1, 's', '{}', 'q', 'late ' || n, 'late ' || n, '{runnable,executing,awaiting_signal}'
    from generate_series(1, 5000) as n;
    insert into gen_durable.instances (fsm, fsm_version, step, state, queue, partition_key)
    select 'k', 1, 's', '{}', 'q', 'free ' || n from generate_series(1, 5000) as n;
    insert into gen_durable.instances
        (fsm, fsm_version, step, state, queue, status, locked_by, partition_key)
    values ('k', 1, 's', '{}', 'q', 'executing', 8, 'free 2');
    insert into gen_durable.instances
        (fsm, fsm_version, step, state, queue, partition_key, blocked_by)
    select 'm', 1, 's', '{}', 'q', 'busy ' || n % 1000, 1 from generate_series(1, 5000) as n;
    insert into gen_durable.instances (fsm, fsm_version, step, state, queue, status, locked_by)
    select 'm', 1, 's', '{}', 'q', 'executing', 7 from generate_series(1, 5000);
    insert into gen_durable.instances
        (fsm, fsm_version, step, state, queue, status, awaits, wake_at)
    select 'm', 1, 's', '{}', 'q', 'awaiting_signal', '{a}', now() - interval '1 second'
    from generate_series(1, 5000);
    insert into gen_durable.signals (target_id, name, payload)
    select id, 'a', '{}' from gen_durable.instances
    where locked_by = 7 or wake_at < now();
    insert into gen_durable.instances (fsm, fsm_version, step, state, queue)
    select 'w', 1, 's', '{}', 'w' from generate_series(1, 200);
    insert into gen_durable.signals (target_id, name, payload)
    select id, 'a', '{}' from gen_durable.instances where fsm = 'w';
    insert into gen_durable.retention (fsm, keep_for) values ('m', null), ('l', interval '100 days')
    on conflict do nothing;
    insert into gen_durable.instances (fsm, fsm_version, step, state, queue, status, result, finished_at)
    select fsm, 1, 's', '{}', 'q', 'done', '1', now() - interval '10 days'
    from unnest('{l,n,o}'::text[]) as fsm, generate_series(1, 5000);
    insert into gen_durable.instances (fsm, fsm_version, step, state, queue, status)
    select fsm, 1, 's', '{}', 'q', 'failed' from unnest('{f,g}'::text[]) as fsm, generate_series(1, 5000);
    insert into gen_durable.machines (fsm, fsm_version, initial, steps)
    values ('c', 1, 's', '{s}'), ('p', 1, 's', '{s}') on conflict do nothing;
    with parents as (
        insert into gen_durable.instances (fsm, fsm_version, step, state, queue, status, awaits)
        select 'r', 1, 's', '{}', 'q', 'awaiting_signal', '{ended(p)}' from generate_series(1, 200)
        returning id
    ), children as (
        insert into gen_durable.instances
            (fsm, fsm_version, step, state, queue, status, report_to, unique_key, unique_scope)
        select 'p', 1, 's', '{}', 'q', 'failed', id, id, '{runnable}' from parents
        returning id, report_to
    )
    insert into gen_durable.signals (target_id, name, payload)
    select report_to, 'ended(p)', json_build_object('id', id, 'status', 'failed') from children;
    insert into gen_durable.instances
        (fsm, fsm_version, step, state, queue, blocked_by, owes, cancelled_at)
    select 'c', 1, 's', '{}', 'q', 2, 4, now() from generate_series(1, 1000);
    delete from gen_durable.pauses;
    insert into gen_durable.pauses (queue, actor) values ('z', 'a');
    insert into gen_durable.instances (fsm, fsm_version, step, state, queue, status, locked_by)
    select 'b', 1, 's', '{}', 'z', 'executing', 9 from generate_series(1, 200);
    insert into gen_durable.instances (fsm, fsm_version, step, state, queue, priority)
    select 'b', 1, 's', '{}', 'z', n % 50 from generate_series(1, 5000) as n;
    insert into gen_durable.instances (fsm, fsm_version, step, state, queue, blocked_by, paused_by)
    select 'e', 1, 's', '{}', 'z', 4, 2000000000 from generate_series(1, 500);
    with own as (
        insert into gen_durable.instances (fsm, fsm_version, step, state, queue, blocked_by, paused_by)
        select 'i', 1, 's', '{}', 'q', 8, 0 from generate_series(1, 500)
        returning id
    )
    insert into gen_durable.pauses (instance_id, until, actor)
    select id, now() - interval '1 s', 'a' from own;
    insert into gen_durable.instances (fsm, fsm_version, step, state, queue, blocked_by, limited_by)
    select 'q', 1, 's', '{}', 'q', 16, 'l' || case when n > 1000 then '' else chr(31) || n end
    from generate_series(1, 5000) as n;";

#[derive(Debug, serde::Deserialize)]
struct Plan {
    #[serde(rename = "Node Type")]
    node: String,
    #[serde(rename = "Relation Name")]
    relation: Option<String>,
    #[serde(rename = "Index Name")]
    index: Option<String>,
    #[serde(rename = "Total Cost")]
    cost: f64,
    #[serde(rename = "Actual Loops")]
    loops: f64,
    #[serde(rename = "Actual Rows")]
    rows: f64,
    #[serde(rename = "Rows Removed by Filter", default)]
    filtered: f64,
    #[serde(rename = "Rows Removed by Index Recheck", default)]
    rechecked: f64,
    #[serde(rename = "Shared Hit Blocks")]
    hit: f64,
    #[serde(rename = "Shared Read Blocks")]
    read: f64,
    #[serde(rename = "Plans", default)]
    plans: Vec<Plan>,
}

impl Plan {
    fn nodes(&self) -> Vec<&Self> {
        let below = self.plans.iter().flat_map(Self::nodes);
        std::iter::once(self).chain(below).collect()
    }

    fn scans_instances(&self) -> bool {
        let whole =
            |plan: &&Self| plan.node == "Seq Scan" && plan.relation.as_deref() == Some("instances");
        self.nodes().iter().any(whole)
    }

    /// The indexes of `instances` that the plan reads.
    fn indexes(&self) -> BTreeSet<&str> {
        let names = self.nodes().into_iter().filter_map(|plan| plan.index.as_deref());
        names.filter(|name| name.starts_with("instances_")).collect()
    }

    /// Returns the number of rows that the scans looked at, filtered rows included.
    fn touched(&self) -> f64 {
        let scans = self.nodes().into_iter().filter(|plan| {
            plan.relation.as_deref().is_some_and(|relation| relation != "workers")
                && plan.node.contains("Scan")
        });
        scans.map(|plan| plan.loops * (plan.rows + plan.filtered + plan.rechecked)).sum()
    }
}

/// Prepares a statement, as the tables are now. The session keeps the generic plan that is made
/// then.
async fn prepare(connection: &mut PgConnection, case: &Case) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../gen_durable/src/storage/sql");
    let text = std::fs::read_to_string(folder.join(format!("{}.sql", case.statement))).unwrap();
    let name = case.statement;
    run(connection, format!("prepare {name} as {text}")).await;
}

/// Runs a prepared statement, rolls its changes back, and returns the plan with its figures.
async fn explain(connection: &mut PgConnection, case: &Case) -> Plan {
    #[derive(serde::Deserialize)]
    struct Explained {
        #[serde(rename = "Plan")]
        plan: Plan,
    }
    let parameters = case.parameters.join(", ");
    let call = if parameters.is_empty() { parameters } else { format!("({parameters})") };
    let explain = format!(
        "explain (analyze, buffers, timing off, format json) execute {}{call}",
        case.statement
    );
    run(connection, "begin".to_owned()).await;
    let row = sqlx::raw_sql(AssertSqlSafe(explain)).fetch_one(&mut *connection).await;
    let row = row.unwrap_or_else(|error| panic!("{}: {error}", case.statement));
    let json: serde_json::Value = row.get(0);
    run(connection, "rollback".to_owned()).await;
    let mut explained: Vec<Explained> = serde_json::from_value(json).unwrap();
    explained.remove(0).plan
}

async fn run(connection: &mut PgConnection, sql: String) {
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(connection).await.unwrap();
}

/// Returns what is wrong with the plan of a statement.
fn judge(case: &Case, plan: &Plan, generic: bool, when: &str) -> Vec<String> {
    let what = format!("{} {when}", case.statement);
    let mut wrong = Vec::new();
    if plan.scans_instances() {
        wrong.push(format!("{what} reads the whole table"));
    }
    if generic && plan.cost >= COST_MAX {
        wrong.push(format!("{what} costs {}", plan.cost));
    }
    let touched = plan.touched();
    if !case.rows.contains(&touched) {
        wrong.push(format!("{what} touched {touched} rows, not {:?}", case.rows));
    }
    if !plan.indexes().iter().all(|index| case.indexes.contains(index)) {
        wrong.push(format!("{what} reads {:?}", plan.indexes()));
    }
    let buffers = plan.hit + plan.read;
    if buffers > BUFFERS_PER_ROW * batch(1).start() {
        wrong.push(format!("{what} looked at {buffers} pages"));
    }
    wrong
}

/// Turns autovacuum off, so that the statistics, and the plans that a session keeps, stay as they
/// were.
const STILL: &str = "
    alter table gen_durable.instances set (autovacuum_enabled = off);
    alter table gen_durable.signals set (autovacuum_enabled = off);
    alter table gen_durable.signal_keys set (autovacuum_enabled = off);
    alter table gen_durable.limit_buckets set (autovacuum_enabled = off)";

#[tokio::test(flavor = "multi_thread")]
async fn p15_hot_statements_touch_their_batch_in_a_table_of_a_million() {
    let db = database().await;
    let mut connection = db.pool().acquire().await.unwrap();
    run(&mut connection, STILL.to_owned()).await;
    let mut wrong = Vec::new();
    for (moment, rows) in MOMENTS {
        let taken = "analyze gen_durable.instances; analyze gen_durable.signals";
        let seed = format!(
            "truncate gen_durable.instances, gen_durable.signals; {rows}; {taken}; {ARRIVALS} {}",
            limits::ARRIVALS
        );
        run(&mut connection, seed).await;
        let cases = cases(&mut connection).await;
        for mode in ["force_generic_plan", "force_custom_plan"] {
            run(&mut connection, format!("set plan_cache_mode = {mode}")).await;
            for case in &cases {
                prepare(&mut connection, case).await;
                let plan = explain(&mut connection, case).await;
                run(&mut connection, format!("deallocate {}", case.statement)).await;
                let when = format!("by {mode} when {moment}");
                wrong.extend(judge(case, &plan, mode == "force_generic_plan", &when));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A session plans each statement while the tables are empty, and keeps the plan until the
/// statistics change. Such a plan may read a whole table for each row of the batch once the tables
/// are full. The settings of the engine's sessions (`session.sql`) must prevent this.
#[tokio::test(flavor = "multi_thread")]
async fn p15_plans_made_when_the_tables_were_empty_serve_when_they_are_full() {
    let db = database().await;
    let mut connections = Vec::new();
    for _ in 0..cases(&mut db.pool().acquire().await.unwrap()).await.len() {
        // These are more connections than the pool has.
        let options = db.pool().connect_options();
        connections.push(PgConnection::connect_with(&options).await.unwrap());
    }
    let first = &mut connections[0];
    run(first, STILL.to_owned()).await;
    for table in ["instances", "signals", "signal_keys", "limit_buckets"] {
        // After this the planner knows that the table is empty. Otherwise it would guess at ten
        // pages.
        run(first, format!("vacuum (analyze) gen_durable.{table}")).await;
    }
    let empty = cases(first).await;
    let session = include_str!("../../gen_durable/src/storage/sql/session.sql");
    for (connection, case) in connections.iter_mut().zip(&empty) {
        run(connection, session.to_owned()).await;
        prepare(connection, case).await;
        explain(connection, case).await;
    }
    let first = &mut connections[0];
    run(first, format!("{}; {ARRIVALS} {}", MOMENTS[0].1, limits::ARRIVALS)).await;
    let cases = cases(first).await;
    let mut wrong = Vec::new();
    for (connection, case) in connections.iter_mut().zip(&cases) {
        let plan = explain(connection, case).await;
        wrong.extend(judge(case, &plan, false, "planned when there was nothing"));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Index entries of claimed rows are dead, but they stay for as long as any session has an older
/// snapshot. A hundred thousand such entries lie before the rows that are runnable. A claim that
/// begins at its watermark must not step over them.
#[tokio::test(flavor = "multi_thread")]
async fn p15_a_claim_does_not_step_over_all_that_was_claimed_before() {
    const CLAIMED: u32 = 100_000;
    let db = database().await;
    let mut connection = db.pool().acquire().await.unwrap();
    run(&mut connection, STILL.to_owned()).await;
    let session = include_str!("../../gen_durable/src/storage/sql/session.sql");
    run(&mut connection, session.to_owned()).await;
    let load = format!(
        "insert into gen_durable.workers (id, name, lease_expires_at)
         overriding system value values (7, 'w', now() + interval '1 day');
         insert into gen_durable.instances (fsm, fsm_version, step, state, queue, eligible_at)
         select 'm', 1, 's', '{{}}', 'q', now() - interval '1 minute' - n * interval '1 millisecond'
         from generate_series(1, {CLAIMED}) as n;"
    );
    run(&mut connection, load).await;
    let mut other = db.pool().begin().await.unwrap();
    let snapshot =
        "set transaction isolation level repeatable read; select from gen_durable.workers";
    run(&mut other, snapshot.to_owned()).await;
    let arrive = format!(
        "update gen_durable.instances set status = 'done', finished_at = now();
         insert into gen_durable.instances (fsm, fsm_version, step, state, queue)
         select 'm', 1, 's', '{{}}', 'q' from generate_series(1, {BATCH})"
    );
    run(&mut connection, arrive).await;
    let first = "select (extract(epoch from min(eligible_at)) * 1000000)::bigint::text
                 from gen_durable.instances where status = 'runnable'";
    let first: String = sqlx::query_scalar(first).fetch_one(&mut *connection).await.unwrap();
    let mut looked = Vec::new();
    for watermarks in [["'{}'"; 3], ["'{1}'", "'{0}'", &format!("'{{{first}}}'")]] {
        let queue = ["7", "'{q}'", "'{200}'", "'{m}'", "'{1}'", "'{}'", "'{}'", "true"];
        let parameters = [&queue[..], &watermarks, &["2097152", "false"]]
            .concat()
            .into_iter()
            .map(str::to_owned)
            .collect();
        let case =
            Case { statement: "claim", parameters, indexes: &["instances_claim"], rows: batch(4) };
        prepare(&mut connection, &case).await;
        let plan = explain(&mut connection, &case).await;
        run(&mut connection, "deallocate claim".to_owned()).await;
        looked.push(plan.hit + plan.read);
        assert!(case.rows.contains(&plan.touched()), "it touched {} rows", plan.touched());
    }
    let most = BUFFERS_PER_ROW * batch(1).start();
    assert!(looked[0] > most, "a whole claim looks at all of them, and not at {} pages", looked[0]);
    assert!(looked[1] < most, "a claim from its watermarks looked at {} pages", looked[1]);
    other.rollback().await.unwrap();
}
