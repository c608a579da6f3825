//! A model of two outcomes of one instance in one batch.
//!
//! An instance was taken from its worker and claimed by it again, and the old run of its step ended
//! together with the new run. Only the outcome of the new run may take effect, in whichever order
//! the two were handed in, and however often connections are lost.
//!
//! `Send` stands for handing `commit.sql` with one part of the batch to a connection (`one_of_each`
//! divides the batch). `Apply` stands for Postgres running it in one transaction, and `Answer` for
//! its answer, which names the changed rows by their ids. `Break` stands for the loss of the
//! connection: a statement that was sent may still be applied later.

use stateright::{Model, Property};

use crate::{breaks, holds};

const BREAKS: u8 = 2;
/// The places of the two outcomes: that of the old run and that of the new run.
const OLD: usize = 0;
const NEW: usize = 1;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Without {
    /// A batch is divided into parts, and no part has two outcomes of one instance.
    parts: bool,
    /// Both the reap and the claim raise the revision.
    counts: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Told {
    Nothing,
    Durable,
    Lost,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct State {
    /// The parts that are still to be committed. The first one is under way.
    parts: Vec<Vec<usize>>,
    /// The revision of the row. Then, for each outcome, how often it was applied, and how often its
    /// sends went out.
    revision: u8,
    applied: [u8; 2],
    sent: [u8; 2],
    /// The parts that Postgres may still apply. The worker waits for the answer of the last one.
    on_the_way: Vec<Vec<usize>>,
    waiting: bool,
    /// The answer, once it is there: true if it names the row.
    answer: Option<bool>,
    uncertain: bool,
    broken: u8,
    told: [Told; 2],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Send,
    Apply(usize),
    Answer,
    Break,
}

#[derive(Clone, Debug)]
struct Twins {
    without: Without,
}

impl Twins {
    /// Returns the revision with which each run was claimed.
    fn revisions(&self) -> [u8; 2] {
        [0, if self.without.counts { 1 } else { 2 }]
    }

    fn judge(&self, state: &State, outcome: usize, found: bool) -> Told {
        // `next` keeps the claim. If an earlier try was applied, the row has one revision more.
        let before = state.uncertain && state.revision == self.revisions()[outcome] + 1;
        if found || before { Told::Durable } else { Told::Lost }
    }
}

impl Model for Twins {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let start = |order: [usize; 2]| State {
            parts: if self.without.parts {
                vec![order.to_vec()]
            } else {
                order.map(|outcome| vec![outcome]).to_vec()
            },
            revision: self.revisions()[NEW],
            applied: [0; 2],
            sent: [0; 2],
            on_the_way: Vec::new(),
            waiting: false,
            answer: None,
            uncertain: false,
            broken: 0,
            told: [Told::Nothing; 2],
        };
        vec![start([OLD, NEW]), start([NEW, OLD])]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if !state.waiting && !state.parts.is_empty() {
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
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Send => {
                state.waiting = true;
                state.on_the_way.push(state.parts.first()?.clone());
            }
            Action::Apply(index) => {
                let awaited =
                    state.waiting && state.answer.is_none() && index + 1 == state.on_the_way.len();
                let part = state.on_the_way.remove(index);
                let owned = |outcome: &&usize| self.revisions()[**outcome] == state.revision;
                let applied = part.iter().find(owned).copied();
                if let Some(applied) = applied {
                    state.applied[applied] += 1;
                    state.revision += 1;
                    // Sends and answers go by the id, which all outcomes of the part share.
                    for outcome in &part {
                        state.sent[*outcome] += 1;
                    }
                }
                if awaited {
                    state.answer = Some(applied.is_some());
                }
            }
            Action::Answer => {
                let found = state.answer.take()?;
                state.waiting = false;
                for outcome in state.parts.remove(0) {
                    state.told[outcome] = self.judge(&state, outcome, found);
                }
                // Each part is a commit of its own. It is certain until its own connection is lost.
                state.uncertain = false;
            }
            Action::Break => {
                state.waiting = false;
                state.answer = None;
                state.uncertain = true;
                state.broken += 1;
            }
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("the old run's outcome is never applied", |_, state: &State| {
                state.applied[OLD] == 0 && state.applied[NEW] <= 1
            }),
            Property::always("what is sent is what is applied", |_, state: &State| {
                state.sent == state.applied
            }),
            Property::always("what is said to be durable is", |_, state: &State| {
                (0..2).all(|one| state.told[one] != Told::Durable || state.applied[one] == 1)
            }),
            Property::always("what is applied is not given up", |_, state: &State| {
                (0..2).all(|one| state.told[one] != Told::Lost || state.applied[one] == 0)
            }),
            Property::sometimes(
                "the old one is lost and the new one durable",
                |_, state: &State| state.told == [Told::Lost, Told::Durable],
            ),
            Property::sometimes("also with connections lost", |_, state: &State| {
                state.broken == BREAKS && state.told == [Told::Lost, Told::Durable]
            }),
        ]
    }

    fn within_boundary(&self, state: &State) -> bool {
        state.on_the_way.len() < 4
    }
}

#[test]
fn of_two_outcomes_of_one_instance_in_one_batch_only_the_new_runs_takes_effect() {
    holds(Twins { without: Without::default() });
}

#[test]
fn with_both_in_one_statement_what_the_old_run_sends_goes_out() {
    let without = Without { parts: true, ..Without::default() };
    breaks(Twins { without }, "what is sent is what is applied");
}

#[test]
fn with_both_in_one_statement_the_old_run_is_told_that_it_is_durable() {
    let without = Without { parts: true, ..Without::default() };
    breaks(Twins { without }, "what is said to be durable is");
}

#[test]
fn without_a_count_of_the_reap_an_uncertain_old_outcome_is_taken_for_applied() {
    let without = Without { counts: true, ..Without::default() };
    breaks(Twins { without }, "what is said to be durable is");
}
