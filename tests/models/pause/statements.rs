//! The statements of the model: their effects on the rows, and those in the engine.

use super::{Also, FIRST, Pause, Phase, Row, Rule, SECOND, State, Status, Step, Task};

impl Row {
    /// True if the row is in the claim's index.
    pub(super) fn in_index(self) -> bool {
        self.status == Status::Runnable && !self.waits && !self.barred()
    }

    /// True if the row is blocked for another reason than its key.
    fn barred(self) -> bool {
        self.marked || self.asked
    }
}

impl State {
    /// True if a row holds the key.
    pub(super) fn busy(&self) -> bool {
        self.rows.iter().any(|row| row.status == Status::Executing)
    }

    /// Sends the first row to the step with which its machine answers a cancel.
    pub(super) fn cancel(&mut self, clears: bool) {
        let row = &mut self.rows[FIRST];
        (row.status, row.step, row.asked) = (Status::Runnable, Step::B, false);
        if row.marked && clears {
            row.marked = false;
            self.most_marks += 1;
        }
    }

    /// `unblock_partitions.sql`
    pub(super) fn free_key(&mut self) {
        if !self.busy() {
            let first = self.rows.iter_mut().find(|row| row.waits);
            if let Some(row) = first {
                row.waits = false;
            }
        }
    }
}

impl Pause {
    /// True if a sweep that looks now finds a mark to clear.
    pub(super) fn sweepable(&self, state: &State) -> bool {
        let row = state.rows[FIRST];
        let paused = state.paused && row.step == Step::A;
        (!paused || self.without(Rule::Sweep)) && row.marked && self.findable(row)
    }

    pub(super) fn findable(&self, row: Row) -> bool {
        row.status == Status::Runnable || !self.also(Also::Runnable)
    }

    /// `claim.sql` and `claim_partitions.sql`. The rows in the claim's index are the candidates.
    pub(super) fn claim(&self, state: &mut State, at: usize) {
        let skips = |row: &Row| self.without(Rule::Place) && row.marked;
        let waits = |row: &Row| row.status == Status::Runnable && !skips(row);
        let head = if state.busy() { None } else { state.rows.iter().position(waits) };
        if let Some(row) = head.filter(|head| !state.rows[*head].barred()) {
            state.passed |= row == SECOND && state.rows[FIRST].status != Status::Done;
            state.rows[row].status = Status::Executing;
            state.rows[row].waits = false;
            let step = state.rows[row].step;
            state.engines[at].task = Some(Task { row, step, phase: Phase::Claimed, lost: false });
        } else {
            // The key is held, or its head is barred. The candidates wait, and the head does not.
            for (place, row) in state.rows.iter_mut().enumerate() {
                row.waits = Some(place) != head && (row.waits || row.in_index());
            }
        }
    }

    /// The commit of `block_paused.sql`.
    pub(super) fn mark(&self, state: &mut State, at: usize) -> Option<()> {
        let engine = &mut state.engines[at];
        let task = engine.task.as_mut()?;
        let unchecked = self.without(Rule::Owner) || self.without(Rule::Order);
        let row = &state.rows[task.row];
        let there = row.step == Step::A || self.without(Rule::Step);
        let marks = match task.phase {
            Phase::Ahead => row.status == Status::Runnable && !row.marked && there,
            _ => !task.lost || unchecked,
        };
        if marks {
            state.rows[task.row].marked = true;
            state.was_marked = true;
            state.marks = 5.min(state.marks + 1);
        }
        task.phase = Phase::GivingBack;
        Some(())
    }

    /// A commit without a run.
    pub(super) fn release(&self, state: &mut State, at: usize) -> Option<()> {
        let task = state.engines[at].task.take()?;
        self.give_back(state, task, |row| row.status = Status::Runnable);
        if self.without(Rule::Order) && task.phase == Phase::Claimed {
            state.engines[at].task = Some(Task { lost: true, ..task });
        }
        Some(())
    }

    /// A commit of an outcome.
    pub(super) fn finish(&self, state: &mut State, at: usize, next: Option<Step>) -> Option<()> {
        let task = state.engines[at].task.take()?;
        match next {
            Some(step) => {
                state.moves += 1;
                if task.lost {
                    return Some(());
                }
                if state.rows[task.row].asked {
                    self.answer(state);
                } else {
                    state.rows[task.row].step = step;
                    state.engines[at].task = Some(Task { step, phase: Phase::GoingOn, ..task });
                }
            }
            None => self.give_back(state, task, |row| row.status = Status::Done),
        }
        Some(())
    }

    /// Writes into a row that its engine leaves, and frees the key. If the row was cancelled
    /// meanwhile, the engine drops the outcome and answers the cancel.
    fn give_back(&self, state: &mut State, task: Task, write: impl FnOnce(&mut Row)) {
        if task.lost {
            return;
        }
        if state.rows[task.row].asked {
            self.answer(state);
        } else {
            write(&mut state.rows[task.row]);
            state.free_key();
        }
    }

    /// `answer_cancels.sql`
    pub(super) fn answer(&self, state: &mut State) {
        state.cancel(!self.without(Rule::Answer));
        state.free_key();
    }
}
