//! A model of claims, leases, reaps, and late commits: those of a process that was stopped, or of
//! an old step of the same worker.
//!
//! `Claim` stands for `claim.sql`, and `Expire` for time that passes without a renewal. `Reap`
//! stands for `reap.sql`, and `Renew` for `renew_lease.sql`. `Commit` stands for `commit.sql` of a
//! step that goes to the next one. A process that is stopped is one whose actions do not come for a
//! while, so every run may belong to such a process.

use stateright::{Model, Property};

use crate::{breaks, holds};

const WORKERS: usize = 2;
/// The most runs of a step that may be under way at a time, over all workers.
const RUNS_MAX: usize = 3;
const STEPS: u8 = 2;
const EXPIRIES: u8 = 2;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Without {
    /// The commit compares the revision.
    revision: bool,
    /// The commit compares the owner.
    owner: bool,
    /// The reap takes only rows whose worker has no lease.
    lease: bool,
}

/// A step that runs on a worker, with the revision and the step of its claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Run {
    worker: usize,
    revision: u8,
    step: u8,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct State {
    /// The worker that owns the row, while it executes.
    locked_by: Option<usize>,
    revision: u8,
    step: u8,
    /// For each step, the number of times that its outcome took effect.
    effects: [u8; STEPS as usize],
    leases: [bool; WORKERS],
    runs: Vec<Run>,
    expiries: u8,
    reaps: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Claim(usize),
    Expire(usize),
    Renew(usize),
    Reap,
    Commit(Run),
}

#[derive(Clone, Debug)]
struct Leases {
    without: Without,
}

impl Model for Leases {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            locked_by: None,
            revision: 0,
            step: 0,
            effects: [0; STEPS as usize],
            leases: [true; WORKERS],
            runs: Vec::new(),
            expiries: 0,
            reaps: 0,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        for worker in 0..WORKERS {
            if state.leases[worker] {
                if state.locked_by.is_none() && state.step < STEPS && state.runs.len() < RUNS_MAX {
                    actions.push(Action::Claim(worker));
                }
                if state.expiries < EXPIRIES {
                    actions.push(Action::Expire(worker));
                }
            } else {
                actions.push(Action::Renew(worker));
            }
        }
        if state.locked_by.is_some_and(|worker| self.without.lease || !state.leases[worker])
            && state.reaps <= EXPIRIES
        {
            actions.push(Action::Reap);
        }
        actions.extend(state.runs.iter().copied().map(Action::Commit));
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Claim(worker) => {
                state.locked_by = Some(worker);
                state.revision += 1;
                let run = Run { worker, revision: state.revision, step: state.step };
                state.runs.push(run);
                state.runs.sort_unstable();
            }
            Action::Expire(worker) => {
                state.leases[worker] = false;
                state.expiries += 1;
            }
            Action::Renew(worker) => state.leases[worker] = true,
            Action::Reap => {
                state.locked_by = None;
                state.revision += 1;
                state.reaps += 1;
            }
            Action::Commit(run) => {
                let place = state.runs.iter().position(|other| *other == run)?;
                state.runs.remove(place);
                let owner = state.locked_by.is_some()
                    && (self.without.owner || state.locked_by == Some(run.worker));
                if owner && (self.without.revision || state.revision == run.revision) {
                    state.effects[usize::from(run.step)] += 1;
                    state.step = run.step + 1;
                    state.revision += 1;
                    if state.step < STEPS {
                        // The same task goes on, on the same claim.
                        let revision = state.revision;
                        state.runs.push(Run { revision, step: state.step, ..run });
                        state.runs.sort_unstable();
                    } else {
                        state.locked_by = None;
                    }
                }
            }
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("no outcome takes effect twice", |_, state: &State| {
                state.effects.iter().all(|count| *count <= 1)
            }),
            Property::always("a step's outcome follows the one before", |_, state: &State| {
                (0..STEPS).all(|step| (state.effects[usize::from(step)] > 0) == (step < state.step))
            }),
            Property::always("a worker that lives is not robbed", |_, state: &State| {
                state.reaps <= state.expiries
            }),
            Property::sometimes("it ends after a worker was lost", |_, state: &State| {
                state.step == STEPS && state.reaps > 0
            }),
            Property::sometimes("an old run is left when it has ended", |_, state: &State| {
                state.step == STEPS && !state.runs.is_empty()
            }),
        ]
    }
}

#[test]
fn a_late_commit_has_no_effect() {
    holds(Leases { without: Without::default() });
}

/// Even a single worker needs the revision, as it may claim a row that was reaped from it.
#[test]
fn without_the_revision_an_outcome_takes_effect_twice() {
    breaks(
        Leases { without: Without { revision: true, ..Without::default() } },
        "no outcome takes effect twice",
    );
}

/// The revision alone would suffice. The commit compares the owner too, as that costs nothing.
#[test]
fn the_owner_is_a_second_guard() {
    holds(Leases { without: Without { owner: true, ..Without::default() } });
    breaks(
        Leases { without: Without { owner: true, revision: true, ..Without::default() } },
        "no outcome takes effect twice",
    );
}

#[test]
fn without_a_look_at_the_lease_a_living_worker_is_robbed() {
    breaks(
        Leases { without: Without { lease: true, ..Without::default() } },
        "a worker that lives is not robbed",
    );
}
