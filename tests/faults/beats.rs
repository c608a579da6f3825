//! Schedules of worker processes: each tick leaves an instance that says which tick it was.
//!
//! Invariant: the schedules fire each tick, on time or later, so a gap is a tick that was lost.

use std::time::Duration;

use gen_durable::{EngineBuilder, Missed, Overlap, Schedule, Tick, prelude::*};

/// The tick of a schedule.
#[derive(Clone, Debug, DurableState)]
pub struct Beaten {
    /// The schedule.
    pub name: String,
    /// The tick, in milliseconds since 1970.
    pub at: u64,
}

impl From<Tick> for Beaten {
    fn from(tick: Tick) -> Self {
        let since = tick.instant().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let at = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
        Self { name: tick.name().to_owned(), at }
    }
}

/// The instance of a tick. It runs once, for no time.
#[durable_job]
pub async fn beat(cx: JobContext<Beaten>) -> String {
    cx.state.name
}

/// Adds schedules that fire each second, and leave out no tick.
pub fn with_beats(mut builder: EngineBuilder, count: u32) -> EngineBuilder {
    for n in 0..count {
        let schedule = Schedule::every(Duration::from_secs(1))
            .missed(Missed::All { max: 1000 })
            .overlap(Overlap::Allow);
        builder = builder.schedule(format!("beat {n}"), schedule, |tick| Beat::insert(tick.into()));
    }
    builder.machine::<Beat>()
}
