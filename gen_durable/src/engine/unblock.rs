//! Unblocks partition keys again, if another transaction had the row that goes next locked when the
//! key became free.
//!
//! A signal locks its target, even one that waits for its key. It holds the lock for as long as a
//! statement takes, or the caller's transaction. The commit that frees the key waits for no row,
//! and all rows that wait are out of the claim's index. Only the service `partitions` would look
//! for them, and it comes every now and then.
//!
//! Invariant: a freed key is unblocked again until the row that goes next is in the claim's index.
//! The process that freed it does this. The service does it if that process ends, or never heard
//! which keys these were.

use std::{sync::Arc, time::Duration};

use super::life::Life;
use crate::{
    backoff::Backoff,
    client::notifier::Notifier,
    connections::Connections,
    storage::{self, Unblocked},
};

/// The first and the longest pause between two tries.
const PAUSE_MIN: Duration = Duration::from_millis(2);
const PAUSE_MAX: Duration = Duration::from_millis(200);

/// Unblocks these keys again, soon at first and then less often, until no row that goes next is
/// locked.
pub(super) fn unblock_again(
    connections: &Connections,
    notifier: &Arc<Notifier>,
    life: &Arc<Life>,
    mut keys: Vec<String>,
) {
    if keys.is_empty() {
        return;
    }
    let (connections, notifier, life) =
        (connections.clone(), Arc::clone(notifier), Arc::clone(life));
    tokio::spawn(async move {
        let mut backoff = Backoff::new(PAUSE_MIN, PAUSE_MAX);
        while !keys.is_empty() {
            tokio::select! {
                () = tokio::time::sleep(backoff.pause()) => {}
                () = life.stopping.wait() => return,
            }
            // After an error the keys are as they were, or unblocked. They are tried again either
            // way.
            if let Ok(unblocked) = unblock(&connections, &keys).await {
                notifier.announce(unblocked.queues.iter().map(String::as_str));
                keys = unblocked.locked;
            }
        }
    });
}

async fn unblock(connections: &Connections, keys: &[String]) -> Result<Unblocked, sqlx::Error> {
    let mut connection = connections.get().await?;
    let result = connections.within(storage::unblock_again(&mut connection, keys)).await;
    connection.done(result)
}
