//! A pool's connection that may be dropped anywhere.
//!
//! Invariant: dropping one never panics. A pool takes a connection back by a task, and sqlx panics
//! where there is no runtime to spawn it on: on a thread of the caller's own, or after the runtime
//! has ended. Several at once would abort the process.

use std::{
    ops::{Deref, DerefMut},
    time::{Duration, Instant},
};

use sqlx::{Connection as _, PgConnection, Postgres, pool::PoolConnection};
use tokio::runtime::Handle;

/// The time that an old connection has to say goodbye.
const GOODBYE: Duration = Duration::from_secs(1);

/// A connection of a pool, and the runtime that it was used on.
#[derive(Debug)]
pub(super) struct Held {
    /// None once it has been given away.
    connection: Option<PoolConnection<Postgres>>,
    runtime: Handle,
    /// Until when it may be kept.
    end: Instant,
}

impl Held {
    pub(super) fn new(connection: PoolConnection<Postgres>, runtime: Handle, end: Instant) -> Self {
        Self { connection: Some(connection), runtime, end }
    }

    /// Tells whether it is too old to be kept.
    pub(super) fn is_over(&self, now: Instant) -> bool {
        self.end <= now
    }

    /// Tells whether it was used on this runtime.
    pub(super) fn is_of(&self, runtime: &Handle) -> bool {
        self.runtime.id() == runtime.id()
    }

    /// The same connection, used on this runtime from here on.
    pub(super) fn moved_to(mut self, runtime: &Handle) -> Self {
        self.runtime = runtime.clone();
        self
    }

    /// Closes it because it is old. The pool may open another one in its place at once.
    pub(super) fn retire(mut self) {
        if let Some(connection) = self.connection.take() {
            let connection = connection.detach();
            // The server logs nothing of a session that said goodbye. Nobody waits for it.
            tokio::spawn(async move {
                let _ = tokio::time::timeout(GOODBYE, connection.close()).await;
            });
        }
    }

    /// Closes it at once. The pool may open another one in its place.
    pub(super) fn discard(mut self) {
        if let Some(connection) = self.connection.take() {
            drop(connection.detach());
        }
    }
}

/// Goes back to the pool: by a task on this runtime, or else on its own. One that has ended drops
/// the task, and with it the connection.
impl Drop for Held {
    fn drop(&mut self) {
        let Some(connection) = self.connection.take() else { return };
        match Handle::try_current() {
            Ok(_) => drop(connection),
            // The thread is ending, and no runtime can be entered on it any more. The server
            // notices when the process ends.
            Err(error) if error.is_thread_local_destroyed() => std::mem::forget(connection),
            Err(_) => {
                let _entered = self.runtime.enter();
                drop(connection);
            }
        }
    }
}

impl Deref for Held {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        self.connection.as_ref().expect("it is given away by value alone")
    }
}

impl DerefMut for Held {
    fn deref_mut(&mut self) -> &mut PgConnection {
        self.connection.as_mut().expect("it is given away by value alone")
    }
}
