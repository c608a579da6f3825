//! The errors of actions on instances, and of inserts by a machine's name.

use std::fmt;

use super::{DatabaseError, EncodeError};
use crate::status::Status;

/// A look at an instance, or an action on it, was refused. Nothing was done.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OperateError {
    /// There is no such instance.
    #[error(
        "instance {id} does not exist; it was never committed, was deleted, or ended and was pruned"
    )]
    Unknown {
        /// The instance.
        id: i64,
    },
    /// No instance holds the unique key.
    #[error(
        "no instance of machine `{machine}` holds the unique key `{key}`; name an instance that has given its key back by its id"
    )]
    NoHolder {
        /// The machine.
        machine: String,
        /// The unique key.
        key: String,
    },
    /// The instance is of another machine.
    #[error("instance {id} is of machine `{found}`, not `{expected}`")]
    WrongMachine {
        /// The instance.
        id: i64,
        /// The machine that its typed id names.
        expected: String,
        /// The machine of the instance.
        found: String,
    },
    /// The instance has ended before.
    #[error(
        "instance {id} has ended before: it is {status}{}",
        .reason.as_ref().map_or_else(String::new, |reason| format!(" ({reason})"))
    )]
    Ended {
        /// The instance.
        id: i64,
        /// The status with which it has ended.
        status: Status,
        /// Its last error, if it failed or was cancelled.
        reason: Option<String>,
    },
    /// The instance has not ended.
    #[error("instance {id} is {status}, and has not ended: cancel it or kill it first")]
    Live {
        /// The instance.
        id: i64,
        /// Its status.
        status: Status,
    },
    /// The instance runs, or waits for a signal.
    #[error("instance {id} is {status}: only a runnable instance can be made to run now")]
    NotDelayed {
        /// The instance.
        id: i64,
        /// Its status.
        status: Status,
    },
    /// An engine has still something to do for the instance: to report its end, say.
    #[error(
        "instance {id} has ended, and an engine has still to report that or to free its partition key; try again in a second, while an engine runs"
    )]
    Unsettled {
        /// The instance.
        id: i64,
    },
    /// No engine has declared the schedule.
    #[error(
        "no engine has declared the schedule `{schedule}`: check its name, or start a program that declares it"
    )]
    UnknownSchedule {
        /// The name.
        schedule: String,
    },
    /// No engine has declared the limit.
    #[error(
        "no engine has declared the limit `{limit}`: check its name, or start a program that declares it"
    )]
    UnknownLimit {
        /// The name.
        limit: String,
    },
    /// The bounds make no limit.
    #[error("limit `{limit}` cannot be set: {why}")]
    InvalidLimit {
        /// The name.
        limit: String,
        /// The reason why they are refused.
        why: &'static str,
    },
    /// Another instance holds the unique key now.
    #[error(
        "instance {id} cannot go on: {} holds its unique key{}; end that one first",
        .holder.map_or_else(
            || "an instance that was inserted at the same moment".to_owned(),
            |holder| format!("instance {holder}"),
        ),
        .key.as_ref().map_or_else(String::new, |key| format!(" `{key}`"))
    )]
    Taken {
        /// The instance.
        id: i64,
        /// The instance that holds the key. None if it was inserted at the same moment.
        holder: Option<i64>,
        /// The unique key. None if its holder was inserted at the same moment.
        key: Option<String>,
    },
    /// The instance is of another version than the given step or state.
    #[error(
        "instance {id} is of version {found}, and the step or the state is of version {given}: give both, or neither"
    )]
    WrongVersion {
        /// The instance.
        id: i64,
        /// The version of the instance.
        found: u32,
        /// The version of the step or the state.
        given: u32,
    },
    /// The machine has no such step.
    #[error(
        "machine `{machine}`{} has no step `{step}`; it has {steps}",
        .version.map_or_else(String::new, |version| format!(" version {version}"))
    )]
    UnknownStep {
        /// The machine.
        machine: String,
        /// The version of the instance. None if no version that engines have registered has the
        /// step.
        version: Option<u32>,
        /// The step that was asked for.
        step: String,
        /// The steps that it has, separated by commas.
        steps: String,
    },
    /// The end of a pause lies in the past.
    #[error("the pause would end in the past; give a later time, or none")]
    PastEnd,
    /// No engine has served the queue.
    #[error("no engine has served a queue `{queue}`; engines have served {known}")]
    UnknownQueue {
        /// The queue.
        queue: String,
        /// The queues that engines have served, separated by commas.
        known: String,
    },
    /// No engine has registered the machine.
    #[error("no engine has registered a machine `{machine}`; there are {known}")]
    UnknownMachine {
        /// The machine.
        machine: String,
        /// The machines that engines have registered, separated by commas.
        known: String,
    },
    /// The history does not have the entry.
    #[error(
        "the history of instance {id} has no entry {entry}: it belongs to another instance, was deleted, or is older than the history's retention"
    )]
    NoEntry {
        /// The instance.
        id: i64,
        /// The entry.
        entry: i64,
    },
    /// The instance ended with this entry of its history.
    #[error(
        "instance {id} ended with entry {entry} of its history, so there is no step to go on from; fork from an earlier entry"
    )]
    EndedThere {
        /// The instance.
        id: i64,
        /// The entry.
        entry: i64,
    },
    /// The history has no state for this entry.
    #[error(
        "entry {entry} of the history of instance {id} has no state; a machine with `history = \"states\"` records states"
    )]
    NoState {
        /// The instance.
        id: i64,
        /// The entry.
        entry: i64,
    },
    /// A name, a reason, a key or a state cannot be stored.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// The database failed.
    #[error(transparent)]
    Database(#[from] DatabaseError),
}

/// An instance of a machine that was given by name could not be inserted.
///
/// Nothing was inserted, unless the database failed at the commit.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InsertByNameError {
    /// Another instance holds the unique key.
    #[error(
        "{} holds the unique key already",
        .id.as_ref().map_or_else(
            || format!("another instance of machine `{machine}`"),
            |id| format!("instance {id} of machine `{machine}`"),
        )
    )]
    Duplicate {
        /// The machine.
        machine: String,
        /// The instance that holds the key, unless it gave the key back at the same moment.
        id: Option<i64>,
    },
    /// The database knows no such machine, version, step or receiver.
    #[error("{reason}{}", Hint(.hint.as_ref()))]
    Unknown {
        /// The reason, as the database states it.
        reason: String,
        /// The text in which the database names what there is.
        hint: Option<String>,
    },
    /// A value is not allowed.
    #[error("{reason}{}", Hint(.hint.as_ref()))]
    Refused {
        /// The reason, as the database states it.
        reason: String,
        /// The text in which the database says what is allowed.
        hint: Option<String>,
    },
    /// A value cannot be stored.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// The database failed.
    #[error(transparent)]
    Database(DatabaseError),
}

impl InsertByNameError {
    /// Tells what the function has refused from other errors of the database.
    pub(crate) fn of(error: DatabaseError) -> Self {
        let is_unknown = match error.sqlstate() {
            // `undefined_object` and `no_data_found`.
            Some("42704" | "P0002") => true,
            // `invalid_parameter_value`.
            Some("22023") => false,
            _ => return Self::Database(error),
        };
        match error.said() {
            Some((reason, hint)) if is_unknown => Self::Unknown { reason, hint },
            Some((reason, hint)) => Self::Refused { reason, hint },
            None => Self::Database(error),
        }
    }
}

/// The database's hint, as a part of a message.
struct Hint<'a>(Option<&'a String>);

impl fmt::Display for Hint<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(hint) = self.0 else { return Ok(()) };
        let mut letters = hint.trim_end_matches('.').chars();
        let first = letters.next().map(|first| first.to_ascii_lowercase());
        write!(f, "; {}{}", first.map(String::from).unwrap_or_default(), letters.as_str())
    }
}
