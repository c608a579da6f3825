//! The statements of the model: their effects on the row, and those in the worker.

use super::{Cancel, Outcome, Phase, State, Status, Step, Task, Without};

impl State {
    pub(super) fn ended(&self) -> bool {
        matches!(self.row.status, Status::Done | Status::Failed | Status::Cancelled)
    }

    pub(super) fn holds(&self, worker: usize) -> bool {
        self.row.status == Status::Executing && self.row.locked_by == Some(worker)
    }

    /// The row leaves its worker, or gets to one.
    pub(super) fn turn(&mut self, status: Status, locked_by: Option<usize>) {
        self.row.status = status;
        self.row.locked_by = locked_by;
        self.raise();
    }

    pub(super) fn raise(&mut self) {
        for task in &mut self.tasks {
            task.behind = 2.min(task.behind + 1);
        }
        self.tasks.sort_unstable();
    }

    pub(super) fn claims(&self, worker: usize) -> bool {
        self.tasks.iter().any(|task| task.worker == worker && task.phase == Phase::Claimed)
    }

    pub(super) fn has_task(&self, worker: usize) -> bool {
        let known = |task: &&Task| !matches!(task.phase, Phase::Claimed | Phase::GivingBack);
        self.tasks.iter().filter(known).any(|task| task.worker == worker)
    }

    pub(super) fn drop_runs(&mut self, worker: usize) {
        for task in self.tasks.iter_mut().filter(|task| task.worker == worker) {
            if task.phase == Phase::Running(false) {
                task.phase = Phase::Running(true);
            }
        }
    }

    pub(super) fn begin(&mut self, worker: usize, phase: Phase) {
        let step = self.row.step;
        self.put(None, Some(Task { worker, behind: 0, step, phase, expired: false }));
    }

    /// Puts a task in the place of another.
    pub(super) fn put(&mut self, old: Option<Task>, new: Option<Task>) {
        if let Some(place) = self.tasks.iter().position(|task| Some(*task) == old) {
            self.tasks.remove(place);
        }
        self.tasks.extend(new);
        self.tasks.sort_unstable();
    }
}

impl Cancel {
    /// The end of a row that fails.
    pub(super) fn failure(&self, state: &State) -> Status {
        if state.row.cancelled && self.without != Without::Fail {
            Status::Cancelled
        } else {
            Status::Failed
        }
    }

    /// Sends the row to the step with which its machine answers, or ends it.
    pub(super) fn respond(&self, state: &mut State) {
        state.turn(if self.on_cancel { Status::Runnable } else { Status::Cancelled }, None);
        if self.on_cancel {
            state.row.step = Step::OnCancel;
        }
        (state.row.asked, state.row.blocked) = (false, false);
        state.answers += 1;
    }

    /// `answer_cancels.sql`
    pub(super) fn answer(&self, state: &mut State, worker: usize) {
        if state.row.asked && (state.row.status != Status::Executing || state.holds(worker)) {
            self.respond(state);
        }
    }

    /// `commit.sql`: true if the outcome was applied.
    pub(super) fn apply(&self, state: &mut State, task: Task, outcome: Outcome) -> bool {
        if !state.holds(task.worker) || task.behind > 0 {
            return false;
        }
        let (status, locked_by) = match outcome {
            Outcome::Next => (Status::Executing, Some(task.worker)),
            Outcome::Park => (Status::Parked, None),
            Outcome::Done => (Status::Done, None),
            Outcome::Fail => (self.failure(state), None),
            Outcome::Release => (Status::Runnable, None),
        };
        let ran = outcome != Outcome::Release;
        state.late |= ran && task.step == Step::Work && state.row.cancelled;
        state.turn(status, locked_by);
        true
    }

    /// The answer of a commit, and what becomes of the task.
    pub(super) fn commit(&self, state: &mut State, task: Task) -> Option<Task> {
        let Phase::Committing(outcome, uncertain) = task.phase else {
            self.apply(state, task, Outcome::Release);
            return None;
        };
        if self.apply(state, task, outcome) {
            let goes_on = outcome == Outcome::Next && state.leases[task.worker];
            return goes_on.then_some(Task { phase: Phase::Running(false), ..task });
        }
        if state.holds(task.worker) && state.row.asked {
            state.noted[task.worker] = true;
        } else if uncertain
            && outcome == Outcome::Next
            && state.holds(task.worker)
            && task.behind == 1
        {
            // It was applied before. The row is given back.
            let phase = Phase::Committing(Outcome::Release, false);
            return Some(Task { behind: 0, phase, ..task });
        }
        None
    }
}
