//! The reaper: takes instances from lost workers, and returns them to their queues or fails them.
//!
//! Invariant: a row is reaped only while its worker has no running lease, by the database's clock.

use super::{Database, KEYED_BATCH_MAX, Progress, progress};
use crate::storage;

/// Reaps one batch.
pub(super) async fn run_once(database: &Database) -> Result<Progress, sqlx::Error> {
    let crashes_max = i32::try_from(database.crashes_max).unwrap_or(i32::MAX);
    let mut connection = database.connections.get().await?;
    let reap = storage::reap(&mut connection, KEYED_BATCH_MAX, crashes_max);
    let result = database.connections.within(reap).await;
    let reaped = connection.done(result)?;
    let rows = reaped.returned + reaped.failed;
    database.meters.reaped(reaped.returned, reaped.failed);
    if rows > 0 {
        tracing::warn!(
            returned = reaped.returned,
            failed = reaped.failed,
            "reaped instances of lost workers"
        );
        // A cancel whose worker was lost is to be answered.
        database.wake_debts();
        super::debts::log_dropped(&reaped.settled.dropped);
        let settled = reaped.settled.queues.iter();
        database.notifier.announce(reaped.queues.iter().chain(settled).map(String::as_str));
    }
    Ok(progress(rows, KEYED_BATCH_MAX))
}
