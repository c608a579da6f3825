//! Shows the database's view in the metrics, if this engine is the observer: depths of queues,
//! limits, schedules and workers.
//!
//! One engine at a time is the observer. Otherwise a sum over the processes would count everything
//! several times, and each process would cost the database as much. [`View`] argues why two never
//! show values together.
//!
//! Invariant: a sample that fails or takes long hurts nothing but the metrics. It runs in one
//! transaction on one connection. Postgres ends each statement after the sample's time, and the
//! engine gives the whole sample up a second later.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant, SystemTime},
};

use sqlx::PgConnection;

use super::{super::Shared, Database, Progress};
use crate::{
    connections::within,
    error::Cause,
    meters::{names, view::Value},
    storage,
};

/// The lease of the observer, in intervals between two samples: two of them may fail.
const LEASE_INTERVALS: u32 = 3;
/// The most time for a statement of a sample, on the server. A short interval makes it less.
const SAMPLE_MAX: Duration = Duration::from_secs(5);
/// The time beyond that after which the engine gives the whole sample up, with its connection.
const ANSWER: Duration = Duration::from_secs(1);
/// The time to give the lease up when the engine stops. It is a part of the drain, as a rule.
const GIVE_UP: Duration = Duration::from_millis(500);
/// The name under which instances count whose queue no engine has registered or serves. Their
/// number is unbounded, as anybody may insert into any queue.
const OTHER_QUEUES: &str = "(other)";
const SCHEDULED: &str = "scheduled";
/// All that instances may wait for, as `count_waiting` calls it.
const WAITS: [&str; 8] =
    ["due", SCHEDULED, "executing", "awaiting", "failed", "paused", "limited", "blocked"];
/// The most queues that have a name of their own.
const QUEUES_MAX: i64 = 200;

/// Renews the lease, or asks for it, and shows a sample.
pub(super) async fn run_once(database: &Database) -> Result<Progress, sqlx::Error> {
    let Some(shared) = database.engine.upgrade() else { return Ok(Progress::Idle) };
    let interval = shared.config.sample_interval;
    let ttl = interval * LEASE_INTERVALS;
    let asked = Instant::now();
    let mut connection = database.connections.get().await?;
    let observe = storage::observe(&mut connection, database.lease.worker(), ttl);
    let result = database.connections.within(observe).await;
    if !connection.done(result)? {
        // Another engine is the observer. If it was this one, its lease was over.
        shared.view.hide();
        return Ok(Progress::Idle);
    }
    shared.view.granted(asked + ttl * 9 / 10);
    // A short interval must leave time for others between two samples.
    let limit = (interval / 2).min(SAMPLE_MAX);
    match sample(&shared, limit).await {
        Ok(sample) => shared.view.show(sample),
        // The next sample comes at its time. More tries would burden a database that is slow.
        Err(error) => {
            shared.view.failed();
            if let Some(held_back) = shared.view.throttle.allows("sample") {
                tracing::warn!(error = %Cause(&error), held_back, "could not sample the database for the metrics");
            }
        }
    }
    Ok(Progress::Idle)
}

/// Hides the view, and then lets another engine show its own.
pub(in crate::engine) async fn end(shared: &Shared) {
    let observes = shared.view.is_granted();
    shared.view.end();
    if !observes {
        return;
    }
    let give_up = async {
        let mut connection = shared.connections.get().await?;
        let given_up = storage::stop_observing(&mut connection, shared.lease.worker()).await;
        connection.done(given_up)
    };
    if let Err(error) = within(GIVE_UP, give_up).await {
        tracing::debug!(error = %Cause(&error), "the lease of the observer runs out by itself");
    }
}

async fn sample(shared: &Shared, limit: Duration) -> Result<Vec<Value>, sqlx::Error> {
    let mut connection = shared.connections.get().await?;
    let sample = async {
        let mut transaction = storage::begin(&mut connection).await?;
        let sampled = read(&mut transaction, limit).await;
        transaction.rollback().await?;
        sampled
    };
    let sampled = within(limit + ANSWER, sample).await;
    connection.done(sampled)
}

async fn read(transaction: &mut PgConnection, limit: Duration) -> Result<Vec<Value>, sqlx::Error> {
    storage::limit_step(transaction, limit).await?;
    let mut values = Vec::new();
    let workers = storage::sample_workers(&mut *transaction).await?;
    values.push(one(names::WORKERS, "alive", float(workers.alive)));
    values.push(one(names::WORKERS, "stale", float(workers.stale)));
    depths(&mut *transaction, workers.now, &mut values).await?;
    for limit in storage::sample_limits(&mut *transaction).await? {
        let mut add = |metric, value| values.push(one(metric, &limit.name, value));
        add(names::LIMIT_IN_USE, float(limit.in_use));
        add(names::LIMIT_WAITING, float(limit.waiting));
        if let Some(at_once) = limit.at_once {
            add(names::LIMIT_AT_ONCE, at_once.into());
        }
        if let Some(rate) = limit.starts_per_second {
            add(names::LIMIT_RATE, rate);
        }
    }
    for schedule in storage::sample_schedules(transaction).await? {
        let mut add = |metric, value| values.push(one(metric, &schedule.name, value));
        if let Some(next) = schedule.next_at {
            add(names::SCHEDULE_NEXT, since_1970(next));
        }
        if let Some(last) = schedule.last_at {
            add(names::SCHEDULE_LAST, since_1970(last));
        }
        add(names::SCHEDULE_FAILING, f64::from(u8::from(schedule.failing)));
        add(names::SCHEDULE_PAUSED, f64::from(u8::from(schedule.paused)));
    }
    Ok(values)
}

/// Counts the instances of each queue by what they wait for. Queues that engines know show 0 too.
async fn depths(
    transaction: &mut PgConnection,
    now: SystemTime,
    values: &mut Vec<Value>,
) -> Result<(), sqlx::Error> {
    let known = storage::list_queues(&mut *transaction, QUEUES_MAX).await?;
    let known: BTreeSet<String> = known.into_iter().map(|queue| queue.name).collect();
    let mut depths: BTreeMap<(&str, &str), (i64, Option<SystemTime>)> = BTreeMap::new();
    for queue in &known {
        for waits in WAITS {
            depths.insert((queue.as_str(), waits), (0, None));
        }
    }
    let counts = storage::count_waiting(transaction, None).await?;
    for row in &counts {
        let queue = known.get(&row.queue).map_or(OTHER_QUEUES, String::as_str);
        let Some(waits) = WAITS.into_iter().find(|waits| *waits == row.waits) else { continue };
        let (count, oldest) = depths.entry((queue, waits)).or_default();
        *count += row.count;
        *oldest = [*oldest, row.oldest].into_iter().flatten().min();
    }
    for ((queue, waits), (count, oldest)) in depths {
        let mut add = |metric, number| {
            let labels = vec![queue.to_owned(), waits.to_owned()];
            values.push(Value { metric, labels, number });
        };
        add(names::DEPTH, float(count));
        // The time of a scheduled row is in the future.
        if let Some(oldest) = oldest.filter(|_| waits != SCHEDULED) {
            let age = now.duration_since(oldest).unwrap_or_default();
            add(names::OLDEST_SECONDS, age.as_secs_f64());
        }
    }
    Ok(())
}

fn one(metric: names::Metric, label: &str, number: f64) -> Value {
    Value { metric, labels: vec![label.to_owned()], number }
}

#[expect(clippy::cast_precision_loss, reason = "counts are far below 2^53")]
fn float(count: i64) -> f64 {
    count as f64
}

fn since_1970(time: SystemTime) -> f64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}
