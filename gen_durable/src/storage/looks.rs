//! Looks at queues, workers, machines, the audit, inboxes, and who reports to whom.
//!
//! Invariant: a look changes and locks nothing, and examines a bounded number of rows, however many
//! instances there are.

use std::time::SystemTime;

use sqlx::{PgConnection, Row, postgres::PgRow};

use super::time;

const ANCESTORS: &str = include_str!("sql/ancestors.sql");
const COUNT_AWAITING: &str = include_str!("sql/count_awaiting.sql");
const COUNT_DUE: &str = include_str!("sql/count_due.sql");
const COUNT_FAILED: &str = include_str!("sql/count_failed.sql");
const COUNT_HELD: &str = include_str!("sql/count_held.sql");
const LIST_AUDIT: &str = include_str!("sql/list_audit.sql");
const LIST_INBOX: &str = include_str!("sql/list_inbox.sql");
const LIST_MACHINES: &str = include_str!("sql/list_machines.sql");
const LIST_QUEUES: &str = include_str!("sql/list_queues.sql");
const LIST_WORKERS: &str = include_str!("sql/list_workers.sql");
const REPORTING: &str = include_str!("sql/reporting.sql");

/// The instances of a queue, machine, version and step that wait for the same thing.
#[derive(Debug)]
pub(crate) struct CountRow {
    /// The thing, as the statements call it.
    pub(crate) waits: String,
    pub(crate) queue: String,
    pub(crate) fsm_version: i32,
    pub(crate) step: String,
    pub(crate) count: i64,
    /// True if there are more.
    pub(crate) capped: bool,
    pub(crate) oldest: Option<SystemTime>,
}

/// Counts instances of a machine, or of all, by what they wait for.
pub(crate) async fn count_waiting(
    connection: &mut PgConnection,
    fsm: Option<&str>,
) -> Result<Vec<CountRow>, sqlx::Error> {
    let mut counts = Vec::new();
    let count = [
        sqlx::query(COUNT_DUE),
        sqlx::query(COUNT_HELD),
        sqlx::query(COUNT_FAILED),
        sqlx::query(COUNT_AWAITING),
    ];
    for count in count {
        let rows = count.bind(fsm).fetch_all(&mut *connection).await?;
        for row in &rows {
            counts.push(count_row(row)?);
        }
    }
    Ok(counts)
}

fn count_row(row: &PgRow) -> Result<CountRow, sqlx::Error> {
    Ok(CountRow {
        waits: row.try_get("waits")?,
        queue: row.try_get("queue")?,
        fsm_version: row.try_get("fsm_version")?,
        step: row.try_get("step")?,
        count: row.try_get("count")?,
        capped: row.try_get("capped")?,
        oldest: row.try_get::<Option<i64>, _>("oldest")?.map(time),
    })
}

/// A queue in a list.
#[derive(Debug)]
pub(crate) struct QueueRow {
    pub(crate) name: String,
    pub(crate) registered: bool,
    pub(crate) workers: i64,
    pub(crate) slots: i64,
}

/// Lists up to `limit` queues that are registered or served.
pub(crate) async fn list_queues(
    connection: &mut PgConnection,
    limit: i64,
) -> Result<Vec<QueueRow>, sqlx::Error> {
    let rows = sqlx::query(LIST_QUEUES).bind(limit).fetch_all(connection).await?;
    rows.iter()
        .map(|row| {
            Ok(QueueRow {
                name: row.try_get("name")?,
                registered: row.try_get("registered")?,
                workers: row.try_get("workers")?,
                slots: row.try_get("slots")?,
            })
        })
        .collect()
}

/// A worker in a list.
#[derive(Debug)]
pub(crate) struct WorkerRow {
    pub(crate) id: i64,
    pub(crate) name: String,
    pub(crate) host: Option<String>,
    pub(crate) pid: Option<i64>,
    pub(crate) library: Option<String>,
    pub(crate) started_at: SystemTime,
    pub(crate) lease_expires_at: SystemTime,
    pub(crate) is_alive: bool,
    /// The queues, and the slots of each.
    pub(crate) queues: Vec<(String, i32)>,
    /// The machines, and the version of each.
    pub(crate) kinds: Vec<(String, i32)>,
    pub(crate) claimed: i64,
    /// True if it may have claimed more.
    pub(crate) capped: bool,
}

/// Lists up to `limit` workers.
pub(crate) async fn list_workers(
    connection: &mut PgConnection,
    limit: i64,
) -> Result<Vec<WorkerRow>, sqlx::Error> {
    let rows = sqlx::query(LIST_WORKERS).bind(limit).fetch_all(connection).await?;
    rows.iter()
        .map(|row| {
            let pairs = |names: &str, numbers: &str| -> Result<Vec<(String, i32)>, sqlx::Error> {
                let names: Vec<String> = row.try_get(names)?;
                Ok(names.into_iter().zip(row.try_get::<Vec<i32>, _>(numbers)?).collect())
            };
            Ok(WorkerRow {
                id: row.try_get("id")?,
                name: row.try_get("name")?,
                host: row.try_get("host")?,
                pid: row.try_get("pid")?,
                library: row.try_get("library")?,
                started_at: time(row.try_get("started_at")?),
                lease_expires_at: time(row.try_get("lease_expires_at")?),
                is_alive: row.try_get("alive")?,
                queues: pairs("queues", "slots")?,
                kinds: pairs("fsms", "fsm_versions")?,
                claimed: row.try_get("claimed")?,
                capped: row.try_get("capped")?,
            })
        })
        .collect()
}

/// A version of a machine in a list.
#[derive(Debug)]
pub(crate) struct MachineRow {
    pub(crate) fsm: String,
    pub(crate) fsm_version: i32,
    pub(crate) queue: String,
    pub(crate) initial: String,
    pub(crate) on_cancel: Option<String>,
    pub(crate) steps: Vec<String>,
    pub(crate) signals: Vec<String>,
    pub(crate) graph: Option<String>,
    pub(crate) history: Option<String>,
    pub(crate) registered_at: SystemTime,
    pub(crate) workers: i64,
}

/// Lists up to `limit` registered versions of machines.
pub(crate) async fn list_machines(
    connection: &mut PgConnection,
    limit: i64,
) -> Result<Vec<MachineRow>, sqlx::Error> {
    let rows = sqlx::query(LIST_MACHINES).bind(limit).fetch_all(connection).await?;
    rows.iter()
        .map(|row| {
            Ok(MachineRow {
                fsm: row.try_get("fsm")?,
                fsm_version: row.try_get("fsm_version")?,
                queue: row.try_get("queue")?,
                initial: row.try_get("initial")?,
                on_cancel: row.try_get("on_cancel")?,
                steps: row.try_get("steps")?,
                signals: row.try_get("signals")?,
                graph: row.try_get("graph")?,
                history: row.try_get("history")?,
                registered_at: time(row.try_get("registered_at")?),
                workers: row.try_get("workers")?,
            })
        })
        .collect()
}

/// The actions to list. None stands for any.
#[derive(Clone, Debug, Default)]
pub(crate) struct AuditFilter {
    pub(crate) instance: Option<i64>,
    pub(crate) actor: Option<String>,
    pub(crate) action: Option<String>,
    pub(crate) fsm: Option<String>,
}

/// An action of an operator.
#[derive(Debug)]
pub(crate) struct AuditRow {
    pub(crate) id: i64,
    pub(crate) at: SystemTime,
    pub(crate) actor: String,
    pub(crate) action: String,
    pub(crate) reason: Option<String>,
    pub(crate) instance_id: Option<i64>,
    pub(crate) fsm: Option<String>,
    pub(crate) step: Option<String>,
    pub(crate) queue: Option<String>,
    pub(crate) schedule: Option<String>,
    pub(crate) limit: Option<String>,
}

/// Lists at most `limit` actions before a row of the audit, the newest first, and says where to go
/// on, if there may be more.
pub(crate) async fn list_audit(
    connection: &mut PgConnection,
    filter: &AuditFilter,
    before: i64,
    limit: i64,
) -> Result<(Vec<AuditRow>, Option<i64>), sqlx::Error> {
    let rows = sqlx::query(LIST_AUDIT)
        .bind(before)
        .bind(limit)
        .bind(filter.instance)
        .bind(filter.actor.as_deref())
        .bind(filter.action.as_deref())
        .bind(filter.fsm.as_deref())
        .fetch_all(connection)
        .await?;
    let (mut found, mut edge) = (Vec::new(), None);
    for row in &rows {
        let Some(id) = row.try_get("id")? else {
            edge = row.try_get("edge")?;
            continue;
        };
        found.push(AuditRow {
            id,
            at: time(row.try_get("at")?),
            actor: row.try_get("actor")?,
            action: row.try_get("action")?,
            reason: row.try_get("reason")?,
            instance_id: row.try_get("instance_id")?,
            fsm: row.try_get("fsm")?,
            step: row.try_get("step")?,
            queue: row.try_get("queue")?,
            schedule: row.try_get("schedule")?,
            limit: row.try_get("limit_name")?,
        });
    }
    Ok((found, edge))
}

/// An instance that exists, and the one that it reports to.
pub(crate) type Reporting = (i64, Option<i64>);

/// Returns an instance, the one that it reports to, and so on. It is empty if the instance does not
/// exist.
pub(crate) async fn ancestors(
    connection: &mut PgConnection,
    id: i64,
) -> Result<Vec<Reporting>, sqlx::Error> {
    let rows = sqlx::query(ANCESTORS).bind(id).fetch_all(connection).await?;
    rows.iter().map(|row| Ok((row.try_get("id")?, row.try_get("report_to")?))).collect()
}

/// Looks at up to 10,000 instances after the id `after`. Returns the ids of those that report to
/// another instance, in order, each with its receiver. If more instances follow, it also returns
/// the last id that it looked at.
pub(crate) async fn reporting(
    connection: &mut PgConnection,
    after: i64,
) -> Result<(Vec<(i64, i64)>, Option<i64>), sqlx::Error> {
    let row = sqlx::query(REPORTING).bind(after).fetch_one(connection).await?;
    let ids: Vec<i64> = row.try_get("ids")?;
    let receivers: Vec<i64> = row.try_get("receivers")?;
    Ok((ids.into_iter().zip(receivers).collect(), row.try_get("edge")?))
}

/// A signal of an inbox.
#[derive(Debug)]
pub(crate) struct SignalRow {
    pub(crate) id: i64,
    pub(crate) name: String,
    pub(crate) dedup_key: Option<String>,
    pub(crate) arrived_at: SystemTime,
    /// The bytes of the payload.
    pub(crate) size: i32,
    /// The payload, unless it is too long.
    pub(crate) payload: Option<String>,
}

/// Returns the machine of an instance, and the oldest signals of its inbox, at most `limit`. It
/// leaves out payloads of more than `bytes`. None if the instance does not exist.
pub(crate) async fn list_inbox(
    connection: &mut PgConnection,
    id: i64,
    limit: usize,
    bytes: i32,
) -> Result<Option<(String, Vec<SignalRow>)>, sqlx::Error> {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let query = sqlx::query(LIST_INBOX).bind(id).bind(limit).bind(bytes);
    let rows = query.fetch_all(connection).await?;
    let Some(first) = rows.first() else { return Ok(None) };
    let mut signals = Vec::new();
    for row in &rows {
        let Some(id) = row.try_get("id")? else { continue };
        signals.push(SignalRow {
            id,
            name: row.try_get("name")?,
            dedup_key: row.try_get("dedup_key")?,
            arrived_at: time(row.try_get("arrived_at")?),
            size: row.try_get("size")?,
            payload: row.try_get("payload")?,
        });
    }
    Ok(Some((first.try_get("fsm")?, signals)))
}
