//! Schedules: when instances are inserted by themselves, and the tick that such an insert is for.
//!
//! Invariant: no public type shows the library that reads expressions and knows time zones.

mod calendar;
mod course;
mod local;

use std::{
    fmt,
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Serialize};

pub(crate) use self::calendar::Calendar;
pub use self::local::{Date, LocalDateTime};
use super::{Machine, insert::Insert, state::DurableState};
use crate::storage::{NewInstance, time};

/// The longest text of a declaration's expression or zone, in bytes.
const TEXT_MAX: usize = 255;
/// The shortest and the longest interval.
const EVERY_MIN: Duration = Duration::from_secs(1);
const EVERY_MAX: Duration = Duration::from_hours(24 * 366);
/// The most missed ticks that one outage may have inserted.
const MISSED_MAX: u32 = 1_000;

/// The times at which instances are inserted, and what happens if they cannot be.
///
/// | option | meaning | default |
/// |---|---|---|
/// | [`Schedule::cron(expression)`](Self::cron) | the local times that fit the expression | |
/// | [`Schedule::every(interval)`](Self::every) | each time that the interval has passed | |
/// | `.zone(name)` | the time zone, by its IANA name | `UTC` |
/// | `.missed(missed)` | ticks that no engine could fire in time | [`Missed::Once`] |
/// | `.overlap(overlap)` | a tick while the last instance runs | [`Overlap::Skip`] |
///
/// A wrong expression, zone or interval is an error when the engine starts, and so is an expression
/// that never fires, such as `0 0 30 2 *`.
///
/// ```no_run
/// use std::time::Duration;
///
/// use gen_durable::{Missed, Overlap, Schedule, prelude::*};
///
/// #[durable_job]
/// async fn report(cx: JobContext<String>) {
///     println!("the report of {}", cx.state);
/// }
///
/// # async fn example(pool: sqlx::PgPool) -> Result<(), gen_durable::Error> {
/// let engine = Engine::builder(pool)
///     .machine::<Report>()
///     .schedule(
///         "nightly report",
///         Schedule::cron("0 3 * * *").zone("Europe/Berlin").missed(Missed::Once),
///         |tick| Report::insert(tick.local_date().yesterday().to_string()),
///     )
///     .schedule(
///         "heartbeat",
///         Schedule::every(Duration::from_mins(5)).overlap(Overlap::Allow),
///         |tick| Report::insert(tick.name().to_owned()),
///     )
///     .start()
///     .await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "a schedule has an effect once an engine is given it"]
pub struct Schedule {
    times: Times,
    zone: String,
    missed: Missed,
    overlap: Overlap,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Times {
    Cron(String),
    Every(Duration),
}

/// The policy for ticks that were missed: no engine that declares the schedule was there, or the
/// schedule was paused. A tick counts as missed if it is more than a minute late, or if a later one
/// is due as well.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Missed {
    /// None of them fires.
    Skip,
    /// The last of them fires, for all of them.
    #[default]
    Once,
    /// All of them fire, one after the other, if there are no more than `max`. Otherwise the last
    /// `max` of them do.
    All {
        /// The most ticks that fire: 1 to 1,000.
        max: u32,
    },
}

/// The policy for a tick while the last instance of the schedule has not ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Overlap {
    /// The tick is dropped.
    #[default]
    Skip,
    /// The tick fires all the same.
    Allow,
    /// The tick waits, and fires when the last instance has ended. One tick waits; further ones are
    /// dropped.
    Queue,
}

impl Schedule {
    /// Fires at the local times that fit this cron expression: minute, hour, day of the month,
    /// month, day of the week.
    ///
    /// A field is `*`, a number, a range `9-17`, a list `0,30` or a step `*/15`. Months and days of
    /// the week may have names (`JAN`, `MON`). `L` is the last day of a month, `15W` the weekday
    /// next to the 15th, `FRI#2` the second Friday. If both days are given, a day fits that fits
    /// one of them. `@hourly`, `@daily`, `@weekly`, `@monthly` and `@yearly` stand for their
    /// expressions.
    ///
    /// An expression whose hour begins with `*` follows elapsed time. It fires at each moment whose
    /// local time fits: on the day on which the clock goes back, `*/15 * * * *` fires four times in
    /// each of the two hours of the same name. Any other expression gives fixed local times. Such a
    /// time that does not exist on a day fires at the next one that does, when the clock has gone
    /// forward; several of them fire once. One that occurs twice fires the first time.
    pub fn cron(expression: impl Into<String>) -> Self {
        Self::new(Times::Cron(expression.into()))
    }

    /// Fires each time that this interval has passed since 1970-01-01 00:00 UTC: `every` 15 minutes
    /// fires at each quarter of an hour. It may be 1 s to 366 days, in whole milliseconds. All
    /// engines reckon alike, and a start or a deployment moves nothing.
    pub fn every(interval: Duration) -> Self {
        Self::new(Times::Every(interval))
    }

    fn new(times: Times) -> Self {
        Self {
            times,
            zone: "UTC".to_owned(),
            missed: Missed::default(),
            overlap: Overlap::default(),
        }
    }

    /// Sets the time zone of the local times, by its IANA name: `Europe/Berlin`. The default is
    /// `UTC`. The rules of the zones are those that the program was built with.
    pub fn zone(mut self, zone: impl Into<String>) -> Self {
        self.zone = zone.into();
        self
    }

    /// Sets what happens to ticks that were missed. The default is [`Missed::Once`].
    pub fn missed(mut self, missed: Missed) -> Self {
        self.missed = missed;
        self
    }

    /// Sets what happens at a tick while the last instance has not ended. The default is
    /// [`Overlap::Skip`].
    pub fn overlap(mut self, overlap: Overlap) -> Self {
        self.overlap = overlap;
        self
    }

    /// Returns the calendar of its ticks, or the reason why it has none.
    pub(crate) fn calendar(&self) -> Result<Calendar, String> {
        if let Missed::All { max } = self.missed
            && !(1..=MISSED_MAX).contains(&max)
        {
            return Err(format!("`Missed::All` takes a `max` of 1 to {MISSED_MAX}, not {max}"));
        }
        match &self.times {
            Times::Cron(expression) if expression.len() <= TEXT_MAX => {
                Calendar::cron(expression, &self.zone)
            }
            Times::Cron(_) => Err(format!("a cron expression has at most {TEXT_MAX} bytes")),
            Times::Every(interval) => {
                if !(EVERY_MIN..=EVERY_MAX).contains(interval)
                    || interval.subsec_nanos() % 1_000_000 != 0
                {
                    return Err(format!(
                        "an interval is 1 s to 366 days in whole milliseconds, not {interval:?}"
                    ));
                }
                Calendar::every(*interval, &self.zone)
            }
        }
    }

    pub(crate) fn missed_ticks(&self) -> Missed {
        self.missed
    }

    pub(crate) fn overlapping(&self) -> Overlap {
        self.overlap
    }
}

/// Prints the declaration, as tools show it and as programs compare it.
impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.times {
            Times::Cron(expression) => write!(f, "cron {expression}")?,
            Times::Every(interval) => write!(f, "every {interval:?}")?,
        }
        write!(f, ", zone {}, ", self.zone)?;
        match self.missed {
            Missed::Skip => f.write_str("missed skip")?,
            Missed::Once => f.write_str("missed once")?,
            Missed::All { max } => write!(f, "missed all up to {max}")?,
        }
        f.write_str(match self.overlap {
            Overlap::Skip => ", overlap skip",
            Overlap::Allow => ", overlap allow",
            Overlap::Queue => ", overlap queue",
        })
    }
}

/// A moment at which a schedule fires. The job or the closure of the schedule gets it.
///
/// ```
/// use gen_durable::{Date, Tick, prelude::*};
///
/// #[derive(Clone, Debug, DurableState)]
/// pub struct Day {
///     day: String,
/// }
///
/// impl From<Tick> for Day {
///     fn from(tick: Tick) -> Self {
///         Self { day: tick.local_date().yesterday().to_string() }
///     }
/// }
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tick {
    name: String,
    at: i64,
    local: LocalDateTime,
}

impl Tick {
    pub(crate) fn new(name: &str, at: i64, calendar: &Calendar) -> Self {
        Self { name: name.to_owned(), at, local: calendar.local(at) }
    }

    /// Returns the schedule's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the moment for which the schedule fires. It is in the past, by a little or by the
    /// length of an outage. For a run that an operator asked for, it is the time of the request.
    pub fn instant(&self) -> SystemTime {
        time(self.at)
    }

    /// Returns the date of that moment in the schedule's time zone.
    pub fn local_date(&self) -> Date {
        self.local.date()
    }

    /// Returns the date and time of that moment in the schedule's time zone.
    pub fn local(&self) -> LocalDateTime {
        self.local
    }
}

impl DurableState for Tick {}

impl From<Tick> for () {
    fn from(_: Tick) -> Self {}
}

/// A schedule of a machine, and what it inserts. A job with the option `cron` or `every` has one.
pub struct Scheduled<M: Machine> {
    /// The times.
    pub schedule: Schedule,
    /// Makes the insert for a tick.
    pub insert: fn(Tick) -> Insert<M>,
}

impl<M: Machine> fmt::Debug for Scheduled<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scheduled").field("schedule", &self.schedule).finish_non_exhaustive()
    }
}

/// Makes the row of a tick, for a machine that is known no more. The error says why there is none.
pub(crate) type MakeRow =
    Box<dyn Fn(Tick, usize) -> Result<NewInstance, crate::error::EncodeError> + Send + Sync>;

/// A schedule that an engine declares.
pub(crate) struct Declared {
    pub(crate) name: String,
    pub(crate) schedule: Schedule,
    /// The machine of its instances.
    pub(crate) fsm: &'static str,
    pub(crate) make: MakeRow,
}

impl Declared {
    pub(crate) fn new<M: Machine>(
        name: String,
        schedule: Schedule,
        insert: impl Fn(Tick) -> Insert<M> + Send + Sync + 'static,
    ) -> Self {
        let make = Box::new(move |tick, max| insert(tick).into_row(max));
        Self { name, schedule, fsm: M::NAME, make }
    }
}

impl fmt::Debug for Declared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Declared")
            .field("name", &self.name)
            .field("schedule", &self.schedule)
            .finish_non_exhaustive()
    }
}
