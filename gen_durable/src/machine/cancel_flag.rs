//! Tells code that does not await that its run was given up.
//!
//! Invariant: a flag belongs to one run. Once the engine has given that run up, the flag is set.

use std::{
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

/// Says if the engine has given a run up: its instance was cancelled, its time is over, the engine
/// stops, or the engine has lost its lease. Nothing of the run takes effect then.
///
/// [`Context::cancelled`](crate::Context::cancelled) makes one, and has an example.
#[derive(Clone, Debug)]
pub struct CancelFlag {
    given_up: Arc<AtomicBool>,
    lease: Arc<Deadline>,
}

impl CancelFlag {
    /// True once the run was given up.
    pub fn is_set(&self) -> bool {
        self.given_up.load(Ordering::Acquire) || self.lease.has_passed()
    }
}

/// The time until which an engine's lease holds, at least.
#[derive(Debug)]
pub(crate) struct Deadline(Mutex<Instant>);

impl Deadline {
    pub(crate) fn new(at: Instant) -> Self {
        Self(Mutex::new(at))
    }

    pub(crate) fn get(&self) -> Instant {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn set(&self, at: Instant) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = at;
    }

    fn has_passed(&self) -> bool {
        Instant::now() >= self.get()
    }
}

/// The fate of a run. Nothing is allocated for it before somebody asks.
#[derive(Clone, Debug)]
pub(crate) struct Fate {
    given_up: OnceLock<Arc<AtomicBool>>,
    lease: Arc<Deadline>,
}

impl Fate {
    pub(crate) fn new(lease: Arc<Deadline>) -> Self {
        Self { given_up: OnceLock::new(), lease }
    }

    /// Begins the next run.
    pub(crate) fn begin(&mut self) {
        self.given_up.take();
    }

    pub(crate) fn give_up(&self) {
        self.given_up.get_or_init(Arc::default).store(true, Ordering::Release);
    }

    pub(crate) fn flag(&self) -> CancelFlag {
        let given_up = Arc::clone(self.given_up.get_or_init(Arc::default));
        CancelFlag { given_up, lease: Arc::clone(&self.lease) }
    }
}
