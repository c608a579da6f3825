//! Decides what becomes of each run, and records it.
//!
//! ```text
//!   run ──► seen ──► commit
//!                ├── crash: never goes on; the lab drops it, and the row is reaped
//!                └── the lease is lost: the row is reaped first, and the outcome is dropped
//! ```

use std::{
    collections::{HashMap, HashSet},
    fmt::Write as _,
    future::pending,
    ops::{AddAssign, Sub},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::sync::{mpsc, oneshot};

use crate::{
    engine::by_hand::{Call, Watch, Work, describe},
    error::StepError,
    storage::{Change, Commit},
    testing::{effects::Effects, explore::Course},
};

/// The lines of a trace that an error prints.
const TRACE_MAX: usize = 40;
/// The most faults of one explored course. Each makes it longer.
const FAULTS_MAX: u32 = 6;

/// The counts of what the instances of a lab have done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Tally {
    /// Runs that came to an outcome, or whose `handle` failed.
    pub runs: u64,
    /// The outcomes of these that went to their commit.
    pub committed: u64,
    /// Instances that ended as done.
    pub done: u64,
    /// Instances that ended as failed.
    pub failed: u64,
    /// Runs that were dropped by a crash, or as the lease was lost.
    pub lost: u64,
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.runs += other.runs;
        self.committed += other.committed;
        self.done += other.done;
        self.failed += other.failed;
        self.lost += other.lost;
    }
}

impl Sub for Tally {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self {
            runs: self.runs - other.runs,
            committed: self.committed - other.committed,
            done: self.done - other.done,
            failed: self.failed - other.failed,
            lost: self.lost - other.lost,
        }
    }
}

/// The request of a run to the lab.
pub(super) enum Event {
    /// The process dies here.
    Crash,
    /// The worker is lost. The run goes on after that, and so does its commit.
    LoseLease(oneshot::Sender<()>),
}

/// A step of a machine, by the names of both.
type Step = (&'static str, String);

/// Decides what becomes of each run of a lab.
pub(super) struct Director {
    state: Mutex<State>,
    events: mpsc::UnboundedSender<Event>,
}

#[derive(Default)]
pub(super) struct State {
    pub(super) tally: Tally,
    /// The runs that this call of the lab may still have.
    pub(super) runs_left: u64,
    /// The time since the lab began.
    pub(super) time: Duration,
    trace: Vec<(i64, String)>,
    /// True if each step is run twice.
    pub(super) twice: bool,
    /// The steps whose second run may differ.
    pub(super) exempt: HashSet<Step>,
    /// The first runs, by instance.
    first: HashMap<i64, (Step, Effects)>,
    pub(super) crash_before: Vec<Step>,
    pub(super) lose_lease: u32,
    /// The text of a check that failed.
    pub(super) failure: Option<String>,
    course: Option<Arc<Course>>,
    faults: u32,
}

/// The fate of a run.
enum Fate {
    Commit,
    Crash(&'static str),
    LoseLease,
}

impl Director {
    pub(super) fn new(course: Option<Arc<Course>>) -> (Arc<Self>, mpsc::UnboundedReceiver<Event>) {
        let (events, told) = mpsc::unbounded_channel();
        let state = Mutex::new(State { course, ..State::default() });
        (Arc::new(Self { state, events }), told)
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns what an engine calls after each run.
    pub(super) fn watch(self: &Arc<Self>) -> Watch {
        let director = Arc::clone(self);
        Box::new(move |work, call, result| {
            let fate = director.decide(work, call, result);
            let events = director.events.clone();
            Box::pin(async move {
                match fate {
                    Fate::Commit => {}
                    Fate::Crash(_) => {
                        let _ = events.send(Event::Crash);
                        pending::<()>().await;
                    }
                    Fate::LoseLease => {
                        let (go_on, may_go_on) = oneshot::channel();
                        let _ = events.send(Event::LoseLease(go_on));
                        let _ = may_go_on.await;
                    }
                }
            })
        })
    }

    /// Returns which of the claimed rows runs next. One whose first run was dropped, so that it
    /// runs twice, comes first: nothing may happen between the two runs.
    pub(super) fn pick(&self, ids: &[i64]) -> usize {
        let state = self.state();
        let again = ids.iter().position(|id| state.first.contains_key(id));
        match (again, &state.course) {
            (Some(again), _) => again,
            (None, Some(course)) => {
                course.choose(ids.len(), || "another instance goes first".to_owned())
            }
            (None, None) => 0,
        }
    }

    /// Forgets the first runs of steps that run twice: the call that dropped them did not go on.
    pub(super) fn forget_first_runs(&self) {
        self.state().first.clear();
    }

    /// True if a run was dropped that is to be repeated next.
    pub(super) fn repeats(&self) -> bool {
        !self.state().first.is_empty()
    }

    fn decide(&self, work: &Work, call: &Call, result: Result<&Commit, &StepError>) -> Fate {
        let mut state = self.state();
        let instance = &work.instance;
        let id = instance.id;
        let mut line = format!("+{:?} {}", state.time, work.fsm);
        let _ = write!(line, " #{id} `{}`", instance.step);
        if instance.attempt > 0 {
            let _ = write!(line, " attempt {}", instance.attempt);
        }
        let commit = match result {
            Ok(commit) => commit,
            Err(error) => {
                if matches!(call, Call::Handle { .. }) {
                    state.tally.runs += 1;
                    state.tally.committed += 1;
                    state.tally.failed += 1;
                    let _ = write!(line, ": fails, as `handle` failed: {}", describe(error));
                } else {
                    let _ = write!(line, ": error: {}", describe(error));
                }
                state.trace.push((id, line));
                return Fate::Commit;
            }
        };
        let effects = Effects::of(commit, &work.state);
        let _ = write!(line, ": {effects}");
        let fate = state.fate((work.fsm, instance.step.to_string()), id, &effects);
        match fate {
            Fate::Commit => state.commit(commit),
            Fate::Crash(why) => {
                state.tally.runs += 1;
                state.tally.lost += 1;
                let _ = write!(line, " -- {why}");
            }
            Fate::LoseLease => {
                state.tally.runs += 1;
                state.tally.lost += 1;
                line.push_str(" -- dropped: the lease was lost");
            }
        }
        state.trace.push((id, line));
        fate
    }

    /// Returns what was done last, by one instance or by all.
    pub(super) fn trace(&self, of: Option<i64>) -> String {
        let state = self.state();
        let lines: Vec<&str> = state
            .trace
            .iter()
            .filter(|(id, _)| of.is_none_or(|of| of == *id))
            .map(|(_, line)| line.as_str())
            .collect();
        if lines.is_empty() {
            return "It has not run.".to_owned();
        }
        let left_out = lines.len().saturating_sub(TRACE_MAX);
        let mut text = "What was done:".to_owned();
        if left_out > 0 {
            let _ = write!(text, "\n  ({left_out} runs before)");
        }
        for line in &lines[left_out..] {
            let _ = write!(text, "\n  {line}");
        }
        text
    }
}

impl State {
    fn commit(&mut self, commit: &Commit) {
        self.tally.runs += 1;
        self.tally.committed += 1;
        match commit.change {
            Change::Done { .. } => self.tally.done += 1,
            Change::Failed => self.tally.failed += 1,
            _ => {}
        }
    }

    fn fate(&mut self, step: Step, id: i64, effects: &Effects) -> Fate {
        if self.runs_left == 0 {
            self.failure.get_or_insert_with(|| {
                "the lab stopped after the runs that `max_steps` allows: instances wake or repeat for ever, or there are many".to_owned()
            });
            return Fate::Crash("stopped: too many runs");
        }
        self.runs_left -= 1;
        if let Some(place) = self.crash_before.iter().position(|before| *before == step) {
            self.crash_before.remove(place);
            return Fate::Crash("dropped: the process crashed");
        }
        if self.lose_lease > 0 {
            self.lose_lease -= 1;
            return Fate::LoseLease;
        }
        if self.twice {
            let Some((of, first)) = self.first.remove(&id).filter(|(of, _)| *of == step) else {
                self.first.insert(id, (step, effects.clone()));
                return Fate::Crash("dropped: the step runs twice");
            };
            if !first.are_those_of(effects) && !self.exempt.contains(&of) {
                self.failure.get_or_insert_with(|| {
                    format!(
                        "step `{}` of `{}` is not idempotent: run again after a crash, instance {id} did something else\n  first:  {first}\n  second: {effects}",
                        of.1, of.0
                    )
                });
            }
        }
        let Some(course) = self.course.clone().filter(|_| self.faults < FAULTS_MAX) else {
            return Fate::Commit;
        };
        // A fault is rarer than none: a course with many is seldom the shortest that fails.
        let chosen = course.choose(12, || {
            format!("a fault after a run of instance {id} at `{}` of `{}`", step.1, step.0)
        });
        if chosen >= 10 {
            self.faults += 1;
        }
        match chosen {
            10 => Fate::LoseLease,
            11 => Fate::Crash("dropped: the process crashed"),
            _ => Fate::Commit,
        }
    }
}
