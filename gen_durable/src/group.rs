//! Group commit without added delay: what arrives while a batch is under way forms the next one, beside it if there is
//! a task for it. A group that is told to be patient leaves it for one larger batch, as far as nobody waits for it.
//!
//! ```text
//!   submit ──► queue ──► drain task: take all (bounded) ──► run ──► again, until the queue is empty
//! ```
//!
//! Invariant: an item that was submitted is in the queue or in exactly one batch; while the queue is
//! not empty, at least one task drains it. No batch begins by a timer, but one beside another that takes long.

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

/// Something that is worked on in batches.
pub(crate) trait Item: Send + 'static {
    /// Its size in bytes, as far as it counts.
    fn weight(&self) -> usize;

    /// Whether more work comes of it when it is done.
    fn is_awaited(&self) -> bool {
        true
    }
}

/// Work on a batch.
pub(crate) type Run<T> =
    Box<dyn Fn(Vec<T>) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync>;

/// The most bytes in one batch. Beyond half of Postgres's `work_mem` (4 MiB) it would put them into a
/// temporary file on their way through a statement.
pub(crate) const WEIGHT_MAX: usize = 2 * 1024 * 1024;

/// How long a batch may wait for the tasks that are ready.
const SETTLE_MAX: Duration = Duration::from_millis(1);

/// How long a batch may be under way before nothing waits for its end any more.
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
    /// How many of the queue are awaited.
    awaited: usize,
    /// What the queue weighs.
    weight: usize,
    tasks: usize,
    /// How many of the tasks have had their batch for longer than [`SLOW`].
    slow: usize,
    /// Whether what nobody awaits is left for a larger batch.
    patient: bool,
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
        let state = Mutex::new(State {
            queue: VecDeque::new(),
            awaited: 0,
            weight: 0,
            tasks: 0,
            slow: 0,
            patient: false,
        });
        Arc::new(Self { state, batch_max, tasks_max, run })
    }

    /// Whether no task drains the queue.
    pub(crate) fn is_idle(&self) -> bool {
        self.lock().tasks == 0
    }

    /// Adds an item, and a task to drain the queue if there may be one more.
    pub(crate) fn submit(self: &Arc<Self>, item: T) {
        let mut state = self.lock();
        state.awaited += usize::from(item.is_awaited());
        state.weight += item.weight();
        state.queue.push_back(item);
        self.add_task(state);
    }

    /// Says whether what nobody [awaits](Item::is_awaited) is left for a larger batch: it then waits until the one
    /// that is under way has ended, unless that takes long or what waits is a full batch.
    pub(crate) fn set_patient(self: &Arc<Self>, patient: bool) {
        let mut state = self.lock();
        state.patient = patient;
        self.add_task(state);
    }

    /// Adds a task if there is something to do and may be one more.
    fn add_task(self: &Arc<Self>, mut state: MutexGuard<'_, State<T>>) {
        if !state.queue.is_empty() && state.tasks < self.tasks_allowed(&state) {
            // A thread that is ending, and drops what submits, has no runtime any more.
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
        if state.patient && state.awaited == 0 && !full {
            self.tasks_max.min(1 + state.slow)
        } else {
            self.tasks_max
        }
    }

    /// The place of a task that has been counted.
    fn place(self: &Arc<Self>) -> Place<T> {
        Place { group: Arc::clone(self), held: true, began: false, slow: false }
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

    /// The next batch. If there is none the place is given up under the same lock, so an item that is
    /// submitted from now on starts a new task. So it is if there are more tasks than may be: another goes on.
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

/// A batch that panics must not leave the group without its task, nor what is queued behind it without
/// anybody. A runtime that ends drops its tasks as well, and the new one that it is given then before that
/// has begun.
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
mod tests {
    use std::{
        future::poll_fn,
        sync::{
            atomic::{AtomicBool, AtomicUsize, Ordering},
            mpsc,
        },
        task::Poll,
    };

    use tokio::sync::{
        Semaphore,
        mpsc::{UnboundedReceiver, unbounded_channel},
    };

    use super::*;

    /// How long a thread stands still for what should come at once, on a slow and busy machine.
    const PATIENCE: Duration = Duration::from_mins(1);

    impl Item for usize {
        fn weight(&self) -> usize {
            1
        }

        fn is_awaited(&self) -> bool {
            *self >= AWAITED
        }
    }

    /// From here on items are awaited.
    const AWAITED: usize = 100;

    /// A patient group of two tasks, whose batches begin at once and end when they are let go.
    fn patient(
        batch_max: usize,
    ) -> (Arc<Group<usize>>, UnboundedReceiver<Vec<usize>>, Arc<Semaphore>) {
        let (ran, batches) = unbounded_channel();
        let gate = Arc::new(Semaphore::new(0));
        let gate_of_batches = Arc::clone(&gate);
        let run = move |batch: Vec<usize>| {
            let (gate, ran) = (Arc::clone(&gate_of_batches), ran.clone());
            Box::pin(async move {
                ran.send(batch).unwrap();
                gate.acquire().await.unwrap().forget();
            }) as _
        };
        let group = Group::new(batch_max, 2, Box::new(run));
        group.set_patient(true);
        (group, batches, gate)
    }

    /// Lets all tasks go on that can.
    async fn others_first() {
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
    }

    async fn next(batches: &mut UnboundedReceiver<Vec<usize>>) -> Vec<usize> {
        tokio::time::timeout(PATIENCE, batches.recv()).await.unwrap().expect("a batch")
    }

    #[tokio::test(start_paused = true)]
    async fn what_nobody_awaits_is_left_for_one_larger_batch() {
        let (group, mut batches, gate) = patient(usize::MAX);
        group.submit(1);
        assert_eq!(next(&mut batches).await, [1]);
        group.submit(2);
        group.submit(3);
        others_first().await;
        assert!(batches.try_recv().is_err(), "a second batch beside the first");
        gate.add_permits(1);
        assert_eq!(next(&mut batches).await, [2, 3]);
        // Without patience it begins at once.
        group.submit(4);
        group.set_patient(false);
        assert_eq!(next(&mut batches).await, [4]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_awaited_and_what_came_with_it_waits_for_no_other_batch() {
        let (group, mut batches, gate) = patient(usize::MAX);
        group.submit(1);
        assert_eq!(next(&mut batches).await, [1]);
        group.submit(2);
        group.submit(AWAITED);
        assert_eq!(next(&mut batches).await, [2, AWAITED]);
        // Of two tasks one is too many when nothing is awaited any more; the other goes on.
        group.submit(3);
        gate.add_permits(2);
        assert_eq!(next(&mut batches).await, [3]);
        group.submit(4);
        gate.add_permits(1);
        assert_eq!(next(&mut batches).await, [4]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_batch_waits_for_no_other() {
        let (group, mut batches, gate) = patient(2);
        group.submit(1);
        assert_eq!(next(&mut batches).await, [1]);
        group.submit(2);
        group.submit(3);
        assert_eq!(next(&mut batches).await, [2, 3]);
        gate.add_permits(2);
        others_first().await;
        assert!(matches!(&*group.lock(), State { tasks: 0, weight: 0, awaited: 0, .. }));
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_waits_for_a_batch_that_takes_long() {
        let (group, mut batches, gate) = patient(usize::MAX);
        group.submit(1);
        assert_eq!(next(&mut batches).await, [1]);
        group.submit(2);
        // The clock of a paused runtime goes on when nothing else can.
        assert_eq!(next(&mut batches).await, [2]);
        gate.add_permits(2);
        others_first().await;
        assert!(matches!(&*group.lock(), State { tasks: 0, slow: 0, .. }));
    }

    /// A task that is always ready, and brings one item more each time, would be let go first for ever.
    #[tokio::test]
    async fn a_batch_does_not_wait_for_tasks_that_are_always_ready() {
        const ITEMS_MAX: usize = 3_000_000;
        let began = Arc::new(AtomicBool::new(false));
        let run = {
            let began = Arc::clone(&began);
            move |_batch: Vec<usize>| {
                began.store(true, Ordering::Relaxed);
                Box::pin(async {}) as _
            }
        };
        let group = Group::new(usize::MAX, 1, Box::new(run));
        // A task, so that it takes turns with the one that drains.
        let submitted = tokio::spawn(async move {
            let mut submitted = 0;
            poll_fn(|cx| {
                if began.load(Ordering::Relaxed) || submitted == ITEMS_MAX {
                    return Poll::Ready(submitted);
                }
                group.submit(submitted);
                submitted += 1;
                cx.waker().wake_by_ref();
                Poll::Pending
            })
            .await
        });
        assert!(submitted.await.unwrap() < ITEMS_MAX, "it waited for all of them");
    }

    /// The thread that the draining task was on computes for long: another thread takes the task over.
    #[test]
    fn a_batch_does_not_wait_for_a_task_that_computes() {
        let two = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_time()
            .build()
            .unwrap();
        let (ran, batch_ran) = mpsc::channel();
        let run = move |_batch: Vec<usize>| {
            let _ = ran.send(());
            Box::pin(async {}) as _
        };
        let group = Group::new(usize::MAX, 1, Box::new(run));
        // One thread is kept busy until the other one computes, so that it takes nothing before.
        let (busy, is_busy) = mpsc::channel();
        let (computes, other_computes) = mpsc::channel();
        two.spawn(async move {
            busy.send(()).unwrap();
            other_computes.recv_timeout(PATIENCE).unwrap();
        });
        is_busy.recv_timeout(PATIENCE).unwrap();
        let (told, seen) = mpsc::channel();
        two.spawn(async move {
            // A thread runs what was spawned last first: the draining task, and then this one.
            tokio::spawn(async move {
                computes.send(()).unwrap();
                told.send(batch_ran.recv_timeout(PATIENCE)).unwrap();
            });
            group.submit(1);
        });
        assert_eq!(seen.recv().unwrap(), Ok(()), "the batch ran while the thread computed");
    }

    #[tokio::test]
    async fn what_is_queued_behind_a_batch_that_panics_is_drained() {
        let (ran, mut batches) = unbounded_channel();
        let gate = Arc::new(Semaphore::new(0));
        let first = AtomicUsize::new(0);
        let run = {
            let gate = Arc::clone(&gate);
            move |batch: Vec<usize>| {
                let (gate, ran) = (Arc::clone(&gate), ran.clone());
                let panics = first.fetch_add(1, Ordering::Relaxed) == 0;
                Box::pin(async move {
                    ran.send(batch).unwrap();
                    gate.acquire().await.unwrap().forget();
                    assert!(!panics, "the first batch panics, as the test has it");
                }) as _
            }
        };
        let group = Group::new(1, 1, Box::new(run));
        group.submit(1);
        assert_eq!(batches.recv().await, Some(vec![1]));
        // Nothing is submitted any more when the panic comes.
        group.submit(2);
        group.submit(3);
        gate.add_permits(3);
        for rest in [2, 3] {
            let batch = tokio::time::timeout(PATIENCE, batches.recv()).await;
            assert_eq!(batch.expect("somebody drains the queue"), Some(vec![rest]));
        }
        let ended = poll_fn(|cx| {
            cx.waker().wake_by_ref();
            if group.lock().tasks == 0 { Poll::Ready(()) } else { Poll::Pending }
        });
        tokio::time::timeout(PATIENCE, ended).await.expect("the place is given up once");
    }

    /// A client outlives the runtime that it was used on first.
    #[test]
    fn a_runtime_that_ends_leaves_the_group_usable() {
        let (ran, mut batches) = unbounded_channel();
        let run = move |batch: Vec<usize>| {
            let ran = ran.clone();
            Box::pin(async move {
                let hangs = batch == [1];
                ran.send(batch).unwrap();
                if hangs {
                    std::future::pending::<()>().await;
                }
            }) as _
        };
        let group = Group::new(1, 1, Box::new(run));
        let runtime =
            || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let gone = runtime();
        gone.block_on(async {
            group.submit(1);
            assert_eq!(batches.recv().await, Some(vec![1]));
            group.submit(2);
        });
        drop(gone);
        runtime().block_on(async {
            group.submit(3);
            for rest in [2, 3] {
                let batch = tokio::time::timeout(PATIENCE, batches.recv()).await;
                assert_eq!(batch.expect("somebody drains the queue"), Some(vec![rest]));
            }
        });
    }
}
