//! Dates and times of day in a schedule's time zone.
//!
//! Invariant: each value is a date of the calendar, so all arithmetic has an answer.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A date of the Gregorian calendar. It prints as `2026-11-29`, and orders by time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Date {
    year: i16,
    month: u8,
    day: u8,
}

/// A date and a time of day, without a time zone. It prints as `2026-11-29T03:00:00`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct LocalDateTime {
    date: Date,
    hour: u8,
    minute: u8,
    second: u8,
}

impl Date {
    /// Returns the year.
    pub fn year(self) -> i16 {
        self.year
    }

    /// Returns the month, from 1 to 12.
    pub fn month(self) -> u8 {
        self.month
    }

    /// Returns the day of the month, from 1.
    pub fn day(self) -> u8 {
        self.day
    }

    /// Returns the day before.
    #[must_use]
    pub fn yesterday(self) -> Self {
        let civil = self.civil();
        Self::of(civil.yesterday().unwrap_or(civil))
    }

    /// Returns the day after.
    #[must_use]
    pub fn tomorrow(self) -> Self {
        let civil = self.civil();
        Self::of(civil.tomorrow().unwrap_or(civil))
    }

    fn of(date: jiff::civil::Date) -> Self {
        Self {
            year: date.year(),
            month: date.month().unsigned_abs(),
            day: date.day().unsigned_abs(),
        }
    }

    /// A value that was read from a database may name no day. It then counts as the last one of
    /// its kind.
    fn civil(self) -> jiff::civil::Date {
        let part = |value: u8| i8::try_from(value).unwrap_or(i8::MAX);
        jiff::civil::Date::new(self.year, part(self.month), part(self.day))
            .unwrap_or(jiff::civil::Date::MAX)
    }
}

impl LocalDateTime {
    pub(super) fn of(time: jiff::civil::DateTime) -> Self {
        Self {
            date: Date::of(time.date()),
            hour: time.hour().unsigned_abs(),
            minute: time.minute().unsigned_abs(),
            second: time.second().unsigned_abs(),
        }
    }

    /// Returns the date.
    pub fn date(self) -> Date {
        self.date
    }

    /// Returns the hour, from 0 to 23.
    pub fn hour(self) -> u8 {
        self.hour
    }

    /// Returns the minute, from 0 to 59.
    pub fn minute(self) -> u8 {
        self.minute
    }

    /// Returns the second, from 0 to 59.
    pub fn second(self) -> u8 {
        self.second
    }
}

impl fmt::Display for Date {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04}-{:02}-{:02}", self.year, self.month, self.day)
    }
}

impl fmt::Display for LocalDateTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}T{:02}:{:02}:{:02}", self.date, self.hour, self.minute, self.second)
    }
}
