//! Statements of the maintenance services, of the notifier, and of calls that wait for an instance
//! to end.
//!
//! Invariant: each takes at most a batch and skips rows that others have locked, so any number of
//! processes may run it.

use std::{collections::BTreeMap, time::Duration};

use sqlx::{PgConnection, Row};

use super::{
    Locked, begin,
    history::{Lost, record_lost},
    micros,
    row::{Kind, Kinds},
    send::{Settled, settle_of},
    unblock::free_partitions,
};

const LOCK_RETENTIONS: &str = include_str!("sql/lock_retentions.sql");
const ANNOUNCE: &str = include_str!("sql/announce.sql");
const ENDED: &str = include_str!("sql/ended.sql");
const NOTIFY: &str = include_str!("sql/notify.sql");
const PRUNE: &str = include_str!("sql/prune.sql");
const REAP: &str = include_str!("sql/reap.sql");
const RETAIN: &str = include_str!("sql/retain.sql");
const REMOVE_LOST_WORKERS: &str = include_str!("sql/remove_lost_workers.sql");
const STRANDED_PARTITIONS: &str = include_str!("sql/stranded_partitions.sql");
const UNKNOWN_KINDS: &str = include_str!("sql/unknown_kinds.sql");
const UNSERVED_QUEUES: &str = include_str!("sql/unserved_queues.sql");
const WAKE_TIMED_OUT: &str = include_str!("sql/wake_timed_out.sql");

/// The most instances that one `prune` deletes. The text of `prune.sql` has the same number.
pub(crate) const PRUNE_MAX: u64 = 1000;

/// The time for which ended instances of a machine are kept. `None` keeps them for ever.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Retention(pub(crate) Option<Duration>);

/// An instance with its status, and with its result or reason if it has ended.
#[derive(Clone, Debug)]
pub(crate) struct Ended {
    pub(crate) id: i64,
    pub(crate) fsm: String,
    pub(crate) status: String,
    pub(crate) step: String,
    pub(crate) attempt: i32,
    pub(crate) failures: i32,
    pub(crate) result: Option<String>,
    pub(crate) reason: Option<String>,
}

/// The result of a batch of the reaper.
#[derive(Debug, Default)]
pub(crate) struct Reaped {
    /// The rows that went back to the queue.
    pub(crate) returned: usize,
    /// The rows that failed, because they had lost too many workers in a row.
    pub(crate) failed: usize,
    /// Queues in which rows became runnable.
    pub(crate) queues: Vec<String>,
    /// The reports of the rows that failed.
    pub(crate) settled: Settled,
}

/// Returns the instances of these ids that exist.
pub(crate) async fn ended(
    connection: &mut PgConnection,
    ids: &[i64],
) -> Result<Vec<Ended>, sqlx::Error> {
    let rows = sqlx::query(ENDED).bind(ids).fetch_all(connection).await?;
    rows.iter()
        .map(|row| {
            Ok(Ended {
                id: row.try_get(0)?,
                fsm: row.try_get(1)?,
                status: row.try_get(2)?,
                step: row.try_get(3)?,
                attempt: row.try_get(4)?,
                failures: row.try_get(5)?,
                result: row.try_get(6)?,
                reason: row.try_get(7)?,
            })
        })
        .collect()
}

/// Announces work to listening engines, in a transaction of its own: `connection` is in none.
pub(crate) async fn announce(
    connection: &mut PgConnection,
    queues: &[String],
) -> Result<(), sqlx::Error> {
    sqlx::query(ANNOUNCE).bind(queues).execute(connection).await?;
    Ok(())
}

/// Announces work to listening engines, as a part of the caller's transaction.
pub(crate) async fn notify(
    connection: &mut PgConnection,
    queues: &[String],
) -> Result<(), sqlx::Error> {
    sqlx::query(NOTIFY).bind(queues).execute(connection).await?;
    Ok(())
}

/// Deletes a batch of instances that ended long ago, at most [`PRUNE_MAX`], and returns how many.
/// `retention` is that of machines without an entry in the table `retention`. If it is none, their
/// instances are kept.
pub(crate) async fn prune(
    connection: &mut PgConnection,
    retention: Option<Duration>,
) -> Result<u64, sqlx::Error> {
    let retention = retention.map(micros);
    let done = sqlx::query(PRUNE).bind(retention).execute(connection).await?;
    Ok(done.rows_affected())
}

/// States for how long ended instances of these machines are kept. `None` states nothing: the
/// machine's entry is deleted.
pub(crate) async fn retain(
    connection: &mut PgConnection,
    retentions: &BTreeMap<&'static str, Option<Retention>>,
) -> Result<(), sqlx::Error> {
    let machines: Vec<&str> = retentions.keys().copied().collect();
    let keep_for: Vec<Option<i64>> = retentions
        .values()
        .map(|retention| retention.and_then(|kept| kept.0).map(micros))
        .collect();
    let said: Vec<bool> = retentions.values().map(Option::is_some).collect();
    let mut transaction = begin(connection).await?;
    sqlx::query(LOCK_RETENTIONS).execute(&mut *transaction).await?;
    sqlx::query(RETAIN).bind(machines).bind(keep_for).bind(said).execute(&mut *transaction).await?;
    transaction.commit().await
}

/// Takes a batch of rows from lost workers. A row goes back to the queue, or fails if it has lost
/// `crashes_max` workers in a row. A failure is reported too, if its receiver is not locked.
pub(crate) async fn reap(
    connection: &mut PgConnection,
    batch_max: i64,
    crashes_max: i32,
) -> Result<Reaped, sqlx::Error> {
    let mut transaction = begin(connection).await?;
    let rows =
        sqlx::query(REAP).bind(batch_max).bind(crashes_max).fetch_all(&mut *transaction).await?;
    let mut reaped = Reaped::default();
    let (mut keys, mut owed, mut lost) = (Vec::new(), Vec::new(), Lost::default());
    for row in &rows {
        if row.try_get::<&str, _>(3)? == "runnable" {
            reaped.returned += 1;
            reaped.queues.push(row.try_get(1)?);
        } else {
            reaped.failed += 1;
            if row.try_get(4)? {
                owed.push(row.try_get(0)?);
            }
        }
        keys.extend(row.try_get::<Option<String>, _>(2)?);
        if let Some(worker) = row.try_get(5)? {
            lost.ids.push(row.try_get(0)?);
            lost.workers.push(worker);
            lost.since.push(row.try_get(6)?);
        }
    }
    record_lost(&mut transaction, lost).await?;
    // If another transaction has the row that goes next locked, the service `partitions` finds the
    // key later. The same holds in `rescue_stranded`, which that service runs.
    reaped.queues.extend(free_partitions(&mut transaction, &keys).await?.queues);
    if !owed.is_empty() {
        // A receiver that another transaction has locked hears later, from the service `reports`.
        reaped.settled = settle_of(&mut transaction, &owed, Locked::Skip).await?;
    }
    if rows.is_empty() {
        sqlx::query(REMOVE_LOST_WORKERS).execute(&mut *transaction).await?;
    }
    transaction.commit().await?;
    Ok(reaped)
}

/// Unblocks stranded partition keys: rows of them wait, and no commit will let one into the claim's
/// index. Looks at up to `batch_max` keys from `after` on, and moves `after` to the last one, or to
/// none at the end. Returns the queues in which it let rows in.
pub(crate) async fn rescue_stranded(
    connection: &mut PgConnection,
    after: &mut Option<String>,
    batch_max: i64,
) -> Result<Vec<String>, sqlx::Error> {
    let mut transaction = begin(connection).await?;
    let rows = sqlx::query(STRANDED_PARTITIONS)
        .bind(after.as_deref())
        .bind(batch_max)
        .fetch_all(&mut *transaction)
        .await?;
    let mut stranded = Vec::new();
    *after = None;
    for row in &rows {
        let key: String = row.try_get(0)?;
        if rows.len() == usize::try_from(batch_max).unwrap_or(usize::MAX) {
            *after = Some(key.clone());
        }
        if row.try_get(1)? {
            stranded.push(key);
        }
    }
    let freed = free_partitions(&mut transaction, &stranded).await?;
    transaction.commit().await?;
    Ok(freed.queues)
}

/// Wakes a batch of parked instances whose time is up, and returns their queues.
pub(crate) async fn wake_timed_out(
    connection: &mut PgConnection,
    batch_max: i64,
) -> Result<Vec<String>, sqlx::Error> {
    sqlx::query_scalar(WAKE_TIMED_OUT).bind(batch_max).fetch_all(connection).await
}

/// Returns the queues with runnable rows that no living worker serves.
pub(crate) async fn unserved_queues(
    connection: &mut PgConnection,
) -> Result<Vec<String>, sqlx::Error> {
    sqlx::query_scalar(UNSERVED_QUEUES).fetch_all(connection).await
}

/// Returns the machines and versions of runnable rows in these queues that are not `known`, each
/// with its queue.
pub(crate) async fn unknown_kinds(
    connection: &mut PgConnection,
    queues: &[String],
    known: &Kinds,
) -> Result<Vec<(String, Kind)>, sqlx::Error> {
    let rows = sqlx::query(UNKNOWN_KINDS).bind(queues).fetch_all(connection).await?;
    let mut unknown = Vec::new();
    for row in rows {
        let kind = Kind { fsm: row.try_get(1)?, fsm_version: row.try_get(2)? };
        if !known.contains(&kind) {
            unknown.push((row.try_get(0)?, kind));
        }
    }
    Ok(unknown)
}
