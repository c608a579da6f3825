//! Freeing partition keys again of which somebody had locked what goes next when they became free.
//!
//! A signal locks its target, also one that waits for its key, for as long as a statement takes, or a
//! caller's transaction. The commit that frees the key waits for no row, and all that waits is out of the
//! claim's index: nobody would look for it but the service `partitions`, which comes every now and then.
//!
//! Invariant: a key is freed until what goes next is in the claim's index, by whoever freed it first, or by
//! the service if that process ends, or never heard which keys these were.

use std::{sync::Arc, time::Duration};

use super::life::Life;
use crate::client::notifier::Notifier;
use crate::connections::Connections;
use crate::storage::{self, Unblocked};

/// The first and the longest pause between two tries.
const PAUSE_MIN: Duration = Duration::from_millis(2);
const PAUSE_MAX: Duration = Duration::from_millis(200);

/// Unblocks these keys again, at first soon and then less often, until none is locked any more.
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
        let mut pause = PAUSE_MIN;
        while !keys.is_empty() {
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = life.stopping.wait() => return,
            }
            pause = (pause * 2).min(PAUSE_MAX);
            // After an error the keys are as they were, or free: they are tried again either way.
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
