//! A model of parks until several signals have come, and of the deliveries beside them.
//!
//! `Commit` stands for `commit.sql` of an outcome that parks, and `Count` for `count_parked.sql` in
//! the same transaction. `Own` is a delivery of that transaction itself: an outcome of the same
//! batch sends a signal or reports its end. `Deliver` stands for `deliver.sql` or `report.sql` of
//! another transaction, with one or two signals, and takes the row's lock first. `Time` stands for
//! `wake_timed_out.sql`.

use stateright::{Model, Property};

use crate::{breaks, holds};

/// The signals that are sent in all, and that the step waits for.
const SIGNALS: u8 = 5;
const WANTED: u8 = 4;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Status {
    Executing,
    Awaiting,
    Runnable,
}

/// The rule that a broken variant leaves out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Without {
    Nothing,
    /// The count comes before the transaction's own deliveries.
    Order,
    /// The count comes after the row's lock.
    Lock,
    /// A delivery of several signals lowers the number by each.
    Each,
    /// A wake-up clears the number.
    Clear,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct State {
    status: Status,
    inbox: u8,
    sent: u8,
    /// The number of signals that the parked row waits for; none is one.
    more: Option<u8>,
    /// The transaction of the commit is open, and the row is locked. The value is the inbox as a
    /// count before the lock saw it.
    open: Option<u8>,
    counted: bool,
    /// The signals that the transaction itself delivers.
    own: u8,
    timeouts: u8,
    parks: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Snapshot,
    Commit,
    Count,
    Own,
    End,
    Deliver(u8),
    Time,
    Claim,
}

#[derive(Clone, Debug)]
struct Counts(Without);

impl Counts {
    fn wake(&self, state: &mut State) {
        state.status = Status::Runnable;
        if self.0 != Without::Clear {
            state.more = None;
        }
    }

    fn deliver(&self, state: &mut State, signals: u8) {
        state.sent += signals;
        state.inbox += signals;
        if state.status == Status::Awaiting {
            let by = if self.0 == Without::Each { 1 } else { signals };
            let more = state.more.unwrap_or(1);
            if more <= by {
                self.wake(state);
            } else {
                state.more = Some(more - by);
            }
        }
    }
}

impl Model for Counts {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            status: Status::Executing,
            inbox: 0,
            sent: 0,
            more: None,
            open: None,
            counted: false,
            own: 0,
            timeouts: 0,
            parks: 0,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        match (state.status, state.open) {
            (Status::Executing, None) if self.0 == Without::Lock => actions.push(Action::Snapshot),
            (Status::Executing, None) if state.inbox < WANTED => actions.push(Action::Commit),
            (Status::Executing, Some(_)) => actions.push(Action::Commit),
            (_, Some(_)) => {
                let own = state.own == 0 && state.sent < SIGNALS;
                if !state.counted {
                    actions.push(Action::Count);
                }
                if own && (state.counted || self.0 == Without::Order) {
                    actions.push(Action::Own);
                }
                if state.counted {
                    actions.push(Action::End);
                }
            }
            (Status::Awaiting, None) if state.timeouts == 0 => actions.push(Action::Time),
            (Status::Runnable, None) if state.parks < 3 => actions.push(Action::Claim),
            _ => {}
        }
        // While the row is locked, others wait.
        let locked = state.open.is_some() && state.status != Status::Executing;
        for signals in (1..=2).filter(|signals| !locked && state.sent + signals <= SIGNALS) {
            actions.push(Action::Deliver(signals));
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Snapshot => state.open = Some(state.inbox),
            Action::Commit => {
                state.status = Status::Awaiting;
                state.open.get_or_insert(0);
                (state.counted, state.own) = (false, 0);
                state.parks += 1;
            }
            Action::Count => {
                let seen = if self.0 == Without::Lock { state.open? } else { state.inbox };
                state.counted = true;
                if state.status == Status::Awaiting {
                    if seen >= WANTED {
                        self.wake(&mut state);
                    } else {
                        state.more = Some(WANTED - seen);
                    }
                }
            }
            Action::Own => {
                state.own = 1;
                self.deliver(&mut state, 1);
            }
            Action::End => state.open = None,
            Action::Deliver(signals) => self.deliver(&mut state, signals),
            Action::Time => {
                self.wake(&mut state);
                state.timeouts += 1;
            }
            // The step takes the signals if all are there, and parks again otherwise.
            Action::Claim if state.inbox >= WANTED => {
                state.status = Status::Executing;
                state.inbox -= WANTED;
            }
            Action::Claim => state.status = Status::Executing,
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("a parked row waits for what is missing", |_, state: &State| {
                state.status != Status::Awaiting
                    || state.open.is_some()
                    || state.more == WANTED.checked_sub(state.inbox).filter(|more| *more > 0)
            }),
            Property::always("no row wakes before its signals are there", |_, state: &State| {
                state.status != Status::Runnable || state.inbox >= WANTED || state.timeouts > 0
            }),
            Property::always("a number is a parked row's", |_, state: &State| {
                state.status == Status::Awaiting || state.more.is_none()
            }),
            Property::sometimes("it wakes with all", |_, state: &State| {
                state.status == Status::Runnable && state.inbox >= WANTED && state.timeouts == 0
            }),
        ]
    }
}

const MISSING: &str = "a parked row waits for what is missing";

#[test]
fn each_signal_counts_once_and_the_last_one_wakes() {
    holds(Counts(Without::Nothing));
}

#[test]
fn a_transaction_that_delivers_before_it_counts_wakes_too_early() {
    breaks(Counts(Without::Order), "no row wakes before its signals are there");
}

#[test]
fn a_count_before_the_lock_misses_a_signal() {
    breaks(Counts(Without::Lock), MISSING);
}

#[test]
fn a_delivery_that_lowers_once_for_several_leaves_a_row_parked() {
    breaks(Counts(Without::Each), MISSING);
}

#[test]
fn a_number_that_outlives_its_park_is_found() {
    breaks(Counts(Without::Clear), "a number is a parked row's");
}
