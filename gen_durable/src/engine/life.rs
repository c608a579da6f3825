//! The life cycle of an engine: the latches that open one after another as it stops.
//!
//! ```text
//!   running ──stopping──► draining ──claimer_ended──► … ──cut_off──► last commits ──stopped──► gone
//!      └────────────────────────── deserted: the runtime has ended ──────────────────────────────┘
//! ```
//!
//! Invariant: a latch never closes again, so a task that has seen one open may act on it.

use tokio::sync::Mutex;

use super::latch::Latch;

/// How far an engine has come on its way to the end.
#[derive(Debug)]
pub(crate) struct Life {
    /// No step starts any more.
    pub(super) stopping: Latch,
    /// No row is claimed any more, and the worker knows of all that it has claimed.
    pub(super) claimer_ended: Latch,
    /// Steps under way are dropped.
    pub(super) cut_off: Latch,
    /// Nothing is left to do.
    pub(super) stopped: Latch,
    /// The runtime has ended, and everything of the engine with it.
    pub(super) deserted: Latch,
    /// Held by the shutdown that is under way.
    pub(super) shutdown: Mutex<()>,
}

impl Life {
    pub(super) fn new() -> Self {
        Self {
            stopping: Latch::new(),
            claimer_ended: Latch::new(),
            cut_off: Latch::new(),
            stopped: Latch::new(),
            deserted: Latch::new(),
            shutdown: Mutex::new(()),
        }
    }

    /// True while rows are claimed: the engine does not stop, and its runtime runs.
    pub(super) fn claims(&self) -> bool {
        !self.stopping.is_open() && !self.deserted.is_open()
    }
}
