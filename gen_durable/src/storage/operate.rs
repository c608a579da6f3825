//! Looks at single instances, and the actions of operators on them.
//!
//! Invariant: each action writes its audit row in the statement that does it. None takes an
//! advisory lock, so a caller may run any of them in a transaction of its own.

use std::{collections::BTreeSet, time::SystemTime};

use sqlx::{
    PgConnection, Postgres, Row,
    postgres::{PgArguments, PgRow},
    query::Query,
};

use super::{
    Locked, begin,
    commit::lock_ids,
    history::delete_history,
    insert::unique_holders,
    limit_acts::Rate,
    listing::{Filter, list_instances},
    notify,
    pauses::PAUSED,
    send, since_1970,
    unblock::free_partitions,
};
use crate::{status::Status, value::Json};

const ANSWER_CANCELS: &str = include_str!("sql/answer_cancels.sql");
const CANCEL: &str = include_str!("sql/cancel.sql");
const DELETE_INSTANCES: &str = include_str!("sql/delete_instances.sql");
const DETAILS: &str = include_str!("sql/details.sql");
const NOTIFY_OWED: &str = include_str!("sql/notify_owed.sql");
const OWED: &str = include_str!("sql/owed.sql");
const PAUSE_INSTANCES: &str = include_str!("sql/pause_instances.sql");
const REPORT_TO: &str = include_str!("sql/report_to.sql");
const RESUME_INSTANCES: &str = include_str!("sql/resume_instances.sql");
const RETRY: &str = include_str!("sql/retry.sql");
const RUN_NOW: &str = include_str!("sql/run_now.sql");
const SETTLE_KEYS: &str = include_str!("sql/settle_keys.sql");

/// The most tries of an action whose instance gives its unique key back each time.
const TRIES_MAX: usize = 3;

/// An action on instances.
#[derive(Debug)]
pub(crate) struct Act {
    pub(crate) whom: Whom,
    /// The machine that the instances must be of.
    pub(crate) fsm: Option<String>,
    /// The name of the operator. None for the role of the session.
    pub(crate) actor: Option<String>,
    pub(crate) reason: Option<String>,
    pub(crate) deed: Deed,
}

/// The instances of an action.
#[derive(Debug)]
pub(crate) enum Whom {
    Ids(Vec<i64>),
    /// The instance of the action's machine that holds this unique key.
    Key(String),
}

/// The deed of an action.
#[derive(Clone, Debug)]
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
    Pause {
        until: Option<SystemTime>,
    },
    Resume,
}

/// The answer to an action, for one instance.
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

/// Acts on instances, in a transaction that the caller has begun, and announces what follows from
/// it with that transaction. The answer leaves out instances that do not exist.
pub(crate) async fn act(
    transaction: &mut PgConnection,
    act: &Act,
    locked: Locked,
) -> Result<Vec<Acted>, sqlx::Error> {
    match &act.whom {
        Whom::Ids(ids) => act_on(transaction, act, ids, None, locked).await,
        Whom::Key(key) => {
            let fsm = act.fsm.as_deref().unwrap_or_default();
            for _ in 0..TRIES_MAX {
                let holders = unique_holders(transaction, [(fsm, key.as_str())]).await?;
                let Some(id) = holders.into_iter().flatten().next() else { break };
                let acted = act_on(transaction, act, &[id], Some(key), locked).await?;
                // The instance may have given the key back before its row was locked.
                if acted.iter().any(|acted| acted.deed != "moved") {
                    return Ok(acted);
                }
            }
            Ok(Vec::new())
        }
    }
}

/// Acts on those of the action's instances that fit the filter and that no other transaction has
/// locked. Returns what was done, and those that another transaction has locked.
pub(crate) async fn act_on_fitting(
    transaction: &mut PgConnection,
    act: &Act,
    filter: &Filter,
) -> Result<(Vec<Acted>, Vec<i64>), sqlx::Error> {
    let Whom::Ids(ids) = &act.whom else { return Ok((Vec::new(), Vec::new())) };
    // A retry needs the receivers of the reports as well.
    let receivers = match act.deed {
        Deed::Retry { .. } => receivers_of(transaction, ids).await?,
        _ => Vec::new(),
    };
    let all = ids.iter().copied().chain(receivers.iter().map(|(_, receiver)| *receiver)).collect();
    let mut locked = lock_ids(transaction, all, Locked::Skip).await?;
    let without = receivers.iter().filter(|(_, receiver)| locked.contains(receiver));
    let without: Vec<i64> = without.map(|(id, _)| *id).collect();
    locked.extend(without);
    // The rows do not change any more.
    let items = list_instances(transaction, ids).await?;
    // A row that was deleted meanwhile is none that is locked.
    locked.retain(|id| items.iter().any(|item| item.id == *id));
    let fitting = items.iter().filter(|item| filter.fits(item) && !locked.contains(&item.id));
    let fitting: Vec<i64> = fitting.map(|item| item.id).collect();
    let acted = if fitting.is_empty() {
        Vec::new()
    } else {
        act_on(transaction, act, &fitting, None, Locked::WaitASecond).await?
    };
    Ok((acted, locked.into_iter().collect()))
}

async fn act_on(
    transaction: &mut PgConnection,
    act: &Act,
    ids: &[i64],
    key: Option<&str>,
    locked: Locked,
) -> Result<Vec<Acted>, sqlx::Error> {
    let rows = match &act.deed {
        Deed::Cancel | Deed::Kill => {
            sqlx::query(CANCEL)
                .bind(ids)
                .bind(act.fsm.as_deref())
                .bind(act.actor.as_deref())
                .bind(act.reason.as_deref())
                .bind(matches!(act.deed, Deed::Kill))
                .bind(locked.timeout())
                .bind(key)
                .fetch_all(&mut *transaction)
                .await?
        }
        Deed::RunNow => {
            let run_now = with(sqlx::query(RUN_NOW), act, ids, key, locked);
            run_now.fetch_all(&mut *transaction).await?
        }
        Deed::Delete => {
            let delete = with(sqlx::query(DELETE_INSTANCES), act, ids, key, locked);
            delete.fetch_all(&mut *transaction).await?
        }
        Deed::Retry { .. } => retry(transaction, act, ids, key, locked).await?,
        Deed::Pause { until } => {
            let pause = with(sqlx::query(PAUSE_INSTANCES), act, ids, key, locked);
            pause.bind(until.map(since_1970)).fetch_all(&mut *transaction).await?
        }
        Deed::Resume => {
            let resume = with(sqlx::query(RESUME_INSTANCES), act, ids, key, locked);
            resume.fetch_all(&mut *transaction).await?
        }
    };
    let mut all = rows.iter().map(acted).collect::<Result<Vec<_>, _>>()?;
    if matches!(act.deed, Deed::Retry { .. }) {
        for (acted, row) in all.iter_mut().zip(&rows) {
            acted.retry = Some(Box::new(retried(row)?));
        }
    }
    let deleted: Vec<i64> =
        all.iter().filter(|acted| acted.deed == "deleted").map(|acted| acted.id).collect();
    if !deleted.is_empty() {
        delete_history(transaction, &deleted).await?;
    }
    let queues: BTreeSet<&String> = all.iter().filter_map(|acted| acted.queue.as_ref()).collect();
    if !queues.is_empty() {
        let queues: Vec<String> = queues.into_iter().cloned().collect();
        notify(transaction, &queues).await?;
    }
    notify_owed(transaction, act, &all).await?;
    Ok(all)
}

/// Tells engines what they have to do for these instances.
async fn notify_owed(
    transaction: &mut PgConnection,
    act: &Act,
    all: &[Acted],
) -> Result<(), sqlx::Error> {
    let ran = |acted: &&Acted| {
        matches!(&*acted.deed, "cancelled" | "resumed")
            && acted.status == Status::Executing.as_str()
    };
    let mut ran = all.iter().filter(ran).peekable();
    match act.deed {
        Deed::Kill if ran.peek().is_some() => {
            for killed in ran {
                notify_engines(transaction, &killed.id.to_string()).await?;
            }
        }
        // An engine ends a pause of any instance, and holds those back that it has claimed.
        Deed::Pause { .. } if all.iter().any(Acted::is_done) => {
            notify_engines(transaction, PAUSED).await?;
        }
        // One that knows of the pause gives the row back, unless it hears of this.
        Deed::Resume if ran.peek().is_some() => notify_engines(transaction, PAUSED).await?,
        _ if all.iter().any(|acted| acted.owes) => notify_engines(transaction, "").await?,
        _ => {}
    }
    Ok(())
}

/// Tells all engines something, when the transaction commits.
pub(super) async fn notify_engines(
    transaction: &mut PgConnection,
    payload: &str,
) -> Result<(), sqlx::Error> {
    sqlx::query(NOTIFY_OWED).bind(payload).execute(transaction).await?;
    Ok(())
}

/// Binds what most actions take.
fn with<'q>(
    query: Query<'q, Postgres, PgArguments>,
    act: &'q Act,
    ids: &'q [i64],
    key: Option<&'q str>,
    locked: Locked,
) -> Query<'q, Postgres, PgArguments> {
    query
        .bind(ids)
        .bind(act.fsm.as_deref())
        .bind(act.actor.as_deref())
        .bind(act.reason.as_deref())
        .bind(locked.timeout())
        .bind(key)
}

impl Acted {
    /// True if the action was done, and changed something.
    pub(crate) fn is_done(&self) -> bool {
        matches!(
            &*self.deed,
            "asked"
                | "goes"
                | "cancelled"
                | "hastened"
                | "retried"
                | "deleted"
                | "paused"
                | "resumed"
        )
    }
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

fn retried(row: &PgRow) -> Result<Retried, sqlx::Error> {
    Ok(Retried {
        holder: row.try_get("holder")?,
        heard: row.try_get("heard")?,
        version: row.try_get("fsm_version")?,
        steps: row.try_get::<Option<_>, _>("steps")?.unwrap_or_default(),
        unique_key: row.try_get("unique_key")?,
    })
}

/// Finds the instances that get the reports of others' ends: each of the others, and its receiver.
async fn receivers_of(
    connection: &mut PgConnection,
    ids: &[i64],
) -> Result<Vec<(i64, i64)>, sqlx::Error> {
    sqlx::query_as(REPORT_TO).bind(ids).fetch_all(connection).await
}

/// Returns instances to their queues. It locks the rows and the receivers of their reports in the
/// order of their ids, as all transactions do that wait for several rows. An instance may lose its
/// receiver between the two looks, and never gets another one.
async fn retry(
    transaction: &mut PgConnection,
    act: &Act,
    ids: &[i64],
    key: Option<&str>,
    locked: Locked,
) -> Result<Vec<PgRow>, sqlx::Error> {
    let Deed::Retry { step, state, version, forgets_dedup_keys } = &act.deed else {
        unreachable!("only a retry comes here")
    };
    let receivers = receivers_of(transaction, ids).await?;
    let receivers: Vec<i64> = receivers.into_iter().map(|(_, receiver)| receiver).collect();
    let all = ids.iter().chain(&receivers).copied().collect();
    lock_ids(transaction, all, locked).await?;
    sqlx::query(RETRY)
        .bind(ids)
        .bind(act.fsm.as_deref())
        .bind(act.actor.as_deref())
        .bind(act.reason.as_deref())
        .bind(step.as_deref())
        .bind(state.as_ref().map(|state| state.0.as_str()))
        .bind(version.and_then(|version| i32::try_from(version).ok()))
        .bind(*forgets_dedup_keys)
        .bind(receivers)
        .bind(key)
        .fetch_all(transaction)
        .await
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

    /// Returns the bucket for which the instance waits, and the time until which it does at least
    /// by the rate.
    pub(crate) fn limited(&self) -> Result<Option<(String, Option<SystemTime>)>, sqlx::Error> {
        let Some(bucket) = self.get("limited_by")? else { return Ok(None) };
        Ok(Some((bucket, Rate::of(&self.0)?.until(self.get("ahead")?))))
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
