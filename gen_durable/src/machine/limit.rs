//! Limits: how many runs of some steps there may be at once, and how many may start in a time,
//! across all programs.
//!
//! Invariant: a limit that was checked bounds something, and its numbers fit the integers of the
//! statements that reckon with them.

use std::{fmt, time::Duration};

use crate::storage::Bounds;

use serde::{Deserialize, Serialize};

/// The most runs at once, starts in a period and starts of a burst. With [`PERIOD_MAX`] a product
/// of a number and a period in microseconds fits 63 bits.
const NUMBER_MAX: u32 = 1_000_000;
const PERIOD_MIN: Duration = Duration::from_millis(1);
const PERIOD_MAX: Duration = Duration::from_hours(24 * 31);

/// The bounds of a limit, which holds for all programs on a database together.
///
/// [`EngineBuilder::limit`](crate::EngineBuilder::limit) gives a limit its name, and steps name it:
/// `#[step(limit = "stripe")]`. A limit bounds the runs at once ([`at_once`](Self::at_once)), the
/// starts in a period ([`per`](Self::per)), or both. A step that finds no room waits in the
/// database, and holds up no other work.
///
/// ```
/// use std::time::Duration;
/// use gen_durable::Limit;
///
/// // Ten calls at once, and a hundred in a second; twenty may start at the same moment.
/// let stripe = Limit::new().at_once(10).per(100, Duration::from_secs(1)).burst(20);
/// # let _ = stripe;
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct Limit {
    pub(crate) at_once: Option<u32>,
    pub(crate) per: Option<(u32, Duration)>,
    pub(crate) burst: Option<u32>,
}

impl Limit {
    /// Creates a limit that bounds nothing yet. It needs [`at_once`](Self::at_once) or
    /// [`per`](Self::per).
    pub const fn new() -> Self {
        Self { at_once: None, per: None, burst: None }
    }

    /// Bounds the runs at once, from 1 to 1,000,000. A run of weight 3 counts as three. A run holds
    /// its place until its outcome is committed, or until the lease of its lost worker has run out.
    pub const fn at_once(self, runs: u32) -> Self {
        Self { at_once: Some(runs), ..self }
    }

    /// Bounds the starts: at most `burst + starts × t / period` in any time `t`, by the database's
    /// clock. `starts` is from 1 to 1,000,000, and `period` from a millisecond to 31 days. This is
    /// the generic cell rate algorithm (GCRA) of ATM networks.
    pub const fn per(self, starts: u32, period: Duration) -> Self {
        Self { per: Some((starts, period)), ..self }
    }

    /// Sets how many may start at the same moment after a pause, from 1 to 1,000,000. It needs
    /// [`per`](Self::per), and is 1 by default: starts are then spaced evenly.
    pub const fn burst(self, starts: u32) -> Self {
        Self { burst: Some(starts), ..self }
    }

    /// Returns the reason why these bounds make no limit, if they do not.
    pub(crate) fn check(&self) -> Result<(), &'static str> {
        let fits = |number: u32| (1..=NUMBER_MAX).contains(&number);
        if self.at_once.is_none() && self.per.is_none() {
            return Err(if self.burst.is_some() {
                "a burst needs `per`: say how many may start in which period"
            } else {
                "it bounds nothing: give it `at_once` or `per`"
            });
        }
        if self.burst.is_some() && self.per.is_none() {
            return Err("a burst needs `per`: say how many may start in which period");
        }
        if !self.at_once.is_none_or(fits) {
            return Err("`at_once` is from 1 to 1,000,000; to stop all runs, pause the step");
        }
        if let Some((starts, period)) = self.per {
            if !fits(starts) {
                return Err(
                    "the starts of `per` are from 1 to 1,000,000; to stop all runs, pause the step",
                );
            }
            if !(PERIOD_MIN..=PERIOD_MAX).contains(&period) {
                return Err("the period of `per` is from a millisecond to 31 days");
            }
        }
        if !self.burst.is_none_or(fits) {
            return Err("a burst is from 1 to 1,000,000");
        }
        Ok(())
    }

    /// Returns the most that one run may weigh, and the bound that says so.
    pub(crate) fn weight_max(&self) -> (u32, &'static str) {
        let burst = self.per.map(|_| self.burst.unwrap_or(1));
        match (self.at_once, burst) {
            (Some(runs), Some(burst)) if burst < runs => (burst, "burst"),
            (Some(runs), _) => (runs, "at_once"),
            (None, burst) => (burst.unwrap_or(u32::MAX), "burst"),
        }
    }

    /// Returns the bounds as the database has them.
    pub(crate) fn bounds(&self) -> Bounds {
        let number = |number: u32| i32::try_from(number).unwrap_or(i32::MAX);
        Bounds {
            at_once: self.at_once.map(number),
            starts: self.per.map(|(starts, _)| number(starts)),
            // A period is at most 31 days, and is rounded up.
            period: self.per.map(|(_, period)| {
                i64::try_from(period.as_nanos().div_ceil(1000)).unwrap_or(i64::MAX)
            }),
            burst: self.per.map(|_| number(self.burst.unwrap_or(1))),
        }
    }
}

/// The limit in words: `10 at once, 100 per 1s, burst 20`.
impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(runs) = self.at_once {
            write!(f, "{runs} at once")?;
        }
        if let Some((starts, period)) = self.per {
            let comma = if self.at_once.is_some() { ", " } else { "" };
            write!(f, "{comma}{starts} per {period:?}, burst {}", self.burst.unwrap_or(1))?;
        }
        Ok(())
    }
}

/// The limit of a step, as [`Steps::limit`](super::Steps::limit) states it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct StepLimit<S = &'static str> {
    /// The limit's name.
    pub name: S,
    /// The number of runs that one run counts as.
    pub weight: u32,
    /// True if each key has bounds of its own.
    pub keyed: bool,
}

impl StepLimit {
    /// States that the limit of this name bounds the step. Each run counts as one.
    pub const fn new(name: &'static str) -> Self {
        Self { name, weight: 1, keyed: false }
    }

    /// Counts each run as this many.
    #[must_use]
    pub const fn weight(self, weight: u32) -> Self {
        Self { weight, ..self }
    }

    /// States that each key has bounds of its own.
    /// [`Steps::limit_key`](super::Steps::limit_key) returns a run's key.
    #[must_use]
    pub const fn keyed(self) -> Self {
        Self { keyed: true, ..self }
    }
}

impl<S: AsRef<str>> StepLimit<S> {
    pub(super) fn borrowed(&self) -> StepLimit<&str> {
        StepLimit { name: self.name.as_ref(), weight: self.weight, keyed: self.keyed }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn bounds_that_make_no_limit_are_refused() {
        let refused = [
            Limit::new(),
            Limit::new().burst(2),
            Limit::new().at_once(1).burst(2),
            Limit::new().at_once(0),
            Limit::new().at_once(1_000_001),
            Limit::new().per(0, SECOND),
            Limit::new().per(1_000_001, SECOND),
            Limit::new().per(1, Duration::from_micros(999)),
            Limit::new().per(1, PERIOD_MAX + SECOND),
            Limit::new().per(1, SECOND).burst(0),
            Limit::new().per(1, SECOND).burst(1_000_001),
        ];
        for limit in refused {
            assert!(limit.check().is_err(), "{limit:?}");
        }
        let accepted = [
            Limit::new().at_once(1),
            Limit::new().per(1, SECOND),
            Limit::new().at_once(NUMBER_MAX).per(NUMBER_MAX, PERIOD_MAX).burst(NUMBER_MAX),
            Limit::new().per(1, PERIOD_MIN).burst(1),
        ];
        for limit in accepted {
            assert_eq!(limit.check(), Ok(()), "{limit:?}");
        }
    }

    #[test]
    fn the_products_of_the_largest_numbers_fit() {
        let period = i64::try_from(PERIOD_MAX.as_micros()).unwrap_or(i64::MAX);
        assert!(period.checked_mul(2 * i64::from(NUMBER_MAX)).is_some());
    }

    #[test]
    fn a_limit_is_written_in_words() {
        let limit = Limit::new().at_once(10).per(100, SECOND).burst(20);
        assert_eq!(limit.to_string(), "10 at once, 100 per 1s, burst 20");
        let even = Limit::new().per(3, Duration::from_millis(500));
        assert_eq!(even.to_string(), "3 per 500ms, burst 1");
        let places = Limit::new().at_once(1);
        assert_eq!(places.to_string(), "1 at once");
    }

    #[test]
    fn the_smaller_bound_says_what_a_run_may_weigh() {
        assert_eq!(Limit::new().at_once(5).weight_max(), (5, "at_once"));
        assert_eq!(Limit::new().per(9, SECOND).weight_max(), (1, "burst"));
        assert_eq!(Limit::new().at_once(5).per(9, SECOND).burst(3).weight_max(), (3, "burst"));
        assert_eq!(Limit::new().at_once(5).per(9, SECOND).burst(7).weight_max(), (5, "at_once"));
    }
}
