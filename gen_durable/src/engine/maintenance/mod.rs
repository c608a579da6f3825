//! The maintenance services: each has a `run_once` with a batch limit, and a jittered ticker.
//!
//! Invariant: any number of processes may run them at once. A failure is logged and waited out.

mod history;
mod partitions;
mod reaper;
pub(super) mod reports;
mod retention;
mod timeouts;
mod unknown;
mod unserved;

use std::{future::Future, sync::Arc, time::Duration};

use super::{Shared, life::Life, outage::Outage};
use crate::{
    backoff::jittered, client::notifier::Notifier, connections::Connections, error::DatabaseError,
    storage::Kinds,
};

/// The most rows that a service touches in one statement.
const BATCH_MAX: i64 = 1000;
/// The same for a service that takes an advisory lock for each row's partition key. A thousand
/// would fill the lock table of a small server.
const KEYED_BATCH_MAX: i64 = 250;

/// The longest time until a service runs first: a user who has just started an engine wants to hear
/// of what is wrong.
const FIRST: Duration = Duration::from_secs(10);

/// Says if a service has more to do at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    /// The batch was full: there may be more.
    More,
    /// Nothing is left for now.
    Idle,
}

/// The database as the services see it, and the options that say how to treat its rows.
pub(super) struct Database {
    connections: Connections,
    notifier: Arc<Notifier>,
    lease_ttl: Duration,
    /// The number of lost workers in a row after which an instance fails.
    crashes_max: u32,
    /// The time for which ended instances are kept whose machines have no retention of their own.
    retention: Option<Duration>,
    /// The time for which the history is kept.
    history_retention: Option<Duration>,
    /// The queues and the machines of this engine.
    queues: Vec<String>,
    kinds: Kinds,
}

impl Database {
    pub(super) fn of(shared: &Shared) -> Self {
        Self {
            connections: shared.connections.clone(),
            notifier: Arc::clone(&shared.notifier),
            lease_ttl: shared.config.lease_ttl,
            crashes_max: shared.config.crashes_max,
            retention: shared.config.retention,
            history_retention: shared.config.history_retention,
            queues: shared.config.queue_names(),
            kinds: shared.registry.kinds(),
        }
    }
}

/// Starts the tickers, which end when the engine begins to stop.
pub(super) fn spawn(database: Database, life: &Arc<Life>) {
    let database = Arc::new(database);
    let lease = database.lease_ttl;
    let tick = |activity, interval, once| tick(&database, life, activity, interval, once);
    tick("reap", lease / 3, |database| Box::pin(reaper::run_once(database)));
    tick("report ends", Duration::from_secs(5), |database| Box::pin(reports::run_once(database)));
    tick("time parks out", Duration::from_secs(30), |database| {
        Box::pin(timeouts::run_once(database))
    });
    tick("free stranded partition keys", Duration::from_secs(20), |database| {
        Box::pin(partitions::run_once(database))
    });
    tick("look for unknown machines", Duration::from_mins(1), |database| {
        Box::pin(unknown::run_once(database))
    });
    tick("prune", Duration::from_mins(1), |database| Box::pin(retention::run_once(database)));
    tick("keep the history", Duration::from_hours(1), |database| {
        Box::pin(history::run_once(database))
    });
    tick("look for unserved queues", Duration::from_mins(1), |database| {
        Box::pin(unserved::run_once(database))
    });
}

/// Runs each service until it is idle, now.
pub(super) async fn run_once(database: &Database) -> Result<(), DatabaseError> {
    let failed = DatabaseError::new("run maintenance");
    let all = async {
        while reaper::run_once(database).await? == Progress::More {}
        reports::run_once(database).await?;
        while timeouts::run_once(database).await? == Progress::More {}
        while partitions::run_once(database).await? == Progress::More {}
        while retention::run_once(database).await? == Progress::More {}
        while history::run_once(database).await? == Progress::More {}
        unknown::run_once(database).await?;
        unserved::run_once(database).await
    };
    all.await.map_err(failed)?;
    Ok(())
}

type Once<'a> = std::pin::Pin<Box<dyn Future<Output = Result<Progress, sqlx::Error>> + Send + 'a>>;

/// Starts the ticker of one service. After a full batch the service runs again at once.
fn tick(
    database: &Arc<Database>,
    life: &Arc<Life>,
    activity: &'static str,
    interval: Duration,
    once: fn(&Database) -> Once<'_>,
) {
    let (database, life) = (Arc::clone(database), Arc::clone(life));
    tokio::spawn(async move {
        let mut outage = Outage::new(activity);
        let mut pause = jittered(interval.min(FIRST));
        loop {
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = life.stopping.wait() => return,
            }
            pause = match once(&database).await {
                Ok(progress) => {
                    outage.over();
                    if progress == Progress::More { Duration::ZERO } else { jittered(interval) }
                }
                Err(error) => outage.failed(&error),
            };
        }
    });
}

/// Says if a batch was full.
fn progress(rows: usize, batch_max: i64) -> Progress {
    if i64::try_from(rows).is_ok_and(|rows| rows < batch_max) {
        Progress::Idle
    } else {
        Progress::More
    }
}
