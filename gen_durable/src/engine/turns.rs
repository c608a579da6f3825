//! The turn to claim, which the processes of a queue take one after the other.
//!
//! ```text
//!   in turn ──refused──► asking, with growing pauses ──for too long──► out of turn
//!      ▲                            │                                      │
//!      └────────── turn taken ──────┴──────────────────────────────────────┘
//! ```
//!
//! Invariant: a process that does not get its turn claims all the same after [`PATIENCE`], so that
//! nobody who keeps a turn, stopped in the middle of a claim perhaps, holds the others up for longer.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use super::jittered;

/// The first and the longest pause between two tries. Each costs a statement that finds nothing.
const PAUSE_MIN: Duration = Duration::from_millis(2);
const PAUSE_MAX: Duration = Duration::from_millis(16);
/// Far longer than a claim takes on a busy machine: many who claim out of turn make claims slow.
const PATIENCE: Duration = Duration::from_secs(1);

/// What the claimer knows of its turns: a queue whose turn was refused, until it has it.
#[derive(Debug, Default)]
pub(super) struct Turns {
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
    fn lost(&self, now: Instant) -> bool {
        now >= self.since + PATIENCE
    }

    fn paused(&self, now: Instant) -> bool {
        now < self.until && !self.lost(now)
    }
}

impl Turns {
    /// Whether to claim this queue without its turn.
    pub(super) fn lost(&self, queue: &str, now: Instant) -> bool {
        self.refused.get(queue).is_some_and(|refused| refused.lost(now))
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
    fn a_turn_that_never_comes_is_not_waited_for_for_ever() {
        let mut turns = Turns::default();
        let (asked, now) = (names(&["q"]), Instant::now());
        turns.heard(&asked, names(&["q"]), now);
        assert!(turns.paused("q", now) && !turns.lost("q", now));
        let later = now + PATIENCE;
        turns.heard(&asked, names(&["q"]), later);
        assert!(turns.lost("q", later), "until there is a turn");
        assert!(!turns.paused("q", later), "out of turn, it is claimed like any other");
        assert_eq!(turns.next(later), None);
        turns.heard(&asked, names(&[]), later);
        assert!(!turns.lost("q", later));
    }

    #[test]
    fn a_refused_claim_asks_again_soon_and_then_less_often() {
        let mut turns = Turns::default();
        let now = Instant::now();
        let mut pauses = Vec::new();
        for _ in 0..6 {
            turns.heard(&names(&["q"]), names(&["q"]), now);
            let next = turns.next(now).expect("a pause");
            assert!(!turns.paused("q", next));
            pauses.push(next - now);
        }
        assert!(pauses[0] <= PAUSE_MIN * 2 && pauses.iter().all(|pause| *pause <= PAUSE_MAX * 2));
        assert!(pauses[5] > pauses[0]);
    }

    #[test]
    fn a_queue_whose_turn_is_refused_holds_no_other_up() {
        let mut turns = Turns::default();
        let now = Instant::now();
        turns.heard(&names(&["busy", "own"]), names(&["busy"]), now);
        assert!(turns.paused("busy", now) && !turns.paused("own", now));
        // Another queue's turn says nothing of this one.
        turns.heard(&names(&["own"]), names(&[]), now);
        assert!(turns.paused("busy", now));
    }

    /// Of queues that are each busy now and then, one or another is refused in every claim.
    #[test]
    fn one_queue_after_the_other_is_refused_and_none_is_lost() {
        let mut turns = Turns::default();
        let asked = names(&["a", "b", "stuck"]);
        let start = Instant::now();
        for tenth in 0..30 {
            let now = start + PATIENCE * tenth / 10;
            let busy = if tenth % 2 == 0 { "a" } else { "b" };
            turns.heard(&asked, names(&[busy, "stuck"]), now);
            assert!(!turns.lost("a", now) && !turns.lost("b", now));
        }
        assert!(turns.lost("stuck", start + PATIENCE * 3));
    }
}
