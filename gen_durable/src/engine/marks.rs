//! From where on a claim looks, so that it does not step over what was claimed since the last vacuum.
//!
//! ```text
//!   whole ──► from the marks ──► from the marks … ──ten times as long as the whole one took──► whole
//! ```
//!
//! A row may come to lie before its group's mark: it is given back, or a partition key lets it in, or it was
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
pub(super) struct Marks {
    queues: HashMap<String, Queue>,
}

#[derive(Debug)]
struct Queue {
    groups: HashMap<(usize, i16), Mark>,
    /// When a partition key was met last, by machine.
    keyed: HashMap<usize, Instant>,
    next_whole: Instant,
}

#[derive(Clone, Copy, Debug)]
struct Mark {
    since: i64,
    seen: Instant,
}

impl Marks {
    /// From where on to look in a claim of these queues that is sent now; nothing of those that are to be looked at as
    /// a whole.
    pub(super) fn known(&self, queues: &[String], now: Instant) -> Vec<First> {
        let mut known = Vec::new();
        for name in queues {
            let Some(queue) = self.queues.get(name).filter(|queue| now < queue.next_whole) else {
                continue;
            };
            known.extend(queue.groups.iter().map(|((kind, priority), mark)| First {
                queue: name.clone(),
                kind: *kind,
                priority: *priority,
                since: Some(mark.since),
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
            let queue = self.queues.entry(name.clone()).or_insert_with(|| Queue {
                groups: HashMap::new(),
                keyed: HashMap::new(),
                next_whole,
            });
            if whole {
                queue.next_whole = next_whole;
            }
            queue.groups.retain(|_, mark| now < mark.seen + MEMORY);
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
                queue.groups.insert(group, Mark { since, seen: now });
            }
        }
    }

    /// When to claim again after a claim that did not get all that it asked for, if it was no whole one.
    pub(super) fn again(&self, request: &ClaimRequest) -> Option<Instant> {
        let marked = request.known.iter().filter_map(|first| self.queues.get(&first.queue));
        marked.map(|queue| queue.next_whole).min()
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

    fn send(marks: &Marks, queues: &[&str], asked: Instant, took: Duration) -> Claim {
        let queues = names(queues);
        let request = ClaimRequest {
            worker: 1,
            wanted: vec![1; queues.len()],
            beyond: vec![0; queues.len()],
            known: marks.known(&queues, asked),
            queues,
            kinds: Arc::new(Kinds::default()),
            out_of_turn: Vec::new(),
            bytes_max: 1,
            light: None,
        };
        Claim { request, refused: Vec::new(), asked, took }
    }

    impl Claim {
        fn sees(self, marks: &mut Marks, first: Vec<First>) {
            marks.heard(&self.request, &self.refused, first, self.asked, self.asked + self.took);
        }
    }

    fn known(marks: &Marks, queue: &str, now: Instant) -> Vec<First> {
        let mut known = marks.known(&names(&[queue]), now);
        known.sort_by_key(|first| first.priority);
        known
    }

    const QUICK: Duration = Duration::from_millis(3);
    const LONG: Duration = Duration::from_secs(1);

    #[test]
    fn a_tenth_of_the_time_goes_to_whole_claims() {
        let began = Instant::now();
        let mut marks = Marks::default();
        let whole = send(&marks, &["checkout"], began, QUICK);
        assert_eq!(whole.request.known, [], "the first claim is a whole one");
        assert_eq!(marks.again(&whole.request), None, "it has seen all that there is");
        whole.sees(&mut marks, vec![first(0, 1)]);
        // One that was told where to look changes nothing about that.
        let marked = send(&marks, &["checkout"], began + 9 * QUICK, QUICK);
        assert_eq!(marked.request.known, [first(0, 1)]);
        assert_eq!(marks.again(&marked.request), Some(began + 11 * QUICK));
        marked.sees(&mut marks, vec![first(0, 2)]);
        assert_eq!(known(&marks, "checkout", began + 10 * QUICK), [first(0, 2)]);
        assert_eq!(known(&marks, "checkout", began + 11 * QUICK), []);
        let asked = began + 11 * QUICK;
        send(&marks, &["checkout"], asked, 100 * LONG).sees(&mut marks, vec![first(0, 3)]);
        let answered = asked + 100 * LONG;
        assert_eq!(known(&marks, "checkout", answered), [first(0, 3)]);
        let end = answered + WHOLE_EVERY_MAX;
        assert_eq!(known(&marks, "checkout", end), [], "after some seconds in any case");
    }

    #[test]
    fn a_queue_that_a_whole_claim_left_out_or_was_refused_for_is_looked_at_as_a_whole() {
        let began = Instant::now();
        let mut marks = Marks::default();
        let other = |since| First { queue: "other".to_owned(), ..first(0, since) };
        send(&marks, &["checkout", "other"], began, QUICK)
            .sees(&mut marks, vec![first(0, 1), other(2)]);
        // Both are due; one is asked for, and then both, but one is refused.
        let due = began + LONG;
        send(&marks, &["checkout"], due, LONG).sees(&mut marks, vec![first(0, 3)]);
        let mut both = send(&marks, &["checkout", "other"], due + 2 * LONG, LONG);
        assert_eq!(both.request.known, [first(0, 3)]);
        both.refused = names(&["other"]);
        both.sees(&mut marks, vec![first(0, 4)]);
        let both = send(&marks, &["checkout", "other"], due + 3 * LONG, LONG);
        assert_eq!(both.request.known, [first(0, 4)]);
        both.sees(&mut marks, vec![other(5)]);
        assert_eq!(known(&marks, "other", due + 5 * LONG), [other(5)]);
    }

    #[test]
    fn what_a_claim_did_not_see_stays_known_for_a_while() {
        let now = Instant::now();
        let mut marks = Marks::default();
        let claim = |marks: &Marks, now| send(marks, &["checkout"], now, LONG);
        claim(&marks, now).sees(&mut marks, vec![first(0, 1), first(5, 7)]);
        claim(&marks, now + LONG).sees(&mut marks, vec![first(0, 3)]);
        assert_eq!(known(&marks, "checkout", now + 2 * LONG), [first(0, 3), first(5, 7)]);
        claim(&marks, now + MEMORY).sees(&mut marks, vec![first(0, 4)]);
        assert_eq!(known(&marks, "checkout", now + MEMORY + 2 * LONG), [first(0, 4)]);
    }

    #[test]
    fn a_machine_that_has_met_a_partition_key_has_no_marks_for_a_while() {
        let now = Instant::now();
        let mut marks = Marks::default();
        let claim = |marks: &Marks, now| send(marks, &["checkout"], now, LONG);
        let machine = |kind, priority| First { kind, ..first(priority, 1) };
        claim(&marks, now).sees(&mut marks, vec![machine(0, 0), machine(0, 5), machine(1, 0)]);
        let keyed = First { since: None, ..machine(0, 5) };
        claim(&marks, now + LONG).sees(&mut marks, vec![keyed]);
        assert_eq!(known(&marks, "checkout", now + 2 * LONG), [machine(1, 0)]);
        // The key's next rows are not to be seen while one of them runs.
        claim(&marks, now + 2 * LONG).sees(&mut marks, vec![machine(0, 0), machine(1, 0)]);
        assert_eq!(known(&marks, "checkout", now + 3 * LONG), [machine(1, 0)]);
        claim(&marks, now + 2 * LONG + MEMORY).sees(&mut marks, vec![machine(0, 0)]);
        let later = now + 4 * LONG + MEMORY;
        assert!(known(&marks, "checkout", later).contains(&machine(0, 0)));
    }

    #[test]
    fn priorities_without_end_are_not_remembered_without_end() {
        let now = Instant::now();
        let mut marks = Marks::default();
        let many = (0..1000).map(|priority| first(priority, 1)).collect();
        send(&marks, &["checkout"], now, LONG).sees(&mut marks, many);
        send(&marks, &["checkout"], now + LONG, LONG).sees(&mut marks, vec![first(0, 2)]);
        let known = known(&marks, "checkout", now + LONG);
        assert_eq!(known.len(), GROUPS_MAX);
        assert!(known.contains(&first(0, 2)), "those that are remembered go on being so");
    }
}
