//! The claim lock of each queue: one claim of a queue runs at a time, over all processes.
//!
//! ```text
//!   with the lock ──refused──► asking, with growing pauses ──for WAIT_MAX──► without the lock
//!      ▲                            │                                             │
//!      └────────── lock taken ──────┴─────────────────────────────────────────────┘
//! ```
//!
//! Invariant: a process that is refused the lock for [`WAIT_MAX`] claims without it. A process that
//! keeps the lock, because it was stopped in the middle of a claim perhaps, holds the others up for
//! no longer.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use crate::backoff::{Backoff, jittered};

/// The first and the longest pause between two tries for the lock. Each try costs a statement that
/// finds nothing.
const PAUSE_MIN: Duration = Duration::from_millis(2);
const PAUSE_MAX: Duration = Duration::from_millis(16);
/// The time of refusals after which a process claims without the lock. It is far longer than a
/// claim takes on a busy machine: many processes that claim without the lock make claims slow.
const WAIT_MAX: Duration = Duration::from_secs(1);

/// The queues whose claim lock was refused to this process, until it has the lock.
#[derive(Debug, Default)]
pub(super) struct ClaimLocks {
    refused: HashMap<String, Refused>,
}

#[derive(Debug)]
struct Refused {
    since: Instant,
    /// The queue is not asked for before this time.
    until: Instant,
    backoff: Backoff,
}

impl Refused {
    /// True if the queue is claimed without its lock from now on, until the lock is taken again.
    fn waited_out(&self, now: Instant) -> bool {
        now >= self.since + WAIT_MAX
    }

    fn paused(&self, now: Instant) -> bool {
        now < self.until && !self.waited_out(now)
    }
}

impl ClaimLocks {
    /// True if this queue is to be claimed without its lock.
    pub(super) fn waited_out(&self, queue: &str, now: Instant) -> bool {
        self.refused.get(queue).is_some_and(|refused| refused.waited_out(now))
    }

    /// True if this queue is left alone for now: the process that has its lock has heard of the
    /// same work.
    pub(super) fn paused(&self, queue: &str, now: Instant) -> bool {
        self.refused.get(queue).is_some_and(|refused| refused.paused(now))
    }

    /// Returns the end of the first pause, if any queue pauses.
    pub(super) fn next(&self, now: Instant) -> Option<Instant> {
        let paused = self.refused.values().filter(|refused| refused.paused(now));
        paused.map(|refused| refused.until).min()
    }

    /// Notes which of the queues that were asked for were refused.
    pub(super) fn heard(&mut self, asked: &[String], refused: Vec<String>, now: Instant) {
        self.refused.retain(|queue, _| !asked.contains(queue) || refused.contains(queue));
        for queue in refused {
            let backoff = Backoff::new(PAUSE_MIN, PAUSE_MAX);
            let first = Refused { since: now, until: now, backoff };
            let refused = self.refused.entry(queue).or_insert(first);
            refused.until = now + jittered(refused.backoff.pause());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    #[test]
    fn a_claim_lock_that_is_never_free_is_not_waited_for_for_ever() {
        let mut locks = ClaimLocks::default();
        let (asked, now) = (names(&["q"]), Instant::now());
        locks.heard(&asked, names(&["q"]), now);
        assert!(locks.paused("q", now) && !locks.waited_out("q", now));
        let later = now + WAIT_MAX;
        locks.heard(&asked, names(&["q"]), later);
        assert!(locks.waited_out("q", later), "until the lock is taken");
        assert!(!locks.paused("q", later), "without the lock, it is claimed like any other");
        assert_eq!(locks.next(later), None);
        locks.heard(&asked, names(&[]), later);
        assert!(!locks.waited_out("q", later));
    }

    #[test]
    fn a_refused_claim_asks_again_soon_and_then_less_often() {
        let mut locks = ClaimLocks::default();
        let now = Instant::now();
        let mut pauses = Vec::new();
        for _ in 0..6 {
            locks.heard(&names(&["q"]), names(&["q"]), now);
            let next = locks.next(now).expect("a pause");
            assert!(!locks.paused("q", next));
            pauses.push(next - now);
        }
        assert!(pauses[0] <= PAUSE_MIN * 2 && pauses.iter().all(|pause| *pause <= PAUSE_MAX * 2));
        assert!(pauses[5] > pauses[0]);
    }

    #[test]
    fn a_queue_whose_claim_lock_is_refused_holds_up_no_other() {
        let mut locks = ClaimLocks::default();
        let now = Instant::now();
        locks.heard(&names(&["busy", "own"]), names(&["busy"]), now);
        assert!(locks.paused("busy", now) && !locks.paused("own", now));
        // Another queue's lock says nothing about this one.
        locks.heard(&names(&["own"]), names(&[]), now);
        assert!(locks.paused("busy", now));
    }

    /// One or another of several queues that are each busy now and then is refused in every claim.
    #[test]
    fn one_queue_after_the_other_is_refused_and_none_is_lost() {
        let mut locks = ClaimLocks::default();
        let asked = names(&["a", "b", "stuck"]);
        let start = Instant::now();
        for tenth in 0..30 {
            let now = start + WAIT_MAX * tenth / 10;
            let busy = if tenth % 2 == 0 { "a" } else { "b" };
            locks.heard(&asked, names(&[busy, "stuck"]), now);
            assert!(!locks.waited_out("a", now) && !locks.waited_out("b", now));
        }
        assert!(locks.waited_out("stuck", start + WAIT_MAX * 3));
    }
}
