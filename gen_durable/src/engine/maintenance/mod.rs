//! The maintenance services: each has a `run_once` with a batch limit, and a jittered ticker.
//!
//! Invariant: any number of processes may run them at once. A failure is logged and waited out.

pub(super) mod debts;
mod history;
mod limits;
#[cfg(feature = "metrics")]
pub(super) mod observer;
mod partitions;
mod pauses;
mod reaper;
mod retention;
mod timeouts;
#[cfg(feature = "schedules")]
mod undeclared;
mod unknown;
mod unserved;

use std::{
    future::Future,
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use super::{Shared, cancels, lease::Lease, life::Life, outage::Outage, wake::Wake};
use crate::{
    backoff::jittered, client::notifier::Notifier, connections::Connections, error::DatabaseError,
    meters::MaintenanceMeters, storage::Kinds,
};

/// The most rows that a service touches in one statement.
const BATCH_MAX: i64 = 1000;
/// The same for a service that takes an advisory lock for each row's partition key. A thousand
/// would fill the lock table of a small server.
const KEYED_BATCH_MAX: i64 = 250;

/// The longest time until a service runs first: a user who has just started an engine wants to hear
/// of what is wrong.
const FIRST: Duration = Duration::from_secs(10);

/// The time between two looks at what rows owe, with and without announcements. Without them it
/// stays within a second with its jitter. With them it finds what was left for later: a receiver
/// was locked, say.
const DEBTS: Duration = Duration::from_secs(5);
const DEBTS_UNANNOUNCED: Duration = Duration::from_millis(800);

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
    /// The engine whose runs are dropped when their instances are cancelled.
    engine: Weak<Shared>,
    lease: Arc<Lease>,
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
    meters: MaintenanceMeters,
}

impl Database {
    pub(super) fn of(shared: &Arc<Shared>) -> Self {
        Self {
            connections: shared.connections.clone(),
            notifier: Arc::clone(&shared.notifier),
            engine: Arc::downgrade(shared),
            lease: Arc::clone(&shared.lease),
            lease_ttl: shared.config.lease_ttl,
            crashes_max: shared.config.crashes_max,
            retention: shared.config.retention,
            history_retention: shared.config.history_retention,
            queues: shared.config.queue_names(),
            kinds: shared.registry.kinds(),
            meters: shared.meters.maintenance.clone(),
        }
    }

    /// Looks at what rows owe soon.
    fn wake_debts(&self) {
        if let Some(shared) = self.engine.upgrade() {
            shared.wake.debts.notify_one();
        }
    }

    /// Has the engine answer the cancels of instances that it runs.
    fn ask(&self, ids: &[i64], seen: Instant) {
        if let Some(shared) = self.engine.upgrade() {
            cancels::ask(&shared, ids, seen);
        }
    }
}

/// Starts the look at what rows owe, which ends when the engine begins to stop. It comes at once
/// when an action says so, and regularly. Without `maintenance` it only has this engine answer the
/// cancels of its own instances.
pub(super) fn spawn_debts(
    database: Database,
    wake: &Arc<Wake>,
    life: &Arc<Life>,
    maintenance: bool,
    listens: bool,
) {
    let (wake, life) = (Arc::clone(wake), Arc::clone(life));
    tokio::spawn(async move {
        let mut outage = Outage::new("settle what rows owe");
        let interval = if listens { DEBTS } else { DEBTS_UNANNOUNCED };
        let mut looks = pauses::Looks::new(listens);
        // The first look finds the cancels that wait for this engine.
        let mut pause = Duration::ZERO;
        loop {
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = wake.debts.notified() => {}
                () = life.stopped.wait() => return,
            }
            let look = async {
                let services = maintenance && !life.stopping.is_open();
                let paused = pauses::run_once(&database, &mut looks, services).await;
                let debts = if services {
                    debts::run_once(&database).await
                } else {
                    debts::ask_own(&database).await
                };
                paused.and(debts)
            };
            let looked = look.await;
            if let Some(shared) = database.engine.upgrade().filter(|_| life.claimer_ended.is_open())
            {
                cancels::answer(&shared).await;
            }
            pause = match looked {
                Ok(progress) => {
                    outage.over();
                    // Something may be left, because rows were locked.
                    let more = progress == Progress::More;
                    looks.until_next(jittered(if more { DEBTS_UNANNOUNCED } else { interval }))
                }
                Err(error) => outage.failed(&error),
            };
        }
    });
}

/// Starts the tickers, which end when the engine begins to stop.
pub(super) fn spawn(database: Database, life: &Arc<Life>) {
    let database = Arc::new(database);
    let lease = database.lease_ttl;
    #[cfg(feature = "metrics")]
    let sample_interval = database.engine.upgrade().map(|shared| shared.config.sample_interval);
    let tick = |activity, interval, once| tick(&database, life, activity, interval, once);
    tick("reap", lease / 3, |database| Box::pin(reaper::run_once(database)));
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
    tick("look after limits", Duration::from_mins(1), |database| {
        Box::pin(limits::run_once(database))
    });
    tick("look for unserved queues", Duration::from_mins(1), |database| {
        Box::pin(unserved::run_once(database))
    });
    #[cfg(feature = "metrics")]
    if let Some(interval) = sample_interval {
        tick("become the observer", interval, |database| Box::pin(observer::run_once(database)));
    }
    #[cfg(feature = "schedules")]
    tick("look for undeclared schedules", Duration::from_mins(1), |database| {
        Box::pin(undeclared::run_once(database))
    });
}

/// Takes all rows of lost workers, now.
#[cfg(feature = "testing")]
pub(super) async fn reap(database: &Database) -> Result<(), sqlx::Error> {
    while reaper::run_once(database).await? == Progress::More {}
    Ok(())
}

/// Runs each service until it is idle, now.
pub(super) async fn run_once(database: &Database) -> Result<(), DatabaseError> {
    let failed = DatabaseError::new("run maintenance");
    let all = async {
        while reaper::run_once(database).await? == Progress::More {}
        let mut looks = pauses::Looks::new(false);
        pauses::run_once(database, &mut looks, true).await?;
        while looks.has_more() {
            pauses::run_once(database, &mut looks, true).await?;
        }
        debts::run_once(database).await?;
        while timeouts::run_once(database).await? == Progress::More {}
        while partitions::run_once(database).await? == Progress::More {}
        while retention::run_once(database).await? == Progress::More {}
        while history::run_once(database).await? == Progress::More {}
        while limits::run_once(database).await? == Progress::More {}
        unknown::run_once(database).await?;
        #[cfg(feature = "metrics")]
        observer::run_once(database).await?;
        #[cfg(feature = "schedules")]
        undeclared::run_once(database).await?;
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
