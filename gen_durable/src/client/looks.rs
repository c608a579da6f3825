//! Looks at what the fleet does: its queues, workers and machines, and what operators did. Looks at
//! what an instance did, what waits in its inbox, and who reports to whom.
//!
//! Invariant: a look examines a bounded number of rows, however many instances there are, and reads
//! no state. Only a look at an inbox reads payloads.

mod audit;
mod inbox;
mod machines;
mod queues;
mod runs;
mod tree;
mod workers;

use sqlx::PgConnection;

pub use self::{
    audit::{Audit, AuditEntry, AuditPage},
    inbox::{Inbox, InboxEntry},
    machines::{MachineEntry, StepCount},
    queues::{Depth, QueueEntry, Waits},
    runs::{RunEntry, RunPage},
    tree::{Tree, TreeNode},
    workers::WorkerEntry,
};
use super::Client;
use crate::{error::DatabaseError, storage};

/// The most queues, workers and versions of machines in a list.
pub(super) const LIST_MAX: i64 = 1_000;

/// Runs statements that look, in a transaction of their own that bounds their time. `operation` is
/// worded to follow "could not".
pub(super) async fn look<T>(
    client: &Client,
    operation: &'static str,
    look: impl AsyncFnOnce(&mut PgConnection) -> Result<T, sqlx::Error>,
) -> Result<T, DatabaseError> {
    let connections = client.connections();
    let found = async {
        let mut connection = connections.get().await?;
        let result = connections.within(async {
            let mut transaction = storage::begin_look(&mut connection).await?;
            let found = look(&mut transaction).await?;
            transaction.commit().await?;
            Ok(found)
        });
        let result = result.await;
        connection.done(result)
    };
    let found = found.await.map_err(DatabaseError::new(operation));
    found.inspect_err(|error| connections.tell(error))
}

/// Converts a count, which is never negative.
fn count(count: i64) -> u64 {
    u64::try_from(count).unwrap_or(0)
}

/// Converts a number of a row, which is never negative.
pub(super) fn number<N>(number: N) -> u32
where
    u32: TryFrom<N>,
{
    u32::try_from(number).unwrap_or(0)
}
