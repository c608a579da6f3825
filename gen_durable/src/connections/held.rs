//! A pool's connection that may be dropped anywhere.
//!
//! Invariant: dropping one never panics, and never costs the pool a place. A pool takes a
//! connection back by a task, and sqlx panics if there is no runtime to spawn the task on. There is
//! none on a thread of the caller's own, and after the runtime has ended. Several panics at once
//! would abort the process. The task tests the connection, and waits for an answer for as long as
//! that takes: on a half-open connection, for ever. Therefore a connection is given back only if
//! its last statement was answered. One that is dropped in the middle of a call is closed.

use std::{
    ops::{Deref, DerefMut},
    sync::Arc,
    time::{Duration, Instant},
};

use sqlx::{Connection as _, PgConnection, Postgres, pool::PoolConnection};
use tokio::runtime::Handle;

use super::SessionSettings;

/// The time that an old connection has to close cleanly.
const GOODBYE: Duration = Duration::from_secs(1);

/// The session of a connection that keeps its session for as long as it lives.
#[derive(Clone, Debug)]
pub(crate) struct Backend {
    /// The number of its server process.
    pub(crate) pid: i32,
    /// The names and values of its settings when it was new.
    pub(crate) settings: Arc<SessionSettings>,
}

/// A connection of a pool, and the runtime that it was used on.
#[derive(Debug)]
pub(super) struct Held {
    /// None after the connection was given away.
    connection: Option<PoolConnection<Postgres>>,
    runtime: Handle,
    /// The time until which the connection may be kept.
    end: Instant,
    /// The server process that serves the connection, and what a hook of the pool has set for its
    /// session, once they are known.
    pub(super) backend: Option<Backend>,
}

impl Held {
    pub(super) fn new(connection: PoolConnection<Postgres>, runtime: Handle, end: Instant) -> Self {
        Self { connection: Some(connection), runtime, end, backend: None }
    }

    /// True if the connection is too old to be kept.
    pub(super) fn is_over(&self, now: Instant) -> bool {
        self.end <= now
    }

    /// True if the connection was used on this runtime.
    pub(super) fn is_of(&self, runtime: &Handle) -> bool {
        self.runtime.id() == runtime.id()
    }

    /// Returns the same connection, used on this runtime from here on.
    pub(super) fn moved_to(mut self, runtime: &Handle) -> Self {
        self.runtime = runtime.clone();
        self
    }

    /// Closes the connection because it is old. The pool may open another one in its place at once.
    pub(super) fn retire(mut self) {
        if let Some(connection) = self.connection.take() {
            let connection = connection.detach();
            // The server logs nothing about a session that is closed cleanly. No caller waits for
            // it.
            tokio::spawn(async move {
                let _ = tokio::time::timeout(GOODBYE, connection.close()).await;
            });
        }
    }

    /// Closes the connection at once. The pool may open another one in its place.
    pub(super) fn discard(self) {
        drop(self);
    }

    /// Gives the connection back to the pool, by a task on the current runtime. Without one, the
    /// task runs on the connection's own runtime. If that has ended, it drops the task, and with it
    /// the connection.
    ///
    /// The precondition is that the last statement was answered.
    pub(super) fn give_back(mut self) {
        if let Some(connection) = self.connection.take() {
            on_a_runtime(&self.runtime, connection, drop);
        }
    }
}

/// Closes the connection: a statement may be under way on it.
impl Drop for Held {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take() {
            // The pool may open another connection, by a task.
            on_a_runtime(&self.runtime, connection, |connection| drop(connection.detach()));
        }
    }
}

/// Ends the use of a connection on the current runtime, or on this one.
fn on_a_runtime(
    runtime: &Handle,
    connection: PoolConnection<Postgres>,
    end: impl FnOnce(PoolConnection<Postgres>),
) {
    match Handle::try_current() {
        Ok(_) => end(connection),
        // The thread is ending, and no runtime can be entered on it any more. The connection leaks,
        // and the server notices when the process ends.
        Err(error) if error.is_thread_local_destroyed() => std::mem::forget(connection),
        Err(_) => {
            let _entered = runtime.enter();
            end(connection);
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

#[cfg(test)]
mod tests {
    use std::{future, pin::pin, task::Poll};

    use gen_durable_postgres::Server;
    use sqlx::postgres::PgPoolOptions;

    use super::{super::Connections, *};

    /// A close waits for a call that is under way, but not for ever. The call that is done after
    /// that must not keep its connection: nobody would close it.
    #[tokio::test]
    async fn a_call_that_is_done_after_the_close_keeps_no_connection() {
        let server = Server::builder().fast(true).start().expect("it starts");
        let pool = PgPoolOptions::new().connect_lazy(&server.url("postgres")).expect("an address");
        let connections = Connections::own(&pool, 2, Duration::from_secs(30), None);
        let kept = connections.get().await.expect("the server answers");
        let late = connections.get().await.expect("the server answers");
        kept.done(Ok(())).expect("it is Ok");
        assert_eq!(connections.idle().kept.len(), 1, "an open pool's connection is kept");

        let mut closing = pin!(connections.close());
        let begun = future::poll_fn(|cx| Poll::Ready(closing.as_mut().poll(cx))).await;
        assert!(begun.is_pending(), "the pool waits for the call that has a connection");
        assert!(connections.idle().kept.is_empty(), "the close has taken what was kept");
        late.done(Ok(())).expect("it is Ok");
        assert!(connections.idle().kept.is_empty(), "it is kept after the close");
        closing.await;
    }
}
