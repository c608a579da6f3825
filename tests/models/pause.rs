//! A model of a pause, and of all that may happen beside it: steps, cancels, lost leases, and a
//! second pause.
//!
//! Two rows have one partition key. The step `A` of the first row's machine may be paused, its step
//! `B` may not. The second row is of another machine. Two engines may run both. Each engine knows
//! of the pause what it saw when it last looked.
//!
//! `Pause` stands for `pause_scope.sql`, `Resume` for `resume_scope.sql`, and `Look` for
//! `pauses.sql`. `Claim` stands for `claim.sql` and `claim_partitions.sql`, under the key's lock.
//! `MarkRead` and `MarkCommit` stand for `block_paused.sql`: the pause is read and locked, and then
//! the row is marked, if it is still the engine's. `Ahead` is that read for a row that was not
//! claimed. `Release` and `Finish` stand for `commit.sql` with `unblock_partitions.sql`. `Begin` is
//! where the engine starts the code of a step. `SweepRead` and `SweepWrite` stand for
//! `unblock_paused.sql`: its snapshot, and its change of a row that it saw. `SweepSkip` is a sweep
//! that finds the row locked. `Cancel` stands for `cancel.sql`, `Answer` for `answer_cancels.sql`,
//! and `Reap` for `reap.sql`.
//!
//! A row that waits for its key has the bit 1 in `blocked_by`. A marked row has the bit 4. A row
//! that was reaped before the answer to its cancel has the bit 2.

mod statements;

use stateright::{Model, Property};

use crate::{breaks, holds};

const ENGINES: usize = 2;
/// The places of the two rows in their key's order.
const FIRST: usize = 0;
const SECOND: usize = 1;
/// The outcomes that go on to a next step.
const MOVES: u8 = 1;
const REAPS: u8 = 1;

/// The rules. A broken variant leaves out one of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rule {
    /// A mark locks the pause that it has read. A resume waits for that lock.
    Share,
    /// An engine marks a row before it gives the row back.
    Order,
    /// An engine marks a row only if the row is still its own.
    Owner,
    /// A cancel that moves a row to another step unmarks it.
    Cancel,
    /// The answer to a cancel does the same.
    Answer,
    /// A sweep clears marks only if there is no pause.
    Sweep,
    /// A marked row keeps its place: those behind it wait.
    Place,
    /// A mark of a row that was not claimed looks at the row's step again, under the row's lock.
    Step,
    /// An engine looks at what it knows before it goes on to a next step.
    Check,
    /// A new engine looks at the pauses before it claims.
    Start,
}

/// The events that a variant allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Also {
    /// An engine dies, or its lease runs out while it goes on.
    Deaths,
    /// The operator pauses the step a second time.
    Again,
    /// A sweep finds the row locked by another transaction, and skips it.
    Locks,
    /// A sweep does not find the row while it executes.
    Runnable,
    /// The engines sweep now and then. Otherwise an engine sweeps only after it has seen that a
    /// pause is gone, and once.
    Sweeps,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
enum Status {
    #[default]
    Runnable,
    Executing,
    Done,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Step {
    #[default]
    A,
    B,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Row {
    status: Status,
    step: Step,
    waits: bool,
    marked: bool,
    /// It owes the answer to its cancel.
    asked: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Phase {
    /// The claim has brought the row. Nothing is decided yet.
    Claimed,
    /// The transaction of the mark is open, and has seen the pause.
    Marking,
    /// The same for a row that the engine has not claimed.
    Ahead,
    /// The row is to be given back.
    GivingBack,
    /// The step runs.
    Running,
    /// The outcome is applied. The same claim goes on to the next step.
    GoingOn,
}

/// A row that an engine has claimed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Task {
    row: usize,
    step: Step,
    phase: Phase,
    /// The row is no longer the engine's.
    lost: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Engine {
    /// True if the engine knows of a pause; none if it is new and has not looked yet.
    known: Option<bool>,
    task: Option<Task>,
    /// It has seen that the pause is gone, and will sweep.
    owes: bool,
    /// The snapshot of its sweep shows a mark to clear.
    sweeps: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
struct State {
    /// True if the table `pauses` has a row.
    paused: bool,
    rows: [Row; 2],
    engines: [Engine; ENGINES],
    pauses: u8,
    moves: u8,
    reaps: u8,
    cancelled: bool,
    /// The number of times that the row was marked in this pause, and the most that may be.
    marks: u8,
    most_marks: u8,
    /// All engines have known of this pause.
    visible: bool,
    /// A step began although the first of the properties, or the second, forbids it.
    knew: bool,
    late: bool,
    /// The second row was claimed before the first one had ended.
    passed: bool,
    /// The first row was marked at some time.
    was_marked: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Pause,
    Resume,
    Look(usize),
    Claim(usize),
    MarkRead(usize),
    MarkCommit(usize),
    Ahead(usize),
    Release(usize),
    Begin(usize),
    /// The next step; none ends the instance.
    Finish(usize, Option<Step>),
    SweepRead(usize),
    SweepWrite(usize),
    SweepSkip(usize),
    Cancel,
    Answer,
    Reap {
        engine: usize,
        died: bool,
    },
}

#[derive(Clone, Debug)]
struct Pause {
    also: &'static [Also],
    without: Option<Rule>,
}

impl Pause {
    fn also(&self, also: Also) -> bool {
        self.also.contains(&also)
    }

    fn without(&self, rule: Rule) -> bool {
        self.without == Some(rule)
    }

    fn task_actions(&self, state: &State, at: usize, task: Task, actions: &mut Vec<Action>) {
        let stops = task.step == Step::A && state.engines[at].known == Some(true);
        match task.phase {
            Phase::Claimed if stops && self.without(Rule::Order) => {
                actions.push(if task.lost { Action::MarkRead(at) } else { Action::Release(at) });
            }
            Phase::Claimed if stops => actions.push(Action::MarkRead(at)),
            Phase::GoingOn if stops && !self.without(Rule::Check) => {
                actions.push(Action::Release(at));
            }
            Phase::Claimed | Phase::GoingOn => actions.push(Action::Begin(at)),
            Phase::Marking | Phase::Ahead => actions.push(Action::MarkCommit(at)),
            Phase::GivingBack => actions.push(Action::Release(at)),
            Phase::Running => {
                actions.push(Action::Finish(at, None));
                if task.row == FIRST && state.moves < MOVES {
                    actions.push(Action::Finish(at, Some(Step::A)));
                    actions.push(Action::Finish(at, Some(Step::B)));
                }
            }
        }
    }

    /// Adds what the engines do by themselves, without an operator and without a loss.
    fn engine_actions(&self, state: &State, actions: &mut Vec<Action>) {
        let busy = state.busy();
        let found = state.rows.iter().any(|row| row.in_index());
        let row = &state.rows[FIRST];
        let ahead = state.paused && row.step == Step::A && row.in_index();
        for (at, engine) in state.engines.iter().enumerate() {
            if engine.known != Some(state.paused) {
                actions.push(Action::Look(at));
            }
            let looked = engine.known.is_some() || self.without(Rule::Start);
            if looked && found && (busy || engine.task.is_none()) {
                actions.push(Action::Claim(at));
            }
            if let Some(task) = engine.task {
                self.task_actions(state, at, task, actions);
            }
            if ahead && engine.known == Some(true) && engine.task.is_none() {
                actions.push(Action::Ahead(at));
            }
            if engine.sweeps {
                actions.push(Action::SweepWrite(at));
                actions.extend(self.also(Also::Locks).then_some(Action::SweepSkip(at)));
            } else if engine.owes || self.also(Also::Sweeps) && self.sweepable(state) {
                actions.push(Action::SweepRead(at));
            }
        }
        if row.asked && row.status == Status::Runnable {
            actions.push(Action::Answer);
        }
    }

    /// If the engines have nothing to do, no row is left that may run, and no mark.
    fn nobody_is_stuck(&self, state: &State) -> bool {
        let mut actions = Vec::new();
        self.engine_actions(state, &mut actions);
        let [first, second] = &state.rows;
        let paused = state.paused && first.marked && first.step == Step::A;
        let ended = first.status == Status::Done && second.status == Status::Done;
        !actions.is_empty() || paused || ended && !first.marked
    }
}

impl Model for Pause {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let rows = [Row::default(), Row { step: Step::B, ..Row::default() }];
        vec![State { rows, ..State::default() }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        self.engine_actions(state, actions);
        let marks = |task: Task| matches!(task.phase, Phase::Marking | Phase::Ahead);
        let marking = |engine: &Engine| engine.task.is_some_and(marks);
        let ended = state.rows[FIRST].status == Status::Done;
        if !state.paused {
            let most = if self.also(Also::Again) { 2 } else { 1 };
            actions.extend((!ended && state.pauses < most).then_some(Action::Pause));
        } else if self.without(Rule::Share) || !state.engines.iter().any(marking) {
            actions.push(Action::Resume);
        }
        if !ended && !state.cancelled {
            actions.push(Action::Cancel);
        }
        for (engine, known) in state.engines.iter().enumerate() {
            let holds = known.task.is_some_and(|task| !task.lost);
            if holds && self.also(Also::Deaths) && state.reaps < REAPS {
                actions.push(Action::Reap { engine, died: true });
                actions.push(Action::Reap { engine, died: false });
            }
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Pause => {
                state.paused = true;
                state.pauses += 1;
                let sweeps = state.engines.iter().filter(|engine| engine.sweeps);
                (state.marks, state.most_marks) = (0, sweeps.fold(1, |most, _| most + 1));
            }
            Action::Resume => (state.paused, state.visible) = (false, false),
            Action::Look(at) => {
                let engine = &mut state.engines[at];
                let before = engine.known.replace(state.paused);
                engine.owes |= before == Some(true) && !state.paused;
            }
            Action::Claim(at) => self.claim(&mut state, at),
            Action::MarkRead(at) => {
                let task = state.engines[at].task.as_mut()?;
                task.phase = if state.paused { Phase::Marking } else { Phase::GivingBack };
            }
            Action::MarkCommit(at) => self.mark(&mut state, at)?,
            Action::Ahead(at) => {
                let task = Task { row: FIRST, step: Step::A, phase: Phase::Ahead, lost: true };
                state.engines[at].task = Some(task);
            }
            Action::Release(at) => self.release(&mut state, at)?,
            Action::Begin(at) => {
                let engine = &mut state.engines[at];
                let task = engine.task.as_mut()?;
                task.phase = Phase::Running;
                if task.step == Step::A {
                    state.knew |= state.paused && engine.known == Some(true);
                    state.late |= state.visible;
                }
            }
            Action::Finish(at, next) => self.finish(&mut state, at, next)?,
            Action::SweepRead(at) => {
                state.engines[at].owes = false;
                state.engines[at].sweeps = self.sweepable(&state);
            }
            Action::SweepWrite(at) => {
                state.engines[at].sweeps = false;
                state.rows[FIRST].marked &= !self.findable(state.rows[FIRST]);
            }
            Action::SweepSkip(at) => state.engines[at].sweeps = false,
            Action::Cancel => {
                state.cancelled = true;
                if state.rows[FIRST].status == Status::Executing {
                    state.rows[FIRST].asked = true;
                } else {
                    state.cancel(!self.without(Rule::Cancel));
                }
            }
            Action::Answer => self.answer(&mut state),
            Action::Reap { engine: at, died } => {
                state.reaps += 1;
                let engine = &mut state.engines[at];
                let task = engine.task.as_mut()?;
                let row = task.row;
                task.lost = true;
                if died {
                    *engine = Engine::default();
                }
                state.rows[row].status = Status::Runnable;
                state.free_key();
            }
        }
        let known = state.engines.iter().all(|engine| engine.known == Some(true));
        state.visible |= state.paused && known;
        // The engines are alike. Their order means nothing.
        state.engines.sort_unstable();
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(KNEW, |_, state: &State| !state.knew),
            Property::always(LATE, |_, state: &State| !state.late),
            Property::always(PASSED, |_, state: &State| !state.passed),
            Property::always(STUCK, Self::nobody_is_stuck),
            Property::always(OTHER, |_, state: &State| {
                state.rows.iter().all(|row| row.step == Step::A || !row.marked)
            }),
            // A sweep whose snapshot is from before the pause may clear a mark. Then the row is
            // claimed in vain and marked again. A row whose mark a cancel cleared may come back.
            Property::always(MARKS, |_, state: &State| state.marks <= state.most_marks),
            Property::sometimes("a paused row is marked", |_, state: &State| {
                state.rows[FIRST].marked && state.rows[FIRST].status == Status::Runnable
            }),
            Property::sometimes("it runs after the resume", |_, state: &State| {
                let runs = |task: Task| task.step == Step::A && task.phase == Phase::Running;
                let runs = |engine: &Engine| engine.task.is_some_and(runs);
                state.was_marked && !state.paused && state.engines.iter().any(runs)
            }),
            Property::sometimes("the second row waits for it", |_, state: &State| {
                state.rows[FIRST].marked && state.rows[SECOND].waits && !state.busy()
            }),
            Property::sometimes("the second row runs after it", |_, state: &State| {
                state.was_marked && state.rows.iter().all(|row| row.status == Status::Done)
            }),
            Property::sometimes("a mark comes after the resume", |_, state: &State| {
                let late = |task: Task| task.phase == Phase::GivingBack && !task.lost;
                let late = |engine: &Engine| engine.task.is_some_and(late);
                !state.was_marked && state.engines.iter().any(late)
            }),
        ]
    }
}

const KNEW: &str = "no step begins in a pause that its engine knows of";
const LATE: &str = "no step begins in a pause that all engines have seen";
const PASSED: &str = "no row passes a paused one";
const STUCK: &str = "no mark is left behind, and no row is stuck";
const OTHER: &str = "no mark is on a step that is not paused";
const MARKS: &str = "a row is marked once in a pause, but for old sweeps and a cancel";

const ALL: &[Also] = &[Also::Deaths, Also::Again, Also::Locks, Also::Runnable, Also::Sweeps];

fn with(also: &'static [Also]) -> Pause {
    Pause { also, without: None }
}

fn without(rule: Rule, also: &'static [Also]) -> Pause {
    Pause { also, without: Some(rule) }
}

#[test]
fn a_paused_row_waits_and_runs_after_the_resume() {
    holds(with(ALL));
}

/// After one pause the sweeps that follow the looks suffice, if no engine dies and a sweep finds
/// each mark.
#[test]
fn a_sweep_after_the_look_finds_each_mark_of_one_pause() {
    holds(with(&[]));
}

/// An engine that dies does not sweep. A sweep skips a locked row, and one that is marked and not
/// given back yet. An engine may see the end of a
/// pause, sweep in the next one, and not see that one.
#[test]
fn without_a_sweep_now_and_then_a_mark_is_left() {
    breaks(with(&[Also::Deaths]), STUCK);
    breaks(with(&[Also::Locks]), STUCK);
    breaks(with(&[Also::Runnable]), STUCK);
    breaks(with(&[Also::Again]), STUCK);
}

/// The sweep now and then would mend this, but late.
#[test]
fn without_the_lock_of_the_pause_a_mark_comes_after_the_sweep() {
    breaks(without(Rule::Share, &[]), STUCK);
}

#[test]
fn a_mark_on_a_row_that_was_given_back_may_be_on_another_step() {
    breaks(without(Rule::Order, &[]), OTHER);
}

#[test]
fn a_mark_on_a_row_that_was_lost_may_be_on_another_step() {
    breaks(without(Rule::Owner, ALL), OTHER);
}

#[test]
fn a_mark_on_a_row_ahead_may_be_on_another_step() {
    breaks(without(Rule::Step, ALL), OTHER);
}

/// The sweep now and then would mend these too.
#[test]
fn a_cancelled_row_stays_marked_at_another_step() {
    breaks(without(Rule::Cancel, ALL), OTHER);
    breaks(without(Rule::Answer, ALL), OTHER);
    breaks(without(Rule::Cancel, &[]), STUCK);
    breaks(without(Rule::Answer, &[]), STUCK);
}

#[test]
fn a_sweep_in_a_pause_makes_claims_in_vain() {
    breaks(without(Rule::Sweep, ALL), MARKS);
}

#[test]
fn a_claim_that_skips_a_marked_row_passes_it() {
    breaks(without(Rule::Place, &[]), PASSED);
}

#[test]
fn without_a_check_a_next_step_begins_in_the_pause() {
    breaks(without(Rule::Check, ALL), KNEW);
}

#[test]
fn a_new_engine_that_does_not_look_runs_a_paused_step() {
    breaks(without(Rule::Start, ALL), LATE);
}
