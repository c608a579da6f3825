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
