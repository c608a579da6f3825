//! What a worker knows of an instance's inbox: its oldest signals, and how many there are beyond.
//!
//! ```text
//!   taken · taken · loaded, oldest first · · · | beyond: counted by name · · · | not known
//!                                            loaded                         known
//! ```
//!
//! An instance's signals are committed in the order of their ids, so two ids tell what is new.
//!
//! Invariant: every signal up to `loaded` is in `signals`, unless a step consumed it; every one from
//! there up to `known` is in `beyond`. Only `stale` says otherwise.

use std::sync::Arc;

use crate::{
    context::{Beyond, Mark, Received},
    storage::{Inbox, InboxRow, Portion},
};

/// With fewer signals left, more are loaded before the next step.
const LOW: usize = 100;
/// The first portion that is loaded beyond what a claim brings, in signals and in bytes.
const PORTION: i64 = 10_000;
const PORTION_BYTES: i64 = 1024 * 1024;
/// How much larger each further portion is that a step asks for by awaiting what is beyond.
const GROWTH: i64 = 4;

/// The inbox of a claimed instance.
#[derive(Clone, Default)]
pub(crate) struct Loaded {
    signals: Vec<Received>,
    /// The newest signal that was loaded.
    loaded: i64,
    /// The newest signal that was loaded or counted.
    known: i64,
    beyond: Arc<Beyond>,
    /// There are signals after `loaded` that are not counted.
    stale: bool,
    /// The last step awaits a signal that is not loaded.
    wanted: bool,
    growth: i64,
}

impl Loaded {
    pub(super) fn new(inbox: Inbox) -> Self {
        let mut loaded = Self { growth: 1, ..Self::default() };
        loaded.add(inbox);
        loaded
    }

    /// The loaded signals, as a context takes them.
    pub(super) fn signals(&self) -> Vec<Received> {
        self.signals.clone()
    }

    pub(super) fn beyond(&self) -> Arc<Beyond> {
        Arc::clone(&self.beyond)
    }

    /// The newest signal that the worker knows of.
    pub(super) fn known(&self) -> i64 {
        self.known
    }

    /// Whether a signal of one of these names is there and not loaded.
    pub(super) fn holds_back(&self, names: &[&str]) -> bool {
        names.iter().any(|name| self.beyond.contains_key(*name))
    }

    /// The step awaits what is beyond: it is loaded before the step runs again.
    pub(super) fn want(&mut self) {
        self.wanted = true;
    }

    /// Becomes what is left after a commit that consumed these, and brought what is new.
    pub(super) fn advance(&mut self, consumed: &[i64], inbox: Inbox) {
        if !consumed.is_empty() {
            // Both are in the order of ids.
            self.signals.retain(|signal| consumed.binary_search(&signal.id).is_err());
        }
        self.add(inbox);
    }

    fn add(&mut self, Inbox { signals, more }: Inbox) {
        let complete = self.loaded == self.known;
        for signal in signals {
            self.known = self.known.max(signal.0);
            if complete {
                self.push(signal);
            } else {
                self.count(signal.1.into(), 1);
            }
        }
        self.stale |= more;
    }

    fn push(&mut self, InboxRow(id, name, payload): InboxRow) {
        self.loaded = self.loaded.max(id);
        self.signals.push(Received {
            id,
            name: name.into(),
            payload: Box::<str>::from(payload).into(),
            mark: Mark::Kept,
        });
    }

    fn count(&mut self, name: Arc<str>, count: usize) {
        *Arc::make_mut(&mut self.beyond).entry(name).or_default() += count;
    }

    /// What to load before the next step, if anything: after which signal, how many, how many bytes.
    pub(crate) fn missing(&self) -> Option<(i64, i64, i64)> {
        let low = !self.beyond.is_empty() && self.signals.len() < LOW;
        let portion = || {
            let growth = self.growth;
            (self.loaded, PORTION.saturating_mul(growth), PORTION_BYTES.saturating_mul(growth))
        };
        (self.stale || self.wanted || low).then(portion)
    }

    /// Adds what was loaded.
    pub(crate) fn extend(&mut self, portion: Portion) {
        if std::mem::take(&mut self.wanted) {
            self.growth = self.growth.saturating_mul(GROWTH);
        }
        self.stale = false;
        for signal in portion.signals {
            self.push(signal);
        }
        self.known = portion.last.unwrap_or(self.loaded).max(self.loaded);
        let beyond = portion.beyond.into_iter();
        self.beyond = Arc::new(beyond.map(|(name, count)| (name.into(), count)).collect());
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail")]
mod tests {
    use super::*;

    fn rows(ids: impl IntoIterator<Item = i64>) -> Vec<InboxRow> {
        let payload = || serde_json::value::RawValue::from_string("1".to_owned()).unwrap();
        ids.into_iter().map(|id| InboxRow(id, "go".to_owned(), payload())).collect()
    }

    fn ids(inbox: &Loaded) -> Vec<i64> {
        inbox.signals.iter().map(|signal| signal.id).collect()
    }

    #[test]
    fn what_is_new_is_added_and_what_was_consumed_is_gone() {
        let mut inbox = Loaded::new(Inbox { signals: rows([3, 5]), more: false });
        inbox.advance(&[3], Inbox { signals: rows([8]), more: false });
        assert_eq!((ids(&inbox), inbox.known(), inbox.missing()), (vec![5, 8], 8, None));
    }

    #[test]
    fn what_is_beyond_is_counted_and_loaded_when_little_is_left() {
        let mut inbox = Loaded::new(Inbox { signals: rows(1..=100), more: true });
        let (after, count, _) = inbox.missing().unwrap();
        assert_eq!(after, 100, "there is more, and nobody has counted it");
        let beyond = vec![("go".to_owned(), 7)];
        let signals = rows(101..=100 + count);
        inbox.extend(Portion { signals, beyond, last: Some(20_000) });
        assert_eq!(inbox.missing(), None);
        // A signal that comes now is behind those: it is counted, and not loaded before them.
        inbox.advance(&[], Inbox { signals: rows([20_001]), more: false });
        assert_eq!((inbox.known(), inbox.beyond()["go"]), (20_001, 8));
        assert!(inbox.holds_back(&["stay", "go"]) && !inbox.holds_back(&["stay"]));
        let taken: Vec<i64> = (1..=10_050).collect();
        inbox.advance(&taken, Inbox::default());
        assert_eq!(inbox.missing().unwrap().0, 10_100, "few are left");
    }

    #[test]
    fn a_step_that_awaits_what_is_beyond_gets_ever_larger_portions() {
        let mut inbox = Loaded::new(Inbox { signals: rows(1..=100), more: true });
        let mut counts = Vec::new();
        for _ in 0..3 {
            let (after, count, _) = inbox.missing().unwrap();
            counts.push(count / PORTION);
            let beyond = vec![("go".to_owned(), 1)];
            let last = Some(after + count + 1);
            inbox.extend(Portion { signals: rows(after + 1..=after + count), beyond, last });
            inbox.want();
        }
        assert_eq!(counts, [1, 1, 4]);
    }
}
