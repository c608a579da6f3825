//! The errors of steps, of values that cannot be stored or read, of calls, and of an engine's
//! start.
//!
//! Invariant: a message names its subject, its cause and what to do. A cause that is in the message
//! is not returned from `source` as well. Neither of them, nor `Debug`, shows anything of a state,
//! a result or a payload. The text of a user's own error is passed on.

pub(crate) mod cause;
mod database;
mod decode;
mod operate;
mod step;

use std::time::Duration;

pub(crate) use self::{cause::Cause, step::Stale};
pub use self::{
    database::DatabaseError,
    decode::DecodeError,
    operate::{InsertByNameError, OperateError},
    step::{StepError, StepErrorKind, UpgradeError},
};
use crate::{id::InstanceId, status::Status};

/// A value or a key cannot be stored.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum EncodeError {
    /// The `Serialize` of the value failed.
    #[error("{what} cannot be serialised: {reason}")]
    Serialize {
        /// The value that was encoded.
        what: &'static str,
        /// The reason.
        reason: String,
    },
    /// The value is larger than the limit.
    #[error(
        "{what} has {bytes} bytes, over the limit of {max}; store large data elsewhere and keep a reference"
    )]
    TooLarge {
        /// The value that was encoded.
        what: &'static str,
        /// Its size in bytes.
        bytes: usize,
        /// The limit in bytes.
        max: usize,
    },
    /// The key or the name is longer than an index can hold.
    #[error("{what} has {bytes} bytes, over the limit of {max}; shorten it, or use a hash of it")]
    TooLong {
        /// The key or the name.
        what: &'static str,
        /// Its length in bytes.
        bytes: usize,
        /// The limit in bytes.
        max: usize,
    },
    /// The key or the name is an empty text. All callers that leave it empty by mistake would share
    /// it.
    #[error("{what} is empty; give it a value, or leave it out")]
    Empty {
        /// The key or the name.
        what: &'static str,
    },
    /// A float in the value is NaN or infinite, and JSON has no such number.
    #[error(
        "{what} holds NaN or an infinity at field `{field}`, which JSON cannot hold; store an `Option` or a text instead"
    )]
    NotFinite {
        /// The value that was encoded.
        what: &'static str,
        /// The path to the field.
        field: String,
    },
    /// The value's own type cannot read what it has written.
    #[error(
        "{what} could not be read back at field `{field}`: {reason}; \
         change how the field is serialised, so that its type reads what it writes"
    )]
    Unreadable {
        /// The value that was encoded.
        what: &'static str,
        /// The path to the field.
        field: String,
        /// The reader's reason.
        reason: String,
    },
    /// The value has raw JSON text that holds half of a surrogate pair.
    #[error(
        "{what} holds half of a surrogate pair (\\ud800 to \\udfff), which is no character; write the whole pair"
    )]
    Surrogate {
        /// The value that was encoded.
        what: &'static str,
    },
    /// The value, the key or the name holds a NUL character, which Postgres cannot store in text or
    /// `jsonb`.
    #[error(
        "{what} holds a NUL character (\\u0000), which Postgres cannot store; remove it or encode the bytes"
    )]
    Nul {
        /// The value, the key or the name.
        what: &'static str,
    },
    /// The value nests deeper than its reader can follow.
    #[error("{what} nests deeper than {max} levels, so it could not be read back; flatten it")]
    TooDeep {
        /// The value that was encoded.
        what: &'static str,
        /// The limit in levels.
        max: usize,
    },
    /// The name of a signal or a deduplication key begins like that of a report
    /// ([`Ended`](crate::Ended)), which only the engine sends.
    #[error(
        "{what} begins with `{prefix}`, as only the names of the engine's reports do; choose another one"
    )]
    Reserved {
        /// The name or the key.
        what: &'static str,
        /// The reserved beginning.
        prefix: &'static str,
    },
    /// An insert names a receiver, and is spawned to report to another one.
    #[error(
        "a spawned insert reports to the instance that spawns it; leave its report_to out, or carry it by `insert`"
    )]
    TwoReceivers,
    /// An insert names the instance that it makes as its own receiver.
    #[error("an instance cannot report to itself; name another receiver in report_to")]
    ReportsToItself,
    /// `with_signal` is called on an insert without a unique key.
    #[error("with_signal needs a unique_key before it, by which it finds the instance to signal")]
    NoUniqueKey,
    /// `unique_while` leaves out the status in which an instance begins.
    #[error("unique_while must include Status::Runnable, in which an instance begins")]
    UniqueScope,
}

/// The unique key of a new instance is taken.
///
/// The id is typed if the machine is known. The answer of an [`Insert`](crate::Insert) has an
/// [`InstanceId`], which can be waited for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[error("instance {id} of machine `{machine}` holds the unique key already")]
pub struct Duplicate<I = i64> {
    /// The machine.
    pub machine: &'static str,
    /// The instance that holds the key.
    pub id: I,
}

impl Duplicate {
    pub(crate) fn typed<M>(self) -> Duplicate<InstanceId<M>> {
        Duplicate { machine: self.machine, id: InstanceId::from_raw(self.id) }
    }
}

impl<M> Duplicate<InstanceId<M>> {
    fn untyped(self) -> Duplicate {
        Duplicate { machine: self.machine, id: self.id.get() }
    }
}

/// An insert failed.
///
/// `I` is the type of the id in a [`Duplicate`]. The operator `?` converts a typed `InsertError`
/// into an untyped one.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InsertError<I = i64> {
    /// The unique key is taken.
    #[error("{0}")]
    Duplicate(Duplicate<I>),
    /// No instance holds the unique key by which [`report_to`](crate::Insert::report_to) names the
    /// receiver.
    #[error(
        "no instance of machine `{machine}` holds the unique key `{key}`, so there is nobody to report to; insert the receiver first, or name it by its id"
    )]
    NoReceiver {
        /// The receiver's machine.
        machine: &'static str,
        /// The unique key.
        key: String,
    },
    /// The state or an option cannot be stored.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// The database failed.
    #[error(transparent)]
    Database(#[from] DatabaseError),
}

impl InsertError {
    pub(crate) fn typed<M>(self) -> InsertError<InstanceId<M>> {
        match self {
            Self::Duplicate(duplicate) => InsertError::Duplicate(duplicate.typed()),
            Self::NoReceiver { machine, key } => InsertError::NoReceiver { machine, key },
            Self::Encode(error) => InsertError::Encode(error),
            Self::Database(error) => InsertError::Database(error),
        }
    }
}

impl<M> From<InsertError<InstanceId<M>>> for InsertError {
    fn from(error: InsertError<InstanceId<M>>) -> Self {
        match error {
            InsertError::Duplicate(duplicate) => Self::Duplicate(duplicate.untyped()),
            InsertError::NoReceiver { machine, key } => Self::NoReceiver { machine, key },
            InsertError::Encode(error) => Self::Encode(error),
            InsertError::Database(error) => Self::Database(error),
        }
    }
}

impl<I> From<Duplicate<I>> for InsertError<I> {
    fn from(duplicate: Duplicate<I>) -> Self {
        Self::Duplicate(duplicate)
    }
}

/// An instance that has ended has no result.
///
/// [`Ended::result`](crate::Ended::result) returns it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EndError {
    /// The instance failed.
    #[error("instance {id} failed: {reason}")]
    Failed {
        /// The instance.
        id: i64,
        /// The instance's `last_error`.
        reason: String,
    },
    /// The instance was cancelled or killed.
    #[error("instance {id} was cancelled: {reason}")]
    Cancelled {
        /// The instance.
        id: i64,
        /// The instance's `last_error`.
        reason: String,
    },
    /// The instance was not inserted, as its unique key was taken.
    #[error("it was not inserted, as instance {holder} holds the unique key `{key}`")]
    Taken {
        /// The unique key.
        key: String,
        /// The instance that held it.
        holder: i64,
    },
    /// The result does not fit the machine's output type.
    #[error(transparent)]
    Decode(#[from] DecodeError),
}

/// A signal was not accepted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SignalError {
    /// There is no such instance, or it was pruned.
    #[error("instance {id} does not exist; it was never committed, or it ended and was pruned")]
    Unknown {
        /// The instance.
        id: i64,
    },
    /// No instance holds the unique key.
    #[error(
        "no instance of machine `{machine}` holds the unique key `{key}`; it was never committed, or it has given the key back"
    )]
    NoHolder {
        /// The machine.
        machine: String,
        /// The unique key.
        key: String,
    },
    /// The instance has ended.
    #[error("instance {id} is {status} and takes no more signals")]
    Terminal {
        /// The instance.
        id: i64,
        /// Its status.
        status: Status,
    },
    /// The instance is of another machine.
    #[error("instance {id} is of machine `{found}`, not `{expected}`")]
    WrongMachine {
        /// The instance.
        id: i64,
        /// The machine that the signal was meant for.
        expected: String,
        /// The machine of the instance.
        found: String,
    },
    /// The payload or the key cannot be stored.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// The database failed.
    #[error(transparent)]
    Database(#[from] DatabaseError),
}

/// Waiting for a result ended without one.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WaitError {
    /// The instance failed.
    #[error("instance {id} failed: {reason}")]
    Failed {
        /// The instance.
        id: i64,
        /// The instance's `last_error`.
        reason: String,
    },
    /// The instance was cancelled or killed.
    #[error("instance {id} was cancelled: {reason}")]
    Cancelled {
        /// The instance.
        id: i64,
        /// The instance's `last_error`: the reason of the cancel, unless the machine's answer has
        /// failed.
        reason: String,
    },
    /// The instance did not end in time. It may still do so.
    #[error(
        "instance {id} did not end within {timeout:?}; it may still do so{}",
        .obstacle.as_ref().map_or_else(String::new, |error| format!("; {error}"))
    )]
    TimedOut {
        /// The instance.
        id: i64,
        /// The time for which the call waited.
        timeout: Duration,
        /// The last error that kept the call from looking for the instance, if there was one.
        obstacle: Option<DatabaseError>,
    },
    /// There is no such instance, or it was pruned.
    #[error("instance {id} does not exist; it was never committed, or it ended and was pruned")]
    Unknown {
        /// The instance.
        id: i64,
    },
    /// No instance holds the unique key.
    #[error(
        "no instance of machine `{machine}` holds the unique key `{key}`; it was never committed, or it has given the key back"
    )]
    NoHolder {
        /// The machine.
        machine: &'static str,
        /// The unique key.
        key: String,
    },
    /// The instance is of another machine.
    #[error("instance {id} is of machine `{found}`, not `{expected}`")]
    WrongMachine {
        /// The instance.
        id: i64,
        /// The machine whose result was awaited.
        expected: &'static str,
        /// The machine of the instance.
        found: String,
    },
    /// The text cannot be a unique key.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// The result does not fit the machine's output type.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// The database failed in a way that no waiting mends, the pool is closed, or the engine was
    /// shut down. Or the holder of a unique key could not be looked up in time.
    #[error(transparent)]
    Database(#[from] DatabaseError),
}

/// Looking an instance up failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FindError {
    /// The instance is of another machine.
    #[error("instance {id} is of machine `{found}`, not `{expected}`")]
    WrongMachine {
        /// The instance.
        id: i64,
        /// The machine that its typed id names.
        expected: &'static str,
        /// The machine of the instance.
        found: String,
    },
    /// The text cannot be a unique key.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// The database failed.
    #[error(transparent)]
    Database(#[from] DatabaseError),
}

/// The engine did not start, or did not stop cleanly.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The database has no schema of `gen_durable`'s, or an older one.
    #[error(
        "the database has gen_durable schema version {found}, and this engine needs {needed}; \
         run `gen-durable migrate up` or call `gen_durable_migrate::up(&pool)`"
    )]
    SchemaTooOld {
        /// The version found; 0 if there is none.
        found: i32,
        /// The version needed.
        needed: i32,
    },
    /// The database has a newer schema, which does not serve this engine any more.
    #[error(
        "the database has gen_durable schema version {found}, which serves engines from version {serves} on, \
         and this engine knows {needed}; use a newer gen_durable, or run `gen-durable migrate down --to {needed}` \
         with the newer program"
    )]
    SchemaTooNew {
        /// The version found.
        found: i32,
        /// The oldest engine that the schema serves, by the version that such an engine needs.
        serves: i32,
        /// The version that this engine needs.
        needed: i32,
    },
    /// The database has a schema `gen_durable` that is not this crate's.
    #[error(
        "the schema `gen_durable` is somebody else's, as its table `migrations` is none of ours ({cause}); \
         rename it, or use another database"
    )]
    ForeignSchema {
        /// The answer of the database.
        cause: DatabaseError,
    },
    /// A step takes a resource that the engine was not given.
    #[error(
        "step `{step}` of machine `{machine}` takes a `&{resource}`, which the engine was not given; \
         add `.resource(…)` with a `{resource}`"
    )]
    MissingResource {
        /// The machine.
        machine: &'static str,
        /// The step.
        step: &'static str,
        /// The resource's type.
        resource: &'static str,
    },
    /// The engine was given two resources of one type, so a step could be given either.
    #[error(
        "two resources are of type `{resource}`; leave one out, or give it a type of its own: `struct Other({resource})`"
    )]
    DuplicateResource {
        /// The resources' type.
        resource: &'static str,
    },
    /// Two machines have one name and version.
    #[error(
        "two machines are called `{machine}` version {version}; give one of them another `name` or `version`"
    )]
    DuplicateMachine {
        /// The name.
        machine: &'static str,
        /// The version.
        version: u32,
    },
    /// The thread that keeps the worker's lease did not start.
    #[error("could not start the thread that keeps the worker's lease: {0}")]
    Thread(std::io::Error),
    /// An option of the engine or of a machine does not make sense.
    #[error("{option}: {reason}")]
    InvalidOption {
        /// The option.
        option: String,
        /// The reason, and what to do.
        reason: String,
    },
    /// The database failed.
    #[error(transparent)]
    Database(#[from] DatabaseError),
}
