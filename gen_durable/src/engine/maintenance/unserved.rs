//! Logs that instances wait in queues that no running engine serves.
//!
//! Invariant: these instances are not touched, as an engine that serves the queue may come. A round
//! logs one line, and comes every minute.

use super::{Database, Progress};
use crate::storage;

/// Looks once.
pub(super) async fn run_once(database: &Database) -> Result<Progress, sqlx::Error> {
    let mut connection = database.connections.get().await?;
    let look = storage::unserved_queues(&mut connection);
    let result = database.connections.within(look).await;
    let unserved = connection.done(result)?;
    if !unserved.is_empty() {
        tracing::warn!(
            "instances wait in queues that no running engine serves: {}; start an engine with `.queue(name, slots)` for each",
            unserved.join(", ")
        );
    }
    Ok(Progress::Idle)
}
