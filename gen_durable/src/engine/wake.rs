//! The claimer's wake: other parts make the claimer look again, now or at a later time.
//!
//! Invariant: a wake is never lost. It leaves a permit, with which the claimer's next wait ends at
//! once. The nearest time at which a delayed row is due is kept until the claimer has seen it pass.
//! The claimer asks Postgres for later ones.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::{Notify, futures::Notified};

use super::wake_backoff::WakeBackoff;
use crate::storage::RowGroup;

/// The places in the claim's index at which rows may have come back.
#[derive(Debug, Default)]
pub(super) struct CameBack {
    pub(super) anywhere: bool,
    pub(super) groups: Vec<RowGroup>,
}

/// The part of an engine that wakes the claimer.
#[derive(Debug, Default)]
pub(crate) struct Wake {
    work: Notify,
    /// The pause before an announcement of another process is followed.
    pub(super) backoff: WakeBackoff,
    /// The time at which the next row that this engine delayed is due.
    due: Mutex<Option<Instant>>,
    /// More rows may wait than this engine has claimed, so a slot that becomes free wakes the
    /// claimer.
    saturated: AtomicBool,
    /// An action has left something to be done.
    pub(super) debts: Notify,
    /// An action has changed a schedule.
    #[cfg(feature = "schedules")]
    pub(super) schedules: Notify,
    /// An action has changed the bounds of a limit.
    pub(super) limits: Notify,
    /// Rows may have come back into the claim's index, before the watermarks: in these groups, or
    /// anywhere.
    came_back: Mutex<CameBack>,
    /// Rows may be claimed in the worker's name that the worker does not know of.
    lost_claims: AtomicBool,
}

impl Wake {
    /// Wakes the claimer, or ends its next wait at once.
    pub(crate) fn claimer(&self) {
        self.work.notify_one();
    }

    /// Returns the next wake, for the claimer to wait for.
    pub(super) fn next(&self) -> Notified<'_> {
        self.work.notified()
    }

    /// Notes whether more rows may wait than were claimed: the last claim left locked rows out
    /// beside others that it got, or a queue had no free slots. Returns true if that is new.
    pub(super) fn set_saturated(&self, saturated: bool) -> bool {
        self.saturated.swap(saturated, Ordering::SeqCst) != saturated
    }

    /// Notes that an instance has left the worker, so a slot may be free.
    pub(super) fn slot_freed(&self) {
        if self.saturated.load(Ordering::SeqCst) {
            self.claimer();
        }
    }

    /// Makes the claimer look for lost claims.
    pub(super) fn suspect_lost_claims(&self) {
        self.lost_claims.store(true, Ordering::Release);
        self.claimer();
    }

    /// True if lost claims were suspected after the suspicion was last cleared.
    pub(super) fn suspects_lost_claims(&self) -> bool {
        self.lost_claims.load(Ordering::Acquire)
    }

    pub(super) fn clear_suspicion(&self) {
        self.lost_claims.store(false, Ordering::Release);
    }

    /// Notes that rows may have come back into the claim's index before the watermarks, and wakes
    /// the claimer.
    pub(super) fn rows_came_back(&self) {
        self.came_back.lock().unwrap_or_else(PoisonError::into_inner).anywhere = true;
        self.claimer();
    }

    /// The same, if the groups of these rows are known.
    pub(super) fn groups_came_back(&self, groups: &[RowGroup]) {
        let mut back = self.came_back.lock().unwrap_or_else(PoisonError::into_inner);
        for group in groups {
            if !back.groups.contains(group) {
                back.groups.push(group.clone());
            }
        }
        drop(back);
        self.claimer();
    }

    /// Returns where rows may have come back since the last call.
    pub(super) fn take_came_back(&self) -> CameBack {
        std::mem::take(&mut self.came_back.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Makes the claimer look after this delay.
    pub(crate) fn claimer_in(&self, delay: Duration) {
        let now = Instant::now();
        let Some(at) = now.checked_add(delay) else { return };
        let mut due = self.due.lock().unwrap_or_else(PoisonError::into_inner);
        // A known time that has passed, and that the claimer has not taken yet, must not stand for
        // the new one. The claimer may have looked for its row already. It would then take the
        // passed time, forget it, and never learn of the new one.
        if due.is_none_or(|known| at < known || known <= now) {
            *due = Some(at);
            drop(due);
            self.claimer();
        }
    }

    /// Returns the time at which the next row that this engine delayed is due. Forgets it if it has
    /// passed.
    pub(super) fn take_due(&self) -> Option<Instant> {
        let mut due = self.due.lock().unwrap_or_else(PoisonError::into_inner);
        let at = (*due)?;
        if at <= Instant::now() {
            *due = None;
        }
        Some(at)
    }
}
