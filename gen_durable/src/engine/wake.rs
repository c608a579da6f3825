//! The claimer's wake: who asks it to look again, for what, and when.
//!
//! Invariant: a wake is never lost. It leaves a permit that the claimer takes before it looks, and
//! the moment of a delayed row is kept until the claimer has seen it pass.

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
    /// The delay with which announcements of other processes are followed.
    pub(super) backoff: WakeBackoff,
    /// The moment at which a row that this engine delayed is due.
    due: Mutex<Option<Instant>>,
    /// The last claim got all that it asked for: more may wait than this engine can run.
    saturated: AtomicBool,
    /// Rows may be claimed in the worker's name that the worker does not know of.
    lost_claims: AtomicBool,
}

impl Wake {
    /// Wakes the claimer, or lets its next wait pass at once.
    pub(crate) fn claimer(&self) {
        self.work.notify_one();
    }

    /// The next wake, for the claimer.
    pub(super) fn next(&self) -> Notified<'_> {
        self.work.notified()
    }

    /// Notes whether the last claim got all that it asked for.
    pub(super) fn set_saturated(&self, saturated: bool) {
        self.saturated.store(saturated, Ordering::SeqCst);
    }

    /// An instance has left, so a slot may be free.
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

    /// True if lost claims were suspected since the suspicion was cleared.
    pub(super) fn suspects_lost_claims(&self) -> bool {
        self.lost_claims.load(Ordering::Acquire)
    }

    pub(super) fn clear_suspicion(&self) {
        self.lost_claims.store(false, Ordering::Release);
    }

    /// Makes the claimer look when this much time has passed.
    pub(crate) fn in_time(&self, delay: Duration) {
        let now = Instant::now();
        let Some(at) = now.checked_add(delay) else { return };
        let mut due = self.due.lock().unwrap_or_else(PoisonError::into_inner);
        // A moment that has passed, and that the claimer has not taken yet, must not stand for one to
        // come: the claimer may have looked already.
        if due.is_none_or(|known| at < known || known <= now) {
            *due = Some(at);
            drop(due);
            self.claimer();
        }
    }

    /// The moment at which the next row that this engine delayed is due. It is forgotten if it has
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
