//! The life cycle of an engine: the latches that open as it stops. If the engine is dropped without
//! a shutdown, `stopping`, `cut_off` and `stopped` open at once.
//!
//! ```text
//!   running ─stopping─► draining ─claimer_ended─► … ─cut_off─► last commits ─stopped─► gone
//!      └──────────────────── deserted: the runtime has ended ─────────────────────────────┘
//! ```
//!
//! Invariant: a latch never closes again, so a task that has seen it open may rely on it.

use tokio::sync::Mutex;

use super::latch::Latch;

/// The latches of an engine's end. The comment of each says what holds once it is open.
#[derive(Debug)]
pub(crate) struct Life {
    /// No step starts any more.
    pub(super) stopping: Latch,
    /// The claimer claims no row any more, and the worker knows of all that it has claimed. Births
    /// may still be under way.
    pub(super) claimer_ended: Latch,
    /// Steps under way are dropped.
    pub(super) cut_off: Latch,
    /// The shutdown is over, or the engine was dropped: what is still claimed is left to its tasks
    /// and to the reaper.
    pub(super) stopped: Latch,
    /// The runtime has ended, and with it everything of the engine that ran there.
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

    /// True while the engine claims rows: it has not begun to stop, and its runtime has not ended.
    pub(super) fn claims(&self) -> bool {
        !self.stopping.is_open() && !self.deserted.is_open()
    }
}
