//! Rows that another transaction has locked: how long a statement waits for them.
//!
//! Invariant: batches that share a [`LockedRows`] do not wait again and again for the same row.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// The time for which batches skip locked rows after one row stayed locked.
const SKIPS_FOR: Duration = Duration::from_secs(1);

/// The way in which a statement treats a row or a key that another transaction has locked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Locked {
    /// It waits for as long as the lock timeout of its transaction, which may be the caller's.
    Wait,
    /// It waits for a second at most.
    WaitASecond,
    /// It waits for as long as most transactions hold a lock: the time of a few commits.
    WaitAMoment,
    /// It leaves the row out, because others in its batch must not wait.
    Skip,
}

impl Locked {
    /// Returns the lock timeout, as Postgres's setting takes it. None keeps the transaction's own.
    pub(super) fn timeout(self) -> Option<&'static str> {
        match self {
            Self::Wait => None,
            Self::WaitASecond => Some("1s"),
            // An insert cannot skip a unique key that another transaction is inserting. It learns
            // of that only by a wait that takes long.
            Self::WaitAMoment | Self::Skip => Some("20ms"),
        }
    }
}

/// The memory of a flusher, or of the signals of a runtime: whether a batch lately met a row that
/// another transaction had locked.
#[derive(Debug, Default)]
pub(crate) struct LockedRows {
    skip_until: Mutex<Option<Instant>>,
}

impl LockedRows {
    /// Returns how the next batch treats locked rows. Most are free within 20 ms, so it waits for
    /// that long. After a row was not, batches skip locked rows for [`SKIPS_FOR`]. Further calls
    /// may need that row, and the other calls must not wait for it each time.
    pub(crate) fn treatment(&self) -> Locked {
        let until = *self.skip_until.lock().unwrap_or_else(PoisonError::into_inner);
        match until {
            Some(until) if Instant::now() < until => Locked::Skip,
            _ => Locked::WaitAMoment,
        }
    }

    /// Notes that a row stayed locked.
    pub(crate) fn found(&self) {
        let until = Instant::now() + SKIPS_FOR;
        *self.skip_until.lock().unwrap_or_else(PoisonError::into_inner) = Some(until);
    }
}
