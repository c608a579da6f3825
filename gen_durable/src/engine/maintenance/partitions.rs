//! Frees partition keys whose waiting rows nobody would wake.
//!
//! Invariant: a safety net. A key is freed by the commit that leaves it; only if the row to go next
//! is locked by somebody at that moment does this service find it.

use super::{Database, KEYED_BATCH_MAX, Progress};
use crate::storage;

/// Looks at all keys that have waiting rows, batch by batch.
pub(super) async fn run_once(database: &Database) -> Result<Progress, sqlx::Error> {
    let mut after = None;
    loop {
        let mut connection = database.connections.get().await?;
        let rescue = storage::rescue_stranded(&mut connection, &mut after, KEYED_BATCH_MAX);
        let result = database.connections.within(rescue).await;
        let queues = connection.done(result)?;
        database.notifier.announce(queues.iter().map(String::as_str));
        if after.is_none() {
            return Ok(Progress::Idle);
        }
    }
}
