//! Calls that wait for an instance to end.
//!
//! Invariant: a waiting call is in the map until it is answered or dropped. Each runtime with a
//! waiting call has a task, whatever becomes of other runtimes. The task looks in the database for
//! the instances whose next look is due. After a call has waited for some time, the task looks
//! again within a quarter of that time: its answer is late by no more.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::{
    runtime::{Handle, Id},
    sync::{Notify, oneshot},
};

use crate::{
    connections::Connections,
    error::DatabaseError,
    storage::{self, Ended},
};

/// The shortest and the longest pause between two looks for one instance. A timer ends with the
/// millisecond in which it is due, so the shortest pause takes three quarters of one on average.
const PAUSE_MIN: Duration = Duration::from_micros(250);
const PAUSE_MAX: Duration = Duration::from_millis(250);
/// The wait for a connection after which a look counts as hindered. A pool by itself may try for
/// half a minute.
const OBSTACLE_AFTER: Duration = Duration::from_millis(500);

/// The answer to a call: the instance at its end, or none if there is no such instance. An error is
/// one that lasts.
type Answer = Result<Option<Ended>, DatabaseError>;

/// The waiting calls of a client.
pub(crate) struct Waiters {
    connections: Connections,
    state: Mutex<State>,
    arrived: Notify,
}

#[derive(Default)]
struct State {
    by_id: HashMap<i64, Awaited>,
    /// The runtimes that have a task which looks.
    looking: HashSet<Id>,
    /// The reason why the last look failed, if it did.
    obstacle: Option<DatabaseError>,
}

/// An instance that calls wait for.
struct Awaited {
    calls: Vec<oneshot::Sender<Answer>>,
    /// The time at which the latest call came.
    since: Instant,
    next_look: Instant,
}

impl Waiters {
    pub(crate) fn new(connections: Connections) -> Arc<Self> {
        Arc::new(Self { connections, state: Mutex::default(), arrived: Notify::new() })
    }

    /// Waits until the instance has ended; none if it does not exist.
    pub(crate) async fn wait(self: &Arc<Self>, id: i64) -> Answer {
        let runtime = Handle::current();
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
            state.looking.insert(runtime.id())
        };
        if start {
            // The place is made here and not in the task. A runtime that ends may drop the task
            // before it has begun, and must then give up the place too.
            let place = Place { waiters: Arc::clone(self), runtime: runtime.id(), held: true };
            runtime.spawn(place.look());
        } else {
            self.arrived.notify_waiters();
        }
        answer.await.unwrap_or(Ok(None))
    }

    /// True if a call waits for this instance.
    pub(crate) fn expects(&self, id: i64) -> bool {
        self.lock().by_id.contains_key(&id)
    }

    /// Answers the calls that wait for this instance.
    pub(crate) fn push(&self, ended: &Ended) {
        self.answer(ended.id, &Ok(Some(ended.clone())));
    }

    /// Looks at once for an instance that has ended.
    pub(crate) fn hasten(&self, id: i64) {
        let mut state = self.lock();
        let Some(awaited) = state.by_id.get_mut(&id) else { return };
        awaited.next_look = Instant::now();
        drop(state);
        self.arrived.notify_waiters();
    }

    /// Returns the reason why no look succeeds at present, if there is one.
    pub(crate) fn obstacle(&self) -> Option<DatabaseError> {
        self.lock().obstacle.clone()
    }

    fn answer(&self, id: i64, answer: &Answer) {
        let awaited = self.lock().by_id.remove(&id);
        for call in awaited.into_iter().flat_map(|awaited| awaited.calls) {
            let _ = call.send(answer.clone());
        }
    }

    /// Looks once for these instances.
    async fn look_for(&self, ids: &[i64]) {
        match self.find(ids).await {
            Ok(found) => {
                self.lock().obstacle = None;
                self.take(ids, &found);
            }
            Err(error) if error.is_lasting() => {
                self.connections.tell(&error);
                for id in ids {
                    self.answer(*id, &Err(error.clone()));
                }
            }
            Err(error) => self.hinder(error),
        }
    }

    fn hinder(&self, error: DatabaseError) {
        tracing::debug!("{error}");
        self.lock().obstacle = Some(error);
    }

    /// Returns the instances to look for now, and the pause until the next one is due. None if no
    /// call waits: the place of this runtime is then given up.
    fn due(&self, runtime: Id) -> Option<(Vec<i64>, Duration)> {
        let mut state = self.lock();
        state.by_id.retain(|_, awaited| {
            awaited.calls.retain(|call| !call.is_closed());
            !awaited.calls.is_empty()
        });
        if state.by_id.is_empty() {
            state.looking.remove(&runtime);
            state.obstacle = None;
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

    async fn find(&self, ids: &[i64]) -> Result<Vec<Ended>, DatabaseError> {
        let failed = || DatabaseError::new("look for the end of instances");
        let look = async {
            let mut connection = self.connection().await?;
            let look = storage::ended(&mut connection, ids);
            let result = self.connections.within(look).await;
            connection.done(result)
        };
        look.await.map_err(failed())
    }

    /// Returns a connection. If it takes long, notes the reason: calls whose time is up meanwhile
    /// are told.
    async fn connection(&self) -> Result<crate::connections::Connection, sqlx::Error> {
        // The request goes on meanwhile, and keeps its place among those that wait for the pool.
        let mut get = std::pin::pin!(self.connections.get());
        if let Ok(got) = tokio::time::timeout(OBSTACLE_AFTER, &mut get).await {
            return got;
        }
        let why = async {
            let why = self.connections.why().await;
            self.hinder(DatabaseError::new("look for the end of instances")(why));
            std::future::pending().await
        };
        tokio::select! {
            got = &mut get => got,
            never = why => never,
        }
    }

    fn take(&self, ids: &[i64], found: &[Ended]) {
        let found: HashMap<i64, &Ended> = found.iter().map(|ended| (ended.id, ended)).collect();
        for id in ids {
            match found.get(id) {
                None => self.answer(*id, &Ok(None)),
                Some(ended) if matches!(&*ended.status, "done" | "failed" | "cancelled") => {
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

/// A runtime's place among those that have a task which looks. It is given up with the task,
/// however the task ends.
struct Place {
    waiters: Arc<Waiters>,
    runtime: Id,
    held: bool,
}

impl Place {
    /// Looks for the awaited instances until no call waits. The place is then given up under the
    /// same lock, so a call that comes later starts a new task.
    async fn look(mut self) {
        loop {
            // Before `due` reads the waiting calls: a call that comes after that ends the pause
            // below.
            let arrived = self.waiters.arrived.notified();
            let Some((ids, pause)) = self.waiters.due(self.runtime) else {
                self.held = false;
                break;
            };
            if ids.is_empty() {
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    () = arrived => {}
                }
            } else {
                self.waiters.look_for(&ids).await;
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.held {
            self.waiters.lock().looking.remove(&self.runtime);
        }
    }
}

impl fmt::Debug for Waiters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Waiters").finish_non_exhaustive()
    }
}
