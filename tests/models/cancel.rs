//! A model of a cancel, and of all that may happen beside it: steps, lost leases, lost claims, and
//! lost answers.
//!
//! One instance has a partition key, and another row of the key waits. Its steps are `Work` and, if
//! the machine has one, `OnCancel`. Two workers may run it.
//!
//! `Claim` stands for `claim.sql`, `Arrive` for its answer, and `Vanish` for the loss of that.
//! `Finish` is the end of a run, and `Commit` stands for `commit.sql` and `inspect.sql`. `Break` is
//! a `commit.sql` whose answer is lost. `Cancel` stands for `cancel.sql`, of which a second one
//! changes nothing, and `Reap` for `reap.sql`. `Look` stands for `lost_claims.sql`, and `Abandon`
//! for `abandon.sql`. `Page` stands for `owed.sql`. `Settle` is what the service `debts` does with
//! the page, and `Answer` is what the claimer does between its claims. Both run
//! `answer_cancels.sql`. No operator retries or kills the instance.

mod statements;

use std::collections::HashMap;

use stateright::{Model, Property};

use crate::{breaks, holds};

const WORKERS: usize = 2;
const EXPIRIES: u8 = 1;
/// The answers, of claims and of commits, that are lost.
const LOSSES: u8 = 1;
/// The outcomes that neither end the instance nor give it back.
const MOVES: u8 = 1;

/// The rule that a broken variant leaves out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Without {
    Nothing,
    /// A cancel raises the revision.
    Revision,
    /// The answer waits until no task of the process has the instance.
    Task,
    /// The answer waits for a claim that is under way.
    Claim,
    /// A row that is reaped before its answer stays out of the claim's index.
    Block,
    /// A cancelled row is no lost claim.
    LostClaim,
    /// A failure ends a cancelled instance as cancelled.
    Fail,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
enum Status {
    #[default]
    Runnable,
    Executing,
    Parked,
    Done,
    Failed,
    Cancelled,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Step {
    #[default]
    Work,
    OnCancel,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Outcome {
    Next,
    Park,
    Done,
    Fail,
    Release,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Phase {
    /// The answer of the claim is under way. There is no task yet.
    Claimed,
    /// The step runs. The value is true if the run is to be dropped at its next await point.
    Running(bool),
    /// The outcome is handed in. The value is true if an earlier try may have been applied.
    Committing(Outcome, bool),
    /// A lost claim is given back. That is no task either.
    GivingBack,
}

/// A claim of the instance, and what its worker does with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Task {
    worker: usize,
    /// By how much the row's revision is above that of the claim, up to two.
    behind: u8,
    step: Step,
    phase: Phase,
    /// The lease of the worker has run out since the claim.
    expired: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Row {
    status: Status,
    step: Step,
    /// The worker that holds the row; none for a row that was abandoned.
    locked_by: Option<usize>,
    /// It was cancelled.
    cancelled: bool,
    /// It owes the answer to its cancel.
    asked: bool,
    /// It is not in the claim's index.
    blocked: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct State {
    row: Row,
    tasks: Vec<Task>,
    leases: [bool; WORKERS],
    /// For each engine, true if it has noted the cancel. Then the page that its `debts` has read:
    /// true if it runs the instance, and false if nobody does.
    noted: [bool; WORKERS],
    pages: [Option<bool>; WORKERS],
    /// The status of the other row of the partition key.
    other: Status,
    expiries: u8,
    losses: u8,
    moves: u8,
    /// The number of answers to the cancel.
    answers: u8,
    /// An outcome of `Work` was applied after the cancel.
    late: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Claim(usize),
    Arrive(Task),
    Vanish(Task),
    Finish(Task, Outcome),
    Commit(Task),
    Break(Task),
    /// A signal wakes the parked row.
    Wake,
    /// True if the machine is registered in the row's version.
    Cancel(bool),
    Page(usize),
    Settle(usize),
    Answer(usize),
    Look(usize),
    Abandon(usize),
    Expire(usize),
    Renew(usize),
    /// True if the row has lost too many workers.
    Reap(bool),
    /// The other row of the key is claimed, and ends.
    Other,
}

#[derive(Clone, Debug)]
struct Cancel {
    without: Without,
    on_cancel: bool,
}

impl Cancel {
    fn task_actions(state: &State, task: Task, actions: &mut Vec<Action>) {
        let losable = state.losses < LOSSES;
        match task.phase {
            Phase::Claimed => {
                actions.push(Action::Arrive(task));
                actions.extend(losable.then_some(Action::Vanish(task)));
            }
            Phase::Running(dropped) => {
                let moves = state.moves < MOVES;
                for (outcome, possible) in [
                    (Outcome::Next, moves),
                    (Outcome::Park, moves),
                    (Outcome::Done, true),
                    (Outcome::Fail, true),
                    (Outcome::Release, dropped),
                ] {
                    actions.extend(possible.then_some(Action::Finish(task, outcome)));
                }
            }
            Phase::Committing(..) => {
                actions.push(Action::Commit(task));
                actions.extend(losable.then_some(Action::Break(task)));
            }
            Phase::GivingBack => actions.push(Action::Commit(task)),
        }
    }

    /// Asserts that each state may still become one that is good.
    fn always_leads_to(&self, good: impl Fn(&State) -> bool) {
        let mut states = self.init_states();
        let mut places: HashMap<State, usize> = states.iter().cloned().zip(0..).collect();
        let mut before: Vec<Vec<usize>> = vec![Vec::new(); states.len()];
        let mut at = 0;
        while at < states.len() {
            for next in self.next_states(&states[at]) {
                let place = *places.entry(next).or_insert_with_key(|next| {
                    states.push(next.clone());
                    before.push(Vec::new());
                    states.len() - 1
                });
                before[place].push(at);
            }
            at += 1;
        }
        let mut open: Vec<usize> = (0..at).filter(|at| good(&states[*at])).collect();
        let mut leads = vec![false; at];
        while let Some(at) = open.pop() {
            if !std::mem::replace(&mut leads[at], true) {
                open.append(&mut before[at]);
            }
        }
        let stuck = leads.iter().position(|leads| !leads).map(|at| &states[at]);
        assert!(stuck.is_none(), "{stuck:?}");
    }
}

impl Model for Cancel {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State { leases: [true; WORKERS], ..State::default() }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        let row = &state.row;
        let executing = row.status == Status::Executing;
        for worker in 0..WORKERS {
            let lease = state.leases[worker];
            // The claimer does one thing at a time.
            let idle = !state.claims(worker);
            let free = row.status == Status::Runnable && state.other != Status::Executing;
            if idle && lease && free && !row.blocked {
                actions.push(Action::Claim(worker));
            }
            if state.noted[worker] && (idle || self.without == Without::Claim) {
                actions.push(Action::Answer(worker));
            }
            let unknown = !state.tasks.iter().any(|task| task.worker == worker);
            let lost = !row.asked || self.without == Without::LostClaim;
            if unknown && state.holds(worker) && lost {
                actions.extend([Action::Look(worker), Action::Abandon(worker)]);
            }
            match state.pages[worker] {
                Some(_) => actions.push(Action::Settle(worker)),
                None if row.asked && (!executing || state.holds(worker)) => {
                    actions.push(Action::Page(worker));
                }
                None => {}
            }
            if !lease {
                actions.push(Action::Renew(worker));
            } else if state.expiries < EXPIRIES {
                actions.push(Action::Expire(worker));
            }
        }
        for task in &state.tasks {
            Self::task_actions(state, *task, actions);
        }
        if executing && row.locked_by.is_none_or(|worker| !state.leases[worker]) {
            actions.extend([Action::Reap(false), Action::Reap(true)]);
        }
        if !state.ended() {
            actions.extend([Action::Cancel(true), Action::Cancel(false)]);
        }
        if row.status == Status::Parked {
            actions.push(Action::Wake);
        }
        if state.other == Status::Executing || state.other == Status::Runnable && !executing {
            actions.push(Action::Other);
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Claim(worker) => {
                state.turn(Status::Executing, Some(worker));
                state.begin(worker, Phase::Claimed);
            }
            // Without a lease it does not start.
            Action::Arrive(task) => {
                let starts = Task { phase: Phase::Running(false), ..task };
                state.put(Some(task), state.leases[task.worker].then_some(starts));
            }
            Action::Vanish(task) => {
                state.losses += 1;
                state.put(Some(task), None);
            }
            Action::Finish(task, outcome) => {
                state.moves += u8::from(matches!(outcome, Outcome::Next | Outcome::Park));
                let phase = Phase::Committing(outcome, false);
                state.put(Some(task), Some(Task { phase, ..task }));
            }
            Action::Commit(task) => {
                state.put(Some(task), None);
                let after = self.commit(&mut state, task);
                state.put(None, after);
            }
            Action::Break(task) => {
                let Phase::Committing(outcome, _) = task.phase else { return None };
                state.losses += 1;
                let phase = Phase::Committing(outcome, true);
                state.put(Some(task), Some(Task { phase, ..task }));
                self.apply(&mut state, task, outcome);
            }
            Action::Wake => state.row.status = Status::Runnable,
            Action::Cancel(registered) => {
                let executing = state.row.status == Status::Executing;
                if !std::mem::replace(&mut state.row.cancelled, true) {
                    if registered && !executing {
                        self.respond(&mut state);
                    } else {
                        if !executing || self.without != Without::Revision {
                            state.raise();
                        }
                        (state.row.asked, state.row.blocked) = (true, !executing);
                        if !executing {
                            state.row.status = Status::Runnable;
                        }
                    }
                }
            }
            Action::Page(worker) => state.pages[worker] = Some(state.holds(worker)),
            Action::Settle(worker) if state.pages[worker].take()? => {
                state.noted[worker] = true;
                state.drop_runs(worker);
            }
            Action::Settle(worker) => self.answer(&mut state, worker),
            Action::Answer(worker) => {
                if state.has_task(worker) && self.without != Without::Task {
                    state.drop_runs(worker);
                } else {
                    state.noted[worker] = false;
                    self.answer(&mut state, worker);
                }
            }
            Action::Look(worker) => state.begin(worker, Phase::GivingBack),
            Action::Abandon(_) => state.row.locked_by = None,
            Action::Expire(worker) => {
                state.expiries += 1;
                state.leases[worker] = false;
                for task in state.tasks.iter_mut().filter(|task| task.worker == worker) {
                    task.expired = true;
                }
                state.tasks.sort_unstable();
            }
            Action::Renew(worker) => state.leases[worker] = true,
            Action::Reap(often) => {
                let asked = state.row.asked;
                let failure = self.failure(&state);
                state.turn(if often && !asked { failure } else { Status::Runnable }, None);
                state.row.blocked |= asked && self.without != Without::Block;
            }
            Action::Other if state.other == Status::Runnable => state.other = Status::Executing,
            Action::Other => state.other = Status::Done,
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(LATE, |_, state: &State| !state.late),
            // A lease that has run out protects no key.
            Property::always(KEY, |_, state: &State| {
                let runs = |task: &Task| matches!(task.phase, Phase::Running(_)) && !task.expired;
                state.other != Status::Executing || !state.tasks.iter().any(runs)
            }),
            Property::always("a cancel is answered once", |_, state: &State| {
                state.answers <= u8::from(state.row.cancelled)
            }),
            Property::always(FAILED, |_, state: &State| {
                !state.row.cancelled || state.row.status != Status::Failed
            }),
            Property::sometimes("a cancelled run is answered", |_, state: &State| {
                state.answers > 0 && state.tasks.is_empty()
            }),
        ]
    }
}

const LATE: &str = "no outcome of a cancelled step is applied";
const KEY: &str = "no other row of the key executes beside a run";
const FAILED: &str = "a cancelled instance does not fail";

#[test]
fn a_cancel_is_answered_once_and_nothing_of_before_is_applied() {
    holds(Cancel { without: Without::Nothing, on_cancel: true });
}

#[test]
fn a_cancel_without_a_step_of_its_own_ends_the_instance() {
    holds(Cancel { without: Without::Nothing, on_cancel: false });
}

#[test]
fn a_cancelled_instance_can_always_be_answered_and_end() {
    for on_cancel in [true, false] {
        let model = Cancel { without: Without::Nothing, on_cancel };
        model.always_leads_to(|state| {
            state.ended() && state.answers == u8::from(state.row.cancelled)
        });
    }
}

#[test]
fn without_a_new_revision_an_outcome_is_applied_after_the_cancel() {
    breaks(Cancel { without: Without::Revision, on_cancel: true }, LATE);
}

#[test]
fn an_answer_before_the_end_of_the_task_frees_the_key_of_a_run() {
    breaks(Cancel { without: Without::Task, on_cancel: true }, KEY);
}

#[test]
fn an_answer_during_a_claim_frees_the_key_of_a_run() {
    breaks(Cancel { without: Without::Claim, on_cancel: true }, KEY);
}

#[test]
fn a_row_that_is_reaped_into_the_queue_runs_on_after_the_cancel() {
    breaks(Cancel { without: Without::Block, on_cancel: true }, LATE);
}

#[test]
fn a_lost_claim_that_is_given_back_runs_on_after_the_cancel() {
    breaks(Cancel { without: Without::LostClaim, on_cancel: true }, LATE);
}

#[test]
fn a_failure_after_a_cancel_would_end_as_failed() {
    breaks(Cancel { without: Without::Fail, on_cancel: true }, FAILED);
}
