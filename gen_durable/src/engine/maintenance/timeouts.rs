//! Wakes parked instances whose time is up.
//!
//! Invariant: a signal and a timeout wake an instance once: the one that locks the row second finds
//! it awake. The claimer does the same when it knows that a timeout is due. This ticker finds the
//! rest.

use super::{BATCH_MAX, Database, Progress, progress};
use crate::storage;

/// Wakes one batch.
pub(super) async fn run_once(database: &Database) -> Result<Progress, sqlx::Error> {
    let mut connection = database.connections.get().await?;
    let wake = storage::wake_timed_out(&mut connection, BATCH_MAX);
    let result = database.connections.within(wake).await;
    let queues = connection.done(result)?;
    database.notifier.announce(queues.iter().map(String::as_str));
    Ok(progress(queues.len(), BATCH_MAX))
}
