//! Connections for short statements: kept open by an engine, borrowed from the pool by a client.
//!
//! Invariant: a connection on which a statement failed is never kept; the pool tests it first. One
//! that broke, or that gave no answer, is closed, and so are those that are kept beside it. One that
//! was used on another runtime, which may have ended, is tested before it is used.

mod held;
mod probe;

use std::{
    future::Future,
    io,
    ops::{Deref, DerefMut},
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use sqlx::{Connection as _, PgConnection, PgPool, postgres::PgListener};
use tokio::runtime::Handle;

use self::{held::Held, probe::Probe};
use crate::{error::DatabaseError, storage, throttle::Throttle};

/// How long an engine waits for a connection before it counts as an outage.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a client's short statement may go without an answer.
const CLIENT_PATIENCE: Duration = Duration::from_secs(30);
/// How long a connection that is tested may take to answer.
const TEST_PATIENCE: Duration = Duration::from_secs(1);
/// How late a timer is at least if the runtime stood still. Less than the shortest patience.
const LATE: Duration = Duration::from_millis(250);
/// What an engine's may have at least, however short its lease.
const PATIENCE_MIN: Duration = Duration::from_secs(1);

/// Where connections come from.
#[derive(Clone, Debug)]
pub(crate) struct Connections {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    pool: PgPool,
    idle: Mutex<Idle>,
    kept_max: usize,
    /// Whether sessions are this one's alone, to be set up for its statements.
    sessions: bool,
    patience: Duration,
    probe: Probe,
    /// What no call can succeed with, and was logged.
    lasting: Throttle,
}

#[derive(Debug, Default)]
struct Idle {
    kept: Vec<Held>,
    /// Calls that found none kept and wait for the pool.
    waiting: usize,
}

/// Counts a call out that waited for the pool, also one that was dropped meanwhile.
struct Waiting<'a>(&'a Connections);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.idle().waiting -= 1;
    }
}

impl Connections {
    /// Connections of the caller's pool, given back after each use.
    pub(crate) fn borrowed(pool: PgPool) -> Self {
        Self::with(pool, 0, false, CLIENT_PATIENCE)
    }

    fn with(pool: PgPool, kept_max: usize, sessions: bool, patience: Duration) -> Self {
        Self {
            inner: Arc::new(Inner {
                pool,
                idle: Mutex::default(),
                kept_max,
                sessions,
                patience,
                probe: Probe::default(),
                lasting: Throttle::default(),
            }),
        }
    }

    /// An engine's own connections, with the options and hooks of the caller's pool.
    ///
    /// The caller's steps may hold every connection of the caller's pool; a lease must be renewed
    /// all the same. And a pool tests a connection with a round trip each time that it changes
    /// hands, which a commit of a third of a millisecond cannot afford.
    ///
    /// After a lease without an answer a connection counts as lost, as a worker does without a sign
    /// of life. `sessions` says that no pooler lends a connection's session to others.
    pub(crate) fn own(
        pool: &PgPool,
        connections_max: u32,
        lease_ttl: Duration,
        sessions: bool,
    ) -> Self {
        let pool = pool
            .options()
            .clone()
            .max_connections(connections_max)
            .min_connections(0)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .connect_lazy_with((*pool.connect_options()).clone());
        Self::with(pool, connections_max as usize, sessions, lease_ttl.max(PATIENCE_MIN))
    }

    /// How long a short statement may go without an answer.
    pub(crate) fn patience(&self) -> Duration {
        self.inner.patience
    }

    /// Gives a statement up that has no answer for that long: its connection may be half open, and
    /// then nothing would ever say so. Whether it took effect is unknown.
    pub(crate) async fn within<T>(
        &self,
        statement: impl Future<Output = Result<T, sqlx::Error>>,
    ) -> Result<T, sqlx::Error> {
        within(self.inner.patience, statement).await
    }

    pub(crate) async fn get(&self) -> Result<Connection, sqlx::Error> {
        let here = Handle::current();
        while let Some(mut held) = self.take_kept(&here) {
            if held.is_of(&here) {
                return Ok(Connection { held, home: self.clone() });
            }
            // Its runtime may have ended, and what drives it with that.
            let tested = within(TEST_PATIENCE, held.ping()).await;
            let connection = Connection { held: held.moved_to(&here), home: self.clone() };
            match tested {
                Ok(()) => return Ok(connection),
                Err(error) => drop(connection.done::<()>(Err(error))),
            }
        }
        let acquired = {
            let _waiting = Waiting(self);
            match self.take_idle(&here).await {
                Some(idle) => Ok(idle),
                None => self.inner.pool.acquire().await.map(|new| Held::new(new, here)),
            }
        };
        let held = match acquired {
            Err(sqlx::Error::PoolTimedOut) => return Err(self.why().await),
            acquired => acquired?,
        };
        let mut connection = Connection { held, home: self.clone() };
        if self.inner.sessions {
            // A hook of the pool would take the place of the caller's.
            if let Err(error) = self.within(storage::session(&mut connection)).await {
                return connection.done(Err(error));
            }
        }
        Ok(connection)
    }

    /// A connection that an engine's own pool has, if it answers. The pool would test it as well, but
    /// wait for one that is half open until the call's time is up.
    async fn take_idle(&self, here: &Handle) -> Option<Held> {
        if self.inner.kept_max == 0 {
            return None;
        }
        loop {
            let mut held = Held::new(self.inner.pool.try_acquire()?, here.clone());
            if within(TEST_PATIENCE, held.ping()).await.is_ok() {
                return Some(held);
            }
            held.discard();
            self.discard_idle();
        }
    }

    /// Closes what the pool has idle: what broke one connection is likely to have broken the others.
    fn discard_idle(&self) {
        while let Some(idle) = self.inner.pool.try_acquire() {
            drop(idle.detach());
        }
    }

    /// A connection that was kept, of this runtime if there is one; without any, the call counts as
    /// one that waits.
    fn take_kept(&self, here: &Handle) -> Option<Held> {
        let mut idle = self.idle();
        let own = idle.kept.iter().rposition(|held| held.is_of(here));
        let kept = own.map(|index| idle.kept.swap_remove(index)).or_else(|| idle.kept.pop());
        // Under the lock under which a connection would be kept: whoever has one from here on
        // gives it to the pool, which knows who waits.
        idle.waiting += usize::from(kept.is_none());
        kept
    }

    /// Why the pool has no connection to give.
    pub(crate) async fn why(&self) -> sqlx::Error {
        self.inner.probe.why(&self.inner.pool).await
    }

    /// Logs a failure that will not pass by itself, and that meets every call: now and then.
    pub(crate) fn tell(&self, error: &DatabaseError) {
        let subject = error.sqlstate().unwrap_or("no connection");
        if error.is_lasting() && self.inner.lasting.allows(subject).is_some() {
            tracing::warn!("{error}");
        }
    }

    pub(crate) async fn listener(&self) -> Result<PgListener, sqlx::Error> {
        // From a pool of its own: a listener that finds its connection dead keeps its place in the
        // pool for as long as it tries to say goodbye, which may be for ever.
        let options = self.inner.pool.options().clone().max_connections(1);
        let pool = options.connect_lazy_with((*self.inner.pool.connect_options()).clone());
        PgListener::connect_with(&pool).await
    }

    pub(crate) async fn close(&self) {
        let kept = std::mem::take(&mut self.idle().kept);
        drop(kept);
        self.inner.pool.close().await;
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Idle> {
        self.inner.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Gives a statement up that has no answer for `patience`.
///
/// A timer that is late says that the runtime stood still: a step blocked its thread, or the process
/// was stopped. The answer may have been there all the time, so the connection is not blamed, and
/// the statement has its time anew.
pub(crate) async fn within<T>(
    patience: Duration,
    statement: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, sqlx::Error> {
    let mut statement = pin!(statement);
    loop {
        let began = Instant::now();
        if let Ok(result) = tokio::time::timeout(patience, &mut statement).await {
            return result;
        }
        if began.elapsed() < patience + LATE {
            let error = format!("no answer within {patience:?}; the connection counts as lost");
            return Err(sqlx::Error::Io(io::Error::new(io::ErrorKind::TimedOut, error)));
        }
    }
}

/// A connection for a statement or two.
#[derive(Debug)]
pub(crate) struct Connection {
    held: Held,
    home: Connections,
}

impl Connection {
    /// Keeps the connection for the next use if the result is good.
    pub(crate) fn done<T>(self, result: Result<T, sqlx::Error>) -> Result<T, sqlx::Error> {
        match &result {
            Ok(_) if !self.home.inner.pool.is_closed() => {
                let mut idle = self.home.idle();
                if idle.waiting == 0 && idle.kept.len() < self.home.inner.kept_max {
                    idle.kept.push(self.held);
                }
            }
            // Postgres answered: the connection is well, or the pool will find out.
            Ok(_) | Err(sqlx::Error::Database(_)) => {}
            // Not back to the pool, whose test of it could wait for ever. What broke one connection
            // is likely to have broken the others.
            Err(_) => {
                let kept = std::mem::take(&mut self.home.idle().kept);
                for held in kept.into_iter().chain([self.held]) {
                    held.discard();
                }
                // Nor those that the pool would test before it gives one away, each in vain.
                self.home.discard_idle();
            }
        }
        result
    }
}

impl Deref for Connection {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        &self.held
    }
}

impl DerefMut for Connection {
    fn deref_mut(&mut self) -> &mut PgConnection {
        &mut self.held
    }
}
