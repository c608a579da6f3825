//! Stops an engine, on its own runtime or on another one, even after its own has ended.
//!
//! ```text
//!   stopping ──► drained ────────────────────────────────────► worker removed ──► stopped
//!      │            ▲                                                 ▲
//!      ├── drain timeout: steps are cut off, the last commits ────────┤
//!      └── the runtime has ended: what it had claimed is given back ──┘
//! ```
//!
//! Invariant: a shutdown ends, whatever the database and the engine's runtime do, as each part has
//! its time. All parts but the drain take 10 s together.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::time::timeout;

use super::{Shared, cancels, config::Config, lost_claims};
use crate::{
    connections::within,
    error::{Cause, DatabaseError, Error},
    storage,
};

/// The longest time for the last commits after steps were cut off. With the default drain timeout
/// of 18 s, and the parts that follow, a shutdown ends within the 30 s that Kubernetes leaves a
/// process.
const LAST_COMMITS: Duration = Duration::from_secs(5);
/// The longest time to remove the worker: two tries, each with a connection and a statement.
const REMOVAL: Duration = Duration::from_secs(4);
/// The pause before rows that could not be given back are tried again.
const PAUSE: Duration = Duration::from_millis(50);
/// The longest time to close the connections.
const CLOSE: Duration = Duration::from_secs(1);

/// The time that a shutdown with the default options has: 30 s, less a second for the rest of the
/// process.
const GRACE: Duration = Duration::from_secs(29);

const _: () = {
    let ends = Config::DRAIN_TIMEOUT.as_secs() + LAST_COMMITS.as_secs();
    assert!(ends + REMOVAL.as_secs() + CLOSE.as_secs() < GRACE.as_secs());
};

/// A guard that says that the engine's runtime has ended, when the runtime drops its tasks.
pub(super) struct Deserted(Arc<Shared>);

impl Drop for Deserted {
    fn drop(&mut self) {
        self.0.life.deserted.open();
    }
}

/// Watches for the end of the runtime, until the engine has stopped.
pub(super) fn watch(shared: &Arc<Shared>) {
    // Made here and not in the task: a runtime that ends may drop the task before it has begun.
    let deserted = Deserted(Arc::clone(shared));
    shared.runtime.spawn(async move {
        deserted.0.life.stopped.wait().await;
    });
}

/// Stops the engine, unless it has stopped before.
pub(super) async fn run(shared: &Arc<Shared>) -> Result<(), Error> {
    let _alone = shared.life.shutdown.lock().await;
    if shared.life.stopped.is_open() {
        return Ok(());
    }
    shared.begin_stop();
    let began = Instant::now();
    // Meanwhile another engine becomes the observer of the metrics.
    #[cfg(feature = "metrics")]
    let handed_over = super::maintenance::observer::end(shared);
    #[cfg(not(feature = "metrics"))]
    let handed_over = std::future::ready(());
    let drained_in_time = timeout(shared.config.drain_timeout, drained(shared));
    let (drained_in_time, ()) = tokio::join!(drained_in_time, handed_over);
    if drained_in_time.is_err() {
        tracing::warn!("steps still under way after the drain timeout are cut off");
        shared.life.cut_off.open();
    }
    let last = async {
        drained(shared).await;
        cancels::answer(shared).await;
        if shared.life.deserted.is_open() {
            tracing::warn!(
                "the engine's runtime ended before its shutdown; what ran there was cut off"
            );
        }
        // No claimer is left to look for what it suspected last.
        if shared.life.deserted.is_open() || shared.wake.suspects_lost_claims() {
            give_back(shared).await;
        }
    };
    // A runtime that has ended leaves no step to wait for. The rest of the drain timeout goes to
    // giving rows back.
    let left = if shared.life.deserted.is_open() {
        shared.config.drain_timeout.saturating_sub(began.elapsed())
    } else {
        Duration::ZERO
    };
    let _ = timeout(LAST_COMMITS.saturating_add(left), last).await;
    let mut removed = remove_worker(shared).await;
    if removed.is_err() {
        // The connections that were kept may all have been lost meanwhile. The first try has closed
        // them.
        removed = remove_worker(shared).await;
    }
    shared.life.stopped.open();
    let close = async { tokio::join!(shared.connections.close(), shared.transactions.close()) };
    let _ = timeout(CLOSE, close).await;
    removed.map_err(DatabaseError::new("remove the worker"))?;
    tracing::info!(worker = shared.lease.worker(), "engine stopped");
    Ok(())
}

/// Waits until nothing is claimed, or until the engine's runtime has ended.
async fn drained(shared: &Shared) {
    tokio::select! {
        () = shared.drained() => {}
        () = shared.life.deserted.wait() => {}
    }
}

/// Gives back, on the caller's runtime, the rows that no task has any more.
async fn give_back(shared: &Arc<Shared>) {
    while let Err(error) = lost_claims::give_all_back(shared).await {
        let error = Cause(&error);
        tracing::warn!(%error, "could not give back what had been claimed; trying again while there is time");
        tokio::time::sleep(PAUSE).await;
    }
}

async fn remove_worker(shared: &Shared) -> Result<(), sqlx::Error> {
    let mut connection = within(REMOVAL / 4, shared.connections.get()).await?;
    let removal = storage::remove_worker(&mut connection, shared.lease.worker());
    let removed = within(REMOVAL / 4, removal).await;
    // A connection that gave no answer is closed, and with it all that are kept.
    connection.done(removed)
}
