//! The runs of an instance, page by page, as its history has them.
//!
//! Invariant: a page is bounded, in entries and in bytes. It has no state, and of an error its
//! beginning.

use std::time::SystemTime;

use super::{
    super::{AnyId, Cursor, InstanceHandle, Page, history::check_machine},
    look, number,
};
use crate::{
    error::FindError,
    storage::{self, RunRow},
};

/// The most characters of an error in a page. A page of the longest size then takes a few
/// megabytes at most.
const ERROR_MAX: i32 = 1_000;

impl<A: AnyId + Clone> InstanceHandle<A> {
    /// Lists what the instance has done, page by page from the newest run back, as far as the
    /// [`History`](crate::History) of its machine records it. It reads no states:
    /// [`history_entry`](Self::history_entry) reads that of one entry.
    ///
    /// The page is empty if nothing was recorded, or if no instance holds the unique key. Go
    /// through pages by an id: a unique key may change hands between two of them.
    ///
    /// ```
    /// use gen_durable::{operate::Page, prelude::*};
    /// # async fn example(client: Client) -> Result<(), Box<dyn std::error::Error>> {
    /// let runs = client.instance_by_id(42).runs(Page::first()).await?;
    /// for run in &runs.entries {
    ///     println!("{} run {}: {}", run.step, run.attempt, run.outcome);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`FindError`]: the instance is of another machine than its typed id says; the text cannot be
    /// a unique key; the database failed. It needs the rights of an operator or a worker.
    pub async fn runs(&self, page: Page) -> Result<RunPage, FindError> {
        let client = &self.client;
        let id = client.id_of::<A, FindError>(self.address.clone()).await?;
        let Ok(id) = id else { return Ok(RunPage { entries: Vec::new(), next: None }) };
        // One more tells whether there are more.
        let entries_max = i64::try_from(page.size).unwrap_or(i64::MAX).saturating_add(1);
        let found = look(client, "list the runs of an instance", async |connection| {
            storage::list_runs(connection, id, page.before, entries_max, ERROR_MAX).await
        });
        let mut found = found.await?;
        let has_more = found.len() > page.size;
        found.truncate(page.size);
        for run in &found {
            check_machine::<A>(id, &run.recorded)?;
        }
        let next = found.last().filter(|_| has_more).map(|run| Cursor::from_raw(run.recorded.id));
        Ok(RunPage { entries: found.into_iter().map(RunEntry::of).collect(), next })
    }
}

/// A page of runs. [`InstanceHandle::runs`] returns it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RunPage {
    /// The runs, the newest first.
    pub entries: Vec<RunEntry>,
    /// The place to go on. None if there are no earlier ones.
    pub next: Option<Cursor>,
}

/// A run of a step in a [`RunPage`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RunEntry {
    /// The number of its entry in the history. Those of an instance rise.
    pub id: i64,
    /// The name of the machine.
    pub machine: String,
    /// The version of the machine that ran.
    pub version: u32,
    /// The name of the step that ran.
    pub step: String,
    /// The number of runs of that step before this one.
    pub attempt: u32,
    /// The outcome, as in [`HistoryEntry::outcome`](super::super::HistoryEntry::outcome).
    pub outcome: String,
    /// The name of the step at which the instance stood after that, unless it had ended.
    pub next_step: Option<String>,
    /// The first 1,000 characters of the error, if there was one.
    pub error: Option<String>,
    /// True if the error is longer.
    pub error_cut: bool,
    /// The time at which the run began, by the database's clock.
    pub started_at: SystemTime,
    /// The time at which its outcome was committed, by the database's clock.
    pub ended_at: SystemTime,
    /// The worker, by its id in `gen_durable.workers`.
    pub worker: Option<i64>,
    /// The bytes of the state after the outcome, as they lie in the table: Postgres may have
    /// compressed them. None if the history does not record states.
    pub state_size: Option<u32>,
}

impl RunEntry {
    fn of(row: RunRow) -> Self {
        let recorded = row.recorded;
        Self {
            id: recorded.id,
            machine: recorded.fsm,
            version: number(recorded.fsm_version),
            step: recorded.step,
            attempt: number(recorded.attempt),
            outcome: recorded.outcome,
            next_step: recorded.next_step,
            error: recorded.error,
            error_cut: row.error_cut,
            started_at: recorded.started_at,
            ended_at: recorded.ended_at,
            worker: recorded.worker,
            state_size: row.state_size.map(number),
        }
    }
}
