//! A model of group commits. The commit of a group of outcomes may be lost before it is applied, or
//! its answer may be lost. A commit may also still be on its way when it is tried again.
//!
//! `Send` stands for handing `commit.sql` to a connection, `Apply` for Postgres running it in one
//! transaction, and `Answer` for its answer. `Break` stands for the loss of the connection as the
//! worker sees it: a statement that was sent may still be applied later. `Reap` is a `reap.sql` of
//! another worker in between.

use stateright::{Model, Property};

use crate::{breaks, holds};

const ROWS: usize = 2;
const BREAKS: u8 = 2;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Without {
    /// The commit compares the revision of each row.
    revision: bool,
    /// The rows of a batch and all that they send are one transaction.
    transaction: bool,
    /// After a lost connection, the worker asks the row's revision if the first try was applied.
    inspect: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Told {
    Nothing,
    Durable,
    Lost,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct State {
    revisions: [u8; ROWS],
    owned: [bool; ROWS],
    /// For each row, the number of times that its outcome was applied, and that its sends were
    /// inserted.
    applied: [u8; ROWS],
    sent: [u8; ROWS],
    /// The tries that Postgres may still apply. Without a transaction, each has a number of parts
    /// that are applied.
    on_the_way: Vec<u8>,
    /// The answer of the try that the worker waits for, once it is applied: the rows that were the
    /// worker's.
    answer: Option<[bool; ROWS]>,
    waiting: bool,
    uncertain: bool,
    broken: u8,
    told: [Told; ROWS],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Send,
    Apply(usize),
    Answer,
    Break,
    Reap(usize),
}

#[derive(Clone, Debug)]
struct Commits {
    without: Without,
}

impl Commits {
    fn judge(&self, state: &State, row: usize, found: bool) -> Told {
        if found {
            return Told::Durable;
        }
        // `next` keeps the claim. If an earlier try was applied, the row is still the worker's and
        // has one revision more.
        let before = state.uncertain && state.owned[row] && state.revisions[row] == 1;
        if before && !self.without.inspect { Told::Durable } else { Told::Lost }
    }
}

impl Model for Commits {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            revisions: [0; ROWS],
            owned: [true; ROWS],
            applied: [0; ROWS],
            sent: [0; ROWS],
            on_the_way: Vec::new(),
            answer: None,
            waiting: false,
            uncertain: false,
            broken: 0,
            told: [Told::Nothing; ROWS],
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if !state.waiting && state.told[0] == Told::Nothing {
            actions.push(Action::Send);
        }
        for index in 0..state.on_the_way.len() {
            actions.push(Action::Apply(index));
        }
        if state.answer.is_some() {
            actions.push(Action::Answer);
        }
        if state.waiting && state.broken < BREAKS {
            actions.push(Action::Break);
        }
        for row in 0..ROWS {
            // Only the row of a lost worker is reaped, before the worker was told of an end.
            if state.owned[row] && state.told[row] == Told::Nothing {
                actions.push(Action::Reap(row));
            }
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Send => {
                state.waiting = true;
                state.on_the_way.push(0);
            }
            Action::Apply(index) => {
                let from = usize::from(state.on_the_way[index]);
                // Without a transaction each row is applied by itself, and so is all that it sends.
                let to = if self.without.transaction { from + 1 } else { 2 * ROWS };
                let mut found = [false; ROWS];
                for part in from..to {
                    let row = part / 2;
                    if part % 2 == 0 {
                        let mine = self.without.revision || state.revisions[row] == 0;
                        found[row] = state.owned[row] && mine;
                        if found[row] {
                            state.applied[row] += 1;
                            state.revisions[row] += 1;
                        }
                    } else if found[row] || self.without.transaction {
                        state.sent[row] += 1;
                    }
                }
                // The worker waits for the answer of the try that it sent last, until that answer
                // is there.
                let awaited =
                    state.waiting && state.answer.is_none() && index + 1 == state.on_the_way.len();
                if to < 2 * ROWS {
                    state.on_the_way[index] = u8::try_from(to).ok()?;
                } else {
                    state.on_the_way.remove(index);
                    if awaited {
                        state.answer = Some(found);
                    }
                }
            }
            Action::Answer => {
                let found = state.answer.take()?;
                state.waiting = false;
                for (row, found) in found.into_iter().enumerate() {
                    state.told[row] = self.judge(&state, row, found);
                }
            }
            Action::Break => {
                state.waiting = false;
                state.answer = None;
                state.uncertain = true;
                state.broken += 1;
                if self.without.transaction {
                    // With a transaction, the try would have been rolled back as a whole.
                    state.on_the_way.pop();
                }
            }
            Action::Reap(row) => {
                state.owned[row] = false;
                state.revisions[row] += 1;
            }
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("an outcome is applied at most once", |_, state: &State| {
                state.applied.iter().all(|count| *count <= 1)
            }),
            Property::always(
                "what an outcome sends is sent as often as it is applied",
                |_, state: &State| !state.on_the_way.is_empty() || state.sent == state.applied,
            ),
            Property::always("what is said to be durable is", |_, state: &State| {
                (0..ROWS).all(|row| state.told[row] != Told::Durable || state.applied[row] == 1)
            }),
            Property::always(
                "what is applied and still owned is not given up",
                |_, state: &State| {
                    (0..ROWS).all(|row| {
                        state.told[row] != Told::Lost
                            || !state.owned[row]
                            || state.applied[row] == 0
                    })
                },
            ),
            Property::sometimes("it is durable at the third try", |_, state: &State| {
                state.broken == BREAKS && state.told == [Told::Durable; ROWS]
            }),
            Property::sometimes("one is lost and its neighbour durable", |_, state: &State| {
                state.told == [Told::Lost, Told::Durable]
            }),
        ]
    }

    fn within_boundary(&self, state: &State) -> bool {
        state.applied.iter().all(|count| *count < 3)
    }
}

#[test]
fn an_uncertain_commit_is_applied_once_and_told_truly() {
    holds(Commits { without: Without::default() });
}

#[test]
fn without_the_revision_an_outcome_is_applied_twice() {
    let without = Without { revision: true, ..Without::default() };
    breaks(Commits { without }, "an outcome is applied at most once");
}

#[test]
fn without_one_transaction_what_is_sent_does_not_fit() {
    let without = Without { transaction: true, ..Without::default() };
    breaks(Commits { without }, "what an outcome sends is sent as often as it is applied");
}

#[test]
fn without_a_look_at_the_revision_a_durable_outcome_is_given_up() {
    let without = Without { inspect: true, ..Without::default() };
    breaks(Commits { without }, "what is applied and still owned is not given up");
}
