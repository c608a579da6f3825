//! Looks at single instances, and the actions of operators on them.
//!
//! Invariant: each action writes its audit row in the statement that does it. None takes an
//! advisory lock, so a caller may run any of them in a transaction of its own.

use sqlx::{PgConnection, Row, postgres::PgRow};

use super::{
    Locked, begin, commit::lock_ids, history::delete_history, notify, send,
    unblock::free_partitions,
};
use crate::{status::Status, value::Json};

const ANSWER_CANCELS: &str = include_str!("sql/answer_cancels.sql");
const CANCEL: &str = include_str!("sql/cancel.sql");
const DELETE_INSTANCE: &str = include_str!("sql/delete_instance.sql");
const DETAILS: &str = include_str!("sql/details.sql");
const NOTIFY_OWED: &str = include_str!("sql/notify_owed.sql");
const OWED: &str = include_str!("sql/owed.sql");
const REPORT_TO: &str = include_str!("sql/report_to.sql");
const RETRY: &str = include_str!("sql/retry.sql");
const RUN_NOW: &str = include_str!("sql/run_now.sql");
const SETTLE_KEYS: &str = include_str!("sql/settle_keys.sql");

/// The most tries of a retry whose instance reports to another one each time.
const TRIES_MAX: usize = 3;

/// An action on an instance.
#[derive(Debug)]
pub(crate) struct Act {
    pub(crate) id: i64,
    /// The machine that the instance must be of.
    pub(crate) fsm: Option<&'static str>,
    /// The name of the operator. None for the role of the session.
    pub(crate) actor: Option<String>,
    pub(crate) reason: Option<String>,
    pub(crate) deed: Deed,
}

/// The deed of an action.
#[derive(Debug)]
pub(crate) enum Deed {
    Cancel,
    Kill,
    RunNow,
    Retry {
        step: Option<String>,
        state: Option<Json>,
        /// The version that the step and the state are of.
        version: Option<u32>,
        forgets_dedup_keys: bool,
    },
    Delete,
}

/// The answer to an action.
#[derive(Debug)]
pub(crate) struct Acted {
    pub(crate) id: i64,
    pub(crate) fsm: String,
    /// The deed, as the statement names it.
    pub(crate) deed: String,
    /// The status from before.
    pub(crate) status: String,
    /// The reason with which an ended instance has ended.
    pub(crate) reason: Option<String>,
    pub(crate) retry: Option<Box<Retried>>,
    /// The queue to announce.
    queue: Option<String>,
    owes: bool,
}

/// The part of the answer that only a retry has.
#[derive(Debug)]
pub(crate) struct Retried {
    pub(crate) holder: Option<i64>,
    pub(crate) heard: bool,
    pub(crate) version: i32,
    pub(crate) steps: Vec<String>,
    pub(crate) unique_key: Option<String>,
}

/// Acts on an instance, in a transaction that the caller has begun, and announces what follows from
/// it with that transaction. None if there is no such instance.
pub(crate) async fn act(
    transaction: &mut PgConnection,
    act: &Act,
    locked: Locked,
) -> Result<Option<Acted>, sqlx::Error> {
    let row = match &act.deed {
        Deed::Cancel | Deed::Kill => {
            sqlx::query(CANCEL)
                .bind([act.id].as_slice())
                .bind(act.fsm)
                .bind(act.actor.as_deref())
                .bind(act.reason.as_deref())
                .bind(matches!(act.deed, Deed::Kill))
                .bind(locked.timeout())
                .fetch_optional(&mut *transaction)
                .await?
        }
        Deed::RunNow => {
            sqlx::query(RUN_NOW)
                .bind([act.id].as_slice())
                .bind(act.fsm)
                .bind(act.actor.as_deref())
                .bind(act.reason.as_deref())
                .bind(locked.timeout())
                .fetch_optional(&mut *transaction)
                .await?
        }
        Deed::Delete => {
            sqlx::query(DELETE_INSTANCE)
                .bind(act.id)
                .bind(act.fsm)
                .bind(act.actor.as_deref())
                .bind(act.reason.as_deref())
                .bind(locked.timeout())
                .fetch_optional(&mut *transaction)
                .await?
        }
        Deed::Retry { .. } => retry(transaction, act, locked).await?,
    };
    let Some(row) = row else { return Ok(None) };
    let mut acted = acted(&row)?;
    if matches!(act.deed, Deed::Retry { .. }) {
        acted.retry = Some(Box::new(Retried {
            holder: row.try_get("holder")?,
            heard: row.try_get("heard")?,
            version: row.try_get("fsm_version")?,
            steps: row.try_get::<Option<_>, _>("steps")?.unwrap_or_default(),
            unique_key: row.try_get("unique_key")?,
        }));
    }
    if acted.deed == "deleted" {
        delete_history(transaction, act.id).await?;
    }
    if let Some(queue) = &acted.queue {
        notify(transaction, std::slice::from_ref(queue)).await?;
    }
    let killed = matches!(act.deed, Deed::Kill)
        && acted.deed == "cancelled"
        && acted.status == Status::Executing.as_str();
    if acted.owes || killed {
        let killed = if killed { act.id.to_string() } else { String::new() };
        sqlx::query(NOTIFY_OWED).bind(killed).execute(transaction).await?;
    }
    Ok(Some(acted))
}

fn acted(row: &PgRow) -> Result<Acted, sqlx::Error> {
    Ok(Acted {
        id: row.try_get("id")?,
        fsm: row.try_get("fsm")?,
        deed: row.try_get("deed")?,
        status: row.try_get("status")?,
        reason: row.try_get("reason")?,
        retry: None,
        queue: row.try_get("queue")?,
        owes: row.try_get("owes")?,
    })
}

/// Returns an instance to its queue. It locks the row and the receiver of its report in the order
/// of their ids, as all transactions do that wait for several rows.
async fn retry(
    transaction: &mut PgConnection,
    act: &Act,
    locked: Locked,
) -> Result<Option<PgRow>, sqlx::Error> {
    let Deed::Retry { step, state, version, forgets_dedup_keys } = &act.deed else {
        unreachable!("only a retry comes here")
    };
    for _ in 0..TRIES_MAX {
        let receiver: Option<Option<i64>> =
            sqlx::query_scalar(REPORT_TO).bind(act.id).fetch_optional(&mut *transaction).await?;
        let Some(receiver) = receiver else { return Ok(None) };
        let ids = [act.id].into_iter().chain(receiver).collect();
        lock_ids(transaction, ids, locked).await?;
        let row = sqlx::query(RETRY)
            .bind(act.id)
            .bind(act.fsm)
            .bind(act.actor.as_deref())
            .bind(act.reason.as_deref())
            .bind(step.as_deref())
            .bind(state.as_ref().map(|state| state.0.as_str()))
            .bind(version.and_then(|version| i32::try_from(version).ok()))
            .bind(*forgets_dedup_keys)
            .bind(receiver)
            .fetch_optional(&mut *transaction)
            .await?;
        match &row {
            Some(found) if found.try_get::<&str, _>("deed")? == "moved" => {}
            _ => return Ok(row),
        }
    }
    Err(sqlx::Error::Protocol("the instance reports to another one each time".into()))
}

/// An instance as [`DETAILS`] reads it.
pub(crate) struct Details(PgRow);

impl Details {
    pub(crate) fn get<'r, T>(&'r self, column: &str) -> Result<T, sqlx::Error>
    where
        T: sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres>,
    {
        self.0.try_get(column)
    }
}

/// Reads all of an instance.
pub(crate) async fn details(
    connection: &mut PgConnection,
    id: i64,
) -> Result<Option<Details>, sqlx::Error> {
    let row = sqlx::query(DETAILS).bind(id).fetch_optional(connection).await?;
    Ok(row.map(Details))
}

/// The bits of the column `owes`.
pub(crate) const OWES_REPORT: i32 = 1;
pub(crate) const OWES_KEY: i32 = 2;
pub(crate) const OWES_ANSWER: i32 = 4;

/// A row for which an engine has still something to do.
#[derive(Debug)]
pub(crate) struct Owing {
    pub(crate) id: i64,
    pub(crate) owes: i32,
    pub(crate) report_to: Option<i64>,
    pub(crate) partition_key: Option<String>,
    pub(crate) executing: bool,
    pub(crate) locked_by: Option<i64>,
}

/// Finds rows for which an engine has still something to do, from the id `after` on and up to
/// `batch_max`. Moves `after` to the last one, or to none at the end.
pub(crate) async fn owed(
    connection: &mut PgConnection,
    after: &mut Option<i64>,
    batch_max: i64,
) -> Result<Vec<Owing>, sqlx::Error> {
    let rows = sqlx::query(OWED)
        .bind(after.unwrap_or(i64::MIN))
        .bind(batch_max)
        .fetch_all(connection)
        .await?;
    let rows: Vec<Owing> = rows
        .iter()
        .map(|row| {
            Ok(Owing {
                id: row.try_get("id")?,
                owes: row.try_get("owes")?,
                report_to: row.try_get("report_to")?,
                partition_key: row.try_get("partition_key")?,
                executing: row.try_get("executing")?,
                locked_by: row.try_get("locked_by")?,
            })
        })
        .collect::<Result<_, sqlx::Error>>()?;
    let full = i64::try_from(rows.len()).is_ok_and(|found| found >= batch_max);
    *after = rows.last().map(|row| row.id).filter(|_| full);
    Ok(rows)
}

/// Frees the partition keys of instances that were ended without the keys' locks. Returns the
/// queues in which rows may run now.
pub(crate) async fn settle_keys(
    connection: &mut PgConnection,
    ended: &[i64],
    keys: &[String],
) -> Result<Vec<String>, sqlx::Error> {
    let mut transaction = begin(connection).await?;
    // The rows are locked before the look: a row that is retried, run and killed again owes its key
    // anew, and that debt must not be taken for this one.
    lock_ids(&mut transaction, ended.to_vec(), Locked::Skip).await?;
    let freed = free_partitions(&mut transaction, keys).await?;
    // If another transaction has the row that goes next locked, the keys are freed once more.
    if freed.locked.is_empty() {
        sqlx::query(SETTLE_KEYS).bind(ended).execute(&mut *transaction).await?;
    }
    transaction.commit().await?;
    Ok(freed.queues)
}

/// The result of answering cancels.
#[derive(Debug, Default)]
pub(crate) struct Answered {
    pub(crate) ids: Vec<i64>,
    /// The queues in which rows may run now.
    pub(crate) queues: Vec<String>,
    /// The partition keys of which another transaction has the row that goes next locked.
    pub(crate) locked_partitions: Vec<String>,
    /// The reports of those that have ended.
    pub(crate) settled: send::Settled,
}

/// Answers the cancels of instances of which this worker has no run any more, and of those that no
/// worker runs. Without a worker it answers the latter alone.
pub(crate) async fn answer_cancels(
    connection: &mut PgConnection,
    ids: &[i64],
    worker: Option<i64>,
) -> Result<Answered, sqlx::Error> {
    let mut transaction = begin(connection).await?;
    let rows =
        sqlx::query(ANSWER_CANCELS).bind(ids).bind(worker).fetch_all(&mut *transaction).await?;
    let mut answered = Answered::default();
    let (mut keys, mut reports) = (Vec::new(), Vec::new());
    for row in &rows {
        let id = row.try_get("id")?;
        answered.ids.push(id);
        answered.queues.extend(row.try_get::<Option<String>, _>("queue")?);
        keys.extend(row.try_get::<Option<String>, _>("partition_key")?);
        if row.try_get("reports")? {
            reports.push(id);
        }
    }
    let freed = free_partitions(&mut transaction, &keys).await?;
    answered.queues.extend(freed.queues);
    answered.locked_partitions = freed.locked;
    if !reports.is_empty() {
        // A receiver that another transaction has locked hears later.
        answered.settled = send::settle_of(&mut transaction, &reports, Locked::Skip).await?;
    }
    transaction.commit().await?;
    Ok(answered)
}
