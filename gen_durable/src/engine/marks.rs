//! From where on a claim looks, so that it does not step over what was claimed since the last vacuum.
//!
//! ```text
//!   whole ──► from the marks ──► from the marks … ──ten times as long as the whole one took──► whole
//! ```
//!
//! A row may come to lie before its group's mark: it is given back, or a partition key lets it in, or it was
//! written by a transaction that took its time. Whole claims find it, and take a tenth of the time at most.
//!
//! Invariant: before the claimer waits for longer than that, a whole claim has found nothing.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use crate::storage::First;

/// How much longer than a whole claim the time is in which there is none, and the longest: a claim may have taken
/// long for other reasons.
const WHOLE_EVERY: u32 = 10;
const WHOLE_EVERY_MAX: Duration = Duration::from_secs(5);
/// So many groups are remembered; whoever uses more priorities has them looked at from the beginning.
const GROUPS_MAX: usize = 256;

/// What the claimer knows of its groups.
#[derive(Debug)]
pub(super) struct Marks {
    since: HashMap<(String, usize, i16), i64>,
    next_whole: Instant,
}

impl Marks {
    pub(super) fn new(now: Instant) -> Self {
        Self { since: HashMap::new(), next_whole: now }
    }

    /// From where on to look in a claim that is sent now; nothing if it is to be a whole one.
    pub(super) fn known(&self, now: Instant) -> Vec<First> {
        if now >= self.next_whole {
            return Vec::new();
        }
        let known = self.since.iter().map(|((queue, kind, priority), since)| First {
            queue: queue.clone(),
            kind: *kind,
            priority: *priority,
            since: Some(*since),
        });
        known.collect()
    }

    /// Takes down what a claim saw, that was sent at `asked` and answered now.
    pub(super) fn heard(
        &mut self,
        known: &[First],
        first: Vec<First>,
        asked: Instant,
        now: Instant,
    ) {
        if known.is_empty() {
            let took = now.saturating_duration_since(asked);
            self.next_whole = now + (took * WHOLE_EVERY).min(WHOLE_EVERY_MAX);
        }
        for First { queue, kind, priority, since } in first {
            let group = (queue, kind, priority);
            let Some(since) = since else {
                self.since.remove(&group);
                continue;
            };
            if self.since.len() < GROUPS_MAX || self.since.contains_key(&group) {
                self.since.insert(group, since);
            }
        }
    }

    /// When to claim again after a claim that did not get all that it asked for, if it was no whole one.
    pub(super) fn again(&self, known: &[First]) -> Option<Instant> {
        (!known.is_empty()).then_some(self.next_whole)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first(priority: i16, since: i64) -> First {
        First { queue: "checkout".to_owned(), kind: 0, priority, since: Some(since) }
    }

    #[test]
    fn a_tenth_of_the_time_goes_to_whole_claims() {
        let began = Instant::now();
        let took = Duration::from_millis(3);
        let mut marks = Marks::new(began);
        assert_eq!(marks.known(began), [], "the first claim is a whole one");
        marks.heard(&[], vec![first(0, 1)], began, began + took);
        assert_eq!(marks.known(began + 10 * took), [first(0, 1)]);
        assert_eq!(marks.known(began + 11 * took), []);
        // One that was told where to look changes nothing about that.
        marks.heard(&[first(0, 1)], vec![first(0, 2)], began + 9 * took, began + 10 * took);
        assert_eq!(marks.known(began + 10 * took), [first(0, 2)]);
        assert_eq!(marks.known(began + 11 * took), []);
        assert_eq!(marks.again(&[first(0, 1)]), Some(began + 11 * took));
        assert_eq!(marks.again(&[]), None, "a whole claim has seen all that there is");
    }

    #[test]
    fn what_a_claim_did_not_see_stays_known() {
        let now = Instant::now();
        let mut marks = Marks::new(now);
        marks.heard(&[], vec![first(0, 1), first(5, 7)], now, now + Duration::from_secs(1));
        marks.heard(&[first(0, 1), first(5, 7)], vec![first(0, 3)], now, now);
        let mut known = marks.known(now);
        known.sort_by_key(|first| first.priority);
        assert_eq!(known, [first(0, 3), first(5, 7)]);
        let keyed = First { since: None, ..first(5, 0) };
        marks.heard(&known, vec![keyed], now, now);
        assert_eq!(marks.known(now), [first(0, 3)]);
    }

    #[test]
    fn priorities_without_end_are_not_remembered_without_end() {
        let now = Instant::now();
        let mut marks = Marks::new(now);
        marks.heard(
            &[],
            (0..1000).map(|n| first(n, 1)).collect(),
            now,
            now + Duration::from_secs(1),
        );
        marks.heard(&[], vec![first(0, 2)], now, now + Duration::from_secs(1));
        let known = marks.known(now);
        assert_eq!(known.len(), GROUPS_MAX);
        assert!(known.contains(&first(0, 2)), "those that are remembered go on being so");
    }
}
