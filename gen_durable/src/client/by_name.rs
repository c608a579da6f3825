//! Calls of tools that do not know the machines' types: they insert, wait and look by name.
//!
//! Invariant: an insert is refused, and inserts nothing, unless an engine has registered its
//! machine, version and step.

use std::{
    fmt,
    time::{Duration, SystemTime},
};

use serde::Serialize;
use sqlx::PgConnection;

use super::{
    Client, ExecuteOn, Target,
    operation::{Operation, operate},
};
use crate::{
    error::{EncodeError, FindError, InsertByNameError, WaitError},
    keys::{check_key, check_name},
    status::Status,
    storage::{self, Eligible, Locked, NamedInstance},
    trace, value,
};

impl Client {
    /// Makes an insert of a machine that is known by name, for tools that do not know its type.
    /// Nothing is sent yet.
    ///
    /// The machine must be registered: an engine that has it must have started once. The state is
    /// stored as it is, and nobody compares it with the machine's type. It is a
    /// [`serde_json::Value`], say, or JSON text as a [`RawValue`](serde_json::value::RawValue),
    /// which keeps all digits of its numbers. A `String` becomes a string of JSON.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use gen_durable::prelude::*;
    ///
    /// # async fn example(client: Client) -> Result<(), Box<dyn std::error::Error>> {
    /// let state = serde_json::json!({ "id": 42, "cents": 1999 });
    /// let id = client
    ///     .insert_by_name("order", state)
    ///     .unique_key("order 42")
    ///     .schedule_in(Duration::from_mins(5))
    ///     .execute(&client)
    ///     .await?;
    /// let result = client.wait_by_id(id, Duration::from_mins(10)).await?;
    /// println!("instance {id} is done: {result}");
    /// # Ok(())
    /// # }
    /// ```
    pub fn insert_by_name(
        &self,
        machine: impl Into<String>,
        state: impl Serialize,
    ) -> InsertByName {
        InsertByName {
            machine: machine.into(),
            state: value::encode_untyped("state", &state, usize::MAX),
            version: None,
            step: None,
            queue: None,
            priority: 0,
            eligible: Eligible::Now,
            partition_key: None,
            unique_key: None,
            report_to: None,
        }
    }

    /// Returns the instance of a machine that holds a unique key, for tools that do not know the
    /// machine's type. None if no instance holds it.
    ///
    /// # Errors
    ///
    /// [`FindError`]: the texts cannot be a name and a key; the database failed.
    pub async fn holder_by_name(
        &self,
        machine: &str,
        unique_key: &str,
    ) -> Result<Option<i64>, FindError> {
        check_name("the machine's name", machine)?;
        check_key("unique_key", Some(unique_key))?;
        Ok(self.look_for_holder(machine, unique_key).await?)
    }

    /// Waits until an instance has ended, and returns its result as JSON text, as it is stored. It
    /// is for tools that do not know the machine's types.
    ///
    /// # Errors
    ///
    /// [`WaitError`], as [`wait`](Self::wait).
    pub async fn wait_by_id(&self, id: i64, timeout: Duration) -> Result<String, WaitError> {
        let waiters = self.waiters();
        let ended = match tokio::time::timeout(timeout, waiters.wait(id)).await {
            Err(_elapsed) => {
                let obstacle = waiters.obstacle();
                return Err(WaitError::TimedOut { id, timeout, obstacle });
            }
            Ok(ended) => ended?.ok_or(WaitError::Unknown { id })?,
        };
        let reason = ended.reason.unwrap_or_default();
        match ended.result {
            Some(result) => Ok(result),
            None if ended.status == Status::Cancelled.as_str() => {
                Err(WaitError::Cancelled { id, reason })
            }
            None => Err(WaitError::Failed { id, reason }),
        }
    }
}

/// An insert of a machine that is known by name. [`Client::insert_by_name`] makes one, and nothing
/// is done before [`execute`](Self::execute).
///
/// The options are those of [`Insert`](crate::Insert). The defaults are those of the version.
#[must_use = "an instance is inserted by `.execute(…)`"]
#[derive(Clone)]
pub struct InsertByName {
    machine: String,
    state: Result<value::Json, EncodeError>,
    version: Option<u32>,
    step: Option<String>,
    queue: Option<String>,
    priority: i16,
    eligible: Eligible,
    partition_key: Option<String>,
    unique_key: Option<String>,
    report_to: Option<i64>,
}

impl InsertByName {
    /// Inserts an instance of this version. By default it is the newest one that an engine has
    /// registered.
    pub fn version(mut self, version: u32) -> Self {
        self.version = Some(version);
        self
    }

    /// Begins at the step of this name, and not at the initial step.
    pub fn step(mut self, step: impl Into<String>) -> Self {
        self.step = Some(step.into());
        self
    }

    /// Puts it into this queue.
    pub fn queue(mut self, queue: impl Into<String>) -> Self {
        self.queue = Some(queue.into());
        self
    }

    /// Sets the priority: lower runs first. It is 0 by default.
    pub fn priority(mut self, priority: i16) -> Self {
        self.priority = priority;
        self
    }

    /// Runs it no earlier than this time from now, by the database's clock.
    pub fn schedule_in(mut self, delay: Duration) -> Self {
        self.eligible = Eligible::In(delay);
        self
    }

    /// Runs it no earlier than at this time, by the database's clock.
    pub fn schedule_at(mut self, time: SystemTime) -> Self {
        self.eligible = Eligible::At(time);
        self
    }

    /// Never runs it at the same time as another instance of this key.
    pub fn partition_key(mut self, key: impl Into<String>) -> Self {
        self.partition_key = Some(key.into());
        self
    }

    /// Inserts it only if no live instance of the machine holds this key.
    pub fn unique_key(mut self, key: impl Into<String>) -> Self {
        self.unique_key = Some(key.into());
        self
    }

    /// Reports its end to this instance, whose machine must accept the report.
    pub fn report_to(mut self, receiver: i64) -> Self {
        self.report_to = Some(receiver);
        self
    }

    /// Inserts it: in a transaction of its own, or in the caller's (`&mut *tx`). Returns its id.
    ///
    /// # Errors
    ///
    /// [`InsertByNameError`]: an instance holds the unique key; no engine has registered the
    /// machine, the version or the step; a value cannot be stored; the database failed. It needs
    /// the rights of an application or a worker.
    pub async fn execute<'e>(self, on: impl ExecuteOn<'e>) -> Result<i64, InsertByNameError> {
        let target = on.into_target();
        let inserting = Inserting(self.check(&target)?);
        let machine = &inserting.0.fsm;
        let what = format!("a unique key of machine `{machine}`");
        let answer = Box::pin(operate(target, &inserting, &what)).await;
        match answer.map_err(InsertByNameError::of)? {
            Ok(id) => Ok(id),
            Err(holder) => {
                Err(InsertByNameError::Duplicate { machine: machine.clone(), id: holder })
            }
        }
    }

    /// Checks the names, the keys and the state.
    fn check(self, target: &Target<'_>) -> Result<NamedInstance, EncodeError> {
        check_name("the machine's name", &self.machine)?;
        for (what, name) in [("step", &self.step), ("queue", &self.queue)] {
            name.as_ref().map_or(Ok(()), |name| check_name(what, name))?;
        }
        check_key("partition_key", self.partition_key.as_deref())?;
        check_key("unique_key", self.unique_key.as_deref())?;
        Ok(NamedInstance {
            state: self.state?.within("state", target.value_max())?,
            fsm: self.machine,
            // No version is registered above `i32::MAX`, so the insert finds none and is refused.
            fsm_version: self.version.map(|version| i32::try_from(version).unwrap_or(i32::MAX)),
            step: self.step,
            queue: self.queue,
            priority: self.priority,
            eligible: self.eligible,
            partition_key: self.partition_key,
            unique_key: self.unique_key,
            report_to: self.report_to,
            trace_context: trace::current(),
        })
    }
}

/// Prints no state, as it may be confidential.
impl fmt::Debug for InsertByName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InsertByName")
            .field("machine", &self.machine)
            .field("version", &self.version)
            .field("step", &self.step)
            .field("queue", &self.queue)
            .field("priority", &self.priority)
            .field("partition_key", &self.partition_key)
            .field("unique_key", &self.unique_key)
            .finish_non_exhaustive()
    }
}

struct Inserting(NamedInstance);

impl Operation for Inserting {
    type Answer = Result<i64, Option<i64>>;

    const NAME: &'static str = "insert an instance";

    async fn run(
        &self,
        transaction: &mut PgConnection,
        _: Locked,
    ) -> Result<Self::Answer, sqlx::Error> {
        storage::insert_by_name(transaction, &self.0).await
    }
}
