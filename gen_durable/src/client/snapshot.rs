//! A look at an instance: its status, its step, its result.
//!
//! Invariant: a typed id finds an instance of its machine alone.

use std::fmt;

use crate::{
    error::{DecodeError, FindError},
    id::InstanceId,
    machine::Machine,
    status::Status,
    storage::Ended,
    value,
};

/// An instance's id, typed or a plain number.
pub trait AnyId: sealed::Sealed + Copy {
    #[doc(hidden)]
    fn number(self) -> i64;

    /// The machine that the instance must be of.
    #[doc(hidden)]
    fn machine() -> Option<&'static str>;
}

mod sealed {
    pub trait Sealed {}
}

impl sealed::Sealed for i64 {}
impl AnyId for i64 {
    fn number(self) -> i64 {
        self
    }

    fn machine() -> Option<&'static str> {
        None
    }
}

impl<M: Machine> sealed::Sealed for InstanceId<M> {}
impl<M: Machine> AnyId for InstanceId<M> {
    fn number(self) -> i64 {
        self.get()
    }

    fn machine() -> Option<&'static str> {
        Some(M::NAME)
    }
}

/// An instance at one moment, as [`Client::find`](crate::Client::find) saw it.
///
/// A snapshot by a typed id knows its machine. It has [`step`](Self::step) and
/// [`output`](Self::output) in the machine's own types.
#[derive(Clone)]
#[non_exhaustive]
pub struct Snapshot<I = i64> {
    /// Its id.
    pub id: I,
    /// The name of its machine.
    pub machine: String,
    /// Its status.
    pub status: Status,
    /// The name of the step that it stands at.
    pub step: String,
    /// The number of runs of that step before the one that is under way or due.
    pub attempt: u32,
    /// The number of runs of that step that failed in a row, just before that one.
    pub failures: u32,
    /// Its result, if it is done.
    pub result: Option<serde_json::Value>,
    /// Its last error, if it failed.
    pub reason: Option<String>,
    /// The result as stored.
    text: Option<String>,
}

impl<I: AnyId> Snapshot<I> {
    pub(super) fn of(id: I, found: Vec<Ended>) -> Result<Option<Self>, FindError> {
        let Some(ended) = found.into_iter().next() else { return Ok(None) };
        if let Some(expected) = I::machine()
            && ended.fsm != expected
        {
            return Err(FindError::WrongMachine { id: ended.id, expected, found: ended.fsm });
        }
        // The table's check allows no other status.
        let Ok(status) = ended.status.parse() else { return Ok(None) };
        Ok(Some(Self {
            id,
            machine: ended.fsm,
            status,
            step: ended.step,
            attempt: u32::try_from(ended.attempt).unwrap_or(0),
            failures: u32::try_from(ended.failures).unwrap_or(0),
            result: ended.result.as_deref().and_then(|text| serde_json::from_str(text).ok()),
            reason: ended.reason,
            text: ended.result,
        }))
    }
}

impl<M: Machine> Snapshot<InstanceId<M>> {
    /// Returns the step that the instance stands at, or none if this version of the machine has no
    /// such step.
    pub fn step(&self) -> Option<M> {
        M::from_name(&self.step)
    }

    /// Returns the result, if the instance is done.
    ///
    /// # Errors
    ///
    /// [`DecodeError`] if the result does not fit the machine's output type.
    pub fn output(&self) -> Result<Option<M::Output>, DecodeError> {
        let decode = |text: &str| value::decode("result", M::NAME, M::VERSION, text);
        self.text.as_deref().map(decode).transpose()
    }
}

/// Prints no result, as it may be confidential.
impl<I: fmt::Debug> fmt::Debug for Snapshot<I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Snapshot")
            .field("id", &self.id)
            .field("machine", &self.machine)
            .field("status", &self.status)
            .field("step", &self.step)
            .field("attempt", &self.attempt)
            .field("failures", &self.failures)
            .field("reason", &self.reason)
            .finish_non_exhaustive()
    }
}
