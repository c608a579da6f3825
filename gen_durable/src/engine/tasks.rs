//! The instances that tasks of this worker have. A shutdown waits for them, and they tell a lost
//! claim from a row that a task works on.
//!
//! Invariant: each `begin` has one `end`. `none` returns when there are as many of the one as of
//! the other.

use std::{
    collections::{HashMap, HashSet},
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Notify;

/// A set of instances. A task can wait until it is empty.
#[derive(Debug, Default)]
pub(crate) struct Tasks {
    /// The number of tasks that have each instance. A row that was given back may be claimed again
    /// before the task that gave it back has ended.
    running: Mutex<HashMap<i64, u32>>,
    /// Instances of which a run ended without an outcome, and whose row may still be this worker's.
    lost: Mutex<HashSet<i64>>,
    ended: Notify,
}

impl Tasks {
    pub(crate) fn begin(&self, id: i64) {
        *self.lock().entry(id).or_default() += 1;
    }

    pub(crate) fn end(&self, id: i64) {
        let mut running = self.lock();
        if let Some(count) = running.get_mut(&id) {
            *count -= 1;
            if *count == 0 {
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

    fn lock(&self) -> MutexGuard<'_, HashMap<i64, u32>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
