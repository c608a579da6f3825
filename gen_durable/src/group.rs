//! Group commit without added delay: what arrives while a batch is under way forms the next one.
//!
//! ```text
//!   submit ──► queue ──► drain task: take all (bounded) ──► run ──► again, until the queue is empty
//! ```
//!
//! Invariant: an item that was submitted is in the queue or in exactly one batch; while the queue is
//! not empty, at least one task drains it. There is no timer.

use std::{
    collections::VecDeque,
    fmt,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::Poll,
    time::{Duration, Instant},
};

/// Something that is worked on in batches.
pub(crate) trait Item: Send + 'static {
    /// Its size in bytes, as far as it counts.
    fn weight(&self) -> usize;
}

/// Work on a batch.
pub(crate) type Run<T> =
    Box<dyn Fn(Vec<T>) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync>;

/// The most bytes in one batch. Beyond half of Postgres's `work_mem` (4 MiB) it would put them into a
/// temporary file on their way through a statement.
pub(crate) const WEIGHT_MAX: usize = 2 * 1024 * 1024;

/// How long a batch may wait for the tasks that are ready.
const SETTLE_MAX: Duration = Duration::from_millis(1);

/// A queue that is drained in batches by a bounded number of tasks.
pub(crate) struct Group<T> {
    state: Mutex<State<T>>,
    batch_max: usize,
    tasks_max: usize,
    run: Run<T>,
}

struct State<T> {
    queue: VecDeque<T>,
    tasks: usize,
}

/// Goes behind the tasks that are ready, in the queue from which any thread may take it:
/// `tokio::task::yield_now` would tie it to a thread that may be about to compute for long.
async fn go_behind() {
    let mut gone = false;
    std::future::poll_fn(|cx| {
        if std::mem::replace(&mut gone, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

impl<T: Item> Group<T> {
    pub(crate) fn new(batch_max: usize, tasks_max: usize, run: Run<T>) -> Arc<Self> {
        let state = Mutex::new(State { queue: VecDeque::new(), tasks: 0 });
        Arc::new(Self { state, batch_max, tasks_max, run })
    }

    /// Adds an item, and a task to drain the queue if there may be one more.
    pub(crate) fn submit(self: &Arc<Self>, item: T) {
        let mut state = self.lock();
        state.queue.push_back(item);
        if state.tasks < self.tasks_max {
            state.tasks += 1;
            drop(state);
            tokio::spawn(Arc::clone(self).drain());
        }
    }

    async fn drain(self: Arc<Self>) {
        // A batch that panics must not leave the group without its task.
        let guard = TaskGuard(&self);
        loop {
            self.settle().await;
            let Some(batch) = self.take() else { break };
            (self.run)(batch).await;
        }
        // `take` found the queue empty and gave the task's place up under the same lock, so an item
        // that is submitted from now on starts a new one.
        std::mem::forget(guard);
    }

    /// Lets the tasks that are ready to run go first, for as long as they bring more, and for
    /// [`SETTLE_MAX`] if steps compute.
    ///
    /// The answers of the last batch have just woken as many tasks as it had items, and each may be
    /// about to submit its next: a batch of the first few of them would cost as much as one of all.
    async fn settle(&self) {
        let began = Instant::now();
        let mut known = self.lock().queue.len();
        while known < self.batch_max && began.elapsed() < SETTLE_MAX {
            go_behind().await;
            let len = self.lock().queue.len();
            if len == known {
                break;
            }
            known = len;
        }
    }

    fn take(&self) -> Option<Vec<T>> {
        let mut state = self.lock();
        if state.queue.is_empty() {
            state.tasks -= 1;
            return None;
        }
        let mut weight = 0;
        let mut count = 0;
        for item in state.queue.iter().take(self.batch_max) {
            weight += item.weight();
            if count > 0 && weight > WEIGHT_MAX {
                break;
            }
            count += 1;
        }
        Some(state.queue.drain(..count).collect())
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Gives the task's place up when a batch panics.
struct TaskGuard<'a, T: Item>(&'a Group<T>);

impl<T: Item> Drop for TaskGuard<'_, T> {
    fn drop(&mut self) {
        self.0.lock().tasks -= 1;
    }
}

impl<T> fmt::Debug for Group<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Group").field("batch_max", &self.batch_max).finish_non_exhaustive()
    }
}
