//! A one-way switch that tasks can wait for.
//!
//! Invariant: once open, it stays open. Each task that waits for it or comes later passes.

use tokio::sync::Semaphore;

/// A switch that is closed at first, and is opened once.
#[derive(Debug)]
pub(crate) struct Latch(Semaphore);

impl Latch {
    pub(crate) fn new() -> Self {
        Self(Semaphore::new(0))
    }

    pub(crate) fn open(&self) {
        self.0.close();
    }

    pub(crate) fn is_open(&self) -> bool {
        self.0.is_closed()
    }

    /// Waits until the latch is open.
    pub(crate) async fn wait(&self) {
        // The semaphore has no permits, so `acquire` returns when it is closed and not before.
        let _ = self.0.acquire().await;
    }
}
