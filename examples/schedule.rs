//! Schedules: a job that runs each night, and one that runs each second, on two engines.
//!
//! ```text
//! cargo run --example schedule
//! ```
//!
//! Both engines declare both schedules. Each tick fires once, whichever engine comes first.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use gen_durable::{Overlap, Schedule, Tick, prelude::*};
use gen_durable_examples::{Error, Session};

/// The day of a report.
#[derive(Clone, DurableState)]
struct Day {
    date: String,
}

impl From<Tick> for Day {
    fn from(tick: Tick) -> Self {
        Self { date: tick.local_date().yesterday().to_string() }
    }
}

/// Reports the day that has just ended. The compiler checks the expression and the zone.
#[durable_job(cron = "0 3 * * *", zone = "Europe/Berlin", missed = "once")]
async fn report(cx: JobContext<Day>, archive: &Archive) {
    println!("  report of {}", cx.state.date);
    archive.put(format!("report of {}", cx.state.date));
}

/// Takes a sample for each tick that it is given.
#[durable_job]
async fn sample(cx: JobContext<Tick>, archive: &Archive) {
    println!("  {} at {}", cx.state.name(), cx.state.local());
    archive.put(cx.state.local().to_string());
}

/// Remembers what was done, in this process.
#[derive(Clone, Default)]
struct Archive(Arc<Mutex<Vec<String>>>);

impl Archive {
    fn put(&self, entry: String) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(entry);
    }

    fn all(&self) -> Vec<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

async fn start(session: &Session, archive: &Archive) -> Result<Engine, gen_durable::Error> {
    let often = Schedule::every(Duration::from_secs(1)).overlap(Overlap::Allow);
    Engine::builder(session.pool.clone())
        .machine::<Report>() // with the schedule of the job itself
        .machine::<Sample>()
        .schedule("samples", often, Sample::insert)
        .resource(archive.clone())
        .start()
        .await
}

#[tokio::main]
async fn main() -> Result<(), Error> {
    println!("starting Postgres and bringing its schema up to date …");
    let session = Session::open().await?;
    let archive = Archive::default();
    let engines = [start(&session, &archive).await?, start(&session, &archive).await?];
    let client = engines[0].client();

    while archive.all().len() < 3 {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }

    let nightly = client.schedule("report");
    let seen = nightly.get().await?.ok_or("the engines declare it")?;
    let hours = seen.next.and_then(|next| next.duration_since(SystemTime::now()).ok());
    println!("report: {}; due in {:?}", seen.declaration, hours.unwrap_or_default());
    client.schedule("samples").pause().by("ada").reason("enough").execute(client).await?;
    println!("an operator does not wait for the night");
    nightly.run_now().by("ada").execute(client).await?;
    while nightly.get().await?.and_then(|seen| seen.last_instance).is_none() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }

    for engine in engines {
        engine.shutdown().await?;
    }
    let all = archive.all();
    let distinct: BTreeSet<&String> = all.iter().collect();
    assert_eq!(distinct.len(), all.len(), "each tick fires once, on whichever engine");
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use gen_durable::testing::{Lab, PgPool};

    use super::*;

    /// 2026-03-27 12:00 UTC, a day before the night in which the clock goes forward.
    const NOON: Duration = Duration::from_hours(492_948);

    #[gen_durable::test]
    async fn each_night_is_reported_also_after_an_outage(pool: PgPool) -> Result<(), Error> {
        let archive = Archive::default();
        let lab = Lab::new(&pool).machine::<Report>().resource(archive.clone());
        let mut lab = lab.starts_at(UNIX_EPOCH + NOON).start().await?;
        lab.advance(Duration::from_hours(2 * 24)).await?;
        assert_eq!(archive.all(), ["report of 2026-03-27", "report of 2026-03-28"]);

        // Three nights are missed: the last one is reported, for all.
        let report = lab.client().schedule("report");
        report.pause().execute(&lab).await?;
        lab.advance(Duration::from_hours(3 * 24)).await?;
        report.resume().execute(&lab).await?;
        lab.run_until_idle().await?;
        assert_eq!(archive.all()[2..], ["report of 2026-03-31"]);
        Ok(())
    }
}
