//! Calls that wait for an instance to end.
//!
//! Invariant: a waiting call is in the map until it is answered or dropped; while the map is not
//! empty, one task looks in the database for all of them whose next look is due. A call that has waited
//! for a while is looked for again after a quarter of that: it is answered late by no more.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::{Notify, oneshot};

use crate::{
    connections::Connections,
    storage::{self, Ended},
};

/// The shortest and the longest pause between two looks for one instance. A timer ends with the millisecond that
/// it would end in, so the shortest is three quarters of one on average.
const PAUSE_MIN: Duration = Duration::from_micros(250);
const PAUSE_MAX: Duration = Duration::from_millis(250);

/// The waiting calls of a client.
pub(crate) struct Waiters {
    connections: Connections,
    state: Mutex<State>,
    arrived: Notify,
}

#[derive(Default)]
struct State {
    by_id: HashMap<i64, Awaited>,
    looking: bool,
}

/// An instance that somebody waits for.
struct Awaited {
    calls: Vec<oneshot::Sender<Option<Ended>>>,
    /// When the latest call came.
    since: Instant,
    next_look: Instant,
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
            let now = Instant::now();
            let awaited = state.by_id.entry(id).or_insert_with(|| Awaited {
                calls: Vec::new(),
                since: now,
                next_look: now,
            });
            awaited.calls.push(sender);
            // A new call is looked for at once: the instance may have ended long ago.
            (awaited.since, awaited.next_look) = (now, now);
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
        let awaited = self.lock().by_id.remove(&id);
        for call in awaited.into_iter().flat_map(|awaited| awaited.calls) {
            let _ = call.send(ended.cloned());
        }
    }

    /// Looks for those who wait, until nobody does.
    async fn look(self: Arc<Self>) {
        while let Some((ids, pause)) = self.due() {
            if ids.is_empty() {
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    () = self.arrived.notified() => {}
                }
                continue;
            }
            match self.find(&ids).await {
                Ok(found) => self.take(&ids, &found),
                Err(error) => tracing::debug!(%error, "could not look for ended instances"),
            }
        }
    }

    /// Whom to look for now, and, if there are none, how long to wait; nothing if nobody waits.
    fn due(&self) -> Option<(Vec<i64>, Duration)> {
        let mut state = self.lock();
        state.by_id.retain(|_, awaited| {
            awaited.calls.retain(|call| !call.is_closed());
            !awaited.calls.is_empty()
        });
        if state.by_id.is_empty() {
            state.looking = false;
            return None;
        }
        let now = Instant::now();
        let (mut ids, mut wake) = (Vec::new(), now + PAUSE_MAX);
        for (id, awaited) in &mut state.by_id {
            if awaited.next_look <= now {
                ids.push(*id);
                let pause = (now - awaited.since) / 4;
                awaited.next_look = now + pause.clamp(PAUSE_MIN, PAUSE_MAX);
            }
            wake = wake.min(awaited.next_look);
        }
        Some((ids, (wake - now).max(PAUSE_MIN)))
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
