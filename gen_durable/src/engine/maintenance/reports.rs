//! Reports the ends that their own commits could not report. The process that ended them does so
//! first ([`crate::engine::owed`]). This service finds the rest: that process may have died before,
//! or a receiver was locked for long.
//!
//! Invariant: an end is reported once. Receivers that others have locked are left for later.

use super::{BATCH_MAX, Database, Progress};
use crate::storage;

/// Looks at all ends that are owed, batch by batch.
pub(super) async fn run_once(database: &Database) -> Result<Progress, sqlx::Error> {
    let mut after = None;
    loop {
        let mut connection = database.connections.get().await?;
        let settle = storage::settle_page(&mut connection, &mut after, BATCH_MAX);
        let result = database.connections.within(settle).await;
        let settled = connection.done(result)?;
        log_dropped(&settled.dropped);
        database.notifier.announce(settled.queues.iter().map(String::as_str));
        if after.is_none() {
            return Ok(Progress::Idle);
        }
    }
}

/// Logs one line for all reports of a batch that have no live receiver.
pub(in crate::engine) fn log_dropped(dropped: &[(i64, i64)]) {
    if let Some((instance, receiver)) = dropped.first() {
        tracing::warn!(
            instance,
            receiver,
            reports = dropped.len(),
            "reports of ended instances were dropped: their receivers have ended or do not exist"
        );
    }
}
