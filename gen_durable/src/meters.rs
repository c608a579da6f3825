//! The meters: counters of engines and clients, for the facade `metrics` (feature `metrics`).
//!
//! Each part of an engine makes its meters when it starts. The recorder that is installed then gets
//! all that they count. [The guide](crate::guide::metrics) lists the metrics.
//!
//! Invariant: no meter is looked up in the recorder while steps run, except for failures of the
//! database. Without the feature the meters are empty, and so is the code that uses them.

mod instruments;
#[cfg_attr(not(feature = "metrics"), expect(dead_code, reason = "nobody asks for the names"))]
pub(crate) mod names;
#[cfg(feature = "metrics")]
pub(crate) mod view;

use std::{fmt, sync::OnceLock, time::Duration};

pub(crate) use self::instruments::Timer;
use self::instruments::{Counter, Gauge, Histogram, describe};

/// The ends of runs. If an outcome ended the run, the history records it under the same word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RunEnd {
    Next,
    Later,
    Replay,
    Snooze,
    Await,
    Done,
    Failed,
    /// The instance was cancelled meanwhile. The outcome, if there was one, took no effect.
    Cancelled,
    /// The worker had lost the instance before the outcome was committed.
    Lost,
    /// The run was cut off, because the engine stopped.
    CutOff,
}

impl RunEnd {
    /// All of them, in their order.
    const ALL: [Self; 10] = [
        Self::Next,
        Self::Later,
        Self::Replay,
        Self::Snooze,
        Self::Await,
        Self::Done,
        Self::Failed,
        Self::Cancelled,
        Self::Lost,
        Self::CutOff,
    ];

    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Next => "next",
            Self::Later => "later",
            Self::Replay => "replay",
            Self::Snooze => "snooze",
            Self::Await => "await",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Lost => "lost",
            Self::CutOff => "cut_off",
        }
    }
}

/// Counts what happened, by what came of it.
#[derive(Clone)]
pub(crate) struct Results<const N: usize>([Counter; N]);

impl<const N: usize> Results<N> {
    /// Makes a counter for each result. It is the last label of the metric, after `first`.
    fn new(metric: &names::Metric, first: &[&str], results: [&str; N]) -> Self {
        Self(results.map(|result| Counter::new(metric, &[first, &[result]].concat())))
    }

    /// Counts `more` with the result at this place.
    fn add(&self, place: usize, more: usize) {
        if let Some(counter) = self.0.get(place).filter(|_| more > 0) {
            counter.add(more);
        }
    }
}

/// The meters of a step.
pub(crate) struct StepMeters {
    ends: Results<{ RunEnd::ALL.len() }>,
    errors: Results<{ ERRORS.len() }>,
    seconds: Histogram,
}

/// The kinds of errors, in the order of `StepErrorKind`.
const ERRORS: [&str; 5] = ["failed", "panicked", "timed_out", "rejected", "undecodable"];

impl StepMeters {
    fn new(machine: &str, step: &str) -> Self {
        let of = [machine, step];
        Self {
            ends: Results::new(&names::STEPS, &of, RunEnd::ALL.map(RunEnd::as_str)),
            errors: Results::new(&names::STEP_ERRORS, &of, ERRORS),
            seconds: Histogram::new(&names::STEP_SECONDS, &of),
        }
    }

    pub(crate) fn ended(&self, end: RunEnd) {
        self.ends.add(end as usize, 1);
    }

    /// Counts an error, by the place of its kind among the kinds.
    pub(crate) fn failed(&self, kind: usize) {
        self.errors.add(kind, 1);
    }

    pub(crate) fn took(&self, took: Duration) {
        self.seconds.record(took);
    }
}

/// The meters of a machine's steps.
pub(crate) struct MachineMeters {
    #[cfg(feature = "metrics")]
    steps: Vec<(&'static str, StepMeters)>,
    /// Those of a row at a step that the machine does not have.
    other: OnceLock<StepMeters>,
    name: &'static str,
}

impl MachineMeters {
    pub(crate) fn new(machine: &'static str, steps: &[&'static str]) -> Self {
        #[cfg(not(feature = "metrics"))]
        let _ = steps;
        Self {
            #[cfg(feature = "metrics")]
            steps: steps.iter().map(|step| (*step, StepMeters::new(machine, step))).collect(),
            other: OnceLock::new(),
            name: machine,
        }
    }

    fn other(&self) -> &StepMeters {
        self.other.get_or_init(|| StepMeters::new(self.name, "(unknown)"))
    }

    /// Returns the meters of a step.
    #[cfg(feature = "metrics")]
    pub(crate) fn step(&self, name: &str) -> &StepMeters {
        let known = self.steps.iter().find(|(step, _)| *step == name);
        known.map_or_else(|| self.other(), |(_, meters)| meters)
    }

    #[cfg(not(feature = "metrics"))]
    #[inline]
    pub(crate) fn step(&self, _: &str) -> &StepMeters {
        self.other()
    }
}

/// The meters of a queue in this process. The gauges are those of all engines of the process.
pub(crate) struct QueueMeters {
    slots: usize,
    gauge: Gauge,
    in_use: Gauge,
    claimed: Results<2>,
    waiting: Histogram,
}

impl QueueMeters {
    pub(crate) fn new(queue: &str, slots: usize) -> Self {
        let gauge = Gauge::new(&names::SLOTS, &[queue]);
        gauge.raise(slots);
        Self {
            slots,
            gauge,
            in_use: Gauge::new(&names::SLOTS_IN_USE, &[queue]),
            claimed: Results::new(&names::CLAIMED, &[queue], ["claim", "birth"]),
            waiting: Histogram::new(&names::WAITING_SECONDS, &[queue]),
        }
    }

    pub(crate) fn slot_taken(&self) {
        self.in_use.raise(1);
    }

    pub(crate) fn slot_freed(&self) {
        self.in_use.lower(1);
    }

    pub(crate) fn claimed(&self) {
        self.claimed.add(0, 1);
    }

    pub(crate) fn born(&self) {
        self.claimed.add(1, 1);
    }

    pub(crate) fn waited(&self, waited: Duration) {
        self.waiting.record(waited);
    }
}

impl Drop for QueueMeters {
    fn drop(&mut self) {
        self.gauge.lower(self.slots);
    }
}

/// The meters of the claimer.
pub(crate) struct ClaimMeters {
    claims: Counter,
    seconds: Histogram,
}

impl ClaimMeters {
    pub(crate) fn new() -> Self {
        Self {
            claims: Counter::new(&names::CLAIMS, &[]),
            seconds: Histogram::new(&names::CLAIM_SECONDS, &[]),
        }
    }

    pub(crate) fn answered(&self, timer: Timer) {
        self.claims.add(1);
        self.seconds.stop(timer);
    }
}

/// The meters of the flusher.
pub(crate) struct CommitMeters {
    batches: Results<2>,
    steps: Results<1>,
    outcomes: Results<2>,
    seconds: Histogram,
    pub(crate) sent: SentMeters,
}

impl CommitMeters {
    pub(crate) fn new() -> Self {
        Self {
            batches: Results::new(&names::COMMITS, &["batch"], ["committed", "failed"]),
            steps: Results::new(&names::COMMITS, &["step"], ["committed"]),
            outcomes: Results::new(&names::COMMITTED, &[], ["batch", "step"]),
            seconds: Histogram::new(&names::COMMIT_SECONDS, &[]),
            sent: SentMeters::new("outcome"),
        }
    }

    /// Counts a try of a batch, and its outcomes if it was committed.
    pub(crate) fn batch(&self, timer: Timer, outcomes: usize, committed: bool) {
        self.seconds.stop(timer);
        self.batches.add(usize::from(!committed), 1);
        self.outcomes.add(0, if committed { outcomes } else { 0 });
    }

    /// Counts an outcome that was committed in its step's transaction.
    pub(crate) fn step(&self) {
        self.steps.add(0, 1);
        self.outcomes.add(1, 1);
    }
}

/// The meters of inserts and signals that calls or outcomes send.
#[derive(Clone)]
pub(crate) struct SentMeters {
    inserts: Results<2>,
    signals: Results<3>,
}

impl SentMeters {
    /// Those of calls.
    pub(crate) fn of_calls() -> Self {
        describe();
        Self::new("call")
    }

    fn new(by: &str) -> Self {
        Self {
            inserts: Results::new(&names::INSERTS, &[by], ["inserted", "duplicate"]),
            signals: Results::new(&names::SIGNALS, &[by], ["delivered", "duplicate", "refused"]),
        }
    }

    pub(crate) fn inserts(&self, inserted: usize, duplicates: usize) {
        self.inserts.add(0, inserted);
        self.inserts.add(1, duplicates);
    }

    /// Refused signals have no live target.
    pub(crate) fn signals(&self, delivered: usize, duplicates: usize, refused: usize) {
        self.signals.add(0, delivered);
        self.signals.add(1, duplicates);
        self.signals.add(2, refused);
    }
}

impl fmt::Debug for SentMeters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SentMeters").finish_non_exhaustive()
    }
}

impl fmt::Debug for CommitMeters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CommitMeters").finish_non_exhaustive()
    }
}

/// The meters of the worker's lease.
pub(crate) struct LeaseMeters {
    renewals: Results<3>,
    left: Histogram,
}

impl LeaseMeters {
    pub(crate) fn new() -> Self {
        let results = ["renewed", "replaced", "failed"];
        Self {
            renewals: Results::new(&names::RENEWALS, &[], results),
            left: Histogram::new(&names::LEASE_LEFT_SECONDS, &[]),
        }
    }

    /// Counts a renewal, or the registration of a new worker, with what was left of the lease.
    pub(crate) fn granted(&self, anew: bool, left: Duration) {
        self.renewals.add(usize::from(anew), 1);
        self.left.record(left);
    }

    pub(crate) fn failed(&self, left: Duration) {
        self.renewals.add(2, 1);
        self.left.record(left);
    }
}

/// The meters of the maintenance services.
#[derive(Clone)]
pub(crate) struct MaintenanceMeters {
    reaped: Results<2>,
    pruned: Counter,
}

impl MaintenanceMeters {
    pub(crate) fn new() -> Self {
        Self {
            reaped: Results::new(&names::REAPED, &[], ["returned", "failed"]),
            pruned: Counter::new(&names::PRUNED, &[]),
        }
    }

    pub(crate) fn reaped(&self, returned: usize, failed: usize) {
        self.reaped.add(0, returned);
        self.reaped.add(1, failed);
    }

    pub(crate) fn pruned(&self, rows: usize) {
        self.pruned.add(rows);
    }
}

/// The meters of a limit.
pub(crate) struct LimitMeters(Results<2>);

impl LimitMeters {
    pub(crate) fn new(limit: &str) -> Self {
        Self(Results::new(&names::TURNS, &[limit], ["admitted", "held_back"]))
    }

    pub(crate) fn admitted(&self) {
        self.0.add(0, 1);
    }

    pub(crate) fn held_back(&self) {
        self.0.add(1, 1);
    }
}

/// The meters of a schedule.
#[cfg(feature = "schedules")]
pub(crate) struct ScheduleMeters(Results<3>);

#[cfg(feature = "schedules")]
impl ScheduleMeters {
    pub(crate) fn new(schedule: &str) -> Self {
        Self(Results::new(&names::TICKS, &[schedule], ["fired", "failed", "skipped"]))
    }

    /// Counts ticks: those that inserted an instance, those that failed to, and those that were
    /// skipped because an earlier instance is under way.
    pub(crate) fn passed(&self, fired: usize, failed: usize, skipped: usize) {
        for (place, ticks) in [fired, failed, skipped].into_iter().enumerate() {
            self.0.add(place, ticks);
        }
    }
}

#[cfg(feature = "schedules")]
impl fmt::Debug for ScheduleMeters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ScheduleMeters").finish_non_exhaustive()
    }
}

/// Counts a failure that an activity waits out. It is rare, so its counter is looked up.
pub(crate) fn retries(activity: &str) {
    Counter::new(&names::RETRIES, &[activity]).add(1);
}
