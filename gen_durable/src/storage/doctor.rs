//! The doctor's looks: one statement for each kind of illness.
//!
//! Invariant: a look changes and locks nothing, and examines a bounded number of rows, however many
//! instances there are.

use std::time::{Duration, SystemTime};

use sqlx::{Connection, PgConnection, Postgres, Row, Transaction, postgres::PgRow};

use super::time;

const BEGIN_LOOK: &str = include_str!("sql/begin_look.sql");
const CHECK_DEBTS: &str = include_str!("sql/check_debts.sql");
const CHECK_FAILURES: &str = include_str!("sql/check_failures.sql");
const CHECK_HOLDERS: &str = include_str!("sql/check_holders.sql");
const CHECK_KEYS: &str = include_str!("sql/check_keys.sql");
const CHECK_KINDS: &str = include_str!("sql/check_kinds.sql");
const CHECK_LIMITS: &str = include_str!("sql/check_limits.sql");
const CHECK_PARKS: &str = include_str!("sql/check_parks.sql");
const CHECK_PAUSES: &str = include_str!("sql/check_pauses.sql");
const LIVE_CHILDREN: &str = include_str!("sql/live_children.sql");
const STILL_PARKED: &str = include_str!("sql/still_parked.sql");

/// Begins a transaction that only looks, for a bounded time.
pub(crate) async fn begin_look(
    connection: &mut PgConnection,
) -> Result<Transaction<'_, Postgres>, sqlx::Error> {
    connection.begin_with(BEGIN_LOOK).await
}

/// Instances that suffer from something.
#[derive(Debug)]
pub(crate) struct Affected {
    /// Their number, counted up to 1,001.
    pub(crate) count: i64,
    /// The ids of a few.
    pub(crate) ids: Vec<i64>,
}

impl Affected {
    fn of(row: &PgRow) -> Result<Self, sqlx::Error> {
        let ids = row.try_get::<Option<_>, _>("ids")?.unwrap_or_default();
        Ok(Self { count: row.try_get("count")?, ids })
    }
}

pub(super) fn at(row: &PgRow, column: &str) -> Result<Option<SystemTime>, sqlx::Error> {
    Ok(row.try_get::<Option<i64>, _>(column)?.map(time))
}

/// A queue, machine and version that no living worker runs, and that has rows.
#[derive(Debug)]
pub(crate) struct WaitingKind {
    pub(crate) queue: String,
    pub(crate) fsm: String,
    pub(crate) fsm_version: i32,
    /// True if a living worker serves the queue.
    pub(crate) served: bool,
    /// True if a living worker runs the version, in whatever queue.
    pub(crate) run: bool,
    /// The versions of the machine that living workers run.
    pub(crate) versions: Vec<i32>,
    pub(crate) affected: Affected,
    pub(crate) oldest: Option<SystemTime>,
}

pub(crate) async fn check_kinds(
    connection: &mut PgConnection,
) -> Result<Vec<WaitingKind>, sqlx::Error> {
    let rows = sqlx::query(CHECK_KINDS).fetch_all(connection).await?;
    rows.iter()
        .map(|row| {
            Ok(WaitingKind {
                queue: row.try_get("queue")?,
                fsm: row.try_get("fsm")?,
                fsm_version: row.try_get("fsm_version")?,
                served: row.try_get("served")?,
                run: row.try_get("run")?,
                versions: row.try_get("versions")?,
                affected: Affected::of(row)?,
                oldest: at(row, "oldest")?,
            })
        })
        .collect()
}

/// A pause of a scope, or all those of instances together.
#[derive(Debug)]
pub(crate) struct HoldingPause {
    pub(crate) queue: Option<String>,
    pub(crate) fsm: Option<String>,
    pub(crate) step: Option<String>,
    pub(crate) actor: Option<String>,
    pub(crate) reason: Option<String>,
    pub(crate) until: Option<SystemTime>,
    pub(crate) paused_at: Option<SystemTime>,
    pub(crate) affected: Affected,
}

pub(crate) async fn check_pauses(
    connection: &mut PgConnection,
) -> Result<Vec<HoldingPause>, sqlx::Error> {
    let rows = sqlx::query(CHECK_PAUSES).fetch_all(connection).await?;
    rows.iter()
        .map(|row| {
            Ok(HoldingPause {
                queue: row.try_get("queue")?,
                fsm: row.try_get("fsm")?,
                step: row.try_get("step")?,
                actor: row.try_get("actor")?,
                reason: row.try_get("reason")?,
                until: at(row, "until")?,
                paused_at: at(row, "paused_at")?,
                affected: Affected::of(row)?,
            })
        })
        .collect()
}

/// An instance that is parked without a timeout.
#[derive(Clone, Debug)]
pub(crate) struct Park {
    pub(crate) id: i64,
    pub(crate) fsm: String,
    pub(crate) fsm_version: i32,
    pub(crate) step: String,
    pub(crate) awaits: Vec<String>,
    pub(crate) revision: i64,
    /// True if its version declares none of these signals.
    pub(crate) undeclared: bool,
    /// True if it waits for reports alone.
    pub(crate) reports: bool,
    pub(crate) since: Option<SystemTime>,
}

/// Returns instances that are parked without a timeout, and have no way out, may have none, or have
/// waited for longer than this.
pub(crate) async fn check_parks(
    connection: &mut PgConnection,
    long: Duration,
) -> Result<Vec<Park>, sqlx::Error> {
    let long = i64::try_from(long.as_secs()).unwrap_or(i64::MAX);
    let rows = sqlx::query(CHECK_PARKS).bind(long).fetch_all(connection).await?;
    rows.iter()
        .map(|row| {
            Ok(Park {
                id: row.try_get("id")?,
                fsm: row.try_get("fsm")?,
                fsm_version: row.try_get("fsm_version")?,
                step: row.try_get("step")?,
                awaits: row.try_get("awaits")?,
                revision: row.try_get("revision")?,
                undeclared: row.try_get("undeclared")?,
                reports: row.try_get("reports")?,
                since: at(row, "since")?,
            })
        })
        .collect()
}

/// Looks at up to 10,000 instances after the id `after`. Returns those of `receivers` to which one
/// of them has still to report. If more instances follow, it also returns the last id that it
/// looked at.
pub(crate) async fn live_children(
    connection: &mut PgConnection,
    after: i64,
    receivers: &[i64],
) -> Result<(Vec<i64>, Option<i64>), sqlx::Error> {
    let row = sqlx::query(LIVE_CHILDREN).bind(after).bind(receivers).fetch_one(connection).await?;
    Ok((row.try_get("receivers")?, row.try_get("edge")?))
}

/// Returns those of the instances that are still parked in these revisions.
pub(crate) async fn still_parked(
    connection: &mut PgConnection,
    ids: &[i64],
    revisions: &[i64],
) -> Result<Vec<i64>, sqlx::Error> {
    sqlx::query_scalar(STILL_PARKED).bind(ids).bind(revisions).fetch_all(connection).await
}

/// Returns the workers that do not exist and in whose names rows are claimed.
pub(crate) async fn check_holders(
    connection: &mut PgConnection,
) -> Result<Vec<(i64, Affected)>, sqlx::Error> {
    let rows = sqlx::query(CHECK_HOLDERS).fetch_all(connection).await?;
    rows.iter().map(|row| Ok((row.try_get("worker")?, Affected::of(row)?))).collect()
}

/// The debts of rows that no engine has settled.
#[derive(Debug)]
pub(crate) struct Debts {
    pub(crate) reports: i64,
    pub(crate) keys: i64,
    pub(crate) answers: i64,
    pub(crate) affected: Affected,
}

pub(crate) async fn check_debts(
    connection: &mut PgConnection,
) -> Result<Option<Debts>, sqlx::Error> {
    let row = sqlx::query(CHECK_DEBTS).fetch_optional(connection).await?;
    row.map(|row| {
        Ok(Debts {
            reports: row.try_get("reports")?,
            keys: row.try_get("keys")?,
            answers: row.try_get("answers")?,
            affected: Affected::of(&row)?,
        })
    })
    .transpose()
}

/// A partition key whose rows wait behind one that does not go on.
#[derive(Debug)]
pub(crate) struct WaitingKey {
    pub(crate) partition_key: String,
    /// The row that does not go on.
    pub(crate) first: i64,
    /// True if that one is paused. Otherwise no living worker runs it.
    pub(crate) paused: bool,
    /// The rows behind it, counted up to 1,001.
    pub(crate) count: i64,
}

pub(crate) async fn check_keys(
    connection: &mut PgConnection,
) -> Result<Vec<WaitingKey>, sqlx::Error> {
    let rows = sqlx::query(CHECK_KEYS).fetch_all(connection).await?;
    rows.iter()
        .map(|row| {
            Ok(WaitingKey {
                partition_key: row.try_get("partition_key")?,
                first: row.try_get("id")?,
                paused: row.try_get("paused")?,
                count: row.try_get("count")?,
            })
        })
        .collect()
}

/// A bucket of a limit that lets nobody in, or that nobody declares.
#[derive(Debug)]
pub(crate) struct WaitingBucket {
    pub(crate) bucket: String,
    pub(crate) declared: bool,
    pub(crate) weight: i32,
    /// The most that a run may weigh.
    pub(crate) most: Option<i32>,
    pub(crate) affected: Affected,
}

pub(crate) async fn check_limits(
    connection: &mut PgConnection,
) -> Result<Vec<WaitingBucket>, sqlx::Error> {
    let rows = sqlx::query(CHECK_LIMITS).fetch_all(connection).await?;
    rows.iter()
        .map(|row| {
            Ok(WaitingBucket {
                bucket: row.try_get("bucket")?,
                declared: row.try_get("declared")?,
                weight: row.try_get("weight")?,
                most: row.try_get("most")?,
                affected: Affected::of(row)?,
            })
        })
        .collect()
}

/// A step at which many instances have failed.
#[derive(Debug)]
pub(crate) struct FailingStep {
    pub(crate) fsm: String,
    pub(crate) step: String,
    pub(crate) affected: Affected,
    pub(crate) error: Option<String>,
}

/// Returns the steps at which at least so many instances have failed within an hour.
pub(crate) async fn check_failures(
    connection: &mut PgConnection,
    least: i64,
) -> Result<Vec<FailingStep>, sqlx::Error> {
    let rows = sqlx::query(CHECK_FAILURES).bind(least).fetch_all(connection).await?;
    rows.iter()
        .map(|row| {
            Ok(FailingStep {
                fsm: row.try_get("fsm")?,
                step: row.try_get("step")?,
                affected: Affected::of(row)?,
                error: row.try_get("error")?,
            })
        })
        .collect()
}
