//! The ticks of a schedule: which moment comes next.
//!
//! The library finds the local times that fit an expression. This module makes moments of them, as
//! the rules for the days on which a zone's clock changes are the schedule's own.
//!
//! Invariant: the ticks depend on the declaration alone. They are ordered, and no two are at one
//! moment.

use std::{fmt, time::Duration};

use croner::{
    Cron,
    parser::{CronParser, Seconds, Year},
};
use jiff::{
    Timestamp,
    civil::DateTime,
    tz::{AmbiguousOffset, TimeZone, TimeZoneDatabase},
};

use super::LocalDateTime;

/// The ticks of a schedule. Times are in microseconds since 1970.
#[derive(Clone)]
pub(crate) struct Calendar {
    ticks: Ticks,
    zone: TimeZone,
}

#[derive(Clone)]
enum Ticks {
    /// Local times; `elapsed` if each moment counts whose local time fits.
    Local { cron: Box<Cron>, elapsed: bool },
    /// The multiples of an interval, in microseconds.
    Every(i64),
}

impl Calendar {
    /// Returns the calendar of an expression, or the reason why it has none.
    pub(super) fn cron(expression: &str, zone: &str) -> Result<Self, String> {
        let zone = find_zone(zone)?;
        let parser =
            CronParser::builder().seconds(Seconds::Disallowed).year(Year::Disallowed).build();
        let cron =
            parser.parse(expression).map_err(|error| error.to_string()).map_err(|error| {
                format!("`{expression}` is no cron expression: {}", error.trim_end_matches('.'))
            })?;
        let elapsed = match expression.split_whitespace().nth(1) {
            Some(hour) => hour.starts_with('*'),
            None => expression.trim().eq_ignore_ascii_case("@hourly"),
        };
        if cron.find_next_occurrence(&DateTime::constant(2000, 1, 1, 0, 0, 0, 0), true).is_err() {
            return Err(format!("`{expression}` never fires: no such day comes"));
        }
        Ok(Self { ticks: Ticks::Local { cron: Box::new(cron), elapsed }, zone })
    }

    /// Returns the calendar of an interval.
    pub(super) fn every(interval: Duration, zone: &str) -> Result<Self, String> {
        let micros = i64::try_from(interval.as_micros()).unwrap_or(i64::MAX);
        Ok(Self { ticks: Ticks::Every(micros), zone: find_zone(zone)? })
    }

    /// Returns the first tick after this time. None if it lies beyond the year 9999.
    pub(crate) fn next(&self, after: i64) -> Option<i64> {
        match &self.ticks {
            Ticks::Every(interval) => {
                after.div_euclid(*interval).checked_add(1)?.checked_mul(*interval)
            }
            Ticks::Local { cron, elapsed: true } => self.next_elapsed(cron, after),
            Ticks::Local { cron, elapsed: false } => self.next_fixed(cron, after),
        }
    }

    /// Returns the last tick from `from`, which is one, to `until`.
    pub(super) fn last(&self, from: i64, until: i64) -> i64 {
        if let Ticks::Every(interval) = &self.ticks {
            return (until.div_euclid(*interval) * interval).max(from);
        }
        // `low` is a tick, and no tick lies after `high`, up to `until`.
        let (mut low, mut high) = (from, until);
        while let Some(next) = self.next(low).filter(|next| *next <= high) {
            let middle = low + (high - low) / 2;
            if let Some(tick) = self.next(middle).filter(|tick| *tick <= high) {
                low = tick;
            } else {
                (low, high) = (next, middle);
            }
        }
        low
    }

    /// Returns the local time of a moment.
    pub(super) fn local(&self, at: i64) -> LocalDateTime {
        LocalDateTime::of(self.civil(timestamp(at)))
    }

    fn civil(&self, at: Timestamp) -> DateTime {
        self.zone.to_datetime(at)
    }

    /// Fixed local times: each fires once, on each day.
    fn next_fixed(&self, cron: &Cron, after: i64) -> Option<i64> {
        let mut local = self.civil(Timestamp::from_microsecond(after).ok()?);
        loop {
            local = cron.find_next_occurrence(&local, false).ok()?;
            // Local times that occur twice have their first moment before `after`, and those that
            // do not exist share one moment.
            let at = self.moment(local)?;
            if at > after {
                return Some(at);
            }
        }
    }

    /// Returns the moment of a local time: the first one, or the one at which the clock goes
    /// forward past it.
    fn moment(&self, local: DateTime) -> Option<i64> {
        let at = match self.zone.to_ambiguous_zoned(local).offset() {
            AmbiguousOffset::Unambiguous { offset } => offset.to_timestamp(local).ok()?,
            AmbiguousOffset::Fold { before, .. } => before.to_timestamp(local).ok()?,
            AmbiguousOffset::Gap { after, .. } => {
                // By the later offset the local time lies before the change.
                let before_change = after.to_timestamp(local).ok()?;
                self.zone.following(before_change).next()?.timestamp()
            }
        };
        Some(at.as_microsecond())
    }

    /// Each moment whose local time fits. From one change of the zone's clock to the next one,
    /// local time passes as elapsed time does.
    fn next_elapsed(&self, cron: &Cron, after: i64) -> Option<i64> {
        let mut from = Timestamp::from_microsecond(after).ok()?;
        let mut inclusive = false;
        loop {
            let local = cron.find_next_occurrence(&self.civil(from), inclusive).ok()?;
            let at = self.zone.to_offset(from).to_timestamp(local).ok()?;
            match self.zone.following(from).next() {
                Some(change) if at >= change.timestamp() => {
                    from = change.timestamp();
                    inclusive = true;
                }
                _ => return Some(at.as_microsecond()),
            }
        }
    }
}

impl fmt::Debug for Calendar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Calendar").field("zone", &self.zone.iana_name()).finish_non_exhaustive()
    }
}

fn find_zone(name: &str) -> Result<TimeZone, String> {
    let unknown = || {
        format!("`{name}` is no time zone: give its IANA name, such as `Europe/Berlin` or `UTC`")
    };
    if name.len() > super::TEXT_MAX {
        return Err(unknown());
    }
    // Not those of the host, which another host of the fleet may have in another version.
    TimeZoneDatabase::bundled().get(name).map_err(|_| unknown())
}

/// Returns a moment, or the nearest one that there is.
fn timestamp(at: i64) -> Timestamp {
    let nearest = if at < 0 { Timestamp::MIN } else { Timestamp::MAX };
    Timestamp::from_microsecond(at).unwrap_or(nearest)
}

#[cfg(test)]
mod tests;
