//! The prefetch: the number of rows of a queue that are claimed ahead of its free slots.
//!
//! Invariant, as far as can be known: a queue prefetches no more rows than it runs in [`HORIZON`],
//! and no more than there are free partition keys. Fast steps find the next row waiting. Slow steps
//! hoard no rows that another process could run.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use crate::engine::slots::Queue;

/// The time for which rows are claimed ahead: a few times what a claim and a commit take. With much
/// less, the measured rate could not grow.
pub(in crate::engine) const HORIZON: Duration = Duration::from_millis(200);
/// The number of finished steps that tell a queue's speed even in a short time.
const MANY: u64 = 64;
/// The most rows claimed ahead for each slot, and the bound for a queue with few slots.
const PREFETCH_PER_SLOT: usize = 40;
const PREFETCH_MIN: usize = 64;
/// The number of busy partition keys in a claim that is more than a few popular ones.
const BUSY_KEYS_MIN: usize = 32;
/// The claim looks beyond stuck rows after this many claims in a row with at least as many stuck
/// rows as claimed ones.
const STUCK_CLAIMS_MIN: u32 = 3;
/// The most rows that one claim takes of a queue. The text of `claim.sql` has the same bound.
pub(super) const CLAIM_MAX: usize = 1000;

/// The claimer's estimate of a queue's speed, and its bounds on the prefetch.
///
/// Two bounds estimate what the queue gets done in [`HORIZON`], and the lower one counts. The first
/// is the recent rate, which shows how busy the database and the other workers are. The second
/// comes from the time that a step holds its slot. Steps that end together, a whole set of slots at
/// once, look fast by the first bound alone.
///
/// A third bound goes down when claims meet many keys that rows claimed before still hold. Each row
/// that waits for its key is moved out of the claim's index and back, which costs more than smaller
/// batches. And it waits for a row that has not even begun.
pub(super) struct Prefetch {
    pub(super) queue: Arc<Queue>,
    finished: u64,
    held: u64,
    since: Instant,
    per_second: f64,
    seconds_per_step: f64,
    /// The third bound, in rows.
    ahead_max: usize,
    /// The stuck rows of the last claim: it could neither claim them nor move them out of the way,
    /// because another transaction has locked the rows before them. `stuck_claims` counts the
    /// claims in a row in which they were in the way of other rows.
    stuck: usize,
    stuck_claims: u32,
}

impl Prefetch {
    pub(super) fn new(queue: Arc<Queue>) -> Self {
        Self {
            ahead_max: Self::prefetch_max(queue.slots),
            stuck: 0,
            stuck_claims: 0,
            queue,
            finished: 0,
            held: 0,
            since: Instant::now(),
            per_second: 0.0,
            seconds_per_step: 0.0,
        }
    }

    fn prefetch_max(slots: usize) -> usize {
        slots.saturating_mul(PREFETCH_PER_SLOT).max(PREFETCH_MIN)
    }

    /// Learns what a claim found of this queue: the claimed rows, the busy partition keys and the
    /// stuck rows. The rows have not entered the queue yet.
    pub(super) fn heard(&mut self, claimed: usize, busy_keys: usize, stuck: usize) {
        self.stuck = stuck;
        if stuck == 0 {
            self.stuck_claims = 0;
        } else if stuck >= claimed {
            self.stuck_claims = self.stuck_claims.saturating_add(1);
        }
        if busy_keys >= BUSY_KEYS_MIN && busy_keys > claimed / 2 {
            // Rows that run hold their keys rightly, and other processes may hold keys too. Only
            // the rows that wait for a slot here can be too many.
            let ahead = (self.queue.claimed() + claimed).saturating_sub(self.queue.slots);
            if ahead > PREFETCH_MIN {
                self.ahead_max = (ahead.min(self.ahead_max) / 4 * 3).max(PREFETCH_MIN);
            }
        } else if claimed > 0 {
            let more = self.ahead_max.saturating_add(self.ahead_max / 16);
            self.ahead_max = more.min(Self::prefetch_max(self.queue.slots));
        }
    }

    /// Estimates how many rows the queue gets done in [`HORIZON`], within its bounds.
    #[allow(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "estimates, far below what a float can hold exactly"
    )]
    fn rows_ahead(&mut self, now: Instant) -> usize {
        let elapsed = now.saturating_duration_since(self.since);
        let finished = self.queue.finished.load(Ordering::Relaxed);
        let many = finished - self.finished >= MANY && elapsed >= HORIZON / 40;
        if many || elapsed >= HORIZON / 2 {
            let held = self.queue.held.load(Ordering::Relaxed);
            let steps = (finished - self.finished) as f64;
            let recent = steps / elapsed.as_secs_f64();
            // The rate rises at once and falls more slowly: by half in a horizon, and by no more
            // than half at one look. A queue that had nothing to do has not become slow.
            let kept = 0.5_f64.powf(elapsed.as_secs_f64() / HORIZON.as_secs_f64()).max(0.5);
            self.per_second = recent.max(kept * self.per_second + (1.0 - kept) * recent);
            if steps > 0.0 {
                self.seconds_per_step = (held - self.held) as f64 / 1e9 / steps;
            }
            self.finished = finished;
            self.held = held;
            self.since = now;
        }
        let done = self.per_second * HORIZON.as_secs_f64();
        let possible =
            self.queue.slots as f64 * HORIZON.as_secs_f64() / self.seconds_per_step.max(1e-9);
        let ahead = done.min(possible) as usize;
        ahead.min(self.ahead_max)
    }

    /// Returns how many rows to ask for, or zero while they are too few to be worth a statement.
    pub(super) fn wanted(&mut self, now: Instant) -> usize {
        let rows_ahead = self.rows_ahead(now);
        self.queue.set_ahead(rows_ahead, now);
        let wanted =
            self.queue.slots.saturating_add(rows_ahead).saturating_sub(self.queue.claimed());
        if wanted > rows_ahead / 2 { wanted.min(CLAIM_MAX) } else { 0 }
    }

    /// Returns how many more rows to ask for, to look beyond stuck rows. It is zero at first: most
    /// stuck rows are locked for a moment, and the claim comes back to them soon.
    pub(super) fn beyond(&self) -> usize {
        if self.stuck_claims >= STUCK_CLAIMS_MIN { self.stuck.min(CLAIM_MAX) } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Makes the prefetch of a queue that has ten slots and this many rows claimed.
    fn prefetch(claimed: usize) -> Prefetch {
        let queue = Arc::new(Queue::new("q", 10));
        queue.claimed.store(claimed, Ordering::SeqCst);
        Prefetch::new(queue)
    }

    #[test]
    fn fewer_rows_are_claimed_ahead_if_they_hold_the_keys_that_others_wait_for() {
        let mut prefetch = prefetch(160);
        assert_eq!(prefetch.ahead_max, 400);
        prefetch.heard(50, 100, 0);
        assert_eq!(prefetch.ahead_max, 150, "three quarters of what is ahead of the slots");
        prefetch.heard(50, 100, 0);
        assert_eq!(
            prefetch.ahead_max, 111,
            "three quarters of the bound, as the rows ahead become fewer"
        );
        for _ in 0..10 {
            prefetch.heard(0, 100, 0);
        }
        assert_eq!(prefetch.ahead_max, PREFETCH_MIN);
        prefetch.heard(0, 0, 0);
        assert_eq!(prefetch.ahead_max, PREFETCH_MIN, "a claim that found nothing says nothing");
        let claims = (0..).take_while(|_| {
            prefetch.heard(64, 0, 0);
            prefetch.ahead_max < 400
        });
        assert!(claims.count() < 40, "and more again when keys are free");
    }

    #[test]
    fn a_claim_looks_beyond_rows_that_stay_stuck() {
        let mut prefetch = prefetch(0);
        for _ in 0..STUCK_CLAIMS_MIN {
            assert_eq!((prefetch.wanted(Instant::now()), prefetch.beyond()), (10, 0));
            prefetch.heard(0, 0, 10);
        }
        assert_eq!((prefetch.wanted(Instant::now()), prefetch.beyond()), (10, 10));
        prefetch.heard(20, 0, 10);
        assert_eq!(prefetch.beyond(), 10, "they are still there");
        prefetch.heard(10, 0, 0);
        assert_eq!(prefetch.beyond(), 0);
    }

    #[test]
    fn a_few_popular_keys_do_not_hold_back_the_others() {
        let mut prefetch = prefetch(210);
        prefetch.heard(0, BUSY_KEYS_MIN - 1, 0);
        prefetch.heard(1000, 400, 0);
        assert_eq!(prefetch.ahead_max, 400);
    }

    #[test]
    fn keys_that_what_runs_here_or_elsewhere_holds_do_not_either() {
        let mut prefetch = prefetch(10);
        prefetch.heard(0, 100, 0);
        assert_eq!(prefetch.ahead_max, 400);
    }
}
