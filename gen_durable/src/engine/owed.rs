//! Reports ends soon after their commits, if these could not: the snapshot of a step above
//! `read committed` is older than the receiver's row.
//!
//! Invariant: no run waits for it. An end that stays locked is left to the service `debts`, which
//! also finds the ends of processes that die before they come to this.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use super::{maintenance::debts::log_dropped, outage::no_connection};
use crate::{
    client::notifier::Notifier,
    connections::Connections,
    error::Cause,
    fault,
    group::{Group, Item},
    storage::{self, Locked, Settled},
};

/// The most ends that one transaction reports.
const BATCH_MAX: usize = 1000;
/// The tries of an end whose receiver is locked, and the pause before the second. Each further
/// pause is twice as long.
const TRIES_MAX: u32 = 6;
const PAUSE: Duration = Duration::from_millis(20);

/// An end that is to be reported.
struct End {
    id: i64,
    tries: u32,
}

impl Item for End {
    fn weight(&self) -> usize {
        0
    }
}

/// The ends that are to be reported.
pub(crate) struct Owed(Option<Arc<Group<End>>>);

impl Owed {
    pub(super) fn new(connections: &Connections, notifier: &Arc<Notifier>) -> Self {
        let (connections, notifier) = (connections.clone(), Arc::clone(notifier));
        Self(Some(Arc::new_cyclic(|group: &Weak<Group<End>>| {
            let group = group.clone();
            let run = move |ends: Vec<End>| {
                let (connections, notifier) = (connections.clone(), Arc::clone(&notifier));
                let group = group.clone();
                Box::pin(async move { report(&connections, &notifier, &group, ends).await }) as _
            };
            Group::unshared(BATCH_MAX, 1, Box::new(run))
        })))
    }

    /// Leaves all ends to the service `debts`.
    #[cfg(feature = "testing")]
    pub(super) fn left() -> Self {
        Self(None)
    }

    /// Reports the end of an instance, without a wait.
    pub(super) fn submit(&self, id: i64) {
        if let Some(group) = &self.0 {
            group.submit(End { id, tries: 0 });
        }
    }
}

/// Reports a batch. The ends that are locked come again after a pause.
async fn report(
    connections: &Connections,
    notifier: &Notifier,
    group: &Weak<Group<End>>,
    ends: Vec<End>,
) {
    let ids: Vec<i64> = ends.iter().map(|end| end.id).collect();
    let mut settled = settle(connections, &ids, Locked::WaitAMoment).await;
    if settled.as_ref().is_err_and(fault::is_lock_timeout) {
        settled = settle(connections, &ids, Locked::Skip).await;
    }
    let left = match settled {
        Ok(settled) => {
            log_dropped(&settled.dropped);
            notifier.announce(settled.queues.iter().map(String::as_str));
            settled.left
        }
        Err(error) => {
            tracing::debug!(ends = ids.len(), error = %Cause(&error), "ends are reported later");
            return;
        }
    };
    let again = ends.into_iter().filter(|end| left.contains(&end.id) && end.tries + 1 < TRIES_MAX);
    let again: Vec<End> = again.map(|end| End { tries: end.tries + 1, ..end }).collect();
    let Some(tries) = again.iter().map(|end| end.tries).max() else { return };
    let group = group.clone();
    tokio::spawn(async move {
        tokio::time::sleep(PAUSE * 2_u32.pow(tries)).await;
        if let Some(group) = group.upgrade() {
            for end in again {
                group.submit(end);
            }
        }
    });
}

async fn settle(
    connections: &Connections,
    ids: &[i64],
    locked: Locked,
) -> Result<Settled, sqlx::Error> {
    let mut connection = connections.get().await.map_err(no_connection)?;
    let settle = storage::settle_owed(&mut connection, ids, locked);
    let result = connections.within(settle).await;
    connection.done(result)
}
