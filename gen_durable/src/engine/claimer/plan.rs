//! The claimer's decisions: [`Planner::plan`] says what to do next, and [`Planner::absorb`] learns
//! from the answer of a claim. Nothing here waits or asks Postgres.
//!
//! ```text
//!   Claim ──full, or rows became due meanwhile──► Claim
//!   Claim ──nothing more──────────────────────► Look   when is the next row due?
//!   Claim ──no free slot, no lease──────────────► Wait
//!   Claim ──failed by its rows──────────────────► Claim  for less
//!   Claim ──the database cannot be reached──────► Pause
//!   Look  ──a row is due now────────────────────► Claim
//!   Look  ──a row is due later, or failed───────► Wait
//!   Look, Wait ──another queue has free slots───► Claim
//!   Wait  ──woken, or over──────────────────────► Claim
//!   Pause ──over────────────────────────────────► Claim
//! ```
//!
//! The look is left out while the answer of the last one is young enough.
//!
//! Invariant: an answer may leave it open whether rows wait. It then leads to another claim: at
//! once, or at a time that does not depend on an announcement.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    claim_lock::ClaimLocks,
    limits::Limits,
    prefetch::{CLAIM_MAX, Prefetch},
    watermarks::Watermarks,
};
use crate::{
    backoff::{Backoff, jittered},
    engine::{outage::Outage, slots::Queue},
    fault::Fault,
    group::WEIGHT_MAX,
    storage::{Claim, ClaimRequest, Claimed, Due, Kinds},
};

/// The first idle pause: the longest wait after a look, also if a later due time is known. It
/// doubles, up to the poll interval, until a claim is repeated at once or another queue has free
/// slots.
const IDLE_PAUSE_MIN: Duration = Duration::from_millis(50);
/// The shortest pause after a contended claim, for one that got other rows. Otherwise the pause
/// doubles with each such claim.
const CONTENDED_PAUSE_MIN: Duration = Duration::from_micros(2500);
/// The longest pause after a contended claim.
const CONTENDED_PAUSE_MAX: Duration = Duration::from_millis(250);
/// If the claimer has another reason to claim again soon, it looks for due rows no more often than
/// this: until then, it uses the answer of the last look.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// The look for due rows counts those that became due since the claim was sent, and for this long
/// before. The look may take longer to reach Postgres than the claim did. Without the margin, both
/// could miss a row that became due just after the claim.
const MARGIN: Duration = Duration::from_millis(5);

/// The next action of the claimer.
#[derive(Debug)]
pub(super) enum Plan {
    /// Send this claim.
    Claim(ClaimRequest),
    /// Ask Postgres when the next row of these queues is due. A row counts if it becomes due later,
    /// or has become due in the last `since`.
    Look { queues: Vec<String>, since: Duration },
    /// Wait for a wake, until this time at the latest. If `saturated` is true, more rows may wait
    /// than were claimed: a slot that becomes free wakes the claimer.
    Wait { until: Instant, saturated: bool },
    /// Wait until this time, whatever is announced.
    Pause { until: Instant },
}

/// The consequences of a claim's answer, which the claimer carries out.
#[derive(Debug, Default)]
pub(super) struct Absorbed {
    /// The claimed rows. Those with `true` run, and the others are given back.
    pub(super) rows: Vec<(Claimed, bool)>,
    /// True if the claim got rows. None if it got none and a claim lock was refused: it is then
    /// open whether the announcement that woke the claimer led to any.
    pub(super) found: Option<bool>,
    /// True if the claim was full. None if it was not and a claim lock was refused: then it is open
    /// whether more rows wait.
    pub(super) backlog: Option<bool>,
    /// The queues that got less than was asked for. Rows may be born claimed in them from now on:
    /// their statement looks for waiting rows itself.
    pub(super) idle: Vec<String>,
    /// Other processes should be told of the queues of the claim, as this process may not be able
    /// to do all the work. While it had free slots, it kept announcements to itself.
    pub(super) announce: bool,
    /// The claim failed. It may have been committed and its answer lost, so its rows may be lost
    /// claims.
    pub(super) failed: bool,
}

/// The claimer's knowledge of its queues, and the action that follows from the last answer.
pub(super) struct Planner {
    prefetches: BTreeMap<String, Prefetch>,
    kinds: Arc<Kinds>,
    poll_interval: Duration,
    limits: Limits,
    claim_locks: ClaimLocks,
    pub(super) watermarks: Watermarks,
    outage: Outage,
    idle: Backoff,
    contended: Backoff,
    next: Next,
    /// The time of the last claim, and its queues.
    asked: Instant,
    asked_queues: Vec<String>,
    /// The answer of the last look for due rows is used until this time.
    next_look: Instant,
    /// Other processes have been told of the present series of claims that were repeated at once.
    announced: bool,
}

/// The action that the last answer leads to.
#[derive(Clone, Copy, Debug)]
enum Next {
    Claim,
    /// A look, and another claim at `again` at the latest.
    Look {
        again: Option<Instant>,
        saturated: bool,
    },
    Wait {
        until: Instant,
        saturated: bool,
    },
    Pause {
        until: Instant,
    },
}

impl Planner {
    pub(super) fn new(
        queues: impl Iterator<Item = Arc<Queue>>,
        kinds: Arc<Kinds>,
        poll_interval: Duration,
        now: Instant,
    ) -> Self {
        Self {
            prefetches: queues
                .map(|queue| (queue.name.to_string(), Prefetch::new(queue)))
                .collect(),
            kinds,
            poll_interval,
            limits: Limits::default(),
            claim_locks: ClaimLocks::default(),
            watermarks: Watermarks::default(),
            outage: Outage::new("claim work"),
            idle: Backoff::new(IDLE_PAUSE_MIN, poll_interval),
            contended: Backoff::new(CONTENDED_PAUSE_MIN, CONTENDED_PAUSE_MAX),
            next: Next::Claim,
            asked: now,
            asked_queues: Vec::new(),
            next_look: now,
            announced: false,
        }
    }

    /// Returns what to do now. `worker` is none while the lease does not hold.
    ///
    /// After a [`Plan::Wait`] that changes `saturated`, the caller asks again before it waits. The
    /// second call sees the slots that became free before the change, and later ones wake the
    /// claimer.
    pub(super) fn plan(&mut self, worker: Option<i64>, now: Instant) -> Plan {
        // The last claim left a queue out for one of three reasons. The queue had no free slots,
        // its claim lock had been refused, or another queue had failed and was claimed alone.
        if matches!(self.next, Next::Look { .. } | Next::Wait { .. }) && self.any_left_out(now) {
            self.idle.reset();
            self.next = Next::Claim;
        }
        match self.next {
            Next::Claim => {
                // The renewal of a lapsed lease wakes the claimer.
                let Some(worker) = worker else {
                    return Plan::Wait { until: now + self.poll_interval, saturated: false };
                };
                let Some(request) = self.request(worker, now) else {
                    return self.wait_for_room(now);
                };
                self.asked = now;
                self.asked_queues.clone_from(&request.queues);
                Plan::Claim(request)
            }
            Next::Look { .. } => Plan::Look {
                // If a queue's claim lock is refused, another process claims its due rows. The look
                // leaves the queue out: those rows would end the pause at once.
                queues: self
                    .prefetches
                    .keys()
                    .filter(|queue| !self.claim_locks.paused(queue, now))
                    .cloned()
                    .collect(),
                since: now.saturating_duration_since(self.asked) + MARGIN,
            },
            Next::Wait { until, saturated } => Plan::Wait { until, saturated },
            Next::Pause { until } => Plan::Pause { until },
        }
    }

    /// Returns the wait if no queue may be asked for rows. If no slot is free, a freed slot wakes
    /// the claimer. If all queues with free slots pause, because their claim locks were refused or
    /// their claims failed, the wait is over when the first of these pauses is. An engine without
    /// machines waits for polls.
    fn wait_for_room(&self, now: Instant) -> Plan {
        let poll = now + self.poll_interval;
        let pauses = [Some(poll), self.claim_locks.next(now), self.limits.next()];
        let saturated = self.prefetches.keys().any(|queue| !self.claim_locks.paused(queue, now));
        Plan::Wait { until: earliest(pauses).unwrap_or(poll), saturated }
    }

    /// Notes that a wait or a pause has ended.
    pub(super) fn woken(&mut self) {
        self.next = Next::Claim;
    }

    /// Notes that the database cannot be reached.
    pub(super) fn unreachable(&mut self, error: &sqlx::Error, now: Instant) {
        self.next = Next::Pause { until: now + self.outage.failed(error) };
    }

    /// Learns from the answer of a claim. `own` is a due time: that of the next row of those that
    /// this engine delayed.
    pub(super) fn absorb(
        &mut self,
        request: &ClaimRequest,
        answer: Result<Claim, sqlx::Error>,
        own: Option<Instant>,
        now: Instant,
    ) -> Absorbed {
        let mut claim = match answer {
            Ok(claim) => claim,
            Err(error) => {
                self.next = Next::Claim;
                self.failed(request, &error, false, now);
                return Absorbed { backlog: Some(false), failed: true, ..Absorbed::default() };
            }
        };
        let counts = self.learn(request, &mut claim, now);
        let some = !claim.rows.is_empty();
        let lock_retry = self.claim_locks.next(now);
        let full = got_all(request, &counts);
        let counted = request.queues.iter().zip(counts.iter().zip(&request.wanted));
        let idle = counted.filter(|(queue, (count, wanted))| {
            !is_all(**count, **wanted) && !claim.refused.contains(queue)
        });
        let idle = idle.map(|(queue, _)| queue.clone()).collect();
        // A claim that blocked rows (`cleared`) is repeated at once: it may have found only those,
        // and others behind them. A claim that the weight of states cut off is repeated if it got
        // rows.
        let at_once = full || claim.cleared || claim.cut && some;
        let mut absorbed = Absorbed {
            rows: self.sort_out(request, claim.rows),
            // Without rows, a refused claim lock leaves open if the announcement led to any.
            found: (lock_retry.is_none() || some).then_some(some),
            // A full claim is a backlog. A refused claim lock leaves open if there is one.
            backlog: (full || lock_retry.is_none()).then_some(full),
            idle,
            announce: at_once && !std::mem::replace(&mut self.announced, true),
            failed: false,
        };
        if at_once {
            self.idle.reset();
            self.next = Next::Claim;
        } else {
            // The series of full claims is over, unless a refused claim lock leaves that open.
            self.announced &= lock_retry.is_some();
            self.next = self.rest(request, claim.contended, some, own, now);
        }
        if let Some(error) = &claim.failed {
            self.failed(request, error, true, now);
            absorbed.failed = true;
            absorbed.backlog = absorbed.backlog.or(Some(false));
        }
        absorbed
    }

    /// Learns from the answer of a look for due rows.
    pub(super) fn absorb_look(
        &mut self,
        answer: Result<Due, sqlx::Error>,
        own: Option<Instant>,
        now: Instant,
    ) {
        let Next::Look { again, saturated } = self.next else { return };
        let idle = self.idle.pause();
        let pause = match answer {
            // The claim missed a row that has become due since it was sent.
            Ok(due)
                if due.eligible == Some(Duration::ZERO)
                    || own.is_some_and(|at| self.asked <= at && at <= now) =>
            {
                self.next_look = now;
                self.next = Next::Claim;
                return;
            }
            // Times of zero are left out, so that they do not hide rows that are due later. An
            // overdue park has such a time: it was just woken and announced, or another transaction
            // has it locked. A row that this engine delayed has one if the claim has seen the row.
            Ok(due) => {
                let own = own.map(|at| at.saturating_duration_since(now));
                let next = [due.eligible, due.wake, own, Some(jittered(idle))];
                let next = next.into_iter().flatten().filter(|next| !next.is_zero());
                next.min().unwrap_or(idle)
            }
            Err(error) => self.outage.failed(&error),
        };
        self.next_look = now + pause.min(LOOK_EVERY);
        let until = again.map_or(now + pause, |again| again.min(now + pause));
        self.next = Next::Wait { until, saturated };
    }

    /// Tells the limits, the watermarks, the prefetches and the claim locks what the claim found.
    /// Returns how many rows each queue of the request got.
    fn learn(&mut self, request: &ClaimRequest, claim: &mut Claim, now: Instant) -> Vec<usize> {
        if claim.failed.is_none() {
            self.outage.over();
            let contended = claim.contended || !claim.refused.is_empty();
            self.limits.heard(&request.queues, &claim.rows, contended, now);
        }
        let first = std::mem::take(&mut claim.first);
        self.watermarks.heard(request, &claim.refused, first, claim.unsettled, self.asked, now);
        let count = |queue: &String| claim.rows.iter().filter(|row| row.queue == *queue).count();
        let counts: Vec<usize> = request.queues.iter().map(count).collect();
        let keys = claim.busy_keys.iter().zip(&claim.stuck);
        for ((queue, count), (busy, stuck)) in request.queues.iter().zip(&counts).zip(keys) {
            // If the claim lock was refused, another claim may have the queue's rows, and the
            // counts say little of them.
            if let Some(prefetch) = self.prefetches.get_mut(queue)
                && !claim.refused.contains(queue)
            {
                prefetch.heard(*count, *busy, *stuck);
            }
        }
        self.claim_locks.heard(&request.queues, claim.refused.clone(), now);
        counts
    }

    /// Decides for each row if it runs. Two kinds of rows are given back:
    ///
    /// - Rows beyond the free slots and the prefetch. The claim asks for `beyond` rows more, to
    ///   look behind stuck rows: rows at the head of the queue that it can neither claim nor move
    ///   away. If these rows are stuck no more, the claim gets too many.
    /// - Rows that a light claim brought without their state. A later claim tries to load it. A row
    ///   that has proved to be to blame for failed claims runs all the same: the executor fails it.
    ///
    /// A claim that is not light leaves out a state that no claim can load. Its row runs, and the
    /// executor fails it as too large.
    fn sort_out(&mut self, request: &ClaimRequest, rows: Vec<Claimed>) -> Vec<(Claimed, bool)> {
        let mut counts = vec![0; request.queues.len()];
        let mut runs = |row: &Claimed| {
            let Some(index) = request.queues.iter().position(|name| *name == row.queue) else {
                return false;
            };
            counts[index] += 1;
            let capacity = request.wanted[index] - request.beyond[index];
            let fits = request.beyond[index] == 0 || counts[index] <= capacity;
            // The row came with its state, or no claim can bring the state.
            let whole = row.state.is_some() || request.light.is_none();
            fits && (whole || self.limits.is_to_blame(&row.queue, row.id))
        };
        rows.into_iter().map(|row| (runs(&row), row)).map(|(runs, row)| (row, runs)).collect()
    }

    /// Returns what to do when no claim is to follow at once.
    fn rest(
        &mut self,
        request: &ClaimRequest,
        contended: bool,
        some: bool,
        own: Option<Instant>,
        now: Instant,
    ) -> Next {
        // A row that this engine delayed has become due since the claim was sent.
        if own.is_some_and(|at| self.asked <= at && at <= now) {
            return Next::Claim;
        }
        if !contended || some {
            self.contended.reset();
        }
        // No announcement says that the keys and rows of a contended claim are free again. The
        // pause doubles, so it is about as long as they were held before.
        let freed = contended.then(|| now + jittered(self.contended.pause()));
        // claim.sql divides the number asked for among the groups before it skips locked rows. A
        // group with locked rows leaves a part of its share unused, although more rows of other
        // groups may wait.
        let queue_left_out = self.prefetches.keys().any(|queue| self.is_left_out(queue, now));
        // In both cases a slot that becomes free wakes the claimer.
        let saturated = contended && some || queue_left_out;
        // The times to claim again without a wake: a claim lock may be free, contended rows may be
        // free, a whole claim is due, or a queue that failed may be claimed again.
        let again = earliest([
            self.claim_locks.next(now),
            freed,
            self.watermarks.again(request),
            self.limits.next(),
        ]);
        match again {
            Some(again) if now < self.next_look => {
                // A row that this engine delayed may be due before the next look. If it was due
                // before the claim, its time is dropped: the claim has seen the row.
                let own = own.filter(|at| *at > now);
                let until = earliest([Some(again), Some(self.next_look), own]).unwrap_or(again);
                Next::Wait { until, saturated }
            }
            again => Next::Look { again, saturated },
        }
    }

    /// Learns from a claim that failed, though it may have `brought` rows. A lock timeout, or an
    /// error of the connection or the database, has nothing to do with the rows, and is waited out.
    /// (After a lock timeout, `storage::claim` has already repeated the claim without heads.) After
    /// any other error the claimer asks the queues for less.
    fn failed(&mut self, request: &ClaimRequest, error: &sqlx::Error, brought: bool, now: Instant) {
        match Fault::of(error) {
            Fault::Connection | Fault::Database | Fault::Locked => self.unreachable(error, now),
            Fault::Data | Fault::Size | Fault::Unclear => {
                self.limits.failed(&request.queues, error, brought, now);
            }
        }
    }

    /// Builds the request for the queues that want rows and do not pause, if there are any.
    fn request(&mut self, worker: i64, now: Instant) -> Option<ClaimRequest> {
        if self.kinds.fsms.is_empty() {
            return None;
        }
        let mut wanted: BTreeMap<String, (usize, usize)> = BTreeMap::new();
        for (queue, prefetch) in &mut self.prefetches {
            if !self.claim_locks.paused(queue, now) {
                // Births do not begin in this queue until a claim of it is answered. This comes
                // before the look at the free slots (`Reserved::sent` in `births`).
                prefetch.queue.set_idle(false);
                let rows = prefetch.wanted(now).min(self.limits.rows_max(queue));
                if rows > 0 {
                    let beyond = prefetch.beyond().min(CLAIM_MAX - rows);
                    wanted.insert(queue.clone(), (rows, beyond));
                }
            }
        }
        let queues = self.limits.together(wanted.keys().cloned().collect(), now);
        let count = |rows| i64::try_from(rows).unwrap_or(i64::MAX);
        let request = ClaimRequest {
            worker,
            wanted: queues.iter().map(|queue| count(wanted[queue].0 + wanted[queue].1)).collect(),
            beyond: queues.iter().map(|queue| count(wanted[queue].1)).collect(),
            kinds: Arc::clone(&self.kinds),
            without_lock: queues
                .iter()
                .filter(|queue| self.claim_locks.waited_out(queue, now))
                .cloned()
                .collect(),
            known: self.watermarks.known(&queues, now),
            // Settled queues may be claimed by the smaller statement, `claim_known.sql`.
            settled: self.watermarks.settled(&queues),
            bytes_max: count(WEIGHT_MAX),
            light: if let [queue] = &queues[..] { self.limits.light(queue) } else { None },
            queues,
        };
        (!request.queues.is_empty()).then_some(request)
    }

    /// True if a queue that the last claim left out wants rows now.
    fn any_left_out(&mut self, now: Instant) -> bool {
        let queues: Vec<String> =
            self.prefetches.keys().filter(|queue| self.is_left_out(queue, now)).cloned().collect();
        queues.iter().any(|queue| {
            self.prefetches.get_mut(queue).is_some_and(|prefetch| prefetch.wanted(now) > 0)
        })
    }

    /// True if the last claim did not ask for this queue, and the queue does not pause.
    fn is_left_out(&self, queue: &str, now: Instant) -> bool {
        !self.asked_queues.iter().any(|asked| asked == queue)
            && !self.claim_locks.paused(queue, now)
            && !self.limits.paused(queue, now)
    }
}

/// True if any queue got all that was asked for, so that there may be more.
fn got_all(request: &ClaimRequest, counts: &[usize]) -> bool {
    counts.iter().zip(&request.wanted).any(|(count, wanted)| is_all(*count, *wanted))
}

fn is_all(count: usize, wanted: i64) -> bool {
    i64::try_from(count).is_ok_and(|count| count >= wanted)
}

/// Returns the first of these times.
fn earliest<const N: usize>(times: [Option<Instant>; N]) -> Option<Instant> {
    times.into_iter().flatten().min()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail")]
mod tests;
