//! Frees partition keys whose waiting rows nobody would wake.
//!
//! Invariant: a safety net. A key is freed by the commit that leaves it; only if the row to go next
//! is locked by somebody at that moment does this service find it.

use super::{KEYED_BATCH_MAX, Progress};
use crate::{engine::Shared, storage};

/// Looks at all keys that have waiting rows, batch by batch.
pub(super) async fn run_once(shared: &Shared) -> Result<Progress, sqlx::Error> {
    let mut after = None;
    loop {
        let mut connection = shared.connections.get().await?;
        let rescue = storage::rescue_stranded(&mut connection, &mut after, KEYED_BATCH_MAX);
        let result = shared.connections.within(rescue).await;
        let queues = connection.done(result)?;
        shared.notifier.announce(queues.iter().map(String::as_str));
        if after.is_none() {
            return Ok(Progress::Idle);
        }
    }
}
