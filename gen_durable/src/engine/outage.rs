//! Waiting out a database that cannot be reached: backoff, and one line in the log per outage.
//!
//! Invariant: the first failure of an outage is a warning, further ones are debug events, and the
//! recovery is announced once.

use std::time::Duration;

use crate::{backoff::jittered, error::Cause};

const PAUSE_MIN: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// The failures in a row of one activity.
#[derive(Debug)]
pub(crate) struct Outage {
    activity: &'static str,
    failures: u32,
}

impl Outage {
    pub(crate) fn new(activity: &'static str) -> Self {
        Self { activity, failures: 0 }
    }

    /// Records a failure; how long to wait before the next try.
    pub(crate) fn failed(&mut self, error: &sqlx::Error) -> Duration {
        let error = Cause(error);
        if self.failures == 0 {
            tracing::warn!(%error, "could not {}; trying again until it works", self.activity);
        } else {
            tracing::debug!(%error, failures = self.failures, "still could not {}", self.activity);
        }
        let pause = PAUSE_MIN.saturating_mul(1 << self.failures.min(10)).min(PAUSE_MAX);
        self.failures = self.failures.saturating_add(1);
        jittered(pause)
    }

    /// Records that it works.
    pub(crate) fn over(&mut self) {
        if self.failures > 0 {
            tracing::info!(failures = self.failures, "could {} again", self.activity);
            self.failures = 0;
        }
    }
}

/// Whatever the reason that there is no connection (a login that is refused, say, while a password is changed), it
/// is no statement's, and may pass.
pub(super) fn no_connection(error: sqlx::Error) -> sqlx::Error {
    match error {
        error @ (sqlx::Error::Protocol(_) | sqlx::Error::PoolTimedOut) => error,
        error => sqlx::Error::Protocol(format!("no connection: {}", Cause(&error))),
    }
}
