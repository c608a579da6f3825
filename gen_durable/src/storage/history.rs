//! The history: what runs came to, recorded by the commits of their outcomes.
//!
//! Invariant: an entry is written in the transaction that applies its outcome, and only if that
//! outcome was applied. A batch without entries runs no statement of this file.

use std::{
    borrow::Cow,
    time::{Duration, Instant, SystemTime},
};

use sqlx::{PgConnection, Row, postgres::PgRow};

use super::{
    begin, micros, notify,
    row::{Change, Commit},
    time,
};

const DELETE_HISTORY: &str = include_str!("sql/delete_history.sql");
const FORK: &str = include_str!("sql/fork.sql");
const HISTORY: &str = include_str!("sql/history.sql");
const KEEP_HISTORY: &str = include_str!("sql/keep_history.sql");
const LIST_RUNS: &str = include_str!("sql/list_runs.sql");
const RECORD_HISTORY: &str = include_str!("sql/record_history.sql");
const RECORD_LOST: &str = include_str!("sql/record_lost.sql");

/// A run that the history takes. Its outcome carries this.
#[derive(Debug)]
pub(crate) struct Record {
    /// The step that ran.
    pub(crate) step: Cow<'static, str>,
    /// The version of that step.
    pub(crate) fsm_version: i32,
    /// The runs of the step before this one.
    pub(crate) attempt: i32,
    pub(crate) began: Instant,
    /// The run's error, if it failed. None takes the error of the outcome, if it has one.
    pub(crate) error: Option<String>,
    /// True if the entry records the state that the outcome leaves.
    pub(crate) has_state: bool,
}

/// An entry of the history, as it is stored, without its state.
#[derive(Clone, Debug)]
pub(crate) struct Recorded {
    pub(crate) id: i64,
    pub(crate) fsm: String,
    pub(crate) fsm_version: i32,
    pub(crate) step: String,
    pub(crate) attempt: i32,
    pub(crate) outcome: String,
    pub(crate) next_step: Option<String>,
    pub(crate) error: Option<String>,
    pub(crate) started_at: SystemTime,
    pub(crate) ended_at: SystemTime,
    pub(crate) worker: Option<i64>,
}

/// Says if the history must be looked after again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kept {
    /// There may be more to remove.
    More,
    /// Another session has a lock on the table.
    Locked,
    Idle,
}

/// Returns the step at which an outcome leaves the instance. None if it ends the instance.
fn next_step<'a>(commit: &'a Commit, record: &'a Record) -> Option<&'a str> {
    match &commit.change {
        Change::Next { step } | Change::Later { step, .. } => Some(*step),
        Change::Done { .. } | Change::Failed => None,
        _ => Some(&*record.step),
    }
}

/// Records the runs of outcomes that were just applied.
pub(super) async fn record_history(
    connection: &mut PgConnection,
    applied: impl Iterator<Item = &Commit>,
) -> Result<(), sqlx::Error> {
    let mut columns = Columns::default();
    for commit in applied {
        if let Some(record) = &commit.record {
            columns.push(commit, record);
        }
    }
    if columns.ids.is_empty() {
        return Ok(());
    }
    sqlx::query(RECORD_HISTORY)
        .bind(columns.ids)
        .bind(columns.fsms)
        .bind(columns.versions)
        .bind(columns.steps)
        .bind(columns.attempts)
        .bind(columns.outcomes)
        .bind(columns.next_steps)
        .bind(columns.errors)
        .bind(columns.elapsed)
        .bind(columns.workers)
        .bind(columns.have_states)
        .execute(connection)
        .await?;
    Ok(())
}

/// Records as the columns of the statement `record_history`.
#[derive(Default)]
struct Columns<'a> {
    ids: Vec<i64>,
    fsms: Vec<&'static str>,
    versions: Vec<i32>,
    steps: Vec<&'a str>,
    attempts: Vec<i32>,
    outcomes: Vec<&'static str>,
    next_steps: Vec<Option<&'a str>>,
    errors: Vec<Option<&'a str>>,
    elapsed: Vec<i64>,
    workers: Vec<i64>,
    have_states: Vec<bool>,
}

impl<'a> Columns<'a> {
    fn push(&mut self, commit: &'a Commit, record: &'a Record) {
        let (outcome, next_step) = (commit.outcome(record.attempt), next_step(commit, record));
        self.ids.push(commit.id);
        self.fsms.push(commit.fsm);
        self.versions.push(record.fsm_version);
        self.steps.push(&record.step);
        self.attempts.push(record.attempt);
        self.outcomes.push(outcome);
        self.next_steps.push(next_step);
        self.errors.push(record.error.as_deref().or(commit.error.as_deref()));
        self.elapsed.push(micros(record.began.elapsed()));
        self.workers.push(commit.worker);
        self.have_states.push(record.has_state);
    }
}

/// Rows that the reaper took, as the columns of the statement `record_lost`.
#[derive(Debug, Default)]
pub(super) struct Lost {
    pub(super) ids: Vec<i64>,
    pub(super) workers: Vec<i64>,
    /// The times at which they came to their steps, in microseconds since 1970.
    pub(super) since: Vec<i64>,
}

/// Records the lost runs of rows that the same transaction has just taken from their workers.
pub(super) async fn record_lost(
    connection: &mut PgConnection,
    lost: Lost,
) -> Result<(), sqlx::Error> {
    if !lost.ids.is_empty() {
        sqlx::query(RECORD_LOST)
            .bind(lost.ids)
            .bind(lost.workers)
            .bind(lost.since)
            .execute(connection)
            .await?;
    }
    Ok(())
}

impl Recorded {
    /// Reads the columns that all statements of the history have.
    fn read(row: &PgRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            id: row.try_get("id")?,
            fsm: row.try_get("fsm")?,
            fsm_version: row.try_get("fsm_version")?,
            step: row.try_get("step")?,
            attempt: row.try_get("attempt")?,
            outcome: row.try_get("outcome")?,
            next_step: row.try_get("next_step")?,
            error: row.try_get("error")?,
            started_at: time(row.try_get("started_at")?),
            ended_at: time(row.try_get("ended_at")?),
            worker: row.try_get("worker")?,
        })
    }
}

/// Returns the entries of an instance's history with their states: the newest ones up to the entry
/// `newest`, at most `entries_max`. The newest comes last.
pub(crate) async fn history(
    connection: &mut PgConnection,
    id: i64,
    newest: i64,
    entries_max: i64,
) -> Result<Vec<(Recorded, Option<String>)>, sqlx::Error> {
    let found = sqlx::query(HISTORY).bind(id).bind(newest).bind(entries_max);
    let rows = found.fetch_all(connection).await?;
    rows.iter().map(|row| Ok((Recorded::read(row)?, row.try_get("state")?))).collect()
}

/// An entry of the history in a list.
#[derive(Debug)]
pub(crate) struct RunRow {
    /// Its error may be cut.
    pub(crate) recorded: Recorded,
    pub(crate) error_cut: bool,
    /// The bytes of the state in the table.
    pub(crate) state_size: Option<i32>,
}

/// Lists the entries of an instance's history before the entry `before`, the newest first, at most
/// `entries_max`. It cuts each error after `error_max` characters.
pub(crate) async fn list_runs(
    connection: &mut PgConnection,
    id: i64,
    before: i64,
    entries_max: i64,
    error_max: i32,
) -> Result<Vec<RunRow>, sqlx::Error> {
    let found = sqlx::query(LIST_RUNS).bind(id).bind(before).bind(entries_max).bind(error_max);
    let rows = found.fetch_all(connection).await?;
    rows.iter()
        .map(|row| {
            Ok(RunRow {
                recorded: Recorded::read(row)?,
                error_cut: row.try_get("error_cut")?,
                state_size: row.try_get("state_size")?,
            })
        })
        .collect()
}

/// Deletes the histories of instances, as a part of the caller's transaction.
pub(crate) async fn delete_history(
    connection: &mut PgConnection,
    ids: &[i64],
) -> Result<(), sqlx::Error> {
    sqlx::query(DELETE_HISTORY).bind(ids).execute(connection).await?;
    Ok(())
}

/// Adds the partitions of the coming days, and removes a part of what is older than `retention`.
pub(crate) async fn keep_history(
    connection: &mut PgConnection,
    retention: Option<Duration>,
) -> Result<Kept, sqlx::Error> {
    let mut transaction = begin(connection).await?;
    let answer: String = sqlx::query_scalar(KEEP_HISTORY)
        .bind(retention.map(micros))
        .fetch_one(&mut *transaction)
        .await?;
    transaction.commit().await?;
    Ok(match &*answer {
        "more" => Kept::More,
        "locked" => Kept::Locked,
        _ => Kept::Idle,
    })
}

/// The answer to a fork.
#[derive(Debug)]
pub(crate) struct Forked {
    /// The deed, as the statement names it.
    pub(crate) deed: String,
    /// The machine of the entry.
    pub(crate) fsm: Option<String>,
    /// The new instance.
    pub(crate) id: Option<i64>,
}

/// Inserts an instance that goes on from an entry of another one's history, in a transaction that
/// the caller has begun.
pub(crate) async fn fork(
    transaction: &mut PgConnection,
    id: i64,
    entry: i64,
    fsm: Option<&str>,
    actor: Option<&str>,
    reason: Option<&str>,
) -> Result<Forked, sqlx::Error> {
    let row = sqlx::query(FORK)
        .bind(id)
        .bind(entry)
        .bind(fsm)
        .bind(actor)
        .bind(reason)
        .fetch_one(&mut *transaction)
        .await?;
    if let Some(queue) = row.try_get::<Option<String>, _>("queue")? {
        notify(transaction, &[queue]).await?;
    }
    Ok(Forked { deed: row.try_get("deed")?, fsm: row.try_get("fsm")?, id: row.try_get("id")? })
}
