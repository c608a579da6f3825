//! The instances that tasks of this worker have. A shutdown waits for them, and they tell a lost
//! claim from a row that a task works on.
//!
//! Invariant: each `begin` has one `end`. `none` returns when there are as many of the one as of
//! the other.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use tokio::sync::Notify;

use super::latch::Latch;

/// A set of instances. A task can wait until it is empty.
#[derive(Debug, Default)]
pub(crate) struct Tasks {
    /// The number of tasks that have each instance. A row that was given back may be claimed again
    /// before the task that gave it back has ended.
    running: Mutex<HashMap<i64, Task>>,
    /// Instances of which a run ended without an outcome, and whose row may still be this worker's.
    lost: Mutex<HashSet<i64>>,
    ended: Notify,
}

/// The tasks that have an instance.
#[derive(Debug)]
struct Task {
    count: u32,
    /// The time at which the latest one began.
    began: Instant,
    /// Opened when the run of the latest one is to be dropped.
    dropped: Arc<Latch>,
}

impl Tasks {
    /// Returns the latch that opens when the run is to be dropped.
    pub(crate) fn begin(&self, id: i64) -> Arc<Latch> {
        let mut running = self.lock();
        let now = Instant::now();
        let new = || Task { count: 0, began: now, dropped: Arc::new(Latch::new()) };
        let task = running.entry(id).or_insert_with(new);
        task.count += 1;
        task.began = now;
        // A run that was dropped has ended in the database before the row was claimed again.
        if task.dropped.is_open() {
            task.dropped = Arc::new(Latch::new());
        }
        Arc::clone(&task.dropped)
    }

    /// Has the run of this instance dropped at its next await point, if its task had begun by then.
    pub(crate) fn drop_run(&self, id: i64, then: Instant) {
        if let Some(task) = self.lock().get(&id)
            && task.began < then
        {
            task.dropped.open();
        }
    }

    pub(crate) fn end(&self, id: i64) {
        let mut running = self.lock();
        if let Some(task) = running.get_mut(&id) {
            task.count -= 1;
            if task.count == 0 {
                running.remove(&id);
            }
        }
        let none = running.is_empty();
        drop(running);
        if none {
            self.ended.notify_waiters();
        }
    }

    pub(crate) fn ids(&self) -> Vec<i64> {
        self.lock().keys().copied().collect()
    }

    /// Notes that a run of this instance has ended without an outcome.
    pub(crate) fn lose(&self, id: i64) {
        self.lost.lock().unwrap_or_else(PoisonError::into_inner).insert(id);
    }

    /// Returns the instances that have lost a run.
    pub(crate) fn lost(&self) -> Vec<i64> {
        self.lost.lock().unwrap_or_else(PoisonError::into_inner).iter().copied().collect()
    }

    /// Returns those of these instances that have lost a run. Then forgets the lost runs of all
    /// instances that no task has.
    pub(crate) fn take_lost(&self, ids: &[i64]) -> Vec<i64> {
        let running = self.lock();
        let mut lost = self.lost.lock().unwrap_or_else(PoisonError::into_inner);
        let found = ids.iter().copied().filter(|id| lost.contains(id)).collect();
        lost.retain(|id| running.contains_key(id));
        found
    }

    /// Waits until no task has an instance.
    pub(crate) async fn none(&self) {
        loop {
            // Registered before the look, so that an end between the look and the wait is not
            // missed.
            let ended = self.ended.notified();
            if self.lock().is_empty() {
                return;
            }
            ended.await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<i64, Task>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
