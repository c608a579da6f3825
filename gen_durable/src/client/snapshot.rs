//! A look at an instance: its status, its step, its result.
//!
//! Invariant: a typed id finds an instance of its machine alone.

use std::fmt;

use crate::{
    error::{DecodeError, FindError},
    id::InstanceId,
    machine::{
        Machine,
        address::{Address, InstanceKey},
    },
    status::Status,
    storage::Ended,
    value,
};

/// An instance's id, typed or a plain number, or the unique key that it holds.
pub trait AnyId: sealed::Sealed {
    /// The id in the answer.
    type Id;

    /// Returns the id or the unique key.
    #[doc(hidden)]
    fn into_raw(self) -> Result<i64, String>;

    /// Makes the id of the answer.
    #[doc(hidden)]
    fn id(raw: i64) -> Self::Id;

    /// The machine that the instance must be of.
    #[doc(hidden)]
    fn machine() -> Option<&'static str>;
}

mod sealed {
    pub trait Sealed {}
}

impl sealed::Sealed for i64 {}
impl AnyId for i64 {
    type Id = Self;

    fn into_raw(self) -> Result<Self, String> {
        Ok(self)
    }

    fn id(raw: i64) -> Self {
        raw
    }

    fn machine() -> Option<&'static str> {
        None
    }
}

impl<M: Machine> sealed::Sealed for InstanceId<M> {}
impl<M: Machine> AnyId for InstanceId<M> {
    type Id = Self;

    fn into_raw(self) -> Result<i64, String> {
        Address::<M>::into_raw(self)
    }

    fn id(raw: i64) -> Self {
        Self::from_raw(raw)
    }

    fn machine() -> Option<&'static str> {
        Some(M::NAME)
    }
}

impl<M: Machine> sealed::Sealed for InstanceKey<M> {}
impl<M: Machine> AnyId for InstanceKey<M> {
    type Id = InstanceId<M>;

    fn into_raw(self) -> Result<i64, String> {
        Address::<M>::into_raw(self)
    }

    fn id(raw: i64) -> InstanceId<M> {
        InstanceId::from_raw(raw)
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

impl<I> Snapshot<I> {
    pub(super) fn of<A: AnyId<Id = I>>(
        id: i64,
        found: Vec<Ended>,
    ) -> Result<Option<Self>, FindError> {
        let Some(ended) = found.into_iter().next() else { return Ok(None) };
        if let Some(expected) = A::machine()
            && ended.fsm != expected
        {
            return Err(FindError::WrongMachine { id: ended.id, expected, found: ended.fsm });
        }
        // The table's check allows no other status.
        let Ok(status) = ended.status.parse() else { return Ok(None) };
        Ok(Some(Self {
            id: A::id(id),
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
