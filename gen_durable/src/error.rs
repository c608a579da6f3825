//! Errors: of steps, of values that cannot be stored or read, of calls, of start.
//!
//! Invariant: a message names its subject and says what to do. Nothing of a state, a result or a payload is in it, nor in
//! what `Debug` prints; what a user's own error says is passed on.

use std::{error::Error as StdError, fmt, sync::Arc, time::Duration};

use crate::{insert::Status, outcome::Outcome};

/// What a step returns if it can fail.
pub type StepResult<M> = Result<Outcome<M>, StepError>;

type Boxed = Box<dyn StdError + Send + Sync>;

/// Why a step failed; what a machine's `handle` is given.
///
/// Made by `?` from any error that is `Send + Sync + 'static`. It does not implement
/// [`std::error::Error`] itself, as that would exclude this conversion.
pub struct StepError {
    kind: StepErrorKind,
    source: Boxed,
}

/// The kinds of [`StepError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StepErrorKind {
    /// The step returned an error.
    Failed,
    /// The step panicked.
    Panicked,
    /// The step ran longer than its timeout, or the machine's, and was dropped.
    TimedOut,
    /// What the step returned cannot be stored: its state, its result, or a message it sends.
    Rejected,
    /// A stored payload no longer decodes. It does not reach `handle`: the instance fails and
    /// its stored data stays as it was.
    Undecodable,
}

impl StepError {
    /// An error from a boxed one, which keeps its type for
    /// [`downcast_ref`](Self::downcast_ref).
    pub fn from_boxed(error: impl Into<Boxed>) -> Self {
        // A `StepError` may have been boxed on its way through `Into<Box<dyn Error>>`.
        let error: Boxed = error.into();
        match error.downcast::<Passed>() {
            Ok(passed) => passed.0,
            Err(source) => {
                let kind = if source.is::<DecodeError>() {
                    StepErrorKind::Undecodable
                } else {
                    StepErrorKind::Failed
                };
                Self { kind, source }
            }
        }
    }

    pub(crate) fn panicked(payload: &(dyn std::any::Any + Send)) -> Self {
        let message = payload
            .downcast_ref::<&str>()
            .map(|text| (*text).to_owned())
            .or_else(|| payload.downcast_ref::<String>().cloned())
            .unwrap_or_else(|| "a value that is not text".to_owned());
        Self { kind: StepErrorKind::Panicked, source: format!("panicked: {message}").into() }
    }

    pub(crate) fn timed_out(limit: Duration) -> Self {
        let source = format!("ran longer than its timeout of {limit:?}").into();
        Self { kind: StepErrorKind::TimedOut, source }
    }

    pub(crate) fn rejected(source: impl Into<Boxed>) -> Self {
        Self { kind: StepErrorKind::Rejected, source: source.into() }
    }

    /// What kind of failure it was.
    pub fn kind(&self) -> StepErrorKind {
        self.kind
    }

    /// The error that the step returned, if it is of this type.
    pub fn downcast_ref<E: StdError + 'static>(&self) -> Option<&E> {
        self.source.downcast_ref()
    }

    /// The error that the step returned.
    pub fn source(&self) -> &(dyn StdError + Send + Sync + 'static) {
        &*self.source
    }
}

impl<E: StdError + Send + Sync + 'static> From<E> for StepError {
    fn from(error: E) -> Self {
        Self::from_boxed(error)
    }
}

/// The error with all its causes, on one line: it becomes the instance's `last_error`.
impl fmt::Display for StepError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        with_causes(&*self.source, f)
    }
}

fn with_causes(error: &dyn StdError, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    write!(f, "{error}")?;
    let mut cause = error.source();
    while let Some(error) = cause {
        write!(f, ": {error}")?;
        cause = error.source();
    }
    Ok(())
}

impl fmt::Debug for StepError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut printed = f.debug_struct("StepError");
        printed.field("kind", &self.kind);
        match self.source.downcast_ref::<sqlx::Error>() {
            // Its `Debug` prints Postgres's details, and those a whole row.
            Some(error) => printed.field("source", &format_args!("{error}")),
            None => printed.field("source", &self.source),
        };
        printed.finish()
    }
}

/// A `StepError` as a standard error, so that it passes through `Into<Box<dyn Error>>` whole.
#[derive(Debug)]
struct Passed(StepError);

impl fmt::Display for Passed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl StdError for Passed {}

impl From<StepError> for Boxed {
    fn from(error: StepError) -> Self {
        Box::new(Passed(error))
    }
}

/// Why an instance of an older version cannot be upgraded; see [`Upgrade`](crate::Upgrade).
///
/// Made by `?` from any error and from a text. It does not implement [`std::error::Error`] itself, as that would exclude
/// this conversion.
///
/// ```
/// use gen_durable::UpgradeError;
///
/// fn plan(code: &str) -> Result<u8, UpgradeError> {
///     if code.is_empty() {
///         return Err("the plan has no code".into());
///     }
///     Ok(code.parse()?)
/// }
///
/// assert_eq!(plan("").unwrap_err().to_string(), "the plan has no code");
/// assert_eq!(plan("x").unwrap_err().to_string(), "invalid digit found in string");
/// ```
pub struct UpgradeError {
    source: Boxed,
}

impl<E: Into<Boxed>> From<E> for UpgradeError {
    fn from(error: E) -> Self {
        Self { source: error.into() }
    }
}

/// The error with all its causes, on one line: it is part of the instance's `last_error`.
impl fmt::Display for UpgradeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        with_causes(&*self.source, f)
    }
}

impl fmt::Debug for UpgradeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UpgradeError").field("source", &self.source).finish()
    }
}

/// A stored value does not fit the type that reads it.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
#[error(
    "{what} does not decode at field `{field}` in machine `{machine}` version {version}: {reason}; \
     make the field optional or raise the machine's version"
)]
pub struct DecodeError {
    /// What was read: the state, a result, or the payload of a signal.
    pub what: String,
    /// The machine.
    pub machine: &'static str,
    /// The machine's version.
    pub version: u32,
    /// The path to the field.
    pub field: String,
    /// What is wrong with it.
    pub reason: String,
}

/// A value or a key cannot be stored.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum EncodeError {
    /// Its `Serialize` failed.
    #[error("{what} cannot be serialised: {reason}")]
    Serialize {
        /// What was encoded.
        what: &'static str,
        /// Why not.
        reason: String,
    },
    /// It is larger than the limit.
    #[error(
        "{what} has {bytes} bytes, over the limit of {max}; store large data elsewhere and keep a reference"
    )]
    TooLarge {
        /// What was encoded.
        what: &'static str,
        /// Its size in bytes.
        bytes: usize,
        /// The limit in bytes.
        max: usize,
    },
    /// A float in it is NaN or infinite: JSON has no such number.
    #[error(
        "{what} holds NaN or an infinity at field `{field}`, which JSON cannot hold; store an `Option` or a text instead"
    )]
    NotFinite {
        /// What was encoded.
        what: &'static str,
        /// The path to the field.
        field: String,
    },
    /// Its own type cannot read what it has written.
    #[error(
        "{what} could not be read back at field `{field}`: {reason}; \
         change how the field is serialised, so that its type reads what it writes"
    )]
    Unreadable {
        /// What was encoded.
        what: &'static str,
        /// The path to the field.
        field: String,
        /// What the reader said.
        reason: String,
    },
    /// It is raw JSON text that holds half of a surrogate pair.
    #[error(
        "{what} holds half of a surrogate pair (\\ud800 to \\udfff), which is no character; write the whole pair"
    )]
    Surrogate {
        /// What was encoded.
        what: &'static str,
    },
    /// It holds a NUL character, which Postgres cannot store in text or `jsonb`.
    #[error(
        "{what} holds a NUL character (\\u0000), which Postgres cannot store; remove it or encode the bytes"
    )]
    Nul {
        /// What was encoded.
        what: &'static str,
    },
    /// It nests deeper than it could be read back.
    #[error("{what} nests deeper than {max} levels, so it could not be read back; flatten it")]
    TooDeep {
        /// What was encoded.
        what: &'static str,
        /// The limit in levels.
        max: usize,
    },
    /// `unique_while` leaves out the status in which an instance begins.
    #[error("unique_while must include Status::Runnable, in which an instance begins")]
    UniqueScope,
}

/// The database failed.
///
/// Its `Debug` output leaves out Postgres's details, which may hold a whole row; they are in its `source`.
#[derive(Clone, thiserror::Error)]
#[error("could not {operation}")]
pub struct DatabaseError {
    /// What was tried.
    pub operation: &'static str,
    /// What the driver said; calls that shared a commit share its failure.
    pub source: Arc<sqlx::Error>,
}

impl fmt::Debug for DatabaseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DatabaseError")
            .field("operation", &self.operation)
            .field("source", &format_args!("{}", self.source))
            .finish()
    }
}

impl DatabaseError {
    pub(crate) fn new(operation: &'static str) -> impl FnOnce(sqlx::Error) -> Self {
        move |source| Self { operation, source: Arc::new(source) }
    }
}

/// The unique key of a new instance is taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[error("instance {id} of machine `{machine}` holds the unique key already")]
pub struct Duplicate {
    /// The machine.
    pub machine: &'static str,
    /// The instance that holds the key.
    pub id: i64,
}

/// An insert failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InsertError {
    /// The unique key is taken.
    #[error(transparent)]
    Duplicate(#[from] Duplicate),
    /// The state or an option cannot be stored.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// The database failed.
    #[error(transparent)]
    Database(#[from] DatabaseError),
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
        /// Its `last_error`.
        reason: String,
    },
    /// It did not end in time; it may still do so.
    #[error("instance {id} did not end within {timeout:?}; it may still do so")]
    TimedOut {
        /// The instance.
        id: i64,
        /// How long was waited.
        timeout: Duration,
    },
    /// There is no such instance, or it was pruned.
    #[error("instance {id} does not exist; it was never committed, or it ended and was pruned")]
    Unknown {
        /// The instance.
        id: i64,
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
    /// The result does not fit the machine's output type.
    #[error(transparent)]
    Decode(#[from] DecodeError),
}

/// The engine did not start, or did not stop cleanly.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The database has no schema of `gen_durable`'s, or an older one.
    #[error(
        "the database has gen_durable schema version {found}, and this engine needs {needed}; \
         run `gen-durable-migrate up` or call `gen_durable_migrate::up(&pool)`"
    )]
    SchemaTooOld {
        /// The version found; 0 if there is none.
        found: i32,
        /// The version needed.
        needed: i32,
    },
    /// The database has a newer schema than this engine knows.
    #[error(
        "the database has gen_durable schema version {found}, and this engine knows {needed}; \
         use a newer gen_durable, or run `gen-durable-migrate down --to {needed}` with the newer program"
    )]
    SchemaTooNew {
        /// The version found.
        found: i32,
        /// The version needed.
        needed: i32,
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
    Thread(#[source] std::io::Error),
    /// An option of the engine or of a machine does not make sense.
    #[error("{option}: {reason}")]
    InvalidOption {
        /// The option.
        option: String,
        /// What is wrong and what to do.
        reason: String,
    },
    /// The database failed.
    #[error(transparent)]
    Database(#[from] DatabaseError),
}
