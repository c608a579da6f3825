//! The slots of a queue: they bound the steps that run user code at once, and order those that
//! wait.
//!
//! Invariant: at most `slots` are taken, and those that wait are served in order of arrival. A slot
//! is held while user code runs, and not while its outcome is committed, so the next step can use
//! the processor meanwhile.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::oneshot;

use super::registry::Work;
use crate::meters::QueueMeters;

/// A queue in this process.
pub(crate) struct Queue {
    pub(crate) name: Arc<str>,
    pub(crate) slots: usize,
    state: Mutex<State>,
    /// Rows of the queue that this process has claimed and not finished.
    pub(crate) claimed: AtomicUsize,
    /// The last claim left nothing behind.
    idle: AtomicBool,
    /// The rows that the claimer would claim ahead of the free slots, and when it said so.
    ahead: Mutex<(usize, Instant)>,
    /// Steps that ran to an outcome, since the engine started.
    pub(crate) finished: AtomicU64,
    /// The time for which these steps have held their slots, in nanoseconds.
    pub(crate) held: AtomicU64,
    pub(crate) meters: QueueMeters,
}

struct State {
    free: usize,
    waiting: VecDeque<Waiting>,
}

/// An instance that waits for a slot.
#[expect(clippy::large_enum_variant, reason = "rows wait by the thousand, and tasks seldom")]
enum Waiting {
    /// A row that was claimed and has not begun.
    Work(Work),
    /// The task of an instance between two steps.
    Task(oneshot::Sender<()>),
}

impl Queue {
    pub(crate) fn new(name: &str, slots: usize) -> Self {
        Self {
            name: name.into(),
            slots,
            state: Mutex::new(State { free: slots, waiting: VecDeque::new() }),
            claimed: AtomicUsize::new(0),
            idle: AtomicBool::new(false),
            ahead: Mutex::new((0, Instant::now())),
            finished: AtomicU64::new(0),
            held: AtomicU64::new(0),
            meters: QueueMeters::new(name, slots),
        }
    }

    /// Takes a slot for a row, and returns the row. If no slot is free, the row waits in here for
    /// one.
    pub(crate) fn enter(&self, work: Work) -> Option<Work> {
        let mut state = self.lock();
        if state.free > 0 {
            state.free -= 1;
            self.meters.slot_taken();
            return Some(work);
        }
        state.waiting.push_back(Waiting::Work(work));
        None
    }

    /// Takes a slot between two steps. If no slot is free, it returns what the slot comes by. While
    /// the queue lives, it drops no sender before it has given it a slot.
    pub(crate) fn reenter(&self) -> Option<oneshot::Receiver<()>> {
        let mut state = self.lock();
        if state.free > 0 {
            state.free -= 1;
            self.meters.slot_taken();
            return None;
        }
        let (sender, slot_given) = oneshot::channel();
        state.waiting.push_back(Waiting::Task(sender));
        Some(slot_given)
    }

    /// Gives a slot back. Returns the row that has the slot now, if one waited for it.
    pub(crate) fn leave(&self) -> Option<Work> {
        let mut state = self.lock();
        loop {
            match state.waiting.pop_front() {
                None => {
                    state.free += 1;
                    self.meters.slot_freed();
                    return None;
                }
                Some(Waiting::Work(work)) => return Some(work),
                Some(Waiting::Task(task)) => {
                    if task.send(()).is_ok() {
                        return None;
                    }
                }
            }
        }
    }

    /// Takes out those of the waiting rows that `wanted` names.
    pub(crate) fn take_rows(&self, wanted: impl Fn(&Work) -> bool) -> Vec<Work> {
        let mut state = self.lock();
        let (mut rows, mut others) = (Vec::new(), VecDeque::new());
        for waiting in std::mem::take(&mut state.waiting) {
            match waiting {
                Waiting::Work(work) if wanted(&work) => rows.push(work),
                other => others.push_back(other),
            }
        }
        state.waiting = others;
        rows
    }

    /// Takes out the waiting rows that have not begun.
    pub(crate) fn take_waiting(&self) -> Vec<Work> {
        self.take_rows(|_| true)
    }

    /// True if a slot could be reserved.
    pub(crate) fn has_slot(&self) -> bool {
        self.claimed.load(Ordering::SeqCst) < self.slots
    }

    /// Notes how many rows the claimer would claim ahead of the free slots now.
    pub(crate) fn set_ahead(&self, rows: usize, now: Instant) {
        *self.ahead.lock().unwrap_or_else(PoisonError::into_inner) = (rows, now);
    }

    /// Returns how many rows may be claimed ahead of the free slots. A number that is older than
    /// `horizon` says nothing of the rows that come now.
    pub(crate) fn ahead(&self, horizon: Duration) -> usize {
        let (rows, since) = *self.ahead.lock().unwrap_or_else(PoisonError::into_inner);
        if since.elapsed() < horizon { rows } else { 0 }
    }

    /// Counts a row that is about to be claimed, if a slot is free for it, or if it is among the
    /// first `ahead` of those that wait for one.
    pub(crate) fn reserve(&self, ahead: usize) -> bool {
        let max = self.slots.saturating_add(ahead);
        let one_more = |claimed| (claimed < max).then_some(claimed + 1);
        self.claimed.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_more).is_ok()
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.idle.load(Ordering::SeqCst)
    }

    pub(crate) fn set_idle(&self, idle: bool) {
        self.idle.store(idle, Ordering::SeqCst);
    }

    pub(crate) fn claimed(&self) -> usize {
        self.claimed.load(Ordering::SeqCst)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p71_rows_are_reserved_ahead_of_the_slots_while_the_claimer_has_just_counted_them() {
        let queue = Queue::new("q", 2);
        let reserved = |horizon: Duration| {
            let ahead = queue.ahead(horizon);
            (0..10).filter(|_| queue.reserve(ahead)).count()
        };
        queue.set_ahead(3, Instant::now());
        assert_eq!(reserved(Duration::ZERO), 2, "an old number says nothing");
        assert_eq!(reserved(Duration::from_hours(1)), 3);
        assert_eq!(queue.claimed(), 5);
    }
}
