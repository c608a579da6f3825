//! Announcing runnable rows: at once in this process, by NOTIFY to the others.
//!
//! Invariant: an announcement is a hint. It may be lost or come too often; the poll is the floor.

use std::{
    collections::BTreeSet,
    fmt,
    sync::{Arc, OnceLock},
    time::Duration,
};

use crate::{
    connections::Connections,
    error::Cause,
    group::{Group, Item},
    storage,
};

/// Takes an announcement in this process; false if others should hear of it too.
type Local = Box<dyn Fn(&str) -> bool + Send + Sync>;

/// Tells those who run a queue that there is work in it.
pub(crate) struct Announcer {
    local: OnceLock<Local>,
    remote: Option<Arc<Group<Queue>>>,
}

/// The pause after a NOTIFY: each wakes every listening engine, and its connection.
const PAUSE: Duration = Duration::from_millis(1);

/// A queue with work in it.
struct Queue(String);

impl Item for Queue {
    fn weight(&self) -> usize {
        self.0.len()
    }
}

impl Announcer {
    /// Announces to other processes.
    ///
    /// One NOTIFY is under way at a time, and carries each queue once: Postgres lets only one
    /// transaction with a notification commit at a time, so an insert never carries its own. What is
    /// announced within [`PAUSE`] after one goes out with the next.
    pub(crate) fn remote(connections: Connections) -> Arc<Self> {
        let run = move |queues: Vec<Queue>| {
            let connections = connections.clone();
            Box::pin(async move {
                let queues: BTreeSet<String> = queues.into_iter().map(|queue| queue.0).collect();
                let queues: Vec<String> = queues.into_iter().collect();
                let result = async {
                    let mut connection = connections.get().await?;
                    let announce = storage::announce(&mut connection, &queues);
                    let result = connections.within(announce).await;
                    connection.done(result)
                };
                if let Err(error) = result.await {
                    let error = Cause(&error);
                    tracing::debug!(%error, "could not announce work; the engines' poll will find it");
                }
                tokio::time::sleep(PAUSE).await;
            }) as _
        };
        let remote = Group::new(usize::MAX, 1, Box::new(run));
        Arc::new(Self { local: OnceLock::new(), remote: Some(remote) })
    }

    /// Announces in this process alone.
    pub(crate) fn silent() -> Arc<Self> {
        Arc::new(Self { local: OnceLock::new(), remote: None })
    }

    /// Sets who listens in this process.
    pub(crate) fn set_local(&self, local: Local) {
        let _ = self.local.set(local);
    }

    /// Announces to other processes alone.
    pub(crate) fn announce_elsewhere<'a>(&self, queues: impl IntoIterator<Item = &'a str>) {
        for queue in queues {
            if let Some(remote) = &self.remote {
                remote.submit(Queue(queue.to_owned()));
            }
        }
    }

    pub(crate) fn announce<'a>(&self, queues: impl IntoIterator<Item = &'a str>) {
        let queues: BTreeSet<&str> = queues.into_iter().collect();
        for queue in queues {
            let taken = self.local.get().is_some_and(|local| local(queue));
            if let (false, Some(remote)) = (taken, &self.remote) {
                remote.submit(Queue(queue.to_owned()));
            }
        }
    }
}

impl fmt::Debug for Announcer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Announcer").finish_non_exhaustive()
    }
}
