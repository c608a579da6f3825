//! Deletes instances that ended long ago.
//!
//! Invariant: only ended instances are deleted, the oldest of each machine first. An instance is
//! kept if any engine was told to keep those of its machine.

use super::{Database, Progress};
use crate::storage;

/// Prunes one batch.
pub(super) async fn run_once(database: &Database) -> Result<Progress, sqlx::Error> {
    let mut connection = database.connections.get().await?;
    let prune = storage::prune(&mut connection, database.retention);
    let result = database.connections.within(prune).await;
    let pruned = connection.done(result)?;
    database.meters.pruned(usize::try_from(pruned).unwrap_or(usize::MAX));
    if pruned > 0 {
        tracing::debug!(rows = pruned, "pruned ended instances");
    }
    Ok(if pruned < storage::PRUNE_MAX { Progress::Idle } else { Progress::More })
}
