//! The watermarks: the place in each group at which a claim begins to look. A *group* has the rows
//! of one queue, machine, version and priority. The index keeps dead entries of claimed rows until
//! the next vacuum, before the waiting rows. They make a scan slow, so a claim begins behind them.
//!
//! A *whole claim* of a queue looks from the beginning of each group. It finds rows that came to
//! lie before a watermark: given back, scheduled for the past, let in by a partition key, or
//! written by a slow transaction.
//!
//! ```text
//!   whole claim ──► claims from the watermarks, for ten times as long as it took ──► whole claim
//! ```
//!
//! Invariant: a whole claim of a queue puts the queue's next whole claim off, unless the claim lock
//! was refused. No other claim does. After a claim that was not whole and found no more rows, the
//! claimer claims again when the next whole claim is due ([`Watermarks::again`]).

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use crate::storage::{ClaimRequest, First, Kinds, RowGroup};

/// The time from the answer of a whole claim to the next whole claim, in multiples of the time that
/// the first one took. Whole claims take one part in eleven of the time.
const WHOLE_EVERY: u32 = 10;
/// The longest such time. A claim may have taken long for other reasons than dead entries.
const WHOLE_EVERY_MAX: Duration = Duration::from_secs(5);
/// The most groups of a queue that have a watermark. A claim looks at further groups from their
/// beginning.
const GROUPS_MAX: usize = 32;
/// A watermark is kept for this long after a claim last found a row in its group.
///
/// For the same time after a claim met a row with a partition key, the row's machine has no
/// watermarks. Rows that wait for a busy key are hidden from claims, and the key may let in an old
/// row at any time.
const MEMORY: Duration = Duration::from_mins(1);

/// The watermarks of all queues.
#[derive(Debug, Default)]
pub(super) struct Watermarks {
    queues: HashMap<String, Groups>,
}

/// The watermarks of one queue.
#[derive(Debug)]
struct Groups {
    /// By the place of machine and version among the kinds, and by priority.
    watermarks: HashMap<(usize, i16), Watermark>,
    /// The time at which a claim last met a row with a partition key, by the place of its machine
    /// and version among the kinds.
    keyed: HashMap<usize, Instant>,
    /// The first claim that is sent from this time on is a whole one.
    next_whole: Instant,
    /// The last whole claim, or one since, met rows that the statement for known groups does not
    /// claim, in this queue or in another of the same request.
    unsettled: bool,
}

/// The first row of a group that was due at the last claim that found any.
#[derive(Clone, Copy, Debug)]
struct Watermark {
    /// The time at which that row was due, in microseconds since 1970.
    since: i64,
    /// The time at which a claim last found a row in the group.
    seen: Instant,
}

impl Watermarks {
    /// Returns the watermarks for a claim of these queues that is sent now. The claim looks from
    /// the beginning of each group that has none. If a whole claim of a queue is due, the queue has
    /// none.
    pub(super) fn known(&self, queues: &[String], now: Instant) -> Vec<First> {
        let mut known = Vec::new();
        for name in queues {
            let Some(queue) = self.queues.get(name).filter(|queue| now < queue.next_whole) else {
                continue;
            };
            known.extend(queue.watermarks.iter().map(|((kind, priority), watermark)| First {
                queue: name.clone(),
                kind: *kind,
                priority: *priority,
                since: Some(watermark.since),
            }));
        }
        known
    }

    /// Forgets all: the next claim of each queue is a whole one.
    pub(super) fn forget(&mut self) {
        self.queues.clear();
    }

    /// Forgets the watermark of a group: the next claim looks at it from its beginning.
    pub(super) fn forget_group(&mut self, group: &RowGroup, kinds: &Kinds) {
        let all = kinds.fsms.iter().zip(&kinds.versions);
        let is_it = |(fsm, version): (&String, &i32)| {
            *fsm == group.kind.fsm && *version == group.kind.fsm_version
        };
        if let (Some(kind), Some(queue)) =
            (all.into_iter().position(is_it), self.queues.get_mut(&group.queue))
        {
            queue.watermarks.remove(&(kind, group.priority));
        }
    }

    /// True if each of these queues had a whole claim, and neither this nor a later claim has met
    /// rows that the statement for known groups does not claim.
    pub(super) fn settled(&self, queues: &[String]) -> bool {
        queues.iter().all(|name| self.queues.get(name).is_some_and(|queue| !queue.unsettled))
    }

    /// Learns from a claim that was sent at `asked` and answered at `now`. `first` has the first
    /// due row of each group. Another claim has the claim locks of the `refused` queues: most of
    /// them were left out. The claim was `unsettled` if it met rows that the statement for known
    /// groups does not claim.
    pub(super) fn heard(
        &mut self,
        request: &ClaimRequest,
        refused: &[String],
        first: Vec<First>,
        unsettled: bool,
        asked: Instant,
        now: Instant,
    ) {
        let took = now.saturating_duration_since(asked);
        let next_whole = now + (took * WHOLE_EVERY).min(WHOLE_EVERY_MAX);
        for name in request.queues.iter().filter(|queue| !refused.contains(queue)) {
            // Without any watermark of this queue, the claim looked from the beginning of each
            // group: it was a whole one. That includes a queue without known groups, before its
            // whole claim is due.
            let whole = !request.known.iter().any(|first| first.queue == *name);
            let queue = self.queues.entry(name.clone()).or_insert_with(|| Groups {
                watermarks: HashMap::new(),
                keyed: HashMap::new(),
                next_whole,
                unsettled: false,
            });
            if whole {
                queue.next_whole = next_whole;
            }
            queue.unsettled = unsettled || queue.unsettled && !whole;
            queue.watermarks.retain(|_, watermark| now < watermark.seen + MEMORY);
            queue.keyed.retain(|_, met| now < *met + MEMORY);
        }
        for First { queue, kind, priority, since } in first {
            let Some(queue) = self.queues.get_mut(&queue) else { continue };
            // An answer without a time says that the claim met a partition key of this machine. The
            // machine loses its watermarks, at every priority.
            let Some(since) = since else {
                queue.keyed.insert(kind, now);
                queue.watermarks.retain(|group, _| group.0 != kind);
                continue;
            };
            let group = (kind, priority);
            let fits = queue.watermarks.len() < GROUPS_MAX || queue.watermarks.contains_key(&group);
            if fits && !queue.keyed.contains_key(&kind) {
                queue.watermarks.insert(group, Watermark { since, seen: now });
            }
        }
    }

    /// Returns the time at which the claimer must claim again after this request, because a whole
    /// claim is due. None if the request was a whole claim of each of its queues: it has found no
    /// more rows, and the end of a wait brings the next one.
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

    /// A claim that was sent with the watermarks of that time, and is answered. Some of its queues
    /// may be refused.
    struct Claim {
        request: ClaimRequest,
        refused: Vec<String>,
        unsettled: bool,
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
            settled: watermarks.settled(&queues),
            queues,
            kinds: Arc::new(Kinds::default()),
            without_lock: Vec::new(),
            bytes_max: 1,
            light: None,
        };
        Claim { request, refused: Vec::new(), unsettled: false, asked, took }
    }

    impl Claim {
        fn sees(self, watermarks: &mut Watermarks, first: Vec<First>) {
            watermarks.heard(
                &self.request,
                &self.refused,
                first,
                self.unsettled,
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
    fn one_part_in_eleven_of_the_time_goes_to_whole_claims() {
        let began = Instant::now();
        let mut watermarks = Watermarks::default();
        let whole = send(&watermarks, &["checkout"], began, QUICK);
        assert_eq!(whole.request.known, [], "the first claim is a whole one");
        assert_eq!(watermarks.again(&whole.request), None, "it has seen all that there is");
        whole.sees(&mut watermarks, vec![first(0, 1)]);
        // A claim from the watermarks does not put the next whole claim off.
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
        // A whole claim of both queues is due. The first claim asks for one of them. The second
        // asks for both, and one of them is refused.
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
        // The key's next rows are hidden while one of them runs.
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
        assert!(known.contains(&first(0, 2)), "a known group stays known");
    }

    #[test]
    fn a_queue_is_unsettled_until_its_next_whole_claim() {
        let (mut watermarks, now) = (Watermarks::default(), Instant::now());
        let settled = |watermarks: &Watermarks| watermarks.settled(&names(&["checkout"]));
        assert!(!settled(&watermarks), "nothing is known of it");
        send(&watermarks, &["checkout"], now, QUICK).sees(&mut watermarks, vec![first(0, 1)]);
        assert!(settled(&watermarks));
        let next = |watermarks: &Watermarks| send(watermarks, &["checkout"], now + QUICK, QUICK);
        let mut met_others = next(&watermarks);
        met_others.unsettled = true;
        met_others.sees(&mut watermarks, vec![first(0, 1)]);
        assert!(!settled(&watermarks));
        next(&watermarks).sees(&mut watermarks, vec![first(0, 1)]);
        assert!(!settled(&watermarks), "it was no whole claim");
        let whole = send(&watermarks, &["checkout"], now + LONG, QUICK);
        whole.sees(&mut watermarks, vec![first(0, 1)]);
        assert!(settled(&watermarks));
        assert!(!watermarks.settled(&names(&["checkout", "other"])));
    }
}
