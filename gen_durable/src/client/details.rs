//! A look at all of an instance.
//!
//! Invariant: a typed handle finds an instance of its machine alone.

use std::{fmt, time::SystemTime};

use super::{AnyId, InstanceHandle};
use crate::{
    error::{DatabaseError, DecodeError, OperateError},
    id::InstanceId,
    machine::Machine,
    status::Status,
    storage::{self, time},
    value,
};

const LOOK: &str = "look at an instance";

impl<A: AnyId + Clone> InstanceHandle<A> {
    /// Reads all of the instance.
    ///
    /// ```
    /// # use gen_durable::prelude::*;
    /// # #[durable_fsm(state = i64, output = String)]
    /// # pub enum Invoice { Send }
    /// # #[durable_fsm]
    /// # impl Invoice {
    /// #     async fn send(cx: Context<Self>) -> Outcome<Self> { cx.done("sent".to_owned()) }
    /// # }
    /// # async fn example(
    /// #     client: Client,
    /// #     id: InstanceId<Invoice>,
    /// # ) -> Result<(), Box<dyn std::error::Error>> {
    /// let invoice = client.instance(id).get().await?;
    /// println!("{} at {}: attempt {}", invoice.status, invoice.step, invoice.attempt);
    /// let cents: i64 = invoice.state()?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`OperateError`]: the instance does not exist, or is of another machine; the database
    /// failed.
    pub async fn get(&self) -> Result<Details<A::Id>, OperateError> {
        let (id, found) = self.look().await?;
        let failed = DatabaseError::new(LOOK);
        let details = read::<A>(id, &found).map_err(failed)?;
        match A::machine() {
            Some(expected) if details.machine != expected => Err(OperateError::WrongMachine {
                id,
                expected: expected.to_owned(),
                found: details.machine,
            }),
            _ => Ok(details),
        }
    }

    async fn look(&self) -> Result<(i64, storage::Details), OperateError> {
        let connections = self.client.connections();
        let id = self.client.id_of::<A, OperateError>(self.address.clone()).await?;
        let machine = A::machine().unwrap_or_default();
        let id = id.map_err(|key| OperateError::NoHolder { machine: machine.to_owned(), key })?;
        let look = async {
            let mut connection = connections.get().await?;
            let result = connections.within(storage::details(&mut connection, id)).await;
            connection.done(result)
        };
        let found = look.await.map_err(DatabaseError::new(LOOK));
        let found = found.inspect_err(|error| connections.tell(error))?;
        Ok((id, found.ok_or(OperateError::Unknown { id })?))
    }
}

/// All of an instance at one moment, as [`InstanceHandle::get`] saw it.
///
/// If its handle was typed, [`step`](Self::step), [`state`](Self::state) and
/// [`output`](Self::output) have the machine's own types.
#[derive(Clone)]
#[non_exhaustive]
pub struct Details<I = i64> {
    /// Its id.
    pub id: I,
    /// The name of its machine.
    pub machine: String,
    /// The version of its step and its state.
    pub version: u32,
    /// Its status.
    pub status: Status,
    /// The name of the step that it stands at.
    pub step: String,
    /// Its state as stored: JSON.
    pub state_json: String,
    /// Its result as stored, if it is done: JSON.
    pub result_json: Option<String>,
    /// The error that was recorded last. It stays after a later success.
    pub last_error: Option<String>,
    /// The number of runs of that step before the one that is under way or due.
    pub attempt: u32,
    /// The number of runs of that step that failed in a row, just before that one.
    pub failures: u32,
    /// The number of workers that were lost in a row while they ran that step.
    pub crashes: u32,
    /// The names of the signals that it waits for, if it is parked.
    pub awaits: Vec<String>,
    /// The number of signals that must still come before it wakes, if it waits for several.
    pub awaits_more: Option<u32>,
    /// The time at which it wakes without a signal.
    pub wakes_at: Option<SystemTime>,
    /// The limit for which it waits, if its step's limit holds it back.
    pub limited: Option<Limited>,
    /// The time from which it may run, or might have.
    pub due_at: Option<SystemTime>,
    /// Its queue.
    pub queue: String,
    /// Its priority: lower runs first.
    pub priority: i16,
    /// Its partition key.
    pub partition_key: Option<String>,
    /// The unique key that it was inserted with.
    pub unique_key: Option<String>,
    /// True if it holds that key now.
    pub holds_unique_key: bool,
    /// The instance that gets the report of its end.
    pub reports_to: Option<i64>,
    /// The worker that runs it, and the worker's name.
    pub worker: Option<(i64, Option<String>)>,
    /// The time of its cancel, if it was cancelled.
    pub cancelled_at: Option<SystemTime>,
    /// The time of its insert.
    pub inserted_at: Option<SystemTime>,
    /// The time of its last change.
    pub updated_at: Option<SystemTime>,
    /// The time of its end.
    pub finished_at: Option<SystemTime>,
}

/// The limit for which an instance waits.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limited {
    /// The name of the limit.
    pub limit: String,
    /// The key, if the limit bounds the runs of each key by themselves.
    pub key: Option<String>,
    /// The time until which it waits at least, as things stand: its rate lets no more in before. It
    /// is an estimate: others may come in first or give up, and each run is taken to weigh 1. None
    /// if it only waits for a run to end.
    pub until: Option<SystemTime>,
}

impl<M: Machine> Details<InstanceId<M>> {
    /// Returns the step that the instance stands at, or none if this version of the machine has no
    /// such step.
    pub fn step(&self) -> Option<M> {
        M::from_name(&self.step)
    }

    /// Reads the state.
    ///
    /// # Errors
    ///
    /// [`DecodeError`] if the state does not fit the machine's type, as that of another version
    /// may not.
    pub fn state(&self) -> Result<M::State, DecodeError> {
        value::decode("state", M::NAME, M::VERSION, &self.state_json)
    }

    /// Reads the result, if the instance is done.
    ///
    /// # Errors
    ///
    /// [`DecodeError`] if the result does not fit the machine's output type.
    pub fn output(&self) -> Result<Option<M::Output>, DecodeError> {
        let decode = |text: &str| value::decode("result", M::NAME, M::VERSION, text);
        self.result_json.as_deref().map(decode).transpose()
    }
}

/// Prints neither state nor result, as they may be confidential.
impl<I: fmt::Debug> fmt::Debug for Details<I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Details")
            .field("id", &self.id)
            .field("machine", &self.machine)
            .field("version", &self.version)
            .field("status", &self.status)
            .field("step", &self.step)
            .field("attempt", &self.attempt)
            .field("failures", &self.failures)
            .finish_non_exhaustive()
    }
}

fn read<A: AnyId>(id: i64, found: &storage::Details) -> Result<Details<A::Id>, sqlx::Error> {
    let count =
        |column: &str| found.get(column).map(|count: i32| u32::try_from(count).unwrap_or(0));
    let at = |column: &str| found.get(column).map(|at: Option<i64>| at.map(time));
    let status: String = found.get("status")?;
    let worker: Option<i64> = found.get("worker")?;
    let worker_name = found.get("worker_name")?;
    Ok(Details {
        id: A::id(id),
        machine: found.get("fsm")?,
        version: count("fsm_version")?,
        // The table's check allows no other status.
        status: status.parse().unwrap_or(Status::Failed),
        step: found.get("step")?,
        state_json: found.get("state")?,
        result_json: found.get("result")?,
        last_error: found.get("last_error")?,
        attempt: count("attempt")?,
        failures: count("failures")?,
        crashes: count("crashes")?,
        awaits: found.get::<Option<Vec<String>>>("awaits")?.unwrap_or_default(),
        awaits_more: found
            .get::<Option<i32>>("awaits_more")?
            .and_then(|more| u32::try_from(more).ok()),
        wakes_at: at("wake_at")?,
        limited: found.limited()?.map(|(bucket, until)| {
            let (limit, key) = storage::limit_and_key(&bucket);
            Limited { limit, key, until }
        }),
        due_at: at("eligible_at")?,
        queue: found.get("queue")?,
        priority: found.get("priority")?,
        partition_key: found.get("partition_key")?,
        unique_key: found.get("unique_key")?,
        holds_unique_key: found.get("holds_key")?,
        reports_to: found.get("report_to")?,
        worker: worker.map(|worker| (worker, worker_name)),
        cancelled_at: at("cancelled_at")?,
        inserted_at: at("inserted_at")?,
        updated_at: at("updated_at")?,
        finished_at: at("finished_at")?,
    })
}
