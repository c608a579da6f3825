//! The runtimes on which connections are used, and what becomes of connections when one ends.
//!
//! A connection is driven by the runtime that it was opened on. When that ends, the connection
//! never hears of an answer again. A test does not tell for sure: an answer that is there at once
//! is read all the same.
//!
//! Invariant: once a runtime has ended, none of its idle connections is left.

use std::sync::Weak;

use tokio::{runtime::Handle, sync::watch};

use super::Inner;

/// Watches a runtime: one that ends drops its tasks, and with them this.
struct Home {
    inner: Weak<Inner>,
    runtime: Handle,
}

impl Drop for Home {
    fn drop(&mut self) {
        if let Some(inner) = self.inner.upgrade() {
            inner.leave(&self.runtime);
        }
    }
}

/// Watches this runtime for as long as there are these connections.
pub(super) fn watch(inner: Weak<Inner>, mut over: watch::Receiver<()>, runtime: &Handle) {
    // Made here and not in the task, which may be dropped before it has begun.
    let home = Home { inner, runtime: runtime.clone() };
    runtime.spawn(async move {
        // Nothing is ever sent: it ends when the sender is gone.
        let _ = over.changed().await;
        drop(home);
    });
}
