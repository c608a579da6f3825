//! From where on a claim looks, so that it does not step over what was claimed since the last vacuum.
//!
//! ```text
//!   whole ──► from the watermarks ──► from the watermarks … ──ten times as long as the whole one took──► whole
//! ```
//!
//! A row may come to lie before its group's watermark: it is given back, or a partition key lets it in, or it was
//! written by a transaction that took its time. Whole claims find it: for a tenth of the time, or more
//! where each takes longer than half a second.
//!
//! Invariant: before the claimer waits for longer than that, a whole claim has found nothing. And a queue that a
//! whole claim left out, or for which it was refused, is looked at as a whole the next time.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use crate::storage::{ClaimRequest, First};

/// How much longer than a whole claim the time is in which there is none, and the longest: a claim may have taken
/// long for other reasons.
const WHOLE_EVERY: u32 = 10;
const WHOLE_EVERY_MAX: Duration = Duration::from_secs(5);
/// So many groups of a queue are remembered; whoever uses more priorities has them looked at from the beginning.
const GROUPS_MAX: usize = 32;
/// So long after a claim found something in it is a group remembered, and so long after it met a partition key are a
/// machine's groups not: what waits for a busy key is not to be seen, and the key may let in an old row at any time.
const MEMORY: Duration = Duration::from_mins(1);

/// What the claimer knows of its queues.
#[derive(Debug, Default)]
pub(super) struct Watermarks {
    queues: HashMap<String, Groups>,
}

#[derive(Debug)]
struct Groups {
    groups: HashMap<(usize, i16), Watermark>,
    /// When a partition key was met last, by machine.
    keyed: HashMap<usize, Instant>,
    next_whole: Instant,
}

#[derive(Clone, Copy, Debug)]
struct Watermark {
    since: i64,
    seen: Instant,
}

impl Watermarks {
    /// From where on to look in a claim of these queues that is sent now; nothing of those that are to be looked at as
    /// a whole.
    pub(super) fn known(&self, queues: &[String], now: Instant) -> Vec<First> {
        let mut known = Vec::new();
        for name in queues {
            let Some(queue) = self.queues.get(name).filter(|queue| now < queue.next_whole) else {
                continue;
            };
            known.extend(queue.groups.iter().map(|((kind, priority), watermark)| First {
                queue: name.clone(),
                kind: *kind,
                priority: *priority,
                since: Some(watermark.since),
            }));
        }
        known
    }

    /// Takes down what a claim saw, that was sent at `asked` and answered now.
    pub(super) fn heard(
        &mut self,
        request: &ClaimRequest,
        refused: &[String],
        first: Vec<First>,
        asked: Instant,
        now: Instant,
    ) {
        let took = now.saturating_duration_since(asked);
        let next_whole = now + (took * WHOLE_EVERY).min(WHOLE_EVERY_MAX);
        for name in request.queues.iter().filter(|queue| !refused.contains(queue)) {
            let whole = !request.known.iter().any(|first| first.queue == *name);
            let queue = self.queues.entry(name.clone()).or_insert_with(|| Groups {
                groups: HashMap::new(),
                keyed: HashMap::new(),
                next_whole,
            });
            if whole {
                queue.next_whole = next_whole;
            }
            queue.groups.retain(|_, watermark| now < watermark.seen + MEMORY);
            queue.keyed.retain(|_, met| now < *met + MEMORY);
        }
        for First { queue, kind, priority, since } in first {
            let Some(queue) = self.queues.get_mut(&queue) else { continue };
            let Some(since) = since else {
                queue.keyed.insert(kind, now);
                queue.groups.retain(|group, _| group.0 != kind);
                continue;
            };
            let group = (kind, priority);
            let room = queue.groups.len() < GROUPS_MAX || queue.groups.contains_key(&group);
            if room && !queue.keyed.contains_key(&kind) {
                queue.groups.insert(group, Watermark { since, seen: now });
            }
        }
    }

    /// When to claim again after a claim that did not get all that it asked for, if it was no whole one.
    pub(super) fn again(&self, request: &ClaimRequest) -> Option<Instant> {
        let watermarked = request.known.iter().filter_map(|first| self.queues.get(&first.queue));
        watermarked.map(|queue| queue.next_whole).min()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::storage::Kinds;

    fn first(priority: i16, since: i64) -> First {
        First { queue: "checkout".to_owned(), kind: 0, priority, since: Some(since) }
    }

    /// A claim that is sent and answered, with what is known, and refused for some queues.
    struct Claim {
        request: ClaimRequest,
        refused: Vec<String>,
        asked: Instant,
        took: Duration,
    }

    fn names(queues: &[&str]) -> Vec<String> {
        queues.iter().map(|queue| (*queue).to_owned()).collect()
    }

    fn send(watermarks: &Watermarks, queues: &[&str], asked: Instant, took: Duration) -> Claim {
        let queues = names(queues);
        let request = ClaimRequest {
            worker: 1,
            wanted: vec![1; queues.len()],
            beyond: vec![0; queues.len()],
            known: watermarks.known(&queues, asked),
            queues,
            kinds: Arc::new(Kinds::default()),
            without_lock: Vec::new(),
            bytes_max: 1,
            light: None,
        };
        Claim { request, refused: Vec::new(), asked, took }
    }

    impl Claim {
        fn sees(self, watermarks: &mut Watermarks, first: Vec<First>) {
            watermarks.heard(
                &self.request,
                &self.refused,
                first,
                self.asked,
                self.asked + self.took,
            );
        }
    }

    fn known(watermarks: &Watermarks, queue: &str, now: Instant) -> Vec<First> {
        let mut known = watermarks.known(&names(&[queue]), now);
        known.sort_by_key(|first| first.priority);
        known
    }

    const QUICK: Duration = Duration::from_millis(3);
    const LONG: Duration = Duration::from_secs(1);

    #[test]
    fn a_tenth_of_the_time_goes_to_whole_claims() {
        let began = Instant::now();
        let mut watermarks = Watermarks::default();
        let whole = send(&watermarks, &["checkout"], began, QUICK);
        assert_eq!(whole.request.known, [], "the first claim is a whole one");
        assert_eq!(watermarks.again(&whole.request), None, "it has seen all that there is");
        whole.sees(&mut watermarks, vec![first(0, 1)]);
        // One that was told where to look changes nothing about that.
        let watermarked = send(&watermarks, &["checkout"], began + 9 * QUICK, QUICK);
        assert_eq!(watermarked.request.known, [first(0, 1)]);
        assert_eq!(watermarks.again(&watermarked.request), Some(began + 11 * QUICK));
        watermarked.sees(&mut watermarks, vec![first(0, 2)]);
        assert_eq!(known(&watermarks, "checkout", began + 10 * QUICK), [first(0, 2)]);
        assert_eq!(known(&watermarks, "checkout", began + 11 * QUICK), []);
        let asked = began + 11 * QUICK;
        send(&watermarks, &["checkout"], asked, 100 * LONG)
            .sees(&mut watermarks, vec![first(0, 3)]);
        let answered = asked + 100 * LONG;
        assert_eq!(known(&watermarks, "checkout", answered), [first(0, 3)]);
        let end = answered + WHOLE_EVERY_MAX;
        assert_eq!(known(&watermarks, "checkout", end), [], "after some seconds in any case");
    }

    #[test]
    fn a_queue_that_a_whole_claim_left_out_or_was_refused_for_is_looked_at_as_a_whole() {
        let began = Instant::now();
        let mut watermarks = Watermarks::default();
        let other = |since| First { queue: "other".to_owned(), ..first(0, since) };
        send(&watermarks, &["checkout", "other"], began, QUICK)
            .sees(&mut watermarks, vec![first(0, 1), other(2)]);
        // Both are due; one is asked for, and then both, but one is refused.
        let due = began + LONG;
        send(&watermarks, &["checkout"], due, LONG).sees(&mut watermarks, vec![first(0, 3)]);
        let mut both = send(&watermarks, &["checkout", "other"], due + 2 * LONG, LONG);
        assert_eq!(both.request.known, [first(0, 3)]);
        both.refused = names(&["other"]);
        both.sees(&mut watermarks, vec![first(0, 4)]);
        let both = send(&watermarks, &["checkout", "other"], due + 3 * LONG, LONG);
        assert_eq!(both.request.known, [first(0, 4)]);
        both.sees(&mut watermarks, vec![other(5)]);
        assert_eq!(known(&watermarks, "other", due + 5 * LONG), [other(5)]);
    }

    #[test]
    fn what_a_claim_did_not_see_stays_known_for_a_while() {
        let now = Instant::now();
        let mut watermarks = Watermarks::default();
        let claim = |watermarks: &Watermarks, now| send(watermarks, &["checkout"], now, LONG);
        claim(&watermarks, now).sees(&mut watermarks, vec![first(0, 1), first(5, 7)]);
        claim(&watermarks, now + LONG).sees(&mut watermarks, vec![first(0, 3)]);
        assert_eq!(known(&watermarks, "checkout", now + 2 * LONG), [first(0, 3), first(5, 7)]);
        claim(&watermarks, now + MEMORY).sees(&mut watermarks, vec![first(0, 4)]);
        assert_eq!(known(&watermarks, "checkout", now + MEMORY + 2 * LONG), [first(0, 4)]);
    }

    #[test]
    fn a_machine_that_has_met_a_partition_key_has_no_watermarks_for_a_while() {
        let now = Instant::now();
        let mut watermarks = Watermarks::default();
        let claim = |watermarks: &Watermarks, now| send(watermarks, &["checkout"], now, LONG);
        let machine = |kind, priority| First { kind, ..first(priority, 1) };
        claim(&watermarks, now)
            .sees(&mut watermarks, vec![machine(0, 0), machine(0, 5), machine(1, 0)]);
        let keyed = First { since: None, ..machine(0, 5) };
        claim(&watermarks, now + LONG).sees(&mut watermarks, vec![keyed]);
        assert_eq!(known(&watermarks, "checkout", now + 2 * LONG), [machine(1, 0)]);
        // The key's next rows are not to be seen while one of them runs.
        claim(&watermarks, now + 2 * LONG)
            .sees(&mut watermarks, vec![machine(0, 0), machine(1, 0)]);
        assert_eq!(known(&watermarks, "checkout", now + 3 * LONG), [machine(1, 0)]);
        claim(&watermarks, now + 2 * LONG + MEMORY).sees(&mut watermarks, vec![machine(0, 0)]);
        let later = now + 4 * LONG + MEMORY;
        assert!(known(&watermarks, "checkout", later).contains(&machine(0, 0)));
    }

    #[test]
    fn priorities_without_end_are_not_remembered_without_end() {
        let now = Instant::now();
        let mut watermarks = Watermarks::default();
        let many = (0..1000).map(|priority| first(priority, 1)).collect();
        send(&watermarks, &["checkout"], now, LONG).sees(&mut watermarks, many);
        send(&watermarks, &["checkout"], now + LONG, LONG).sees(&mut watermarks, vec![first(0, 2)]);
        let known = known(&watermarks, "checkout", now + LONG);
        assert_eq!(known.len(), GROUPS_MAX);
        assert!(known.contains(&first(0, 2)), "those that are remembered go on being so");
    }
}
