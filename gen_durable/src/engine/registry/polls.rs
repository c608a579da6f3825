//! The polls of user code that are under way: a poll that takes long blocks its thread.
//!
//! A thread that a step blocks runs nothing else: no other step, no commit, no timer. A task that
//! waits for that thread sees a slow database or a late timer. Therefore each poll of user code is
//! timed. A long one is logged with its machine and step, also while it goes on
//! ([`Polls::report`]).
//!
//! Invariant: time during which all threads of the runtime were blocked counts towards no run's
//! [timeout](Polls::within).

use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use crate::{
    error::{StepError, StepErrorKind},
    machine::context::Instance,
    throttle::Throttle,
};

/// The time from which on a poll counts as blocking. A busy machine takes a thread away for much
/// less.
const BLOCKING: Duration = Duration::from_millis(250);

/// The polls of user code that are under way in an engine.
#[derive(Debug, Default)]
pub(crate) struct Polls {
    running: Mutex<Vec<Poll>>,
    /// The time for which all threads have been blocked at once, in nanoseconds.
    stalled: AtomicU64,
    throttle: Throttle,
}

/// A poll that has begun.
#[derive(Clone, Debug)]
struct Poll {
    machine: &'static str,
    instance: Arc<Instance>,
    since: Instant,
}

/// A guard that gives a run up, unless it has come to its end.
struct GivenUp {
    instance: Arc<Instance>,
    is_over: bool,
}

impl Drop for GivenUp {
    fn drop(&mut self) {
        if !self.is_over {
            self.instance.fate.give_up();
        }
    }
}

impl Polls {
    /// Runs user code, poll by poll, for at most `limit`.
    pub(super) async fn within<T>(
        &self,
        limit: Option<Duration>,
        machine: &'static str,
        instance: Arc<Instance>,
        run: impl Future<Output = Result<T, StepError>> + Unpin,
    ) -> Result<T, StepError> {
        let mut given_up = GivenUp { instance: Arc::clone(&instance), is_over: false };
        let result = self.poll_within(limit, machine, instance, run).await;
        given_up.is_over =
            !matches!(&result, Err(error) if error.kind() == StepErrorKind::TimedOut);
        result
    }

    async fn poll_within<T>(
        &self,
        limit: Option<Duration>,
        machine: &'static str,
        instance: Arc<Instance>,
        mut run: impl Future<Output = Result<T, StepError>> + Unpin,
    ) -> Result<T, StepError> {
        let mut run = pin!(poll_fn(move |cx| {
            let poll = self.begin(machine, &instance);
            let result = Pin::new(&mut run).poll(cx);
            self.end(&poll);
            result
        }));
        let Some(limit) = limit else { return run.await };
        let (began, stalled) = (tokio::time::Instant::now(), self.stalled());
        let mut allowed = limit;
        loop {
            // A deadline beyond what a clock can tell is none.
            let Some(deadline) = began.checked_add(allowed) else { return run.await };
            if let Ok(result) = tokio::time::timeout_at(deadline, &mut run).await {
                return result;
            }
            // The time for which all threads were blocked meanwhile is not taken from this run.
            let owed = limit + self.stalled().saturating_sub(stalled);
            if owed <= began.elapsed() {
                return Err(StepError::timed_out(limit));
            }
            allowed = owed;
        }
    }

    /// Notes that a poll has begun.
    fn begin(&self, machine: &'static str, instance: &Arc<Instance>) -> Poll {
        let poll = Poll { machine, instance: Arc::clone(instance), since: Instant::now() };
        self.running().push(poll.clone());
        poll
    }

    /// Notes that a poll has ended. Logs it if it was long.
    fn end(&self, poll: &Poll) {
        let took = poll.since.elapsed();
        let mut running = self.running();
        if took >= BLOCKING {
            self.count_stall(&running);
        }
        let same = |other: &Poll| Arc::ptr_eq(&other.instance, &poll.instance);
        if let Some(place) = running.iter().rposition(same) {
            running.swap_remove(place);
        }
        drop(running);
        if took >= BLOCKING {
            self.log(poll, took, "blocked its thread");
        }
    }

    /// Counts for how long all threads were blocked at once, now that one of them no longer is.
    fn count_stall(&self, running: &[Poll]) {
        let now = Instant::now();
        let blocked = running.iter().map(|poll| now - poll.since).filter(|took| *took >= BLOCKING);
        let mut blocked: Vec<Duration> = blocked.collect();
        let threads = tokio::runtime::Handle::try_current()
            .map_or(1, |runtime| runtime.metrics().num_workers());
        // The longest come first. Entry `threads - 1` is the shortest of as many polls as there are
        // threads: for that long, all threads were blocked.
        blocked.sort_unstable_by(|one, other| other.cmp(one));
        if let Some(all) = blocked.get(threads.saturating_sub(1)) {
            let nanos = u64::try_from(all.as_nanos()).unwrap_or(u64::MAX);
            self.stalled.fetch_add(nanos, Ordering::Relaxed);
        }
    }

    fn stalled(&self) -> Duration {
        Duration::from_nanos(self.stalled.load(Ordering::Relaxed))
    }

    /// Logs the polls that are blocking right now. The caller's thread must be one that they do not
    /// block.
    pub(crate) fn report(&self) {
        let blocking: Vec<Poll> = {
            let running = self.running();
            running.iter().filter(|poll| poll.since.elapsed() >= BLOCKING).cloned().collect()
        };
        for poll in &blocking {
            self.log(poll, poll.since.elapsed(), "is blocking its thread");
        }
    }

    fn log(&self, poll: &Poll, took: Duration, what: &str) {
        let step = &poll.instance.step;
        if let Some(held_back) = self.throttle.allows(&format!("{} {step} {what}", poll.machine)) {
            tracing::warn!(
                machine = poll.machine,
                step = %step,
                instance = poll.instance.id,
                ?took,
                held_back,
                "a step {what}: others wait for it meanwhile; run what computes or blocks in `tokio::task::spawn_blocking`"
            );
        }
    }

    fn running(&self) -> MutexGuard<'_, Vec<Poll>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
