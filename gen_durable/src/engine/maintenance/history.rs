//! Adds the partitions of the coming days to the history, and drops those that are too old.
//!
//! Invariant: commits record in any case, whether this service runs or not. Rows of a day without a
//! partition lie in one that is always there.

use std::time::Duration;

use super::{Database, Progress};
use crate::{
    backoff::jittered,
    storage::{self, Kept},
};

/// The number of tries to get a lock, before the service leaves the rest to its next run. Other
/// engines may be at it, or a dump of the database may read the table for hours.
const TRIES_MAX: usize = 5;
/// The pause between two tries. Each try keeps commits waiting for up to 50 ms.
const PAUSE: Duration = Duration::from_millis(500);

/// Adds what is missing, and removes one partition.
pub(super) async fn run_once(database: &Database) -> Result<Progress, sqlx::Error> {
    for attempt in 1.. {
        let mut connection = database.connections.get().await?;
        let keep = storage::keep_history(&mut connection, database.history_retention);
        let result = database.connections.within(keep).await;
        match connection.done(result)? {
            Kept::More => return Ok(Progress::More),
            Kept::Locked if attempt < TRIES_MAX => tokio::time::sleep(jittered(PAUSE)).await,
            Kept::Locked => {
                tracing::debug!("the history is locked; its partitions are looked after later");
                break;
            }
            Kept::Idle => break,
        }
    }
    Ok(Progress::Idle)
}
