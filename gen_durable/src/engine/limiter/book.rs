//! The book of an engine's limited runs: what its worker holds in each bucket.
//!
//! Invariant: `running` is the weight of the [`Turn`]s that exist. `told` is the weight that the
//! database was told last. A bucket in which the two differ is listed until it is told anew.

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::Notify;

/// The runs that the engine has admitted.
#[derive(Debug)]
pub(super) struct Book {
    state: Mutex<State>,
    /// An end that somebody waits for, or a row that was held back.
    pub(super) wake: Notify,
}

#[derive(Debug)]
struct State {
    worker: i64,
    /// The number of the last statement.
    number: i64,
    buckets: HashMap<Arc<str>, Held>,
    /// Buckets in which runs have ended, in the order of the first such end.
    ended: VecDeque<(Instant, Arc<str>)>,
    /// The same, which are to be told of at once.
    due: Vec<Arc<str>>,
    /// Buckets for which rows wait, and in which a place was freed.
    early: Vec<String>,
}

/// The part of a worker in a bucket.
#[derive(Debug)]
struct Held {
    limit: &'static str,
    running: i64,
    told: i64,
    /// True if somebody may wait for a place.
    tight: bool,
    /// True if it is in `ended` or in `due`.
    listed: bool,
}

impl Held {
    fn new(limit: &'static str) -> Self {
        Self { limit, running: 0, told: 0, tight: false, listed: false }
    }
}

/// The place of a run in its bucket. The run holds it until this is dropped.
pub(crate) struct Turn {
    book: Arc<Book>,
    bucket: Arc<str>,
    weight: i64,
    worker: i64,
    /// The time from which the run may begin.
    since: Instant,
}

impl Turn {
    /// Notes that the run may begin after this delay.
    pub(super) fn begins_in(&mut self, delay: Duration) {
        self.since += delay;
    }

    /// Returns the time for which the run might have begun.
    pub(crate) fn age(&self) -> Duration {
        self.since.elapsed()
    }
}

impl fmt::Debug for Turn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Turn").field("bucket", &self.bucket).finish_non_exhaustive()
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut state = self.book.lock();
        // A worker that was lost holds nothing, and the database knows that.
        if state.worker != self.worker {
            return;
        }
        let Some(held) = state.buckets.get_mut(&self.bucket) else { return };
        held.running -= self.weight;
        let told = state.list(&self.bucket);
        drop(state);
        if told {
            self.book.wake.notify_one();
        }
    }
}

impl State {
    /// Lists a bucket whose runs have changed. True if the service must hear of that.
    fn list(&mut self, bucket: &Arc<str>) -> bool {
        let Some(held) = self.buckets.get_mut(bucket) else { return false };
        if held.running == held.told || held.listed && !held.tight {
            return false;
        }
        held.listed = true;
        if held.tight {
            self.due.push(Arc::clone(bucket));
            return true;
        }
        self.ended.push_back((Instant::now(), Arc::clone(bucket)));
        self.ended.len() == 1
    }
}

/// The words of the book about a bucket, for a statement.
#[derive(Debug)]
pub(super) struct Said {
    pub(super) bucket: Arc<str>,
    pub(super) limit: &'static str,
    /// The weight of the runs in it.
    pub(super) running: i64,
}

/// The answer of a bucket, for the book.
#[derive(Debug)]
pub(super) struct Told {
    pub(super) bucket: Arc<str>,
    pub(super) limit: &'static str,
    /// The weight of the runs that the statement said to be there, besides those that asked.
    pub(super) said: i64,
    /// The weight of each run that was admitted, and the number of them.
    pub(super) weight: i64,
    pub(super) admitted: usize,
    /// True if rows wait for the bucket.
    pub(super) waited: bool,
    /// True if more than half of the places are taken.
    pub(super) full: bool,
}

impl Book {
    pub(super) fn new(worker: i64) -> Self {
        let state = State {
            worker,
            number: 0,
            buckets: HashMap::new(),
            ended: VecDeque::new(),
            due: Vec::new(),
            early: Vec::new(),
        };
        Self { state: Mutex::new(state), wake: Notify::new() }
    }

    /// Begins the next statement of this worker, and returns its number. The runs of a former
    /// worker are forgotten: its lease has run out.
    pub(super) fn begin(&self, worker: i64) -> i64 {
        let mut state = self.lock();
        if state.worker != worker {
            state.worker = worker;
            state.buckets.clear();
            state.ended.clear();
            state.due.clear();
        }
        state.number += 1;
        state.number
    }

    /// Returns the weight of the runs in a bucket.
    pub(super) fn running(&self, bucket: &str) -> i64 {
        self.lock().buckets.get(bucket).map_or(0, |held| held.running)
    }

    /// Makes ends due that are older than this. True if any are due.
    pub(super) fn make_due(&self, age: Duration) -> bool {
        let mut state = self.lock();
        while state.ended.front().is_some_and(|(since, _)| since.elapsed() >= age) {
            if let Some((_, bucket)) = state.ended.pop_front() {
                state.due.push(bucket);
            }
        }
        !state.due.is_empty()
    }

    /// Returns the time until an end is due by its age.
    pub(super) fn due_in(&self, age: Duration) -> Option<Duration> {
        let state = self.lock();
        state.ended.front().map(|(since, _)| age.saturating_sub(since.elapsed()))
    }

    /// Takes up to `max` of the buckets of which the database is to be told.
    pub(super) fn take_due(&self, max: usize) -> Vec<Said> {
        let mut state = self.lock();
        let mut said = Vec::new();
        while said.len() < max
            && let Some(bucket) = state.due.pop()
        {
            let Some(held) = state.buckets.get_mut(&bucket) else { continue };
            // It may be listed twice.
            if !std::mem::take(&mut held.listed) {
                continue;
            }
            if held.running != held.told {
                said.push(Said { bucket, limit: held.limit, running: held.running });
            } else if held.running == 0 {
                state.buckets.remove(&bucket);
            }
        }
        let more = !state.due.is_empty();
        drop(state);
        if more {
            self.wake.notify_one();
        }
        said
    }

    /// Notes an answer, and returns the turns of the runs that were admitted.
    pub(super) fn note(self: &Arc<Self>, worker: i64, told: &Told) -> Vec<Turn> {
        let mut state = self.lock();
        if state.worker != worker {
            return Vec::new();
        }
        let admitted = told.weight * i64::try_from(told.admitted).unwrap_or(0);
        let new = || Held::new(told.limit);
        let held = state.buckets.entry(Arc::clone(&told.bucket)).or_insert_with(new);
        let freed = held.told > told.said + admitted;
        held.told = told.said + admitted;
        held.running += admitted;
        held.tight = told.waited || told.full;
        let idle = held.running == 0 && held.told == 0 && !held.listed;
        if idle {
            state.buckets.remove(&told.bucket);
        }
        let mut wake = state.list(&told.bucket);
        if freed && told.waited {
            state.early.push(told.bucket.as_ref().to_owned());
            wake = true;
        }
        drop(state);
        if wake {
            self.wake.notify_one();
        }
        let turn = || Turn {
            book: Arc::clone(self),
            bucket: Arc::clone(&told.bucket),
            weight: told.weight,
            worker,
            since: Instant::now(),
        };
        (0..told.admitted).map(|_| turn()).collect()
    }

    /// Notes that nobody knows whether a statement about this bucket took effect. The next one says
    /// the same again.
    pub(super) fn doubt(&self, bucket: &Arc<str>, limit: &'static str) {
        let mut state = self.lock();
        let new = || Held::new(limit);
        let held = state.buckets.entry(Arc::clone(bucket)).or_insert_with(new);
        held.told = i64::MAX;
        // Not at once, however tight it is: the next statement may fail like this one.
        if !std::mem::replace(&mut held.listed, true) {
            state.ended.push_back((Instant::now(), Arc::clone(bucket)));
        }
    }

    /// Takes the buckets in which a place was freed that somebody waits for.
    pub(super) fn take_early(&self) -> Vec<String> {
        let mut early = std::mem::take(&mut self.lock().early);
        early.sort_unstable();
        early.dedup();
        early
    }

    pub(super) fn put_early(&self, early: Vec<String>) {
        self.lock().early.extend(early);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One that was admitted ahead of its time must not count as late when that has come.
    #[test]
    fn a_turn_ages_from_the_time_at_which_its_run_may_begin() {
        let book = Arc::new(Book::new(7));
        let told = Told {
            bucket: "a".into(),
            limit: "a",
            said: 0,
            weight: 1,
            admitted: 1,
            waited: false,
            full: false,
        };
        let mut turns = book.note(7, &told);
        turns[0].begins_in(Duration::from_hours(1));
        assert_eq!(turns[0].age(), Duration::ZERO);
        assert_eq!(book.running("a"), 1);
        turns.clear();
        assert_eq!(book.running("a"), 0);
    }
}
