//! Counting the instances that are on their way, for a shutdown that waits for them.
//!
//! Invariant: every `begin` has one `end`; `none` returns when they are equal in number.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

/// A count that can be waited on to be zero.
#[derive(Debug, Default)]
pub(crate) struct Tasks {
    running: AtomicUsize,
    ended: Notify,
}

impl Tasks {
    pub(crate) fn begin(&self) {
        self.running.fetch_add(1, Ordering::AcqRel);
    }

    pub(crate) fn end(&self) {
        if self.running.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.ended.notify_waiters();
        }
    }

    pub(crate) async fn none(&self) {
        loop {
            // Registered before the look, so that an end between the two is not missed.
            let ended = self.ended.notified();
            if self.running.load(Ordering::Acquire) == 0 {
                return;
            }
            ended.await;
        }
    }
}
