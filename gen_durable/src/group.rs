//! Group commit without added delay: items that arrive while a batch is under way form the next
//! one. It begins beside the one under way, if there is a task for it. A group that gathers waits
//! instead, to make one larger batch, as long as no item in it is awaited.
//!
//! ```text
//!   submit ──► queue ──► drain task: take all (bounded) ──► run ──► again, until it is empty
//! ```
//!
//! Invariant: a submitted item is in the queue or in exactly one batch. While the queue is not
//! empty, at least one task drains it. A timer begins a batch only beside another one that takes
//! long.

use std::{
    collections::VecDeque,
    fmt,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::Poll,
    time::{Duration, Instant},
};

use tokio::runtime::{Handle, TryCurrentError};

/// An item of work that is done in batches.
pub(crate) trait Item: Send + 'static {
    /// Returns its size in bytes, as far as it counts for the size of a batch.
    fn weight(&self) -> usize;

    /// True if more work begins when the item is done.
    fn is_awaited(&self) -> bool {
        true
    }
}

/// The function that works on a batch.
pub(crate) type Run<T> =
    Box<dyn Fn(Vec<T>) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync>;

/// The most bytes in one batch: half of Postgres's `work_mem` (4 MiB). Postgres puts more than that
/// into a temporary file on its way through a statement.
pub(crate) const WEIGHT_MAX: usize = 2 * 1024 * 1024;

/// The longest time for which a batch waits for the tasks that are ready.
const SETTLE_MAX: Duration = Duration::from_millis(1);

/// The time after which a batch under way is slow. No other batch waits for its end any more.
const SLOW: Duration = Duration::from_millis(50);

/// A queue that is drained in batches by a bounded number of tasks.
pub(crate) struct Group<T> {
    state: Mutex<State<T>>,
    batch_max: usize,
    tasks_max: usize,
    run: Run<T>,
}

struct State<T> {
    queue: VecDeque<T>,
    /// The number of items in the queue that are awaited.
    awaited: usize,
    /// The weight of the items in the queue.
    weight: usize,
    tasks: usize,
    /// The number of tasks that have had their batch for longer than [`SLOW`].
    slow: usize,
    /// Items that are not awaited are left for a larger batch.
    gathering: bool,
}

/// Goes behind the tasks that are ready, in the queue from which any thread may take the task.
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
        Arc::new(Self::unshared(batch_max, tasks_max, run))
    }

    /// Makes a group for a caller that shares it by itself.
    pub(crate) fn unshared(batch_max: usize, tasks_max: usize, run: Run<T>) -> Self {
        let state = Mutex::new(State {
            queue: VecDeque::new(),
            awaited: 0,
            weight: 0,
            tasks: 0,
            slow: 0,
            gathering: false,
        });
        Self { state, batch_max, tasks_max, run }
    }

    /// True if no task drains the queue.
    pub(crate) fn is_idle(&self) -> bool {
        self.lock().tasks == 0
    }

    /// Adds an item, and a task to drain the queue if one more is allowed.
    pub(crate) fn submit(self: &Arc<Self>, item: T) {
        let mut state = self.lock();
        state.awaited += usize::from(item.is_awaited());
        state.weight += item.weight();
        state.queue.push_back(item);
        self.add_task(state);
    }

    /// Says if items that are not [awaited](Item::is_awaited) are left for a larger batch. They
    /// then wait until the batch under way has ended. They do not wait if that takes long, or if
    /// they are a full batch.
    pub(crate) fn set_gathering(self: &Arc<Self>, gathering: bool) {
        let mut state = self.lock();
        state.gathering = gathering;
        self.add_task(state);
    }

    /// Adds a task if there are items to drain and one more task is allowed.
    fn add_task(self: &Arc<Self>, mut state: MutexGuard<'_, State<T>>) {
        if !state.queue.is_empty() && state.tasks < self.tasks_allowed(&state) {
            // A thread that is ending may drop a value that submits an item. It has no runtime any
            // more.
            let runtime = Handle::try_current();
            if runtime.as_ref().is_err_and(TryCurrentError::is_thread_local_destroyed) {
                return;
            }
            state.tasks += 1;
            drop(state);
            tokio::spawn(self.place().drain());
        }
    }

    fn tasks_allowed(&self, state: &State<T>) -> usize {
        let full = state.queue.len() >= self.batch_max || state.weight >= WEIGHT_MAX;
        if state.gathering && state.awaited == 0 && !full {
            self.tasks_max.min(1 + state.slow)
        } else {
            self.tasks_max
        }
    }

    /// Makes the place of a task that has been counted.
    fn place(self: &Arc<Self>) -> Place<T> {
        Place { group: Arc::clone(self), held: true, began: false, slow: false }
    }

    /// Lets the tasks that are ready to run go first, as long as they bring more items. If steps
    /// compute, it does so for [`SETTLE_MAX`].
    ///
    /// The answers of the last batch have just woken as many tasks as it had items. Each may be
    /// about to submit its next item. A batch of the first few of them would cost as much as one of
    /// all.
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

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A task's place among those that drain the queue.
struct Place<T: Item> {
    group: Arc<Group<T>>,
    held: bool,
    began: bool,
    slow: bool,
}

impl<T: Item> Place<T> {
    async fn drain(mut self) {
        self.began = true;
        loop {
            self.group.settle().await;
            let Some(batch) = self.take() else { break };
            let mut run = (self.group.run)(batch);
            if tokio::time::timeout(SLOW, &mut run).await.is_err() {
                self.set_slow(true);
                run.await;
                self.set_slow(false);
            }
        }
    }

    fn set_slow(&mut self, slow: bool) {
        let mut state = self.group.lock();
        state.slow = if slow { state.slow + 1 } else { state.slow - 1 };
        self.slow = slow;
        self.group.add_task(state);
    }

    /// Takes the next batch. If there is none, it gives the place up under the same lock. An item
    /// that is submitted from now on then starts a new task. It also gives the place up if there
    /// are more tasks than are allowed, and another task goes on.
    fn take(&mut self) -> Option<Vec<T>> {
        let mut state = self.group.lock();
        if state.queue.is_empty() || state.tasks > self.group.tasks_allowed(&state) {
            state.tasks -= 1;
            self.held = false;
            return None;
        }
        let mut weight = 0;
        let mut count = 0;
        for item in state.queue.iter().take(self.group.batch_max) {
            weight += item.weight();
            if count > 0 && weight > WEIGHT_MAX {
                break;
            }
            count += 1;
        }
        let batch: Vec<T> = state.queue.drain(..count).collect();
        state.awaited -= batch.iter().filter(|item| item.is_awaited()).count();
        state.weight -= batch.iter().map(Item::weight).sum::<usize>();
        Some(batch)
    }
}

/// Gives the place up, or gives it to a new task if a batch panicked. The items that are queued
/// behind that batch would otherwise be left without a task. A runtime that ends drops its tasks as
/// well. It would also drop a new task before that has begun, so such a task is not replaced.
impl<T: Item> Drop for Place<T> {
    fn drop(&mut self) {
        if !self.held {
            return;
        }
        let mut state = self.group.lock();
        state.slow -= usize::from(self.slow);
        let panicked = self.began && std::thread::panicking();
        match Handle::try_current() {
            Ok(runtime) if panicked && !state.queue.is_empty() => {
                drop(state);
                runtime.spawn(self.group.place().drain());
            }
            _ => state.tasks -= 1,
        }
    }
}

impl<T> fmt::Debug for Group<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Group").field("batch_max", &self.batch_max).finish_non_exhaustive()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail")]
mod tests;
