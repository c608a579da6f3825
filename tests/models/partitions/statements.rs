//! The effect of each statement, given what its snapshot and its locks let it see.

use super::{ALL, Also, Claim, NONE, Partitions, ROWS, Row, Rule, Set, State, Transaction};

pub(super) fn places(set: Set) -> impl Iterator<Item = usize> {
    (0..ROWS).filter(move |row| has(set, *row))
}

fn first(set: Set) -> Option<usize> {
    places(set).next()
}

pub(super) fn has(set: Set, row: usize) -> bool {
    set & bit(row) != 0
}

pub(super) fn bit(row: usize) -> Set {
    1 << row
}

impl State {
    pub(super) fn rows(&self, of: &[Row]) -> Set {
        (0..ROWS).filter(|row| of.contains(&self.rows[*row])).map(bit).sum()
    }

    /// Returns the rows that are due and do not execute.
    pub(super) fn waiting(&self) -> Set {
        self.rows(&[Row::Runnable, Row::Blocked])
    }

    /// Returns the rows that are in the claim's index.
    pub(super) fn index(&self) -> Set {
        self.rows(&[Row::Runnable]) & !self.barred
    }

    pub(super) fn executing(&self) -> Set {
        self.rows(&[Row::Executing])
    }

    pub(super) fn blocked(&self) -> Set {
        self.rows(&[Row::Blocked, Row::LaterBlocked])
    }

    /// Returns the rows that any transaction has locked.
    pub(super) fn locked(&self) -> Set {
        let of = |transaction: &Transaction| match *transaction {
            Transaction::HasRows(_, _, rows) | Transaction::Takes(_, _, rows) => rows,
            Transaction::Changes(_, row, blocks) => row.map_or(NONE, bit) | blocks,
            Transaction::Ends { row, .. } => bit(row),
            Transaction::Frees { ended, back, .. } => {
                ended.map_or(NONE, |(row, _)| bit(row)) | back
            }
            Transaction::Looks(..)
            | Transaction::Seeks(_)
            | Transaction::Locked(_)
            | Transaction::FreesAgain { .. } => NONE,
        };
        let outsider = self.outsider.map_or(NONE, bit);
        self.under_way.iter().map(of).fold(outsider, |all, rows| all | rows)
    }
}

impl Partitions {
    pub(super) fn also(&self, also: Also) -> bool {
        self.also.contains(&also)
    }

    /// True if the maintenance runs. Without deaths and bars it has nothing to do.
    pub(super) fn has_service(&self) -> bool {
        (self.also(Also::Deaths) || self.also(Also::Bars)) && !self.without(Rule::Service)
    }

    pub(super) fn without(&self, rule: Rule) -> bool {
        self.without == Some(rule)
    }

    pub(super) fn machines(&self) -> &'static [Set] {
        if self.also(Also::Machines) { &[0b001, ALL & !0b001] } else { &[ALL] }
    }

    /// True if a transaction has the key's lock.
    pub(super) fn key_locked(&self, state: &State) -> bool {
        state.under_way.iter().any(|transaction| match transaction {
            Transaction::Takes(..) => true,
            Transaction::Locked(_) | Transaction::Changes(..) => !self.without(Rule::ClaimLock),
            Transaction::Frees { .. } => !self.without(Rule::CommitLock),
            _ => false,
        })
    }

    /// Begins a claim, with all that its snapshot sees now.
    pub(super) fn look(state: &State, serves: Set, one: bool) -> Transaction {
        let ahead = state.waiting() & serves;
        let candidates = state.index() & serves;
        let head = if state.executing() == NONE { first(ahead) } else { None };
        Transaction::Looks(Claim { serves, one, candidates, ahead }, head)
    }

    /// Runs `claim_partitions.sql`.
    fn claim_partitions(&self, state: &State, claim: Claim) -> Transaction {
        let free = !state.locked();
        let busy = state.executing() != NONE;
        let due = if self.without(Rule::Due) { Row::Later } else { Row::Runnable };
        let candidates = claim.candidates & state.rows(&[Row::Runnable, due]) & !state.barred;
        let mut waiting = if self.without(Rule::Head) { candidates } else { state.waiting() };
        if self.without(Rule::Place) {
            waiting &= !state.barred;
        }
        let head = if busy { None } else { first(waiting & claim.serves) };
        let locked = head.filter(|head| has(free, *head));
        let claims = locked.filter(|head| !has(state.barred, *head));
        let taken = busy || locked.is_some() || self.without(Rule::Candidate);
        let firsts = if taken { NONE } else { self.firsts(candidates) };
        Transaction::Changes(claim, claims, candidates & free & !firsts & !head.map_or(NONE, bit))
    }

    /// Returns the rows that `block_ahead.sql` blocks: those after the last candidate that are of
    /// the same machine.
    pub(super) fn block_ahead(&self, state: &State, claim: Claim, row: Option<usize>) -> Set {
        let Some(last) = places(claim.candidates).last() else { return NONE };
        if state.executing() == NONE && row.is_none() {
            return NONE;
        }
        let like = self.machines().iter().find(|machine| has(**machine, last));
        let after = ALL & !(bit(last + 1) - 1);
        let row = row.map_or(NONE, bit);
        state.index() & like.unwrap_or(&NONE) & after & !state.locked() & !row
    }

    fn firsts(&self, rows: Set) -> Set {
        self.machines().iter().filter_map(|machine| first(rows & machine)).map(bit).sum()
    }

    /// Runs `unblock_partitions.sql`. Returns the rows that it unblocks, and true if all rows of
    /// some machine were locked.
    fn unblock(&self, state: &State, ended: Option<usize>) -> (Set, bool) {
        let held = state.executing() & !ended.map_or(NONE, bit) != NONE;
        if held || self.without(Rule::Unblock) {
            return (NONE, false);
        }
        let blocked = state.blocked();
        let free = blocked & !state.locked();
        if self.without(Rule::Machines) {
            return (first(free).map_or(NONE, bit), false);
        }
        let all_locked = |machine: &Set| blocked & machine != NONE && free & machine == NONE;
        (self.firsts(free), self.machines().iter().any(all_locked))
    }

    /// True if `stranded_partitions.sql` finds the key.
    pub(super) fn stranded(&self, state: &State) -> bool {
        let index = state.index();
        let of = |machine: &Set| state.blocked() & machine != NONE && index & machine == NONE;
        let barred = first(state.waiting()).is_some_and(|head| has(state.barred, head));
        state.executing() == NONE && !barred && self.machines().iter().any(of)
    }

    /// Commits a claim. Returns false if the index refused the row.
    fn claimed(&self, state: &mut State, claim: Claim, row: usize) -> bool {
        let other = state.executing() != NONE;
        if other && !self.without(Rule::Index) {
            return false;
        }
        state.overlapped |= other;
        state.passed |= claim.ahead & state.waiting() & (bit(row) - 1) != NONE;
        state.ran_barred |= has(state.operator, row);
        state.rows[row] = Row::Executing;
        true
    }

    /// Runs the next action of a transaction. Returns what is left of the transaction then.
    pub(super) fn step(&self, state: &mut State, transaction: Transaction) -> Option<Transaction> {
        match transaction {
            Transaction::Looks(mut claim, head) => {
                // A row that has left the index since the snapshot is locked, but is no candidate.
                let mut locked = claim.candidates & !state.locked();
                claim.candidates = locked & state.index();
                if let Some(first) = first(claim.candidates).filter(|_| claim.one) {
                    claim.candidates = bit(first);
                    locked &= bit(first + 1) - 1;
                }
                (locked != NONE).then_some(Transaction::HasRows(claim, head, locked))
            }
            Transaction::HasRows(claim, head, locked) => {
                let row = first(claim.candidates)?;
                let plain = head == Some(row) || head.is_some() && self.without(Rule::PlainHead);
                let takes = plain && !self.key_locked(state);
                Some(if takes {
                    Transaction::Takes(claim, row, locked)
                } else {
                    Transaction::Seeks(claim)
                })
            }
            Transaction::Takes(mut claim, row, _) => {
                if self.claimed(state, claim, row) {
                    claim.candidates &= !bit(row);
                }
                (claim.candidates != NONE).then_some(Transaction::Seeks(claim))
            }
            Transaction::Seeks(claim) => {
                (!self.key_locked(state)).then_some(Transaction::Locked(claim))
            }
            Transaction::Locked(claim) => Some(self.claim_partitions(state, claim)),
            Transaction::Changes(claim, row, blocks) => {
                if row.is_none_or(|row| self.claimed(state, claim, row)) {
                    for row in places(blocks) {
                        state.rows[row] = match state.rows[row] {
                            Row::Later => Row::LaterBlocked,
                            _ => Row::Blocked,
                        };
                    }
                }
                None
            }
            Transaction::Ends { row, into, reaped } => {
                let (back, locked) = self.unblock(state, Some(row));
                let again = (!reaped).then_some(locked);
                Some(Transaction::Frees { ended: Some((row, into)), back, again })
            }
            Transaction::FreesAgain { service } => {
                let (back, locked) = self.unblock(state, None);
                Some(Transaction::Frees { ended: None, back, again: (!service).then_some(locked) })
            }
            Transaction::Frees { ended, back, again } => {
                if self.without(Rule::Bits) {
                    state.barred &= !back;
                }
                for row in places(back) {
                    state.rows[row] = match state.rows[row] {
                        Row::LaterBlocked => Row::Later,
                        _ => Row::Runnable,
                    };
                }
                // The process that tries again knows the result by now.
                let known = state.again && (ended.is_some() || again.is_none());
                if let Some((row, into)) = ended {
                    state.rows[row] = into;
                }
                state.again = known || again == Some(true) && !self.without(Rule::Again);
                None
            }
        }
    }

    /// Returns the state after the maintenance has run alone, and then a worker of this machine has
    /// claimed.
    fn alone(&self, mut state: State, machine: Set) -> State {
        if self.has_service() && self.stranded(&state) {
            state.under_way.push(Transaction::FreesAgain { service: true });
            self.run(&mut state);
        }
        state.under_way.push(Self::look(&state, machine, false));
        self.run(&mut state);
        state
    }

    fn run(&self, state: &mut State) {
        while let Some(transaction) = state.under_way.pop() {
            let next = self.step(state, transaction);
            state.under_way.extend(next);
        }
    }

    pub(super) fn nobody_is_stranded(&self, state: &State) -> bool {
        let idle = state.under_way.is_empty()
            && state.outsider.is_none()
            && state.operator == NONE
            && !state.again;
        let free = idle && state.executing() == NONE;
        !free
            || self.machines().iter().all(|machine| {
                let head = first(state.waiting() & machine);
                head.is_none_or(|head| self.alone(state.clone(), *machine).executing() == bit(head))
            })
    }
}
