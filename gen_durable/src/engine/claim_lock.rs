//! The turn to claim, which the processes of a queue take one after the other.
//!
//! ```text
//!   in turn ──refused──► asking, with growing pauses ──for too long──► out of turn
//!      ▲                            │                                      │
//!      └────────── turn taken ──────┴──────────────────────────────────────┘
//! ```
//!
//! Invariant: a process that does not get its turn claims all the same after [`WAIT_MAX`], so that
//! nobody who keeps a turn, stopped in the middle of a claim perhaps, holds the others up for longer.

use crate::backoff::jittered;
use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

/// The first and the longest pause between two tries. Each costs a statement that finds nothing.
const PAUSE_MIN: Duration = Duration::from_millis(2);
const PAUSE_MAX: Duration = Duration::from_millis(16);
/// Far longer than a claim takes on a busy machine: many who claim out of turn make claims slow.
const WAIT_MAX: Duration = Duration::from_secs(1);

/// What the claimer knows of its locks: a queue whose turn was refused, until it has it.
#[derive(Debug, Default)]
pub(super) struct ClaimLocks {
    refused: HashMap<String, Refused>,
}

#[derive(Debug)]
struct Refused {
    since: Instant,
    /// It is not asked for until then.
    until: Instant,
    pause: Duration,
}

impl Refused {
    /// Whether to claim without the turn from here on, until there is one.
    fn waited_out(&self, now: Instant) -> bool {
        now >= self.since + WAIT_MAX
    }

    fn paused(&self, now: Instant) -> bool {
        now < self.until && !self.waited_out(now)
    }
}

impl ClaimLocks {
    /// Whether to claim this queue without its turn.
    pub(super) fn waited_out(&self, queue: &str, now: Instant) -> bool {
        self.refused.get(queue).is_some_and(|refused| refused.waited_out(now))
    }

    /// Whether to leave this queue alone: whoever has its turn has heard of the same work.
    pub(super) fn paused(&self, queue: &str, now: Instant) -> bool {
        self.refused.get(queue).is_some_and(|refused| refused.paused(now))
    }

    /// When the first of the pauses is over, if there is one.
    pub(super) fn next(&self, now: Instant) -> Option<Instant> {
        let paused = self.refused.values().filter(|refused| refused.paused(now));
        paused.map(|refused| refused.until).min()
    }

    /// Takes down which of the queues that were asked for were refused.
    pub(super) fn heard(&mut self, asked: &[String], refused: Vec<String>, now: Instant) {
        self.refused.retain(|queue, _| !asked.contains(queue) || refused.contains(queue));
        for queue in refused {
            let first = Refused { since: now, until: now, pause: PAUSE_MIN };
            let refused = self.refused.entry(queue).or_insert(first);
            refused.until = now + jittered(refused.pause);
            refused.pause = (refused.pause * 2).min(PAUSE_MAX);
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
        assert!(locks.waited_out("q", later), "until there is a turn");
        assert!(!locks.paused("q", later), "out of turn, it is claimed like any other");
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
    fn a_queue_whose_turn_is_refused_holds_no_other_up() {
        let mut locks = ClaimLocks::default();
        let now = Instant::now();
        locks.heard(&names(&["busy", "own"]), names(&["busy"]), now);
        assert!(locks.paused("busy", now) && !locks.paused("own", now));
        // Another queue's turn says nothing of this one.
        locks.heard(&names(&["own"]), names(&[]), now);
        assert!(locks.paused("busy", now));
    }

    /// Of queues that are each busy now and then, one or another is refused in every claim.
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
