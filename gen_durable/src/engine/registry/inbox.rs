//! The inbox of a claimed instance, as its worker knows it: the oldest signals, and counts of those
//! beyond them.
//!
//! ```text
//!   taken · taken · loaded, oldest first · · · | beyond: counted by name · · · | not known
//!                                            all_to                         known
//! ```
//!
//! The signals of an instance are committed in the order of their ids, so two ids tell which are
//! new. A step may await a name whose signals come behind many others. They are loaded ahead of
//! those others.
//!
//! Invariant: each signal up to `all_to` is in `signals`, unless a step consumed it. Each one from
//! there up to `known` is in `signals` or counted in `beyond`. Only while `stale` is set may
//! signals after `all_to` be in neither.

use std::{collections::BTreeSet, sync::Arc};

use crate::{
    machine::context::{Beyond, Consumption, Received},
    storage::{Inbox, InboxRow, Missing, Portion},
};

/// If fewer signals are left than this, more are loaded before the next step.
const LOW: usize = 100;
/// The first portion that is loaded beyond a claim's signals, in signals and in bytes.
const PORTION: i64 = 1_000;
const PORTION_BYTES: i64 = 1024 * 1024;
/// The factor by which the next portion grows each time that a step awaits signals that are not
/// loaded.
const GROWTH: i64 = 4;
/// The largest portion, in multiples of the first: 64 MiB. Compressed payloads are larger than they
/// seem, and Postgres sends no more than 1 GiB.
const GROWTH_MAX: i64 = 64;

/// The inbox of a claimed instance.
#[derive(Clone, Default)]
pub(crate) struct Loaded {
    /// The loaded signals, in the order of their ids.
    signals: Vec<Received>,
    /// The id of the newest signal up to which all are loaded.
    all_to: i64,
    /// The same for the signals of one name, if all of that name are loaded further than `all_to`.
    ahead: Vec<(Arc<str>, i64)>,
    /// The id of the newest signal that was loaded or counted.
    known: i64,
    /// The number of signals by name that are there and not loaded. None if there are none.
    beyond: Option<Arc<Beyond>>,
    /// There are signals after `all_to` that are not counted yet.
    stale: bool,
    /// Names that the last step awaits, and whose signals are not all loaded.
    wanted: Vec<Arc<str>>,
    /// The size of the next portion, in multiples of the first.
    growth: i64,
}

impl Loaded {
    pub(super) fn new(inbox: Inbox) -> Self {
        let mut loaded = Self { growth: 1, ..Self::default() };
        loaded.add(inbox);
        loaded
    }

    /// Returns the loaded signals, as a context takes them.
    pub(super) fn signals(&self) -> Vec<Received> {
        self.signals.clone()
    }

    pub(super) fn beyond(&self) -> Option<Arc<Beyond>> {
        self.beyond.clone()
    }

    /// Returns the contexts of the senders of these signals, each once. The signals are sorted by
    /// their ids.
    pub(super) fn trace_contexts(&self, consumed: &[i64]) -> BTreeSet<&str> {
        let sent = self.signals.iter().filter(|signal| signal.trace_context.is_some());
        let taken = sent.filter(|signal| consumed.binary_search(&signal.id).is_ok());
        taken.filter_map(|signal| signal.trace_context.as_deref()).collect()
    }

    /// Returns the id of the newest signal that the worker knows of.
    pub(super) fn known(&self) -> i64 {
        self.known
    }

    /// True if a signal of one of these names is in the inbox and not loaded.
    pub(super) fn holds_back(&self, names: &[&str]) -> bool {
        self.beyond
            .as_ref()
            .is_some_and(|beyond| names.iter().any(|name| beyond.contains_key(*name)))
    }

    /// Notes that the step awaits these names. Their signals that are not loaded yet are loaded
    /// before the step runs again.
    pub(super) fn want(&mut self, names: &[&str]) {
        let Some(beyond) = &self.beyond else { return };
        let beyond = names.iter().filter_map(|name| beyond.get_key_value(*name));
        self.wanted = beyond.map(|(name, _)| Arc::clone(name)).collect();
    }

    /// Removes the signals that a commit consumed, and adds the new ones that it brought.
    pub(super) fn advance(&mut self, consumed: &[i64], inbox: Inbox) {
        if !consumed.is_empty() {
            // Both lists are in the order of ids.
            self.signals.retain(|signal| consumed.binary_search(&signal.id).is_err());
        }
        self.add(inbox);
    }

    /// Adds signals that a claim or a commit brought. If others before them are not loaded, they
    /// are only counted.
    fn add(&mut self, Inbox { signals, more }: Inbox) {
        let complete = self.all_to == self.known;
        for signal in signals {
            self.known = self.known.max(signal.0);
            if complete {
                self.all_to = signal.0;
                self.push(signal);
            } else {
                self.count(signal.1.into(), 1);
            }
        }
        self.stale |= more;
    }

    fn push(&mut self, InboxRow(id, name, payload, context): InboxRow) {
        self.signals.push(Received {
            id,
            name: name.into(),
            payload: Box::<str>::from(payload).into(),
            trace_context: context.map(Into::into),
            consumption: Consumption::Kept,
        });
    }

    /// Returns the id up to which the signals of this name were loaded ahead of others.
    fn ahead_to(&self, name: &str) -> Option<i64> {
        self.ahead.iter().find(|(other, _)| **other == *name).map(|(_, last)| *last)
    }

    fn count(&mut self, name: Arc<str>, count: usize) {
        let beyond = self.beyond.get_or_insert_default();
        *Arc::make_mut(beyond).entry(name).or_default() += count;
    }

    /// Returns what to load before the next step, if anything.
    pub(crate) fn missing(&self) -> Option<Missing> {
        let name = self.wanted.last();
        let low = self.beyond.is_some() && self.signals.len() < LOW;
        let ahead = name.and_then(|name| self.ahead_to(name));
        (name.is_some() || self.stale || low).then(|| Missing {
            name: name.map(|name| (**name).to_owned()),
            after: ahead.unwrap_or(self.all_to).max(self.all_to),
            loaded: self.all_to,
            count_max: PORTION.saturating_mul(self.growth),
            bytes_max: PORTION_BYTES.saturating_mul(self.growth),
        })
    }

    /// Adds a portion that was loaded. True if the next step now has all that it needs.
    pub(crate) fn extend(&mut self, portion: Portion) -> bool {
        let last = portion.signals.last().map(|signal| signal.0);
        let asked = !self.wanted.is_empty();
        match (self.wanted.pop(), last) {
            (Some(name), Some(last)) => {
                self.ahead.retain(|(other, _)| *other != name);
                self.ahead.push((name, last));
                portion.signals.into_iter().for_each(|signal| self.push(signal));
            }
            (Some(_), None) => {}
            (None, last) => {
                self.all_to = last.unwrap_or(self.all_to);
                for signal in portion.signals {
                    if self.ahead_to(&signal.1).is_none_or(|ahead| signal.0 > ahead) {
                        self.push(signal);
                    }
                }
            }
        }
        self.signals.sort_unstable_by_key(|signal| signal.id);
        self.stale = false;
        self.known = portion.last.unwrap_or(self.all_to).max(self.all_to);
        let mut beyond: Beyond =
            portion.beyond.into_iter().map(|(name, count)| (Arc::from(name), count)).collect();
        for signal in self.signals.iter().rev().take_while(|signal| signal.id > self.all_to) {
            if let Some(count) = beyond.get_mut(&signal.name) {
                *count = count.saturating_sub(1);
            }
        }
        beyond.retain(|_, count| *count > 0);
        self.beyond = (!beyond.is_empty()).then(|| Arc::new(beyond));
        let complete = self.wanted.is_empty();
        if asked && complete {
            self.growth = (self.growth * GROWTH).min(GROWTH_MAX);
        }
        complete
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail")]
mod tests {
    use super::*;

    fn named(name: &str, ids: impl IntoIterator<Item = i64>) -> Vec<InboxRow> {
        let payload = || serde_json::value::RawValue::from_string("1".to_owned()).unwrap();
        ids.into_iter().map(|id| InboxRow(id, name.to_owned(), payload(), None)).collect()
    }

    fn rows(ids: impl IntoIterator<Item = i64>) -> Vec<InboxRow> {
        named("go", ids)
    }

    fn ids(inbox: &Loaded) -> Vec<i64> {
        inbox.signals.iter().map(|signal| signal.id).collect()
    }

    fn beyond(counts: &[(&str, usize)]) -> Vec<(String, usize)> {
        counts.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
    }

    #[test]
    fn what_is_new_is_added_and_what_was_consumed_is_gone() {
        let mut inbox = Loaded::new(Inbox { signals: rows([3, 5]), more: false });
        inbox.advance(&[3], Inbox { signals: rows([8]), more: false });
        assert_eq!((ids(&inbox), inbox.known()), (vec![5, 8], 8));
        assert!(inbox.missing().is_none());
    }

    #[test]
    fn what_is_beyond_is_counted_and_loaded_when_little_is_left() {
        let mut inbox = Loaded::new(Inbox { signals: rows(1..=100), more: true });
        let missing = inbox.missing().unwrap();
        assert_eq!(missing.after, 100, "there are more signals, which are not counted yet");
        let last = 100 + missing.count_max;
        let portion =
            Portion { signals: rows(101..=last), beyond: beyond(&[("go", 7)]), last: Some(20_000) };
        assert!(inbox.extend(portion));
        assert!(inbox.missing().is_none());
        // A new signal comes behind the counted ones: it is counted, and not loaded before them.
        inbox.advance(&[], Inbox { signals: rows([20_001]), more: false });
        assert_eq!((inbox.known(), inbox.beyond().unwrap()["go"]), (20_001, 8));
        assert!(inbox.holds_back(&["stay", "go"]) && !inbox.holds_back(&["stay"]));
        let taken: Vec<i64> = (1..=last - 50).collect();
        inbox.advance(&taken, Inbox::default());
        assert_eq!(inbox.missing().unwrap().after, last, "few are left");
    }

    #[test]
    fn what_a_step_awaits_is_loaded_ahead_and_not_a_second_time() {
        let mut inbox = Loaded::new(Inbox { signals: rows(1..=100), more: true });
        let counts = [("go", 500), ("rare", 2)];
        let nothing = Portion { signals: Vec::new(), beyond: beyond(&counts), last: Some(700) };
        inbox.extend(nothing);
        inbox.want(&["rare", "other"]);
        let missing = inbox.missing().unwrap();
        assert_eq!(
            (missing.name.as_deref(), missing.after, missing.loaded),
            (Some("rare"), 100, 100)
        );
        let portion = Portion {
            signals: named("rare", [400, 600]),
            beyond: beyond(&counts),
            last: Some(700),
        };
        assert!(inbox.extend(portion));
        assert_eq!(ids(&inbox)[100..], [400, 600]);
        assert!(!inbox.holds_back(&["rare"]) && inbox.beyond().unwrap()["go"] == 500);
        // The first one is consumed. Then a portion comes that has the second one once more.
        let taken: Vec<i64> = (1..=100).chain([400]).collect();
        inbox.advance(&taken, Inbox::default());
        assert_eq!(inbox.missing().unwrap().name, None);
        let mut signals = rows(101..=110);
        signals.extend(named("rare", [600]));
        inbox.extend(Portion { signals, beyond: beyond(&[("go", 490)]), last: Some(700) });
        assert_eq!(ids(&inbox), (101..=110).chain([600]).collect::<Vec<_>>());
    }
}
