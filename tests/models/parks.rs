//! A model of parks and deliveries.
//!
//! `Commit` stands for `commit.sql` of an outcome that parks. `Look` stands for `wake_parked.sql`
//! in the same transaction, under the row's lock and with a younger snapshot. `Deliver` stands for
//! `deliver.sql`, which takes the row's lock first. `Time` stands for `wake_timed_out.sql`, which
//! skips a locked row.

use stateright::{Model, Property};

use crate::{breaks, holds};

const SIGNALS: u8 = 3;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Status {
    Runnable,
    Executing,
    Awaiting,
    Done,
}

/// The rules that a broken variant leaves out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Without {
    /// The park looks at the inbox again.
    look: bool,
    /// A delivery locks the row before it looks at its status.
    lock: bool,
    /// The look leaves out the signals that the step has seen.
    seen: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct State {
    status: Status,
    /// This set and the ones below have a bit for each signal.
    inbox: u8,
    /// The signals that the running step loaded with its claim.
    loaded: u8,
    sent: u8,
    consumed: u8,
    /// The transaction of the commit is open: it has parked the row, and the row is locked.
    parking: bool,
    /// A delivery has read this status without a lock, and will act on it.
    stale: Option<(u8, Status)>,
    runs: u8,
    timeouts: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Claim,
    Commit,
    Look,
    Deliver(u8),
    Read(u8),
    Write,
    Time,
}

#[derive(Clone, Debug)]
struct Parks {
    without: Without,
    /// True if the step takes the signals that it sees. Otherwise it takes none until it has seen
    /// all.
    takes: bool,
}

impl Parks {
    fn enough(state: &State) -> bool {
        (state.consumed | state.loaded).count_ones() == u32::from(SIGNALS)
    }

    fn deliver(state: &mut State, signal: u8, seen: Status) {
        state.sent |= 1 << signal;
        state.inbox |= 1 << signal;
        if seen == Status::Awaiting && state.status == Status::Awaiting {
            state.status = Status::Runnable;
        }
    }
}

impl Model for Parks {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            status: Status::Runnable,
            inbox: 0,
            loaded: 0,
            sent: 0,
            consumed: 0,
            parking: false,
            stale: None,
            runs: 0,
            timeouts: 0,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.parking {
            actions.push(Action::Look);
        } else {
            match state.status {
                Status::Runnable => actions.push(Action::Claim),
                Status::Executing => actions.push(Action::Commit),
                Status::Awaiting if state.timeouts < 1 => actions.push(Action::Time),
                Status::Awaiting | Status::Done => {}
            }
        }
        for signal in (0..SIGNALS).filter(|signal| state.sent & (1 << signal) == 0) {
            if self.without.lock {
                if state.stale.is_none() {
                    actions.push(Action::Read(signal));
                }
            } else if !state.parking && state.status != Status::Done {
                actions.push(Action::Deliver(signal));
            }
        }
        // An update waits for the row's lock in any variant.
        if state.stale.is_some() && !state.parking {
            actions.push(Action::Write);
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Claim => {
                state.status = Status::Executing;
                state.loaded = state.inbox;
                state.runs += 1;
            }
            Action::Commit => {
                if self.takes {
                    state.consumed |= state.loaded;
                    state.inbox &= !state.loaded;
                }
                if Self::enough(last) {
                    state.consumed |= state.loaded;
                    state.inbox = 0;
                    state.status = Status::Done;
                } else {
                    state.status = Status::Awaiting;
                    state.parking = !self.without.look;
                }
            }
            Action::Look => {
                state.parking = false;
                let seen = if self.without.seen { 0 } else { state.loaded };
                if state.inbox & !seen != 0 {
                    state.status = Status::Runnable;
                }
            }
            Action::Deliver(signal) => {
                let seen = state.status;
                Self::deliver(&mut state, signal, seen);
            }
            // The read has a snapshot, so it does not see a commit that is still open.
            Action::Read(signal) => {
                let seen = if state.parking { Status::Executing } else { state.status };
                state.stale = Some((signal, seen));
            }
            Action::Write => {
                let (signal, seen) = state.stale.take()?;
                if state.status == Status::Done {
                    return None;
                }
                Self::deliver(&mut state, signal, seen);
            }
            Action::Time => {
                state.status = Status::Runnable;
                state.timeouts += 1;
            }
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(
                "none is parked with a signal that it has not seen",
                |_, state: &State| {
                    state.parking
                        || state.status != Status::Awaiting
                        || state.inbox & !state.loaded == 0
                },
            ),
            Property::always("it never spins", |_, state: &State| {
                u32::from(state.runs) <= 1 + state.sent.count_ones() + u32::from(state.timeouts)
            }),
            Property::always("no signal is lost", |_, state: &State| {
                state.inbox | state.consumed == state.sent
            }),
            Property::sometimes("it ends", |_, state: &State| state.status == Status::Done),
        ]
    }

    fn within_boundary(&self, state: &State) -> bool {
        state.runs < 9
    }
}

#[test]
fn no_signal_is_missed_and_none_wakes_twice() {
    for takes in [true, false] {
        holds(Parks { without: Without::default(), takes });
    }
}

#[test]
fn without_the_second_look_a_signal_is_missed() {
    let without = Without { look: true, ..Without::default() };
    breaks(Parks { without, takes: true }, "none is parked with a signal that it has not seen");
}

#[test]
fn without_the_lock_first_a_signal_is_missed() {
    let without = Without { lock: true, ..Without::default() };
    breaks(Parks { without, takes: true }, "none is parked with a signal that it has not seen");
}

#[test]
fn without_what_the_step_has_seen_a_park_spins() {
    let without = Without { seen: true, ..Without::default() };
    breaks(Parks { without, takes: false }, "it never spins");
}
