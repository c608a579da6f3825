//! The observer: the engine whose metrics show the database's view, and what it reads for them.
//!
//! Invariant: the row of `observer` names one worker at a time. A sample changes and locks nothing,
//! and examines a bounded number of rows.

use std::time::{Duration, SystemTime};

use sqlx::{PgConnection, Row};

use super::{micros, time};

const OBSERVE: &str = include_str!("sql/observe.sql");
const STOP_OBSERVING: &str = include_str!("sql/stop_observing.sql");
const SAMPLE_LIMITS: &str = include_str!("sql/sample_limits.sql");
const SAMPLE_SCHEDULES: &str = include_str!("sql/sample_schedules.sql");
const SAMPLE_WORKERS: &str = include_str!("sql/sample_workers.sql");

/// Makes a worker the observer for this long, or keeps it so. False if another one is.
pub(crate) async fn observe(
    connection: &mut PgConnection,
    worker: i64,
    ttl: Duration,
) -> Result<bool, sqlx::Error> {
    let row = sqlx::query(OBSERVE).bind(worker).bind(micros(ttl)).fetch_optional(connection);
    Ok(row.await?.is_some())
}

/// Gives the lease of the observer up, if this worker has it.
pub(crate) async fn stop_observing(
    connection: &mut PgConnection,
    worker: i64,
) -> Result<(), sqlx::Error> {
    sqlx::query(STOP_OBSERVING).bind(worker).execute(connection).await?;
    Ok(())
}

/// The use of a limit.
#[derive(Debug)]
pub(crate) struct LimitSample {
    pub(crate) name: String,
    pub(crate) at_once: Option<i32>,
    pub(crate) starts_per_second: Option<f64>,
    pub(crate) in_use: i64,
    pub(crate) waiting: i64,
}

/// Reads the use of limits.
pub(crate) async fn sample_limits(
    connection: &mut PgConnection,
) -> Result<Vec<LimitSample>, sqlx::Error> {
    let rows = sqlx::query(SAMPLE_LIMITS).fetch_all(connection).await?;
    let sample = rows.iter().map(|row| {
        Ok(LimitSample {
            name: row.try_get("name")?,
            at_once: row.try_get("at_once")?,
            starts_per_second: row.try_get("starts_per_second")?,
            in_use: row.try_get("in_use")?,
            waiting: row.try_get("waiting")?,
        })
    });
    sample.collect()
}

/// The state of a schedule.
#[derive(Debug)]
pub(crate) struct ScheduleSample {
    pub(crate) name: String,
    pub(crate) next_at: Option<SystemTime>,
    pub(crate) last_at: Option<SystemTime>,
    pub(crate) failing: bool,
    pub(crate) paused: bool,
}

/// Reads the state of schedules.
pub(crate) async fn sample_schedules(
    connection: &mut PgConnection,
) -> Result<Vec<ScheduleSample>, sqlx::Error> {
    let rows = sqlx::query(SAMPLE_SCHEDULES).fetch_all(connection).await?;
    let sample = rows.iter().map(|row| {
        Ok(ScheduleSample {
            name: row.try_get("name")?,
            next_at: row.try_get::<Option<i64>, _>("next_at")?.map(time),
            last_at: row.try_get::<Option<i64>, _>("last_at")?.map(time),
            failing: row.try_get("failing")?,
            paused: row.try_get("paused")?,
        })
    });
    sample.collect()
}

/// The workers, and the database's time.
#[derive(Debug)]
pub(crate) struct WorkerSample {
    /// Those whose lease runs.
    pub(crate) alive: i64,
    /// Those whose lease has run out.
    pub(crate) stale: i64,
    pub(crate) now: SystemTime,
}

/// Counts workers.
pub(crate) async fn sample_workers(
    connection: &mut PgConnection,
) -> Result<WorkerSample, sqlx::Error> {
    let row = sqlx::query(SAMPLE_WORKERS).fetch_one(connection).await?;
    let (alive, stale) = (row.try_get("alive")?, row.try_get("stale")?);
    Ok(WorkerSample { alive, stale, now: time(row.try_get("now")?) })
}
