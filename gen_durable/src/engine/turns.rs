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

use std::time::{Duration, Instant};

use super::jittered;

/// The first and the longest pause between two tries. Each costs a statement that finds nothing.
const PAUSE_MIN: Duration = Duration::from_millis(2);
const PAUSE_MAX: Duration = Duration::from_millis(16);
/// Far longer than a claim takes on a busy machine: many who claim out of turn make claims slow.
const PATIENCE: Duration = Duration::from_secs(1);

/// What the claimer knows of its turn.
#[derive(Debug)]
pub(super) struct Turns {
    refused_since: Option<Instant>,
    pause: Duration,
}

impl Default for Turns {
    fn default() -> Self {
        Self { refused_since: None, pause: PAUSE_MIN }
    }
}

impl Turns {
    /// Whether to claim without the turn from here on, until there is one.
    pub(super) fn lost(&self) -> bool {
        self.refused_since.is_some_and(|since| since.elapsed() >= PATIENCE)
    }

    /// Takes down whether the last claim was refused a turn; if so, when to try again.
    pub(super) fn heard(&mut self, refused: bool) -> Option<Duration> {
        if !refused {
            *self = Self::default();
            return None;
        }
        self.refused_since.get_or_insert_with(Instant::now);
        let pause = self.pause;
        self.pause = (pause * 2).min(PAUSE_MAX);
        Some(jittered(pause))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_that_never_comes_is_not_waited_for_for_ever() {
        let long_ago = Instant::now().checked_sub(PATIENCE);
        let mut turns = Turns { refused_since: long_ago, ..Turns::default() };
        assert!(turns.lost());
        assert!(turns.heard(true).is_some());
        assert!(turns.lost(), "until there is a turn");
        assert_eq!(turns.heard(false), None);
        assert!(!turns.lost());
    }

    #[test]
    fn a_refused_claim_asks_again_soon_and_then_less_often() {
        let mut turns = Turns::default();
        let pauses: Vec<Duration> = (0..6).filter_map(|_| turns.heard(true)).collect();
        assert_eq!(pauses.len(), 6);
        assert!(pauses[0] <= PAUSE_MIN * 2 && pauses.iter().all(|pause| *pause <= PAUSE_MAX * 2));
        assert!(pauses[5] > pauses[0] && !turns.lost());
    }
}
