//! Wakes parked instances whose time is up.
//!
//! Invariant: a signal and a timeout wake an instance once: whoever locks the row second finds it
//! awake. The claimer does the same when it knows that one is due; this ticker is the floor.

use super::{BATCH_MAX, Progress, progress};
use crate::{engine::Shared, storage};

/// Wakes one batch.
pub(super) async fn run_once(shared: &Shared) -> Result<Progress, sqlx::Error> {
    let mut connection = shared.connections.get().await?;
    let wake = storage::wake_timed_out(&mut connection, BATCH_MAX);
    let result = shared.connections.within(wake).await;
    let queues = connection.done(result)?;
    shared.notifier.announce(queues.iter().map(String::as_str));
    Ok(progress(queues.len(), BATCH_MAX))
}
