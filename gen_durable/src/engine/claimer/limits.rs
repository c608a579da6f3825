//! The limits of a claim: the rows that it asks a queue for after claims that were too large or too
//! slow.
//!
//! A claim of several queues that fails does not say which of them is to blame. Each of them is
//! then claimed by itself until that works, alternating with claims of the other queues. A queue
//! that fails by itself is asked for fewer rows, after ever longer pauses. If not even one row can
//! be claimed, its claims are light: without large states and signals. If light claims get a row
//! time and again, and the whole row still cannot be claimed, the row is to blame. Its instance
//! fails with the reason, and the rows behind it go on.
//!
//! Invariant: a queue that fails delays the other queues by no more than one claim.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use super::prefetch::CLAIM_MAX;
use crate::{
    backoff::{Backoff, jittered},
    error::Cause,
    group::WEIGHT_MAX,
    storage::Claimed,
};

/// The first and the longest pause after a failed claim of one queue by itself.
const PAUSE_MIN: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// The number of failed claims of a queue by itself, over some ten seconds, after which its claims
/// are light.
const LIGHT_AFTER: u32 = 10;
/// The number of light claims of a row, without a whole claim in between, that prove it to blame.
const PROOFS: u32 = 3;

/// The limits of all queues, and the choice between those that failed and the others.
#[derive(Debug, Default)]
pub(super) struct Limits {
    queues: HashMap<String, Limit>,
    /// The last claim was for a queue that failed, so the next one is for the others.
    last_was_suspect: bool,
    /// The time at which the first of the queues that failed and have free slots may be claimed
    /// again.
    next: Option<Instant>,
}

#[derive(Debug)]
struct Limit {
    rows_max: usize,
    /// Claims in a row that failed.
    failures: u32,
    /// The pauses after failed claims of the queue by itself.
    backoff: Backoff,
    /// The time from which on it may be claimed again.
    next: Option<Instant>,
    /// The reason why the last claim failed.
    error: Option<Arc<str>>,
    /// The rows that light claims brought since a whole claim last worked, and how many times.
    suspects: HashMap<i64, u32>,
}

impl Default for Limit {
    fn default() -> Self {
        Self {
            rows_max: CLAIM_MAX,
            failures: 0,
            backoff: Backoff::new(PAUSE_MIN, PAUSE_MAX),
            next: None,
            error: None,
            suspects: HashMap::new(),
        }
    }
}

impl Limit {
    /// Notes that the queue's claims work again.
    fn is_well(&mut self) {
        (self.failures, self.next) = (0, None);
        self.backoff.reset();
    }
}

impl Limits {
    /// Returns the most rows to ask this queue for.
    pub(super) fn rows_max(&self, queue: &str) -> usize {
        self.queues.get(queue).map_or(CLAIM_MAX, |limit| limit.rows_max)
    }

    /// Chooses the queues of the next claim from these, which all have free slots: one that failed,
    /// by itself, or all others. The two alternate.
    pub(super) fn together(&mut self, queues: Vec<String>, now: Instant) -> Vec<String> {
        let (suspects, others): (Vec<_>, Vec<_>) =
            queues.into_iter().partition(|queue| self.is_suspect(queue));
        // The queue that failed and has waited the longest is claimed.
        let due = |queue: &String| self.queues.get(queue).and_then(|limit| limit.next);
        self.next = suspects.iter().map(|queue| due(queue).unwrap_or(now)).min();
        let due = |queue: &String| self.queues.get(queue).and_then(|limit| limit.next);
        let ready = suspects.into_iter().filter(|queue| due(queue).is_none_or(|at| at <= now));
        let suspect = ready.min_by_key(due);
        self.last_was_suspect = !self.last_was_suspect || others.is_empty();
        match suspect {
            Some(suspect) if self.last_was_suspect => vec![suspect],
            _ => others,
        }
    }

    /// Returns when a queue that failed, and had free slots at the last claim, may be claimed
    /// again.
    pub(super) fn next(&self) -> Option<Instant> {
        self.next
    }

    /// True if this queue failed and may not be claimed yet.
    pub(super) fn paused(&self, queue: &str, now: Instant) -> bool {
        self.queues.get(queue).and_then(|limit| limit.next).is_some_and(|next| now < next)
    }

    /// Returns the reason for a light claim of this queue, if it needs one.
    pub(super) fn light(&self, queue: &str) -> Option<Arc<str>> {
        let limit = self.queues.get(queue).filter(|limit| limit.failures >= LIGHT_AFTER);
        limit.and_then(|limit| limit.error.clone())
    }

    /// Notes that a light claim brought this row without its state. True if the row is to blame by
    /// now.
    pub(super) fn is_to_blame(&mut self, queue: &str, id: i64) -> bool {
        let limit = self.queues.entry(queue.to_owned()).or_default();
        let proofs = limit.suspects.entry(id).or_default();
        *proofs += 1;
        *proofs >= PROOFS
    }

    /// Learns that a claim of these queues was too large or too slow. A queue that was
    /// claimed by itself pauses after it, unless the claim brought rows all the same.
    pub(super) fn failed(
        &mut self,
        queues: &[String],
        error: &sqlx::Error,
        brought: bool,
        now: Instant,
    ) {
        let alone = queues.len() == 1;
        for queue in queues {
            let limit = self.queues.entry(queue.clone()).or_default();
            if alone {
                if limit.rows_max == CLAIM_MAX || limit.failures == 0 {
                    tracing::warn!(queue, error = %Cause(error), "could not claim work from this queue; trying fewer rows at a time");
                }
                limit.rows_max = (limit.rows_max / 4).max(1);
                let pause = jittered(limit.backoff.pause());
                limit.next = Some(if brought { now } else { now + pause });
                limit.error = Some(Cause(error).to_string().into());
            } else {
                limit.next = Some(now);
            }
            limit.failures = limit.failures.saturating_add(1);
        }
    }

    /// Learns that a claim worked, and which rows it brought. `contended` says that other
    /// transactions had rows locked, or a claim lock. After a failure the backend of the failed
    /// claim may have them for a moment more, so a claim that found nothing proves nothing.
    pub(super) fn heard(
        &mut self,
        queues: &[String],
        rows: &[Claimed],
        contended: bool,
        now: Instant,
    ) {
        for queue in queues {
            let weights = rows.iter().filter(|row| row.queue == *queue).map(weight);
            let (count, weight) = weights.fold((0, 0), |(n, sum), weight| (n + 1, sum + weight));
            if count == 0 && self.is_suspect(queue) {
                let limit = self.queues.entry(queue.clone()).or_default();
                if contended {
                    limit.next = Some(now + PAUSE_MIN);
                } else {
                    limit.is_well();
                }
            } else if count > 0 {
                let fits = (WEIGHT_MAX * count / weight.max(1)).clamp(1, CLAIM_MAX);
                let limit = self.queues.entry(queue.clone()).or_default();
                limit.rows_max = (limit.rows_max * 2).min(fits);
                let found = limit.failures >= LIGHT_AFTER
                    && rows.iter().any(|row| row.queue == *queue && row.state.is_none());
                if found {
                    // The row is given back within this pause, and the next claim tries it whole.
                    limit.failures = LIGHT_AFTER - 1;
                    limit.next = Some(now + PAUSE_MIN);
                } else {
                    limit.is_well();
                    limit.suspects.clear();
                }
            }
        }
    }

    fn is_suspect(&self, queue: &str) -> bool {
        self.queues.get(queue).is_some_and(|limit| limit.failures > 0)
    }
}

/// Returns the bytes that came with a row: its state and its signals.
fn weight(row: &Claimed) -> usize {
    let payloads = row.inbox.signals.iter().map(|signal| signal.2.get().len());
    row.state.as_ref().map_or(0, String::len) + payloads.sum::<usize>()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queues(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn a_queue_that_fails_is_asked_for_less_and_the_others_have_every_second_claim() {
        let (mut limits, now) = (Limits::default(), Instant::now());
        let all = queues(&["a", "b", "c"]);
        assert_eq!(limits.together(all.clone(), now), all);
        limits.failed(&queues(&["a", "b"]), &sqlx::Error::PoolTimedOut, false, now);
        let claims: Vec<_> = (0..4).map(|_| limits.together(all.clone(), now)).collect();
        assert!(claims.contains(&queues(&["c"])), "{claims:?}");
        assert!(claims.iter().all(|claim| claim.len() == 1), "{claims:?}");
        for _ in 0..5 {
            limits.failed(&queues(&["a"]), &sqlx::Error::PoolTimedOut, false, now);
        }
        assert_eq!((limits.rows_max("a"), limits.rows_max("b")), (1, CLAIM_MAX));
        assert_eq!(limits.together(queues(&["a"]), now), queues(&[]), "it pauses");
        limits.heard(&queues(&["a"]), &[], true, now);
        assert!(limits.is_suspect("a"), "its rows are locked");
        limits.heard(&queues(&["a"]), &[], false, now);
        assert_eq!((limits.is_suspect("a"), limits.rows_max("a")), (false, 1), "there is nothing");
    }
}
