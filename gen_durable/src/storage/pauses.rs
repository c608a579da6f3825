//! Pauses of queues, machines and steps, and what engines do about them.
//!
//! Invariant: a row is marked (`blocked_by & 4`) only while its pause lasts. The mark names the
//! pause (`paused_by`), and is cleared once that is over.

use std::time::{Duration, SystemTime};

use sqlx::{PgConnection, Row};

use super::{Locked, begin, operate::notify_engines, since_1970, time};

const BLOCK_PAUSED: &str = include_str!("sql/block_paused.sql");
const END_PAUSES: &str = include_str!("sql/end_pauses.sql");
const LIST_PAUSES: &str = include_str!("sql/list_pauses.sql");
const PAUSES: &str = include_str!("sql/pauses.sql");
const PAUSE_SCOPE: &str = include_str!("sql/pause_scope.sql");
const RESUME_SCOPE: &str = include_str!("sql/resume_scope.sql");
const UNBLOCK_PAUSED: &str = include_str!("sql/unblock_paused.sql");

/// The payload by which engines hear that something was paused or resumed.
pub(crate) const PAUSED: &str = "paused";

/// A queue, a machine, or a step of a machine.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Scope {
    Queue(String),
    Machine(String),
    Step { fsm: String, step: String },
}

impl Scope {
    fn queue(&self) -> Option<&str> {
        match self {
            Self::Queue(queue) => Some(queue),
            Self::Machine(_) | Self::Step { .. } => None,
        }
    }

    fn fsm(&self) -> Option<&str> {
        match self {
            Self::Machine(fsm) | Self::Step { fsm, .. } => Some(fsm),
            Self::Queue(_) => None,
        }
    }

    fn step(&self) -> Option<&str> {
        match self {
            Self::Step { step, .. } => Some(step),
            Self::Queue(_) | Self::Machine(_) => None,
        }
    }
}

/// The action on a scope.
#[derive(Debug)]
pub(crate) struct ScopeAct {
    pub(crate) scope: Scope,
    pub(crate) actor: Option<String>,
    pub(crate) reason: Option<String>,
}

/// Pauses a scope, in a transaction that the caller has begun. Returns the deed as the statement
/// names it, and the names that are registered in place of an unknown one.
pub(crate) async fn pause_scope(
    transaction: &mut PgConnection,
    act: &ScopeAct,
    until: Option<SystemTime>,
    locked: Locked,
) -> Result<(String, Vec<String>), sqlx::Error> {
    let row = sqlx::query(PAUSE_SCOPE)
        .bind(act.scope.queue())
        .bind(act.scope.fsm())
        .bind(act.scope.step())
        .bind(until.map(since_1970))
        .bind(act.actor.as_deref())
        .bind(act.reason.as_deref())
        .bind(locked.timeout())
        .fetch_one(&mut *transaction)
        .await?;
    let deed: String = row.try_get("deed")?;
    if deed == "paused" {
        notify_engines(transaction, PAUSED).await?;
    }
    Ok((deed, row.try_get("names")?))
}

/// Resumes a scope, in a transaction that the caller has begun. False if it was not paused.
pub(crate) async fn resume_scope(
    transaction: &mut PgConnection,
    act: &ScopeAct,
    locked: Locked,
) -> Result<bool, sqlx::Error> {
    let resumed: bool = sqlx::query_scalar(RESUME_SCOPE)
        .bind(act.scope.queue())
        .bind(act.scope.fsm())
        .bind(act.scope.step())
        .bind(act.actor.as_deref())
        .bind(act.reason.as_deref())
        .bind(locked.timeout())
        .fetch_one(&mut *transaction)
        .await?;
    if resumed {
        notify_engines(transaction, PAUSED).await?;
    }
    Ok(resumed)
}

/// A pause in a list.
#[derive(Debug)]
pub(crate) struct PauseRow {
    pub(crate) queue: Option<String>,
    pub(crate) fsm: Option<String>,
    pub(crate) step: Option<String>,
    pub(crate) instance_id: Option<i64>,
    pub(crate) actor: String,
    pub(crate) reason: Option<String>,
    pub(crate) until: Option<SystemTime>,
    pub(crate) paused_at: SystemTime,
}

/// Lists the pauses of an instance, or those of all queues, machines and steps.
pub(crate) async fn list_pauses(
    connection: &mut PgConnection,
    instance: Option<i64>,
    limit: i64,
) -> Result<Vec<PauseRow>, sqlx::Error> {
    let rows = sqlx::query(LIST_PAUSES).bind(instance).bind(limit).fetch_all(connection).await?;
    rows.iter()
        .map(|row| {
            Ok(PauseRow {
                queue: row.try_get("queue")?,
                fsm: row.try_get("fsm")?,
                step: row.try_get("step")?,
                instance_id: row.try_get("instance_id")?,
                actor: row.try_get("actor")?,
                reason: row.try_get("reason")?,
                until: row.try_get::<Option<i64>, _>("until")?.map(time),
                paused_at: time(row.try_get("paused_at")?),
            })
        })
        .collect()
}

/// The pauses that an engine must know of.
#[derive(Debug, Default)]
pub(crate) struct Paused {
    pub(crate) scopes: Vec<Scope>,
    /// The instances of this worker that are paused by themselves.
    pub(crate) instances: Vec<i64>,
    /// The time until some pause ends by itself.
    pub(crate) ends_in: Option<Duration>,
}

/// Reads what is paused.
pub(crate) async fn pauses(
    connection: &mut PgConnection,
    worker: i64,
) -> Result<Paused, sqlx::Error> {
    let rows = sqlx::query(PAUSES).bind(worker).fetch_all(connection).await?;
    let mut paused = Paused::default();
    for row in rows {
        let queue: Option<String> = row.try_get("queue")?;
        let fsm: Option<String> = row.try_get("fsm")?;
        let step: Option<String> = row.try_get("step")?;
        let instance: Option<i64> = row.try_get("instance_id")?;
        let scope = match (queue, fsm, step) {
            (Some(queue), _, _) => Some(Scope::Queue(queue)),
            (None, Some(fsm), Some(step)) => Some(Scope::Step { fsm, step }),
            (None, Some(fsm), None) => Some(Scope::Machine(fsm)),
            (None, None, _) => None,
        };
        paused.scopes.extend(scope);
        paused.instances.extend(instance);
        if let Some(ends_in) = row.try_get::<Option<i64>, _>("ends_in")? {
            paused.ends_in = Some(Duration::from_micros(u64::try_from(ends_in).unwrap_or(0)));
        }
    }
    Ok(paused)
}

/// Marks claimed rows of paused scopes, and those that come after them. Returns the claimed ones
/// that are marked.
pub(crate) async fn block_paused(
    connection: &mut PgConnection,
    worker: i64,
    claimed: &[i64],
) -> Result<Vec<i64>, sqlx::Error> {
    sqlx::query_scalar(BLOCK_PAUSED).bind(worker).bind(claimed).fetch_all(connection).await
}

/// Freed rows of pauses that have ended.
#[derive(Debug)]
pub(crate) struct Freed {
    pub(crate) rows: i64,
    /// The queues in which they may run now.
    pub(crate) queues: Vec<String>,
    /// True if there may be more, which may be locked.
    pub(crate) more: bool,
}

/// Frees up to `batch_max` marked rows whose pauses are over.
pub(crate) async fn unblock_paused(
    connection: &mut PgConnection,
    batch_max: i64,
) -> Result<Freed, sqlx::Error> {
    let mut transaction = begin(connection).await?;
    let row = sqlx::query(UNBLOCK_PAUSED).bind(batch_max).fetch_one(&mut *transaction).await?;
    transaction.commit().await?;
    Ok(Freed {
        rows: row.try_get("freed")?,
        queues: row.try_get("queues")?,
        more: row.try_get("found")?,
    })
}

/// Deletes up to `batch_max` pauses whose time is over. Returns for each the queue in which its
/// instance may run now, if it was an instance's.
pub(crate) async fn end_pauses(
    connection: &mut PgConnection,
    batch_max: i64,
) -> Result<Vec<Option<String>>, sqlx::Error> {
    let mut transaction = begin(connection).await?;
    let ended = sqlx::query_scalar(END_PAUSES).bind(batch_max).fetch_all(&mut *transaction).await?;
    transaction.commit().await?;
    Ok(ended)
}
