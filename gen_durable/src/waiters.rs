//! Calls that wait for an instance to end.
//!
//! Invariant: a waiting call is in the map until it is answered or dropped; while the map is not
//! empty, one task looks in the database for all of them together.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::sync::{Notify, oneshot};

use crate::{
    connections::Connections,
    storage::{self, Ended},
};

/// The shortest and the longest pause between two looks.
const PAUSE_MIN: Duration = Duration::from_millis(2);
const PAUSE_MAX: Duration = Duration::from_millis(250);

/// The waiting calls of a client.
pub(crate) struct Waiters {
    connections: Connections,
    state: Mutex<State>,
    arrived: Notify,
}

#[derive(Default)]
struct State {
    by_id: HashMap<i64, Vec<oneshot::Sender<Option<Ended>>>>,
    looking: bool,
}

impl Waiters {
    pub(crate) fn new(connections: Connections) -> Arc<Self> {
        Arc::new(Self { connections, state: Mutex::default(), arrived: Notify::new() })
    }

    /// Waits until the instance has ended; none if it does not exist.
    pub(crate) async fn wait(self: &Arc<Self>, id: i64) -> Option<Ended> {
        let (sender, answer) = oneshot::channel();
        let start = {
            let mut state = self.lock();
            state.by_id.entry(id).or_default().push(sender);
            !std::mem::replace(&mut state.looking, true)
        };
        if start {
            tokio::spawn(Arc::clone(self).look());
        } else {
            self.arrived.notify_one();
        }
        answer.await.ok().flatten()
    }

    /// Whether anybody waits for this instance.
    pub(crate) fn expects(&self, id: i64) -> bool {
        self.lock().by_id.contains_key(&id)
    }

    /// Answers those who wait for this instance.
    pub(crate) fn push(&self, ended: &Ended) {
        self.answer(ended.id, Some(ended));
    }

    fn answer(&self, id: i64, ended: Option<&Ended>) {
        let senders = self.lock().by_id.remove(&id);
        for sender in senders.into_iter().flatten() {
            let _ = sender.send(ended.cloned());
        }
    }

    /// Looks for all who wait, until nobody does.
    async fn look(self: Arc<Self>) {
        let mut pause = PAUSE_MIN;
        while let Some(ids) = self.awaited() {
            match self.find(&ids).await {
                Ok(found) => self.take(&ids, &found),
                Err(error) => tracing::debug!(%error, "could not look for ended instances"),
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => pause = (pause * 2).min(PAUSE_MAX),
                () = self.arrived.notified() => pause = PAUSE_MIN,
            }
        }
    }

    fn awaited(&self) -> Option<Vec<i64>> {
        let mut state = self.lock();
        state.by_id.retain(|_, senders| {
            senders.retain(|sender| !sender.is_closed());
            !senders.is_empty()
        });
        if state.by_id.is_empty() {
            state.looking = false;
            return None;
        }
        Some(state.by_id.keys().copied().collect())
    }

    async fn find(&self, ids: &[i64]) -> Result<Vec<Ended>, sqlx::Error> {
        let mut connection = self.connections.get().await?;
        let result = self.connections.within(storage::ended(&mut connection, ids)).await;
        connection.done(result)
    }

    fn take(&self, ids: &[i64], found: &[Ended]) {
        let found: HashMap<i64, &Ended> = found.iter().map(|ended| (ended.id, ended)).collect();
        for id in ids {
            match found.get(id) {
                None => self.answer(*id, None),
                Some(ended) if ended.status == "done" || ended.status == "failed" => {
                    self.push(ended);
                }
                Some(_) => {}
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Waiters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Waiters").finish_non_exhaustive()
    }
}
