//! Deletes instances that ended long ago.
//!
//! Invariant: only ended instances are deleted, oldest first.

use super::{BATCH_MAX, Progress, progress};
use crate::{engine::Shared, storage};

/// Prunes one batch.
pub(super) async fn run_once(shared: &Shared) -> Result<Progress, sqlx::Error> {
    let Some(retention) = shared.config.retention else { return Ok(Progress::Idle) };
    let mut connection = shared.connections.get().await?;
    let prune = storage::prune(&mut connection, retention, BATCH_MAX);
    let result = shared.connections.within(prune).await;
    let pruned = connection.done(result)?;
    if pruned > 0 {
        tracing::debug!(rows = pruned, "pruned ended instances");
    }
    Ok(progress(usize::try_from(pruned).unwrap_or(usize::MAX)))
}
