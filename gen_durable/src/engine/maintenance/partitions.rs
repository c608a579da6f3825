//! Unblocks stranded partition keys: no commit will let their waiting rows into the claim's index.
//!
//! Invariant: this is a safety net. The commit that frees a key lets the next row in. A key is
//! stranded if another transaction has that row locked at that moment, or if the row is blocked for
//! another reason and then ends without a run.

use super::{Database, KEYED_BATCH_MAX, Progress};
use crate::storage;

/// Looks at all keys that have blocked rows, batch by batch.
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
