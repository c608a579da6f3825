//! Logs that the queues hold machines or versions that this process does not know.
//!
//! Invariant: their instances are not touched, as a process that knows them may come. A round logs
//! one line, and comes every minute.

use super::{Database, Progress};
use crate::storage;

/// Looks once.
pub(super) async fn run_once(database: &Database) -> Result<Progress, sqlx::Error> {
    let mut connection = database.connections.get().await?;
    let look = storage::unknown_kinds(&mut connection, &database.queues, &database.kinds);
    let result = database.connections.within(look).await;
    let unknown = connection.done(result)?;
    if !unknown.is_empty() {
        let kinds: Vec<String> = unknown
            .iter()
            .map(|(queue, kind)| format!("{} v{} in {queue}", kind.fsm, kind.fsm_version))
            .collect();
        tracing::warn!(
            "instances wait for machines that this process does not know: {}; register them, or run a process that does",
            kinds.join(", ")
        );
    }
    Ok(Progress::Idle)
}
