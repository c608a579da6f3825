//! The life cycle of an instance, and the answer to a signal, which depends on it.
//!
//! Invariant: the names of the statuses are those that the table's check allows.

use std::{fmt, str::FromStr};

/// The status of an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Status {
    /// The instance waits for a worker, or for the time from which it may run.
    Runnable,
    /// A worker runs the instance.
    Executing,
    /// The instance is parked until a signal arrives.
    AwaitingSignal,
    /// The instance has ended with a result.
    Done,
    /// The instance has ended with a reason.
    Failed,
    /// The instance has ended because somebody cancelled or killed it.
    Cancelled,
}

impl Status {
    /// The statuses of an instance that has not ended.
    pub const LIVE: &'static [Self] = &[Self::Runnable, Self::Executing, Self::AwaitingSignal];

    /// Every status.
    pub const ALL: &'static [Self] = &[
        Self::Runnable,
        Self::Executing,
        Self::AwaitingSignal,
        Self::Done,
        Self::Failed,
        Self::Cancelled,
    ];

    /// Returns the status as it is stored.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Runnable => "runnable",
            Self::Executing => "executing",
            Self::AwaitingSignal => "awaiting_signal",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// True if the instance has ended.
    pub const fn is_terminal(self) -> bool {
        matches!(self, Self::Done | Self::Failed | Self::Cancelled)
    }
}

/// Prints the status as it is stored: `done`.
impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl AsRef<str> for Status {
    fn as_ref(&self) -> &str {
        self.as_str()
    }
}

impl From<Status> for &'static str {
    fn from(status: Status) -> Self {
        status.as_str()
    }
}

/// There is no status of this name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no status `{name}`; the statuses are {}", Status::ALL.iter().map(|status| status.as_str()).collect::<Vec<_>>().join(", "))]
pub struct UnknownStatus {
    name: String,
}

/// Reads the text that [`Display`](fmt::Display) prints.
impl FromStr for Status {
    type Err = UnknownStatus;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL.iter().find(|status| status.as_str() == name);
        found.copied().ok_or_else(|| UnknownStatus { name: name.to_owned() })
    }
}

impl TryFrom<&str> for Status {
    type Error = UnknownStatus;

    fn try_from(name: &str) -> Result<Self, Self::Error> {
        name.parse()
    }
}

/// The answer to a signal that was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Delivery {
    /// The signal is in the inbox. The instance was woken if it waited for the signal.
    Delivered,
    /// The instance has accepted a signal with this deduplication key before. Nothing was done.
    Duplicate,
}

/// The answer to an insert with a signal: what became of the two, and the instance that has the
/// signal.
///
/// [`Insert::with_signal`](crate::Insert::with_signal) has an example.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reached<I> {
    /// No instance held the unique key. This one was inserted, with the signal in its inbox.
    Started(I),
    /// This instance held the unique key, and was sent the signal.
    Signalled(I),
    /// This instance held the unique key, and has accepted a signal with this deduplication key
    /// before. Nothing was done.
    Duplicate(I),
}

impl<I: Copy> Reached<I> {
    /// Returns the instance.
    pub fn id(&self) -> I {
        match self {
            Self::Started(id) | Self::Signalled(id) | Self::Duplicate(id) => *id,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_read_from_what_it_prints() {
        for &status in Status::ALL {
            assert_eq!(status.to_string().parse(), Ok(status));
            assert_eq!(Status::try_from(status.as_ref()), Ok(status));
            assert_eq!(Status::LIVE.contains(&status), !status.is_terminal());
        }
        let error = "Done".parse::<Status>().expect_err("it is written in lower case");
        assert_eq!(
            error.to_string(),
            "there is no status `Done`; the statuses are runnable, executing, awaiting_signal, done, failed, cancelled"
        );
    }
}
