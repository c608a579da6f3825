//! The connections of the steps that run in a transaction.
//!
//! ```text
//!   begin ──► step ──► outcome applied ──► COMMIT ──► session cleared ──► kept for the next step
//!               │             │
//!               │             └── not applied ──► ROLLBACK ──► session cleared
//!               ├── error, panic ──────────────► ROLLBACK ──► session cleared
//!               └── cut off ──► its server process ended ──► closed
//! ```
//!
//! Invariant: these connections are apart from those of the engine's own statements. Steps that
//! hold all of them hold up no commit and no lease. A connection that is kept has nothing left of
//! the step that had it before.

use std::{
    ops::{Deref, DerefMut},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use sqlx::{Connection as _, PgConnection, Postgres, Transaction};
use tokio::{
    runtime,
    sync::{OwnedSemaphorePermit, Semaphore},
};

use crate::{
    connections::{Backend, Connection, Connections, within},
    error::Cause,
    isolation::Isolation,
    storage,
};

/// The time that a rollback has. A step may have dropped the future of a statement that still runs.
const ROLL_BACK: Duration = Duration::from_secs(1);
/// Postgres ends a transaction this much later than the engine ends its step.
const MARGIN: Duration = Duration::from_secs(1);
/// The time that the ending of a server process has.
const END: Duration = Duration::from_secs(2);

/// The transactions of an engine's steps.
#[derive(Debug)]
pub(crate) struct Transactions {
    connections: Connections,
    /// The connections of the engine's own statements, on which a step's server process is ended.
    engine: Connections,
    places: Arc<Semaphore>,
    #[cfg(feature = "testing")]
    max: usize,
    handed: Mutex<Handed>,
    runtime: runtime::Handle,
    /// A pooler may lend the session to others between two transactions.
    pooled: bool,
}

impl Transactions {
    /// Creates the transactions of an engine, of which `max` may be open at once.
    pub(super) fn new(
        connections: Connections,
        engine: &Connections,
        max: u32,
        pooled: bool,
    ) -> Arc<Self> {
        Arc::new(Self {
            connections,
            engine: engine.clone(),
            places: Arc::new(Semaphore::new(max as usize)),
            #[cfg(feature = "testing")]
            max: max as usize,
            handed: Mutex::default(),
            runtime: runtime::Handle::current(),
            pooled,
        })
    }

    /// Returns a connection for one transaction. It waits until one is free.
    pub(super) async fn place(self: &Arc<Self>) -> Result<Place, sqlx::Error> {
        let waiting = Waiting::begin(self);
        // The semaphore is never closed.
        let permit = Arc::clone(&self.places).acquire_owned().await;
        let permit = permit.map_err(|_| sqlx::Error::PoolClosed)?;
        let (connection, state) = match waiting.end() {
            Some(connection) => (connection, State::Left),
            None => (self.connections.get().await?, State::Unused),
        };
        let home = Arc::clone(self);
        Ok(Place { connection: Some(connection), state, home, permit: Some(permit) })
    }

    /// Ends the server process of a step that was cut off, or whose connection gives no answer.
    pub(super) async fn end(&self, pid: i32) {
        let end = async {
            let mut connection = self.engine.get().await?;
            let ended = storage::end_backend(&mut connection, pid).await;
            connection.done(ended)
        };
        if let Err(error) = within(END, end).await {
            tracing::debug!(error = %Cause(&error), "could not end the transaction of a step");
        }
    }

    /// Clears the session of a connection, and keeps it for another step.
    async fn clear(&self, mut connection: Connection) {
        let Some(settings) = connection.backend().map(|backend| Arc::clone(&backend.settings))
        else {
            return connection.discard();
        };
        match self.connections.within(storage::reset_step(&mut connection, &settings)).await {
            Ok(()) => drop(connection.done(Ok(()))),
            Err(_) => connection.discard(),
        }
    }

    /// Waits until no connection is in use.
    #[cfg(feature = "testing")]
    pub(super) async fn none(&self) {
        let all = u32::try_from(self.max).unwrap_or(u32::MAX);
        drop(self.places.acquire_many(all).await);
    }

    fn handed(&self) -> MutexGuard<'_, Handed> {
        self.handed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Closes the connections.
    pub(super) async fn close(&self) {
        self.connections.close().await;
    }
}

/// Connections that go from one step to the next, with what the first has left in the session. The
/// next transaction begins by clearing it, which saves a round trip.
///
/// Invariant: there are no more of them than steps that wait. The permit of each is free.
#[derive(Debug, Default)]
struct Handed {
    waiting: usize,
    connections: Vec<Connection>,
}

/// A step that waits for a place.
struct Waiting<'a>(Option<&'a Arc<Transactions>>);

impl<'a> Waiting<'a> {
    fn begin(home: &'a Arc<Transactions>) -> Self {
        home.handed().waiting += 1;
        Self(Some(home))
    }

    /// Ends the wait, and returns a connection that was handed over, if there is one.
    fn end(mut self) -> Option<Connection> {
        let mut handed = self.0.take()?.handed();
        handed.waiting -= 1;
        handed.connections.pop()
    }
}

/// The step waits no longer, and gets no place.
impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let Some(home) = self.0.take() else { return };
        let mut handed = home.handed();
        handed.waiting -= 1;
        if handed.connections.len() > handed.waiting
            && let Some(connection) = handed.connections.pop()
        {
            let home = Arc::clone(home);
            home.runtime.clone().spawn(async move { home.clear(connection).await });
        }
    }
}

/// A connection for one transaction of a step. If it is dropped in the middle of the transaction,
/// the step was cut off: its server process is ended and the connection is closed.
#[derive(Debug)]
pub(super) struct Place {
    /// None after the drop.
    connection: Option<Connection>,
    state: State,
    home: Arc<Transactions>,
    permit: Option<OwnedSemaphorePermit>,
}

/// The state of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Unused,
    InTransaction {
        /// The server process that has the transaction.
        pid: i32,
    },
    /// The transaction has ended, and the session has what the step left in it.
    Left,
    Broken,
}

/// An open transaction of a step.
#[derive(Debug)]
pub(super) struct Open<'p> {
    transaction: Transaction<'p, Postgres>,
    pid: i32,
    state: &'p mut State,
}

impl Place {
    /// Begins a transaction, which Postgres ends soon after this limit.
    pub(super) async fn begin(
        &mut self,
        isolation: Isolation,
        limit: Option<Duration>,
    ) -> Result<Open<'_>, sqlx::Error> {
        let home = &self.home;
        let connection = self.connection.as_mut().ok_or(sqlx::Error::PoolClosed)?;
        let left = self.state == State::Left;
        self.state = State::Broken;
        let begin = async {
            if !home.pooled && connection.backend().is_none() {
                let settings = Arc::new(storage::session_settings(connection).await?);
                let pid = storage::backend(connection).await?;
                connection.set_backend(Backend { pid, settings });
            }
            let known = connection.backend().map(|backend| backend.pid);
            let mut transaction = storage::begin_step(connection, isolation, left).await?;
            // A pooler gives each transaction a session of its choice.
            let pid = match known {
                Some(pid) => pid,
                None => storage::backend(&mut transaction).await?,
            };
            if let Some(limit) = limit {
                storage::limit_step(&mut transaction, limit.saturating_add(MARGIN)).await?;
            }
            Ok((transaction, pid))
        };
        let (transaction, pid) = home.connections.within(begin).await?;
        self.state = State::InTransaction { pid };
        Ok(Open { transaction, pid, state: &mut self.state })
    }

    /// True if the driver counts a transaction that has not ended.
    pub(super) fn is_open(&self) -> bool {
        self.connection.as_ref().is_some_and(|connection| connection.is_in_transaction())
    }
}

impl Open<'_> {
    /// Returns the server process that has the transaction.
    pub(super) fn pid(&self) -> i32 {
        self.pid
    }

    /// Commits. After an error it is open what became of the transaction, if the error does not
    /// tell.
    pub(super) async fn commit(self, answer_timeout: Duration) -> Result<(), sqlx::Error> {
        *self.state = State::Broken;
        within(answer_timeout, self.transaction.commit()).await?;
        *self.state = State::Left;
        Ok(())
    }

    /// Rolls back. True if the connection works.
    pub(super) async fn roll_back(self) -> bool {
        // After an error, or without an answer, the drop of the place ends what still runs.
        let ended = within(ROLL_BACK, self.transaction.rollback()).await.is_ok();
        if ended {
            *self.state = State::Left;
        }
        ended
    }

    /// Notes that the connection failed.
    pub(super) fn fail(self) {
        *self.state = State::Broken;
    }
}

impl Deref for Open<'_> {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        &self.transaction
    }
}

impl DerefMut for Open<'_> {
    fn deref_mut(&mut self) -> &mut PgConnection {
        &mut self.transaction
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let (Some(connection), permit) = (self.connection.take(), self.permit.take()) else {
            return;
        };
        let (home, state) = (Arc::clone(&self.home), self.state);
        let plain = connection.backend().is_some_and(|backend| backend.settings.0.is_none());
        if state == State::Left && plain && !connection.is_in_transaction() && !connection.is_old()
        {
            let mut handed = home.handed();
            if handed.waiting > handed.connections.len() {
                handed.connections.push(connection);
                return;
            }
        }
        // No run waits for this. The permit is held until the connection is free or closed.
        self.home.runtime.spawn(async move {
            match state {
                State::Unused => drop(connection.done(Ok(()))),
                State::Broken => connection.discard(),
                // A nested transaction was left open: nothing was committed.
                State::Left if connection.is_in_transaction() => connection.discard(),
                // The pooler may have lent the session to another client by now.
                State::Left if home.pooled => drop(connection.done(Ok(()))),
                State::Left => home.clear(connection).await,
                State::InTransaction { pid } => {
                    // Until the connection is closed, the number is that of its own process.
                    home.end(pid).await;
                    connection.discard();
                }
            }
            drop(permit);
        });
    }
}
