//! Services beside the engine: each has a `run_once` with a batch limit, and a jittered ticker.
//!
//! Invariant: any number of processes may run them at once; a failure is logged and waited out.

mod partitions;
mod reaper;
mod retention;
mod timeouts;
mod unknown;
mod unserved;

use std::{future::Future, sync::Arc, time::Duration};

use crate::{
    backoff::jittered,
    engine::{Outage, Shared},
    error::DatabaseError,
};

/// Rows that a service touches in one statement.
const BATCH_MAX: i64 = 1000;
/// The same for a service that takes a lock for each row's partition key: a thousand would fill a small
/// server's table of locks.
const KEYED_BATCH_MAX: i64 = 250;

/// When a service runs first, at the latest: whoever has just started wants to hear of what is
/// wrong.
const FIRST: Duration = Duration::from_secs(10);

/// Whether a service has more to do at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    /// The batch was full: there may be more.
    More,
    /// Nothing is left for now.
    Idle,
}

/// Starts the tickers.
pub(crate) fn spawn(shared: &Arc<Shared>) {
    let lease = shared.config.lease_ttl;
    tick(shared, "reap", lease / 3, |shared| Box::pin(reaper::run_once(shared)));
    tick(shared, "time parks out", Duration::from_secs(30), |shared| {
        Box::pin(timeouts::run_once(shared))
    });
    tick(shared, "free stranded partition keys", Duration::from_secs(20), |shared| {
        Box::pin(partitions::run_once(shared))
    });
    tick(shared, "look for unknown machines", Duration::from_mins(1), |shared| {
        Box::pin(unknown::run_once(shared))
    });
    tick(shared, "prune", Duration::from_mins(1), |shared| Box::pin(retention::run_once(shared)));
    tick(shared, "look for unserved queues", Duration::from_mins(1), |shared| {
        Box::pin(unserved::run_once(shared))
    });
}

/// Runs each service until it is idle, now.
pub(crate) async fn run_once(shared: &Shared) -> Result<(), DatabaseError> {
    let failed = DatabaseError::new("run maintenance");
    let all = async {
        while reaper::run_once(shared).await? == Progress::More {}
        while timeouts::run_once(shared).await? == Progress::More {}
        while partitions::run_once(shared).await? == Progress::More {}
        while retention::run_once(shared).await? == Progress::More {}
        unknown::run_once(shared).await?;
        unserved::run_once(shared).await
    };
    all.await.map_err(failed)?;
    Ok(())
}

type Once<'a> = std::pin::Pin<Box<dyn Future<Output = Result<Progress, sqlx::Error>> + Send + 'a>>;

fn tick(
    shared: &Arc<Shared>,
    activity: &'static str,
    interval: Duration,
    once: fn(&Shared) -> Once<'_>,
) {
    let shared = Arc::clone(shared);
    tokio::spawn(async move {
        let mut outage = Outage::new(activity);
        let mut pause = jittered(interval.min(FIRST));
        loop {
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = shared.stopping.wait() => return,
            }
            pause = match once(&shared).await {
                Ok(progress) => {
                    outage.over();
                    if progress == Progress::More { Duration::ZERO } else { jittered(interval) }
                }
                Err(error) => outage.failed(&error),
            };
        }
    });
}

fn progress(rows: usize, batch_max: i64) -> Progress {
    if i64::try_from(rows).is_ok_and(|rows| rows < batch_max) {
        Progress::Idle
    } else {
        Progress::More
    }
}
