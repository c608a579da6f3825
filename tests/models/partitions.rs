//! Handing a partition key over.
//!
//! A claim takes the key's lock if nobody holds it (`lock_free_partitions.sql`), looks at the key with a
//! younger snapshot, claims its head if the key is free and blocks the row otherwise
//! (`claim_partitions.sql`), and commits. A commit that frees the key changes its row (`commit.sql`),
//! waits for the lock (`lock_partitions.sql`), takes a blocked row back (`unblock_partitions.sql`), and
//! commits. What is not committed is seen by nobody else.

use stateright::{Model, Property};

use crate::{breaks, holds};

const ROWS: usize = 3;
const CLAIMS: u8 = 6;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Without {
    /// A claim holds the key's lock.
    claim_lock: bool,
    /// A commit holds it while it looks for a row to take back.
    commit_lock: bool,
    /// No two rows of a key may be executing: the index `instances_partition_holder`.
    index: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Row {
    /// Not inserted yet.
    Absent,
    Runnable,
    Blocked,
    Executing,
    Done,
}

/// A transaction under way, with what its statement has seen and will have changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Transaction {
    /// Has the lock, if there is one, and has looked at nothing yet.
    Locked { candidate: usize },
    /// Will claim this row.
    Claims(usize),
    /// Will block this row.
    Blocks(usize),
    /// Has ended this row, and waits for the lock.
    Ends(usize),
    /// Has the lock, and will take the second row back.
    Frees(usize, Option<usize>),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct State {
    rows: [Row; ROWS],
    under_way: Vec<Transaction>,
    /// Whether the key's lock is held.
    locked: bool,
    claims: u8,
    overlapped: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    /// The most urgent row comes later than the others.
    Insert,
    Candidate(usize),
    Step(Transaction),
    End(usize),
}

#[derive(Clone, Debug)]
struct Partitions {
    without: Without,
}

impl Partitions {
    /// Whether a transaction has this row's lock.
    fn busy(state: &State, row: usize) -> bool {
        state.under_way.iter().any(|other| match *other {
            Transaction::Claims(one) | Transaction::Blocks(one) | Transaction::Ends(one) => {
                one == row
            }
            Transaction::Frees(one, other) => one == row || other == Some(row),
            Transaction::Locked { .. } => false,
        })
    }

    fn commit(&self, state: &mut State, transaction: Transaction) {
        match transaction {
            Transaction::Claims(row) => {
                let other = state.rows.contains(&Row::Executing);
                if other && !self.without.index {
                    // The unique index refuses it.
                    return;
                }
                state.overlapped |= other;
                state.rows[row] = Row::Executing;
            }
            Transaction::Blocks(row) => state.rows[row] = Row::Blocked,
            Transaction::Frees(row, back) => {
                state.rows[row] = Row::Done;
                if let Some(back) = back {
                    state.rows[back] = Row::Runnable;
                }
            }
            Transaction::Locked { .. } | Transaction::Ends(_) => {}
        }
    }
}

impl Model for Partitions {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            rows: std::array::from_fn(|row| if row == 0 { Row::Absent } else { Row::Runnable }),
            under_way: Vec::new(),
            locked: false,
            claims: 0,
            overlapped: false,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.rows[0] == Row::Absent {
            actions.push(Action::Insert);
        }
        for row in 0..ROWS {
            let free = !Self::busy(state, row);
            // The claim's index has the rows that are runnable and not blocked.
            if free
                && state.rows[row] == Row::Runnable
                && state.claims < CLAIMS
                && state.under_way.len() < 3
                && (!state.locked || self.without.claim_lock)
            {
                actions.push(Action::Candidate(row));
            }
            if free && state.rows[row] == Row::Executing {
                actions.push(Action::End(row));
            }
        }
        for transaction in &state.under_way {
            let waits = matches!(transaction, Transaction::Ends(_))
                && state.locked
                && !self.without.commit_lock;
            if !waits {
                actions.push(Action::Step(*transaction));
            }
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Insert => state.rows[0] = Row::Runnable,
            Action::Candidate(candidate) => {
                state.claims += 1;
                state.locked |= !self.without.claim_lock;
                state.under_way.push(Transaction::Locked { candidate });
            }
            Action::End(row) => state.under_way.push(Transaction::Ends(row)),
            Action::Step(transaction) => {
                let place = state.under_way.iter().position(|other| *other == transaction)?;
                state.under_way.remove(place);
                match transaction {
                    // The snapshot is taken now.
                    Transaction::Locked { candidate } => {
                        let executing = state.rows.contains(&Row::Executing);
                        let head = (0..ROWS)
                            .find(|row| matches!(state.rows[*row], Row::Runnable | Row::Blocked));
                        let next = match head {
                            Some(head) if !executing && !Self::busy(&state, head) => {
                                Some(Transaction::Claims(head))
                            }
                            _ if state.rows[candidate] == Row::Runnable
                                && !Self::busy(&state, candidate)
                                && (executing || head != Some(candidate)) =>
                            {
                                Some(Transaction::Blocks(candidate))
                            }
                            _ => None,
                        };
                        match next {
                            Some(next) => state.under_way.push(next),
                            None => state.locked &= self.without.claim_lock,
                        }
                    }
                    Transaction::Ends(row) => {
                        state.locked |= !self.without.commit_lock;
                        let back = (0..ROWS).find(|other| {
                            state.rows[*other] == Row::Blocked && !Self::busy(&state, *other)
                        });
                        state.under_way.push(Transaction::Frees(row, back));
                    }
                    Transaction::Claims(_) | Transaction::Blocks(_) => {
                        self.commit(&mut state, transaction);
                        state.locked &= self.without.claim_lock;
                    }
                    Transaction::Frees(..) => {
                        self.commit(&mut state, transaction);
                        state.locked &= self.without.commit_lock;
                    }
                }
                state.under_way.sort_unstable();
            }
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("no two rows of the key execute at once", |_, state: &State| {
                !state.overlapped
            }),
            Property::always("no row waits that nobody will wake", |_, state: &State| {
                !state.under_way.is_empty()
                    || !state.rows.contains(&Row::Blocked)
                    || state.rows.iter().any(|row| matches!(row, Row::Runnable | Row::Executing))
            }),
            Property::sometimes("all run", |_, state: &State| state.rows == [Row::Done; ROWS]),
            Property::sometimes("a row waits", |_, state: &State| {
                state.rows.contains(&Row::Blocked)
            }),
        ]
    }
}

#[test]
fn a_key_is_handed_over_and_nobody_is_left_behind() {
    holds(Partitions { without: Without::default() });
}

/// The lock alone keeps rows of a key apart; the index is there in case that it is wrong.
#[test]
fn the_index_is_a_second_guard() {
    holds(Partitions { without: Without { index: true, ..Without::default() } });
}

#[test]
fn without_the_claims_lock_two_rows_execute_at_once() {
    breaks(
        Partitions { without: Without { claim_lock: true, index: true, ..Without::default() } },
        "no two rows of the key execute at once",
    );
}

#[test]
fn without_the_commits_lock_a_row_is_left_behind() {
    breaks(
        Partitions { without: Without { commit_lock: true, ..Without::default() } },
        "no row waits that nobody will wake",
    );
}
