//! The runtimes on which connections are used. When one ends, idle connections are closed.
//!
//! A connection is driven by the runtime that it was opened on. When that ends, the connection
//! never hears of an answer again. A test does not tell for sure: an answer that is there at once
//! is read all the same.
//!
//! Invariant: after a runtime has ended, none of its idle connections is left.

use std::sync::Weak;

use tokio::{runtime::Handle, sync::watch};

use super::Inner;

/// A guard in a task of a runtime. A runtime that ends drops its tasks, and with them this guard.
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

/// Watches this runtime for as long as the connections' handles live.
pub(super) fn watch(inner: Weak<Inner>, mut over: watch::Receiver<()>, runtime: &Handle) {
    // The guard is made here and not in the task, which may be dropped before it has begun.
    let home = Home { inner, runtime: runtime.clone() };
    runtime.spawn(async move {
        // Nothing is ever sent. The wait ends when the sender is dropped.
        let _ = over.changed().await;
        drop(home);
    });
}
