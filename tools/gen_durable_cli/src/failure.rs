//! Failures: one line for people, and an exit code for scripts.
//!
//! Invariant: the exit codes are those that the help lists.

use std::io::{self, Write};

use gen_durable::{
    DatabaseError, FindError, SignalError, WaitError,
    operate::{InsertByNameError, OperateError},
};

use crate::print::plain;

/// The text of `gen-durable --help` on exit codes.
pub(crate) const EXIT_CODES: &str = "\
Exit codes:
  0    the command did what it was to do
  1    it failed, or `doctor` found a warning or an error
  2    the arguments are wrong
  3    there is no such instance, machine, queue, limit or schedule
  4    the instance or the database does not allow it, as things stand
  5    the awaited instance has failed or was cancelled
  6    the database cannot be reached, or it refuses the login
  124  the awaited instance did not end in time
  130  the command was interrupted, or not confirmed
  141  the reader of the output is gone";

/// A kind of failure, which has an exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Failed,
    Usage,
    NotFound,
    Refused,
    Ended,
    NoConnection,
    TimedOut,
    Interrupted,
    BrokenPipe,
}

impl Kind {
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Failed => 1,
            Self::Usage => 2,
            Self::NotFound => 3,
            Self::Refused => 4,
            Self::Ended => 5,
            Self::NoConnection => 6,
            Self::TimedOut => 124,
            // A shell reports a process that ended by a signal as 128 and the signal's number.
            Self::Interrupted => 130,
            Self::BrokenPipe => 141,
        }
    }
}

/// The failure of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) kind: Kind,
    /// The line that people read. It is empty if everything has been said.
    pub(crate) text: String,
}

impl Failure {
    pub(crate) fn new(kind: Kind, text: impl Into<String>) -> Self {
        Self { kind, text: text.into() }
    }

    pub(crate) fn usage(text: impl Into<String>) -> Self {
        Self::new(Kind::Usage, text)
    }

    pub(crate) fn not_found(text: impl Into<String>) -> Self {
        Self::new(Kind::NotFound, text)
    }

    /// A failure of which everything has been said.
    pub(crate) fn silent(kind: Kind) -> Self {
        Self::new(kind, "")
    }

    /// Prints the line on standard error.
    pub(crate) fn tell(&self) {
        if !self.text.is_empty() {
            // Nobody reads it if standard error is gone.
            let _ = writeln!(io::stderr(), "error: {}", plain(&self.text));
        }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::silent(Kind::BrokenPipe),
            _ => Self::new(Kind::Failed, format!("could not print: {error}")),
        }
    }
}

impl From<DatabaseError> for Failure {
    fn from(error: DatabaseError) -> Self {
        let io = error.driver_error().downcast_ref::<sqlx::Error>();
        let unreachable = matches!(
            io,
            Some(sqlx::Error::Io(_) | sqlx::Error::Tls(_) | sqlx::Error::PoolTimedOut)
        );
        let refused = error.sqlstate().is_some_and(|state| state.starts_with("28"));
        let kind = if unreachable || refused {
            Kind::NoConnection
        } else if error.sqlstate() == Some("42501") {
            Kind::Refused
        } else {
            Kind::Failed
        };
        Self::new(kind, error.to_string())
    }
}

impl From<gen_durable_migrate::Error> for Failure {
    fn from(error: gen_durable_migrate::Error) -> Self {
        let kind = match error {
            gen_durable_migrate::Error::Database { .. } => Kind::Failed,
            _ => Kind::Refused,
        };
        Self::new(kind, error.to_string())
    }
}

impl From<OperateError> for Failure {
    fn from(error: OperateError) -> Self {
        let kind = match error {
            OperateError::Database(error) => return error.into(),
            OperateError::Unknown { .. }
            | OperateError::NoHolder { .. }
            | OperateError::UnknownSchedule { .. }
            | OperateError::UnknownLimit { .. }
            | OperateError::UnknownQueue { .. }
            | OperateError::UnknownMachine { .. }
            | OperateError::UnknownStep { .. }
            | OperateError::NoEntry { .. } => Kind::NotFound,
            _ => Kind::Refused,
        };
        Self::new(kind, error.to_string())
    }
}

impl From<FindError> for Failure {
    fn from(error: FindError) -> Self {
        match error {
            FindError::Database(error) => error.into(),
            error => Self::new(Kind::Refused, error.to_string()),
        }
    }
}

impl From<InsertByNameError> for Failure {
    fn from(error: InsertByNameError) -> Self {
        match error {
            InsertByNameError::Database(error) => error.into(),
            error @ InsertByNameError::Unknown { .. } => Self::not_found(error.to_string()),
            error => Self::new(Kind::Refused, error.to_string()),
        }
    }
}

impl From<SignalError> for Failure {
    fn from(error: SignalError) -> Self {
        match error {
            SignalError::Database(error) => error.into(),
            SignalError::Unknown { .. } | SignalError::NoHolder { .. } => {
                Self::not_found(error.to_string())
            }
            error => Self::new(Kind::Refused, error.to_string()),
        }
    }
}

impl From<WaitError> for Failure {
    fn from(error: WaitError) -> Self {
        let kind = match error {
            WaitError::Database(error) => return error.into(),
            WaitError::Failed { .. } | WaitError::Cancelled { .. } => Kind::Ended,
            WaitError::TimedOut { .. } => Kind::TimedOut,
            WaitError::Unknown { .. } | WaitError::NoHolder { .. } => Kind::NotFound,
            _ => Kind::Refused,
        };
        Self::new(kind, error.to_string())
    }
}
