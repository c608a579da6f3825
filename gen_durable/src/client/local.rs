//! The engine of this process, as its client sees it. The client's calls tell it of new work, and
//! it may claim a new row in the commit that inserts it.
//!
//! Invariant: the client needs no engine. Without one, rows are left to be claimed later.

use crate::storage::{Birth, Born, NewInstance};

pub(crate) trait LocalEngine: Send + Sync {
    /// Takes an announcement. Returns false if other processes should hear of it too.
    fn hear(&self, queue: &str) -> bool;

    /// Reserves slots for those of the new rows that may be claimed in the commit that inserts
    /// them. None if there is no such row, or if the statement that claims cannot insert all of
    /// these rows.
    fn reserve(&self, rows: &[&NewInstance]) -> Option<Box<dyn Reservation>>;

    /// Reserves slots as [`reserve`](Self::reserve) does, and places ahead of them: as many as the
    /// claimer would claim.
    fn reserve_ahead(&self, rows: &[&NewInstance]) -> Option<Box<dyn Reservation>>;

    /// True if a queue has nothing to do and a free slot, so that instances that are woken may be
    /// claimed by the signals that wake them.
    fn may_claim_woken(&self) -> bool;

    /// Reserves slots for woken instances, each with its queue. Their order within a queue is not
    /// known, so a queue gets slots for all of them or for none.
    fn reserve_woken(&self, woken: &[(i64, String)]) -> Option<Box<dyn Reservation>>;

    /// Says that a statement that claims failed, and that the same call succeeded without a claim.
    /// The worker may lack a right, for example.
    fn refused(&self);
}

/// Slots that are kept free for rows that a statement may claim. They are given back when this is
/// dropped. If that happens before `run` or `undo`, the claimed rows count as lost claims.
pub(crate) trait Reservation: Send + Sync {
    fn birth(&self) -> &Birth;

    /// Runs the rows that were claimed. `rows` has the id of each row that was inserted or woken.
    fn run(self: Box<Self>, rows: &[Option<i64>], born: Born);

    /// Says that the statement was rolled back.
    fn undo(self: Box<Self>);
}
