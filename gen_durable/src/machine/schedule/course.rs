//! The course of a schedule: which of its ticks have fired, and which are due.
//!
//! ```text
//!         skipped           skipped                passed       next
//!   ───┬───────────┬─────┬───────────┬───────────────┼────────────┼────►
//!      │ not fired │fired│ not fired │ fired         │            │ first one to come
//! ```
//!
//! Invariant: no tick fires twice, whatever the clock does. If the clock goes back to before ticks
//! that have not fired, these come again.

use super::{Calendar, Missed};
use crate::storage::Course;

/// The time by which a tick may be late and still counts as on time, in microseconds: a minute.
/// Engines fire within a second. A fleet that loses an engine, or is restarted, may take longer.
const LATE_MAX: i64 = 60_000_000;

/// The most ranges of skipped ticks that are remembered, the latest ones. Each outage may leave
/// one. They matter only if the clock goes back to before them, and then a tick in a forgotten
/// range counts as fired.
const SKIPPED_MAX: usize = 16;

impl Course {
    /// Begins the course of a new schedule. It does not fire at once.
    pub(crate) fn begin(calendar: &Calendar, now: i64) -> Self {
        // No tick before now has fired. If the clock is wrong now, and goes back later, they come.
        let course = Self { next: None, passed: now, skipped: vec![(i64::MIN, now)] };
        Self { next: course.after(calendar, now), ..course }
    }

    /// Goes on by another calendar. The ticks of the former one are dealt with up to `since`.
    pub(crate) fn change(self, calendar: &Calendar, since: i64) -> Self {
        Self { next: self.after(calendar, since), ..self }
    }

    /// Returns the first tick after this time that has not fired.
    fn after(&self, calendar: &Calendar, mut time: i64) -> Option<i64> {
        loop {
            let next = calendar.next(time)?;
            let skipped = |(from, to): &(i64, i64)| (*from..*to).contains(&next);
            if next > self.passed || self.skipped.iter().any(skipped) {
                return Some(next);
            }
            // It has fired, and so have all up to the next skipped one.
            let begins = self.skipped.iter().map(|(from, _)| *from).filter(|from| *from > next);
            time = begins.min().map_or(self.passed, |from| (from - 1).min(self.passed));
        }
    }

    /// Returns the last tick from `from` to `until` that has not fired.
    fn before(&self, calendar: &Calendar, from: i64, until: i64) -> Option<i64> {
        let skipped = self.skipped.iter().map(|(from, to)| (*from, *to - 1));
        let ranges = skipped.chain([(self.passed + 1, i64::MAX)]).rev();
        let last = |(begin, end): (i64, i64)| {
            let (begin, end) = (begin.max(from), end.min(until));
            let first = calendar.next(begin.checked_sub(1)?).filter(|first| *first <= end)?;
            Some(calendar.last(first, end))
        };
        ranges.filter(|(begin, end)| *begin <= until && *end >= from).find_map(last)
    }

    /// Returns the course after the clock went back, if ticks are due again that have not fired.
    pub(crate) fn rewind(&self, calendar: &Calendar, now: i64) -> Option<Self> {
        if self.skipped_to() <= now {
            return None;
        }
        let next = self.after(calendar, now)?;
        let is_earlier = self.next.is_none_or(|known| next < known);
        is_earlier.then(|| Self { next: Some(next), ..self.clone() })
    }

    /// Returns the ticks that fire now, and the course after them.
    pub(crate) fn pass(self, calendar: &Calendar, now: i64, missed: Missed) -> (Vec<i64>, Self) {
        let first = self.next.filter(|next| *next <= now);
        let last = first.and_then(|first| self.before(calendar, first, now));
        let (Some(first), Some(last)) = (first, last) else { return (Vec::new(), self) };
        let most = match missed {
            Missed::Skip if now - last > LATE_MAX => 0,
            Missed::Skip | Missed::Once => 1,
            Missed::All { max } => max,
        };
        let mut fired = Vec::new();
        let mut tick = Some(last);
        while let Some(latest) = tick.filter(|_| fired.len() < most as usize) {
            fired.push(latest);
            tick = self.before(calendar, first, latest - 1);
        }
        fired.reverse();
        let course = self.without(calendar, &fired, last);
        (fired, Self { next: course.after(calendar, now), ..course })
    }

    /// Returns the course in which these ticks have fired, and no other one up to `last` that had
    /// not.
    fn without(self, calendar: &Calendar, fired: &[i64], last: i64) -> Self {
        let passed = self.passed.max(last);
        let mut skipped = Vec::new();
        for (mut from, to) in self.skipped.into_iter().chain([(self.passed + 1, last + 1)]) {
            for tick in
                fired.iter().filter(|tick| (from..to).contains(*tick)).copied().collect::<Vec<_>>()
            {
                skipped.push((from, tick));
                from = tick + 1;
            }
            skipped.push((from, to));
        }
        // A range without a tick says nothing.
        skipped.retain(|(from, to)| {
            from < to && calendar.next(from.saturating_sub(1)).is_some_and(|tick| tick < *to)
        });
        let forgotten = skipped.len().saturating_sub(SKIPPED_MAX);
        Self { next: None, passed, skipped: skipped.split_off(forgotten) }
    }
}

#[cfg(test)]
mod tests;
