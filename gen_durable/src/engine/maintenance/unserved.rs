//! Says in the log that instances wait in queues that no running engine serves.
//!
//! Invariant: they are not touched: an engine that serves the queue may come. One line a round, and
//! a round a minute.

use super::Progress;
use crate::{engine::Shared, storage};

/// Looks once.
pub(super) async fn run_once(shared: &Shared) -> Result<Progress, sqlx::Error> {
    let mut connection = shared.connections.get().await?;
    let look = storage::unserved_queues(&mut connection);
    let result = shared.connections.within(look).await;
    let unserved = connection.done(result)?;
    if !unserved.is_empty() {
        tracing::warn!(
            "instances wait in queues that no running engine serves: {}; start an engine with `.queue(name, slots)` for each",
            unserved.join(", ")
        );
    }
    Ok(Progress::Idle)
}
