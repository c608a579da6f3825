//! The hot statements with the parameters of a batch.

use std::ops::RangeInclusive;

use sqlx::{AssertSqlSafe, PgConnection};

use super::{ARRIVED, BATCH, limits, looks};

/// A hot statement, its parameters, and the limits for its plan.
pub(super) struct Case {
    pub(super) statement: &'static str,
    pub(super) parameters: Vec<String>,
    pub(super) indexes: &'static [&'static str],
    /// The number of rows that it may look at, in all tables together.
    pub(super) rows: RangeInclusive<f64>,
}

pub(super) fn batch(times: u32) -> RangeInclusive<f64> {
    let batch = f64::from(u32::try_from(BATCH).unwrap());
    batch..=batch * f64::from(times)
}

/// An insert looks at no rows.
fn none() -> RangeInclusive<f64> {
    0.0..=0.0
}

pub(super) fn repeated(value: &str) -> String {
    format!("'{{{}}}'", vec![value; BATCH].join(","))
}

fn numbered(name: &str) -> String {
    let values: Vec<String> = (1..=BATCH).map(|n| format!("\"{name} {n}\"")).collect();
    format!("'{{{}}}'", values.join(","))
}

pub(super) async fn ids(connection: &mut PgConnection, condition: &str) -> String {
    let query = format!(
        "select array(
             select id from gen_durable.instances where {condition} order by id limit {BATCH}
         )::text"
    );
    let ids: String = sqlx::query_scalar(AssertSqlSafe(query)).fetch_one(connection).await.unwrap();
    format!("'{ids}'")
}

async fn text(connection: &mut PgConnection, query: &'static str) -> String {
    sqlx::query_scalar(query).fetch_one(connection).await.unwrap()
}

/// The first row of the machine whose rows all have keys, and an instance that has an inbox.
const FIRST: &str = "select coalesce(min(id), 0)::text from gen_durable.instances where fsm = 'k'";
const TARGET: &str = "select coalesce(min(target_id), 0)::text from gen_durable.signals";

/// An instance that waits for a limit, behind many others.
const WAITS: &str = "select coalesce(max(id), 0)::text from gen_durable.instances where fsm = 'q'";

const CLAIMS: &[&str] =
    &["instances_claim", "instances_partition", "instances_partition_holder", "instances_pkey"];

const KNOWN: [&str; 8] = ["7", "'{q}'", "'{200}'", "'{m}'", "'{1}'", "'{1}'", "'{0}'", "'{0}'"];

pub(super) fn case(
    statement: &'static str,
    parameters: &[&str],
    indexes: &'static [&'static str],
    rows: RangeInclusive<f64>,
) -> Case {
    let parameters = parameters.iter().map(|&parameter| parameter.to_owned()).collect();
    Case { statement, parameters, indexes, rows }
}

pub(super) const BUSY: &[&str] = &[
    "instances_blocked",
    "instances_claim",
    "instances_lease",
    "instances_limited",
    "instances_owed",
    "instances_paused",
];

/// A search for instances at a step at which there is none.
fn find(
    statement: &'static str,
    fsm: &str,
    status: &str,
    indexes: &'static [&'static str],
    rows: RangeInclusive<f64>,
) -> Case {
    let before = i64::MAX.to_string();
    let parameters =
        [&before, "200", fsm, status, "'none'", "null", "null", "null", "null", "null", "null"];
    case(statement, &parameters, indexes, rows)
}

/// The statements that claim. `keyed` and `late` are rows with a partition key and their keys, and
/// `woken` are instances that a signal has woken.
fn claims(keyed: &str, late: &str, woken: &str) -> Vec<Case> {
    vec![
        case(
            "claim",
            &[
                "7", "'{q}'", "'{200}'", "'{m}'", "'{1}'", "'{m}'", "'{}'", "true", "'{}'", "'{}'",
                "'{}'", "2097152", "false",
            ],
            CLAIMS,
            batch(4),
        ),
        case(
            "claim_known",
            // Its known group, and the places where others may wait.
            &[&KNOWN[..], &["'{q,q}'", "'{m,x}'", "'{1,1}'", "'{0,null}'", "2097152"]].concat(),
            CLAIMS,
            batch(4),
        ),
        // All rows of this machine have a partition key.
        case(
            "claim",
            &[
                "7", "'{q}'", "'{200}'", "'{k}'", "'{1}'", "'{}'", "'{}'", "true", "'{}'", "'{}'",
                "'{}'", "2097152", "false",
            ],
            CLAIMS,
            batch(6),
        ),
        case(
            "claim_partitions",
            &["7", keyed, late, "'{m}'", "'{1}'", "'{m}'", "'{q}'", "2097152", "false"],
            &["instances_partition", "instances_partition_holder", "instances_pkey"],
            batch(6),
        ),
        case(
            "claim_woken",
            &["7", woken, "'{w}'", "'{w}'", "'{1}'"],
            &["instances_claim", "instances_pkey", "signals_pkey"],
            batch(6),
        ),
    ]
}

#[allow(clippy::too_many_lines, reason = "a list")]
pub(super) async fn cases(connection: &mut PgConnection) -> Vec<Case> {
    let executing = ids(connection, "locked_by = 7").await;
    let keyed = ids(connection, "partition_key like 'late %'").await;
    let parked = ids(connection, "wake_at < now()").await;
    let woken = ids(connection, "fsm = 'w'").await;
    let failed = ids(connection, "fsm = 'p'").await;
    let receivers = ids(connection, "fsm = 'r'").await;
    let asked = ids(connection, "fsm = 'c'").await;
    let held = ids(connection, "fsm = 'b' and locked_by = 9").await;
    let paused = ids(connection, "fsm = 'i'").await;
    let waits = text(connection, WAITS).await;
    let first = text(connection, FIRST).await;
    let target = text(connection, TARGET).await;
    let [seven, zero, one, yes, no, null] = ["7", "0", "1", "t", "f", "null"].map(repeated);
    let [m, q, s, a, state, next, done] =
        ["m", "q", "s", "a", "\"{}\"", "executing", "done"].map(repeated);
    let scopes = repeated("\"runnable,executing,awaiting_signal\"");
    let (late, busy, new) = (numbered("late"), numbered("busy"), numbered("new"));
    let free = numbered("free");
    let commit = |status, step, result| {
        let parameters = [
            &executing, &seven, &zero, status, step, &state, result, &null, &zero, &null, &null,
            &null, &yes, "'{}'", &null, &zero, "'{}'", &zero,
        ];
        case("commit", &parameters, &["instances_pkey"], batch(6))
    };
    let record = |has_state| {
        [&one, &m, &one, &s, &zero, &a, &s, &null, &one, &seven, has_state].map(String::as_str)
    };
    let insert = |statement, others: &[&str], indexes, rows| {
        let parameters = [&[&*m, &*one, &*s, &*state, &*q], others].concat();
        case(statement, &parameters, indexes, rows)
    };
    let by_id = &["instances_pkey"];
    let mut cases = claims(&keyed, &late, &woken);
    cases.extend([
        // The rows that it looks at. One of them waits for its key.
        case("block_ahead", &[&first, &free], CLAIMS, 2000.0..=3000.0),
        commit(&next, &s, &null),
        commit(&done, &null, &one),
        case(
            "deliver",
            &[&parked, &m, &a, &state, &null, "false", "'1s'", &null, &null],
            by_id,
            batch(3),
        ),
        case(
            "deliver",
            &[&parked, &m, &a, &state, &null, "true", "'20ms'", &null, &null],
            by_id,
            batch(3),
        ),
        case("ended", &[&executing], by_id, batch(1)),
        insert(
            "insert",
            &[&zero, &zero, &null, &null, &no, &new, &scopes, "'1s'", &null, &null],
            &[],
            none(),
        ),
        insert("insert_plain", &[&zero, &zero, &null, &null, &no, &null, &null], &[], none()),
        case(
            "insert_alike",
            &["'m'", "1", "'s'", &state, "'q'", "0", "null", "null"],
            &[],
            0.0..=0.0,
        ),
        case(
            "insert_born",
            &["'m'", "1", "'s'", &state, "'q'", "0", "null", "7", "100", "'{m}'", "'{1}'", "null"],
            &["instances_claim"],
            0.0..=10.0,
        ),
        insert(
            "insert_claimed",
            &[&zero, &null, &null, &yes, "'1s'", "7", "'{q}'", "'{m}'", "'{1}'", &null, &null],
            &["instances_claim"],
            0.0..=10.0,
        ),
        case(
            "insert_or_signal",
            &[
                "'m'",
                "1",
                "'s'",
                "'{}'",
                "'q'",
                "0",
                "0",
                "null",
                "null",
                "'late 1'",
                "'runnable'",
                "'a'",
                "'{}'",
                "null",
                "'1s'",
                "null",
                "null",
            ],
            &["instances_pkey", "instances_unique_guard"],
            0.0..=20.0,
        ),
        case("inspect", &[&executing], by_id, batch(1)),
        case("lock_free_partitions", &[&keyed], by_id, batch(1)),
        case("lock_instances", &[&executing, "false", "'20ms'"], by_id, batch(2)),
        case("lock_instances", &[&executing, "true", "'20ms'"], by_id, batch(2)),
        case("load_inbox", &[&target, "0", "100", "65536", "null", "0"], &[], 0.0..=20.0),
        case(
            "next_due",
            &["'{q}'", "'{m}'", "'{1}'", "1000000"],
            &["instances_claim", "instances_wake"],
            2.0..=10.0,
        ),
        case("lost_claims", &["7", "'{}'", "200"], &["instances_lease"], ARRIVED..=ARRIVED),
        // A batch is a thousand rows, and each is looked up twice. If a machine keeps its
        // instances, the statement looks at the first row of that machine alone, however many have
        // ended.
        case(
            "prune",
            &["86400000000"],
            &["instances_finished", "instances_pkey"],
            2_000.0..=2_100.0,
        ),
        case(
            "unblock_partitions",
            &[&busy],
            &["instances_blocked", "instances_partition_holder", "instances_pkey"],
            batch(4),
        ),
        case("unique_holders", &[&m, &late], &["instances_unique_guard"], batch(1)),
        case("is_awaited_there", &[&target, "'{a}'", "'{}'"], &[], 0.0..=20.0),
        case("signal_ids", &[&target, "null"], &[], 0.0..=20.0),
        case("report", &[&executing, &null], by_id, batch(4)),
        case("owed", &["0", "1000"], &["instances_owed"], 0.0..=1_000.0),
        case("owed_of", &[&executing], by_id, batch(1)),
        case("settle_owed", &[&executing], by_id, batch(1)),
        case("count_parked", &[&parked, &parked, &parked], by_id, batch(4)),
        case("new_signals", &[&target, "0"], &[], 0.0..=20.0),
        case(
            "commit_step",
            &[
                "1",
                "7",
                "0",
                "'executing'",
                "'s'",
                "'{}'",
                "null",
                "null",
                "0",
                "null",
                "null",
                "null",
                "null",
                "0",
                "'{}'",
                "'read committed'",
                "false",
            ],
            by_id,
            0.0..=5.0,
        ),
        // Nothing fits, so all that may be examined is: once for the edge, once for the filter.
        find("find_instances", "null", "'done'", &["instances_pkey"], 20_000.0..=20_000.0),
        // With two machines, the statement examines half as many rows of each as of one.
        find("find_failed", "null", "'failed'", &["instances_failed"], 5_000.0..=10_010.0),
        find("find_failed", "'g'", "'cancelled'", &["instances_failed"], 10_000.0..=10_010.0),
        find("find_busy", "null", "'executing'", BUSY, 5_000.0..=5_201.0),
        find("find_busy", "'m'", "'runnable'", BUSY, 6_001.0..=17_003.0),
        case("list_instances", &[&executing], by_id, batch(1)),
        case("wake_step", &["1"], by_id, 0.0..=5.0),
        case("record_history", &record(&no), by_id, 0.0..=40.0),
        case("record_history", &record(&yes), by_id, 0.0..=240.0),
        case("record_lost", &[&executing, &seven, &zero], by_id, batch(2)),
        case("history", &["1", "9000", "1000"], &[], 0.0..=20.0),
        case("list_runs", &["1", "9000", "1000", "100"], &[], 0.0..=20.0),
        case("delete_history", &["'{1}'"], &[], 0.0..=20.0),
        case(
            "cancel",
            &[&executing, "'m'", "null", "null", "false", "'1s'", "null"],
            by_id,
            batch(6),
        ),
        case("answer_cancels", &[&asked, "7"], by_id, batch(6)),
        case("run_now", &[&keyed, "null", "null", "null", "'1s'", "null"], by_id, batch(4)),
        case("report_to", &[&failed], by_id, batch(1)),
        case(
            "retry",
            &[&failed, "'p'", "null", "null", "null", "null", "null", "true", &receivers, "null"],
            &["instances_pkey", "instances_unique_guard"],
            batch(12),
        ),
        case(
            "delete_instances",
            &[&failed, "null", "null", "null", "'1s'", "null"],
            by_id,
            batch(4),
        ),
        case("settle_keys", &[&asked], by_id, batch(2)),
        case(
            "unknown_kinds",
            &["'{q}'"],
            &["instances_claim", "instances_owed"],
            1_000.0..=1_100.0,
        ),
        case("block_paused", &["9", &held], &["instances_claim", "instances_pkey"], batch(6)),
        case("unblock_paused", &["200"], &["instances_paused", "instances_pkey"], batch(4)),
        // The engine's sessions read the pauses by an index. Others may read all of them.
        case("end_pauses", &["200"], by_id, 800.0..=2_400.0),
        case("pauses", &["7"], &["instances_lease"], ARRIVED..=ARRIVED + 3.0),
        case("list_pauses", &["null", "100"], by_id, 0.0..=10.0),
        case("list_pauses", &[&first, "100"], by_id, 0.0..=10.0),
        case(
            "pause_instances",
            &[&keyed, "'m'", "null", "null", "'1s'", "null", "null"],
            by_id,
            batch(6),
        ),
        case(
            "resume_instances",
            &[&paused, "'i'", "null", "null", "'1s'", "null"],
            by_id,
            batch(8),
        ),
        case("details", &[&waits], &["instances_limited", "instances_pkey"], 0.0..=1_010.0),
        // The first bucket has many that wait, and each of the others one. A session without the
        // settings of an engine may read all buckets.
        case("list_buckets", &["'l'", "''", "200", "201"], &["instances_limited"], batch(9)),
        case("list_waiting", &["'l'", "'l'", "200"], &["instances_limited"], batch(3)),
        case("fork", &["1", "1", "null", "null", "null"], by_id, 0.0..=10.0),
        case("wake_parked", &[&parked, "'{}'"], by_id, batch(4)),
        case("wake_timed_out", &["200"], &["instances_wake", "instances_pkey"], batch(3)),
    ]);
    cases.extend(limits::cases(connection).await);
    cases.extend(looks::cases(connection, &target).await);
    cases
}
