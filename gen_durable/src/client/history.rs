//! The history of an instance, as it was recorded.
//!
//! Invariant: a typed address finds the history of an instance of its machine alone.

use std::{fmt, time::SystemTime};

use super::{AnyId, InstanceHandle};
use crate::{
    error::{DatabaseError, DecodeError, FindError},
    id::InstanceId,
    machine::Machine,
    storage::{self, Recorded},
    value,
};

/// The most entries that [`InstanceHandle::history`] returns.
const ENTRIES_MAX: i64 = 1000;

impl<A: AnyId + Clone> InstanceHandle<A> {
    /// Returns what the instance has done, as far as the [`History`](crate::History) of its machine
    /// records it. The newest entry comes last. It returns the newest 1,000 entries at most.
    ///
    /// It reads the states too, if they are recorded. [`runs`](Self::runs) reads none, and goes as
    /// far back as the history does.
    ///
    /// It is empty if nothing was recorded, if the instance was deleted, or if no instance holds
    /// the unique key. Retention deletes the instance and its history each in its own time, so the
    /// history of an instance may outlive it.
    ///
    /// ```
    /// use gen_durable::prelude::*;
    /// # #[durable_fsm(state = i64, output = (), history = "states")]
    /// # pub enum Invoice { Send }
    /// # #[durable_fsm]
    /// # impl Invoice {
    /// #     async fn send(cx: Context<Self>) -> Outcome<Self> { cx.done(()) }
    /// # }
    ///
    /// # async fn example(
    /// #     client: Client,
    /// #     id: InstanceId<Invoice>,
    /// # ) -> Result<(), Box<dyn std::error::Error>> {
    /// for entry in client.instance(id).history().await? {
    ///     let state: Option<i64> = entry.state()?;
    ///     println!("{} run {}: {} {state:?}", entry.step, entry.attempt, entry.outcome);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`FindError`]: the instance is of another machine than its typed id says; the text cannot be
    /// a unique key; the database failed. The role of the connection must be allowed to read the
    /// history: the worker and the operator may.
    pub async fn history(&self) -> Result<Vec<HistoryEntry<A::Id>>, FindError> {
        self.entries(i64::MAX, ENTRIES_MAX).await
    }

    /// Returns an entry of the [`history`](Self::history) by its number. None if the instance has
    /// no such entry, or not any more.
    ///
    /// ```
    /// # use gen_durable::prelude::*;
    /// # async fn example(client: Client) -> Result<(), Box<dyn std::error::Error>> {
    /// let instance = client.instance_by_id(42);
    /// if let Some(entry) = instance.history_entry(1234).await? {
    ///     println!("{} left {:?}", entry.step, entry.state_json());
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// Those of [`history`](Self::history).
    pub async fn history_entry(
        &self,
        entry: i64,
    ) -> Result<Option<HistoryEntry<A::Id>>, FindError> {
        let newest = self.entries(entry, 1).await?.pop();
        Ok(newest.filter(|found| found.id == entry))
    }

    /// Returns the newest entries up to the entry `newest`, the newest last.
    async fn entries(
        &self,
        newest: i64,
        entries_max: i64,
    ) -> Result<Vec<HistoryEntry<A::Id>>, FindError> {
        let client = &self.client;
        let connections = &client.inner.connections;
        let id = client.id_of::<A, FindError>(self.address.clone()).await?;
        let Ok(id) = id else { return Ok(Vec::new()) };
        let look = async {
            let mut connection = connections.get().await?;
            let look = storage::history(&mut connection, id, newest, entries_max);
            let result = connections.within(look).await;
            connection.done(result)
        };
        let found = look.await.map_err(DatabaseError::new("read the history of an instance"));
        let found = found.inspect_err(|error| connections.tell(error))?;
        found
            .into_iter()
            .map(|(recorded, state)| HistoryEntry::of::<A>(id, recorded, state))
            .collect()
    }
}

/// Checks that a typed address has found an entry of its own machine.
pub(super) fn check_machine<A: AnyId>(id: i64, recorded: &Recorded) -> Result<(), FindError> {
    match A::machine() {
        Some(expected) if recorded.fsm != expected => {
            Err(FindError::WrongMachine { id, expected, found: recorded.fsm.clone() })
        }
        _ => Ok(()),
    }
}

/// A run of a step, as the history has it. [`InstanceHandle::history`] returns it.
///
/// An entry by a typed id or key has [`step`](Self::step), [`next_step`](Self::next_step) and
/// [`state`](Self::state) in the machine's own types.
#[derive(Clone)]
#[non_exhaustive]
pub struct HistoryEntry<I = i64> {
    /// The number of the entry. Those of an instance rise.
    pub id: i64,
    /// The instance.
    pub instance: I,
    /// The name of its machine.
    pub machine: String,
    /// The version of the machine that ran. The steps and the state are of this version.
    pub version: u32,
    /// The name of the step that ran.
    pub step: String,
    /// The number of runs of that step before this one.
    pub attempt: u32,
    /// The outcome of the run, or that of `handle` if the run failed: `next`, `later` (the
    /// next step, with a delay), `replay`, `snooze`, `await`, `done`, `failed` or `cancelled`. It
    /// is `lost` if the run was lost with its worker.
    pub outcome: String,
    /// The name of the step at which the instance stood after that, unless it had ended.
    pub next_step: Option<String>,
    /// The error, if the run failed or was lost, or the reason why it stopped the instance.
    pub error: Option<String>,
    /// The time at which the run began, by the database's clock. For a lost run, the time at which
    /// its worker came to the step.
    pub started_at: SystemTime,
    /// The time at which its outcome was committed, by the database's clock.
    pub ended_at: SystemTime,
    /// The worker, by its id in `gen_durable.workers`.
    pub worker: Option<i64>,
    /// The state as stored.
    state: Option<String>,
    /// The instance, as a plain number.
    pub(super) raw: i64,
}

impl<I> HistoryEntry<I> {
    fn of<A: AnyId<Id = I>>(
        id: i64,
        recorded: Recorded,
        state: Option<String>,
    ) -> Result<Self, FindError> {
        check_machine::<A>(id, &recorded)?;
        Ok(Self {
            id: recorded.id,
            instance: A::id(id),
            machine: recorded.fsm,
            version: u32::try_from(recorded.fsm_version).unwrap_or(0),
            step: recorded.step,
            attempt: u32::try_from(recorded.attempt).unwrap_or(0),
            outcome: recorded.outcome,
            next_step: recorded.next_step,
            error: recorded.error,
            started_at: recorded.started_at,
            ended_at: recorded.ended_at,
            worker: recorded.worker,
            state,
            raw: id,
        })
    }

    /// Returns the state after the outcome as JSON text, as it is stored. None if the history does
    /// not record states.
    pub fn state_json(&self) -> Option<&str> {
        self.state.as_deref()
    }
}

impl<M: Machine> HistoryEntry<InstanceId<M>> {
    /// Returns the step that ran, or none if this version of the machine has no such step.
    pub fn step(&self) -> Option<M> {
        M::from_name(&self.step)
    }

    /// Returns the step at which the instance stood after that. None if it had ended, or if this
    /// version of the machine has no such step.
    pub fn next_step(&self) -> Option<M> {
        M::from_name(self.next_step.as_deref()?)
    }

    /// Returns the state after the outcome. None if the history does not record states.
    ///
    /// # Errors
    ///
    /// [`DecodeError`] if the state does not fit the machine's type: it may be of an older version.
    pub fn state(&self) -> Result<Option<M::State>, DecodeError> {
        let decode = |text: &str| value::decode("state", M::NAME, self.version, text);
        self.state.as_deref().map(decode).transpose()
    }
}

/// Prints no state, as it may be confidential.
impl<I: fmt::Debug> fmt::Debug for HistoryEntry<I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HistoryEntry")
            .field("id", &self.id)
            .field("instance", &self.instance)
            .field("machine", &self.machine)
            .field("version", &self.version)
            .field("step", &self.step)
            .field("attempt", &self.attempt)
            .field("outcome", &self.outcome)
            .field("next_step", &self.next_step)
            .field("error", &self.error)
            .field("started_at", &self.started_at)
            .field("ended_at", &self.ended_at)
            .field("worker", &self.worker)
            .finish_non_exhaustive()
    }
}
