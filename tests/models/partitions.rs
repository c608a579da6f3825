//! A model of handing over a partition key: rows of one key run one at a time and in order, and
//! none is left behind.
//!
//! Rows come one by one, or several in one insert. Those behind the first are then born blocked
//! (`insert.rs`). A claim (`claim.sql`) takes its snapshot and locks rows that it saw in the
//! claim's index. It tries to take the key's lock if its first row was the head of a key that no
//! row held. Then it writes, and the index `instances_partition_holder` refuses the row if another
//! claim was faster. The rows that it found and did not claim go on to the claim under locks. That
//! one takes the key's lock if no row holds the key (`lock_free_partitions.sql`) and looks with a
//! younger snapshot. It claims the head, wherever it is, or else blocks its candidates
//! (`claim_partitions.sql`), and perhaps rows that come after them (`block_ahead.sql`).
//!
//! A commit that frees the key changes its row (`commit.sql`), waits for the key's lock
//! (`lock_partitions.sql`) and unblocks rows (`unblock_partitions.sql`). If other transactions had
//! locked all of these, the process tries again later (`unblock.rs`). A reap (`reap.sql`) does the
//! same, but does not try again. If a process dies, the maintenance finds what it left blocked
//! (`stranded_partitions.sql`). No other transaction sees changes that are not committed.
//!
//! A row may be blocked for another reason than its key: an operator bars it, and lets it go or
//! deletes it later. It keeps its place meanwhile.
//!
//! There is one key. The claim lock is left out of the model, as a claim waits for it only for a
//! while.

mod statements;

use stateright::{Model, Property};

use self::statements::{bit, has, places};
use crate::{breaks, holds};

const ROWS: usize = 3;
const CLAIMS: usize = 2;

/// A set of rows, with a bit for each. The rows of the key are ordered by their places.
type Set = u8;

const NONE: Set = 0;
const ALL: Set = (1 << ROWS) - 1;

const OVERLAP: &str = "no two rows of the key execute at once";
const PASSED: &str = "no row is passed over that waited before the claim began";
const STRANDED: &str = "no row waits that nobody will wake";
const BARRED: &str = "no row executes that an operator has barred";

/// The rules. A broken variant leaves out one of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rule {
    /// No two rows of a key may be executing: the index `instances_partition_holder`.
    Index,
    /// A claim holds the key's lock while it blocks rows.
    ClaimLock,
    /// A commit holds the key's lock while it looks for rows to unblock.
    CommitLock,
    /// A claim that looked before it had the key's lock takes only the head of the key.
    PlainHead,
    /// A claim under locks takes the head of the key, even if the head is not among its candidates.
    Head,
    /// A claim blocks a candidate only if it is due: it may have run since the claim found it.
    Due,
    /// A candidate stays in the claim's index if the key is free and its head is locked.
    Candidate,
    /// A freed key unblocks rows.
    Unblock,
    /// A freed key unblocks one row for each machine.
    Machines,
    /// If other transactions had locked the rows to unblock, the process tries again.
    Again,
    /// The maintenance looks for rows that were left blocked.
    Service,
    /// Rows that are born blocked become visible together with the first row of their insert.
    Together,
    /// A barred row keeps its place: those behind it wait.
    Place,
    /// A freed key ends its own reason alone, and leaves a row barred.
    Bits,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Row {
    /// Not inserted yet.
    Absent,
    Runnable,
    Blocked,
    /// Scheduled for later, after it has run.
    Later,
    LaterBlocked,
    Executing,
    Done,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Claim {
    /// The rows of the machines that its worker runs.
    serves: Set,
    /// True if it has capacity for one row only; otherwise it has capacity for all.
    one: bool,
    candidates: Set,
    /// The rows that have waited since before the claim began.
    ahead: Set,
}

/// A transaction under way, with the rows that its statement has seen and will have changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Transaction {
    /// `claim.sql` has its snapshot. Its candidates are the rows that it saw in the claim's index.
    /// This row was the head, if no row held the key.
    Looks(Claim, Option<usize>),
    /// It has locked these rows. Its candidates are those of them that were still in the claim's
    /// index.
    HasRows(Claim, Option<usize>, Set),
    /// It has the key's lock as well, and will claim this row.
    Takes(Claim, usize, Set),
    /// `claim.sql` has ended, and its candidates go on to the claim under locks.
    Seeks(Claim),
    /// The claim under locks has the key's lock, and has not looked at any row yet.
    Locked(Claim),
    /// It will claim this row, if there is one, and block these rows.
    Changes(Claim, Option<usize>, Set),
    /// A commit or a reap has changed this row, and waits for the key's lock.
    Ends { row: usize, into: Row, reaped: bool },
    /// A process that tries again to unblock rows, or the maintenance, waits for the key's lock.
    FreesAgain { service: bool },
    /// It has the key's lock, and will unblock these rows. `again` is true if some were locked, so
    /// that the process must try again.
    Frees { ended: Option<(usize, Row)>, back: Set, again: Option<bool> },
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
struct State {
    rows: [Row; ROWS],
    under_way: Vec<Transaction>,
    /// The row that a foreign transaction, which is none of the engine's, has locked.
    outsider: Option<usize>,
    /// A process knows that it must try again to unblock rows of the key.
    again: bool,
    /// The rows that are blocked for another reason than the key.
    barred: Set,
    /// The rows that the operator has barred.
    operator: Set,
    overlapped: bool,
    passed: bool,
    ran_barred: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Insert(Set),
    Due(usize),
    Claim {
        serves: Set,
        one: bool,
    },
    End {
        row: usize,
        into: Row,
        reaped: bool,
    },
    FreeAgain,
    Serve,
    Step(Transaction),
    BlockAhead(Transaction),
    /// A connection is lost, and its transaction is rolled back.
    Break(Transaction),
    /// The process that was to try again dies.
    Forget,
    Lock(usize),
    Unlock,
    Bar(usize),
    LetGo(usize),
    /// The operator deletes a barred row.
    Delete(usize),
}

/// The events that a variant allows, besides claims and commits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Also {
    /// A foreign transaction, which is none of the engine's, locks rows.
    Outsider,
    /// Processes die, and their rows are reaped.
    Deaths,
    /// The first row belongs to another machine than the rest, which other workers run.
    Machines,
    /// The first row may be scheduled for later after it has run.
    Later,
    /// An operator bars rows, one at a time, and lets them go or deletes them.
    Bars,
}

#[derive(Clone, Debug)]
struct Partitions {
    also: &'static [Also],
    without: Option<Rule>,
}

impl Model for Partitions {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            rows: [Row::Absent; ROWS],
            under_way: Vec::new(),
            outsider: None,
            again: false,
            barred: NONE,
            operator: NONE,
            overlapped: false,
            passed: false,
            ran_barred: false,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.overlapped || state.passed || state.ran_barred {
            return;
        }
        let absent = state.rows(&[Row::Absent]);
        if self.without(Rule::Together) {
            actions.extend(places(absent).map(|row| Action::Insert(bit(row))));
        } else {
            let inserts = [0b001, ALL & !0b001].into_iter().filter(|rows| absent & rows != NONE);
            actions.extend(inserts.map(Action::Insert));
        }
        let index = state.index();
        let claims = state.under_way.iter().filter(|transaction| {
            !matches!(
                transaction,
                Transaction::Ends { .. }
                    | Transaction::FreesAgain { .. }
                    | Transaction::Frees { .. }
            )
        });
        if claims.count() < CLAIMS {
            for serves in self.machines() {
                let choices = if (index & serves).count_ones() > 1 { 2 } else { 1 };
                let choices = [false, true].into_iter().take(choices);
                if index & serves != NONE {
                    actions.extend(choices.map(|one| Action::Claim { serves: *serves, one }));
                }
            }
        }
        let locked = state.locked();
        for row in places(state.executing() & !locked) {
            let mut end = |into, reaped| actions.push(Action::End { row, into, reaped });
            end(Row::Done, false);
            if self.also(Also::Later) && row == 0 {
                end(Row::Later, false);
            }
            if self.also(Also::Deaths) {
                end(Row::Runnable, true);
                end(Row::Done, true);
            }
        }
        actions.extend(places(state.rows(&[Row::Later, Row::LaterBlocked])).map(Action::Due));
        let frees = |of| state.under_way.contains(&Transaction::FreesAgain { service: of });
        if state.again && !frees(false) {
            actions.push(Action::FreeAgain);
        }
        if self.also(Also::Deaths) && state.again {
            actions.push(Action::Forget);
        }
        if self.has_service() && self.stranded(state) && !frees(true) {
            actions.push(Action::Serve);
        }
        if self.also(Also::Outsider) && state.outsider.is_none() {
            let there = state.waiting() | state.executing();
            actions.extend(places(there & !locked).map(Action::Lock));
        }
        if state.outsider.is_some() {
            actions.push(Action::Unlock);
        }
        if self.also(Also::Bars) && state.operator == NONE {
            actions.extend(places(state.waiting() & !locked).map(Action::Bar));
        }
        for row in places(state.operator & !locked) {
            actions.extend([Action::LetGo(row), Action::Delete(row)]);
        }
        let key_locked = self.key_locked(state) && !self.without(Rule::CommitLock);
        for transaction in &state.under_way {
            let waits =
                matches!(transaction, Transaction::Ends { .. } | Transaction::FreesAgain { .. });
            if !(waits && key_locked) {
                actions.push(Action::Step(*transaction));
            }
            if matches!(transaction, Transaction::Changes(_, _, blocks) if *blocks != NONE) {
                actions.push(Action::BlockAhead(*transaction));
            }
            if self.also(Also::Deaths) {
                actions.push(Action::Break(*transaction));
            }
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Insert(rows) => {
                let behind = if self.without(Rule::Together) { 0b100 } else { rows & (rows - 1) };
                for row in places(rows) {
                    state.rows[row] = if has(behind, row) { Row::Blocked } else { Row::Runnable };
                }
            }
            Action::Due(row) => {
                let blocked = state.rows[row] == Row::LaterBlocked;
                state.rows[row] = if blocked { Row::Blocked } else { Row::Runnable };
            }
            Action::Claim { serves, one } => {
                state.under_way.push(Self::look(&state, serves, one));
            }
            Action::End { row, into, reaped } => {
                state.under_way.push(Transaction::Ends { row, into, reaped });
            }
            Action::FreeAgain => state.under_way.push(Transaction::FreesAgain { service: false }),
            Action::Serve => state.under_way.push(Transaction::FreesAgain { service: true }),
            Action::Forget => state.again = false,
            Action::Lock(row) => state.outsider = Some(row),
            Action::Unlock => state.outsider = None,
            Action::Bar(row) => {
                state.operator |= bit(row);
                state.barred |= bit(row);
            }
            Action::LetGo(row) | Action::Delete(row) => {
                state.operator &= !bit(row);
                state.barred &= !bit(row);
                if matches!(action, Action::Delete(_)) {
                    state.rows[row] = Row::Done;
                }
            }
            Action::Step(transaction)
            | Action::BlockAhead(transaction)
            | Action::Break(transaction) => {
                let place = state.under_way.iter().position(|other| *other == transaction)?;
                state.under_way.remove(place);
                let next = match (action, transaction) {
                    (Action::Break(_), _) => None,
                    (Action::BlockAhead(_), Transaction::Changes(claim, row, blocks)) => {
                        let more = self.block_ahead(&state, claim, row);
                        Some(Transaction::Changes(claim, row, blocks | more))
                    }
                    _ => self.step(&mut state, transaction),
                };
                state.under_way.extend(next);
            }
        }
        let waiting = state.waiting();
        for transaction in &mut state.under_way {
            if let Transaction::Looks(claim, ..)
            | Transaction::HasRows(claim, ..)
            | Transaction::Takes(claim, ..)
            | Transaction::Seeks(claim)
            | Transaction::Locked(claim)
            | Transaction::Changes(claim, ..) = transaction
            {
                claim.ahead &= waiting;
            }
        }
        state.under_way.sort_unstable();
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(OVERLAP, |_, state: &State| !state.overlapped),
            Property::always(PASSED, |_, state: &State| !state.passed),
            Property::always(STRANDED, Self::nobody_is_stranded),
            Property::always(BARRED, |_, state: &State| !state.ran_barred),
            Property::sometimes("all run", |_, state: &State| state.rows == [Row::Done; ROWS]),
            Property::sometimes("a row waits", |_, state: &State| state.blocked() != NONE),
        ]
    }
}

fn with(also: &'static [Also]) -> Partitions {
    Partitions { also, without: None }
}

fn without(rule: Rule, also: &'static [Also]) -> Partitions {
    Partitions { also, without: Some(rule) }
}

#[test]
fn a_key_is_handed_over_and_nobody_is_left_behind() {
    holds(with(&[Also::Outsider]));
}

#[test]
fn a_row_that_comes_back_later_takes_nobodys_place() {
    holds(with(&[Also::Later]));
    breaks(without(Rule::Due, &[Also::Later]), STRANDED);
}

#[test]
fn the_service_finds_what_is_left_of_a_process_that_dies() {
    holds(with(&[Also::Deaths]));
    breaks(without(Rule::Service, &[Also::Deaths]), STRANDED);
}

#[test]
fn a_barred_row_keeps_its_place_and_leaves_nobody_behind() {
    holds(with(&[Also::Bars]));
    breaks(without(Rule::Place, &[Also::Bars]), PASSED);
    breaks(without(Rule::Bits, &[Also::Bars]), BARRED);
    breaks(without(Rule::Service, &[Also::Bars]), STRANDED);
}

#[test]
fn machines_of_one_key_do_not_wait_for_each_others_workers() {
    holds(with(&[Also::Machines, Also::Outsider]));
    breaks(without(Rule::Machines, &[Also::Machines]), STRANDED);
}

/// A claim looks at the key with a snapshot that is older than the key's lock, so it needs the
/// index.
#[test]
fn without_the_index_two_rows_execute_at_once() {
    breaks(without(Rule::Index, &[]), OVERLAP);
}

#[test]
fn without_a_lock_a_row_is_left_behind() {
    breaks(without(Rule::ClaimLock, &[]), STRANDED);
    breaks(without(Rule::CommitLock, &[]), STRANDED);
}

#[test]
fn a_claim_that_takes_what_it_found_passes_over_what_is_blocked() {
    breaks(without(Rule::PlainHead, &[]), PASSED);
    breaks(without(Rule::Head, &[]), PASSED);
}

#[test]
fn a_row_is_left_behind_that_is_blocked_while_nobody_will_free_it() {
    breaks(without(Rule::Candidate, &[]), STRANDED);
    breaks(without(Rule::Together, &[]), STRANDED);
}

/// Even with no foreign transaction, claims lock for a moment the rows that they then find blocked.
#[test]
fn a_row_is_left_behind_that_is_not_taken_back() {
    breaks(without(Rule::Unblock, &[]), STRANDED);
    breaks(without(Rule::Again, &[]), STRANDED);
}
