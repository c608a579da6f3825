//! The lease of a worker: one row of `workers`, renewed for all that the worker has claimed.
//!
//! ```text
//!            renew ok                       not renewed in time
//!   ┌──────────────────────┐        ┌───────────────────────────────┐
//!   ▼                      │        ▼                               │
//! held ──── ttl / 3 ───► renewing   lapsed: no step starts ── renew ok ──► held
//!                                   └── worker gone ──► registered anew: a new id
//! ```
//!
//! Invariant: `may_start` becomes false before the lease can run out by the database's clock. The
//! deadline is counted from before the renewal was sent, and a safety margin is kept.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, Instant},
};

use super::{config::Config, process::process};
use crate::{
    connections::{Connections, within},
    machine::cancel_flag::Deadline,
    storage::{self, Declarations, Kinds},
};

/// The lease of this engine's worker.
#[derive(Debug)]
pub(crate) struct Lease {
    worker: AtomicI64,
    deadline: Arc<Deadline>,
    ttl: Duration,
}

impl Lease {
    /// Creates a lease that the database granted some time after `asked`.
    pub(crate) fn new(worker: i64, asked: Instant, ttl: Duration) -> Self {
        Self { worker: AtomicI64::new(worker), deadline: Arc::new(Deadline::new(asked + ttl)), ttl }
    }

    pub(crate) fn worker(&self) -> i64 {
        self.worker.load(Ordering::Acquire)
    }

    /// True if a step may start now on a row that this worker has claimed. Once the engine has
    /// registered a new worker, no step of the old one starts.
    pub(crate) fn may_start(&self, worker: i64) -> bool {
        self.may_start_at(worker, Instant::now())
    }

    fn may_start_at(&self, worker: i64, now: Instant) -> bool {
        worker == self.worker() && now + self.ttl / 10 < self.deadline()
    }

    /// True if the lease may still hold, so that a commit is worth trying.
    pub(crate) fn may_hold(&self) -> bool {
        self.may_hold_at(Instant::now())
    }

    fn may_hold_at(&self, now: Instant) -> bool {
        now < self.deadline()
    }

    /// Waits until a run of this worker must have ended whose place others get when the lease runs
    /// out: until a twentieth of the lease is left, or the engine has a new worker. It notices
    /// within a tenth of the lease that it has one.
    pub(super) async fn ends(&self, worker: i64) {
        while worker == self.worker() {
            let now = Instant::now();
            let end = self.deadline().checked_sub(self.ttl / 20);
            let Some(end) = end.filter(|end| now < *end) else { return };
            tokio::time::sleep_until(end.min(now + self.ttl / 10).into()).await;
        }
    }

    /// Returns what is left of the lease.
    pub(super) fn left(&self) -> Duration {
        self.deadline().saturating_duration_since(Instant::now())
    }

    fn deadline(&self) -> Instant {
        self.deadline.get()
    }

    /// Returns the deadline itself, which each renewal moves.
    pub(super) fn until(&self) -> &Arc<Deadline> {
        &self.deadline
    }

    /// Notes that the database granted a lease to `worker` some time after `asked`.
    pub(super) fn granted(&self, worker: i64, asked: Instant) {
        self.deadline.set(asked + self.ttl);
        self.worker.store(worker, Ordering::Release);
    }
}

/// Renews the lease, or registers a new worker if the old one was removed. Returns the worker.
pub(super) async fn renew(
    lease: &Lease,
    config: &Config,
    (kinds, declared): (&Kinds, &Declarations),
    connections: &Connections,
) -> Result<i64, sqlx::Error> {
    let (worker, ttl) = (lease.worker(), lease.ttl);
    // A second try, on a new connection, must fit into what is left of the lease.
    let renew_timeout = ttl / 4;
    let mut connection = within(renew_timeout, connections.get()).await?;
    let renewal = async {
        if storage::renew_lease(&mut connection, worker, ttl).await? {
            return Ok(worker);
        }
        let process = process(config, kinds);
        let anew = storage::register_declaring(&mut connection, ttl, &process, declared).await?;
        tracing::warn!(
            worker,
            anew,
            "the worker was removed as lost; registered anew, what it had claimed runs elsewhere"
        );
        Ok(anew)
    };
    let result = within(renew_timeout, renewal).await;
    connection.done(result)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(30);
    /// The time for which steps may start: a tenth less than the lease.
    const STARTS: Duration = Duration::from_secs(27);
    const JUST_BEFORE_STARTS: Duration = Duration::new(26, 999_999_999);
    const JUST_BEFORE_TTL: Duration = Duration::new(29, 999_999_999);

    #[test]
    fn no_step_starts_within_the_margin_and_a_commit_is_tried_to_the_end() {
        let asked = Instant::now();
        let lease = Lease::new(7, asked, TTL);
        assert!(lease.may_start_at(7, asked));
        assert!(lease.may_start_at(7, asked + JUST_BEFORE_STARTS));
        assert!(!lease.may_start_at(7, asked + STARTS));
        assert!(lease.may_hold_at(asked + STARTS));
        assert!(lease.may_hold_at(asked + JUST_BEFORE_TTL));
        assert!(!lease.may_hold_at(asked + TTL));
        assert!(!lease.may_start_at(7, asked + TTL));
    }

    #[test]
    fn a_renewal_counts_from_when_it_was_asked_for() {
        let began = Instant::now();
        let lease = Lease::new(7, began, TTL);
        // This also holds after the lease had lapsed, and however long the answer took.
        let asked = began + TTL * 2;
        assert!(!lease.may_hold_at(asked));
        lease.granted(7, asked);
        assert!(lease.may_start_at(7, asked + JUST_BEFORE_STARTS));
        assert!(!lease.may_start_at(7, asked + STARTS));
        assert!(!lease.may_hold_at(asked + TTL));
    }

    #[test]
    fn what_a_removed_worker_claimed_does_not_start_under_the_new_one() {
        let asked = Instant::now();
        let lease = Lease::new(7, asked, TTL);
        assert!(!lease.may_start_at(8, asked));
        lease.granted(8, asked);
        assert_eq!(lease.worker(), 8);
        assert!(lease.may_start_at(8, asked));
        assert!(!lease.may_start_at(7, asked));
    }
}
