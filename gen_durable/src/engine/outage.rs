//! Waits out a database that cannot be reached, with growing pauses and one line in the log per
//! outage.
//!
//! Invariant: the first failure of an outage is a warning, and further ones are debug events. The
//! recovery is logged once.

use std::time::Duration;

use crate::{
    backoff::{Backoff, jittered},
    error::Cause,
    meters,
};

/// The first and the longest pause before the next try.
const PAUSE_MIN: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// The failures in a row of one activity.
#[derive(Debug)]
pub(crate) struct Outage {
    activity: &'static str,
    failures: u32,
    backoff: Backoff,
}

impl Outage {
    pub(crate) fn new(activity: &'static str) -> Self {
        Self { activity, failures: 0, backoff: Backoff::new(PAUSE_MIN, PAUSE_MAX) }
    }

    /// Records a failure, and returns the pause before the next try.
    pub(crate) fn failed(&mut self, error: &sqlx::Error) -> Duration {
        let error = Cause(error);
        if self.failures == 0 {
            tracing::warn!(%error, "could not {}; trying again until it works", self.activity);
        } else {
            tracing::debug!(%error, failures = self.failures, "still could not {}", self.activity);
        }
        meters::retries(self.activity);
        self.failures = self.failures.saturating_add(1);
        jittered(self.backoff.pause())
    }

    /// Records that the activity works.
    pub(crate) fn over(&mut self) {
        if self.failures > 0 {
            tracing::info!(failures = self.failures, "could {} again", self.activity);
            self.failures = 0;
            self.backoff.reset();
        }
    }
}

/// Makes any reason for a missing connection an error of the connection. It is not a statement's
/// fault, and may pass: a login is refused, say, while a password is changed.
pub(super) fn no_connection(error: sqlx::Error) -> sqlx::Error {
    match error {
        error @ (sqlx::Error::Protocol(_) | sqlx::Error::PoolTimedOut) => error,
        error => sqlx::Error::Protocol(format!("no connection: {}", Cause(&error))),
    }
}
