//! Inserts and signals that share commits.
//!
//! Invariant: a call gets exactly one answer. A row that Postgres refuses fails its own call alone, and
//! one that somebody else's transaction has locked holds up its own call alone.

mod inserts;
mod signals;

use std::{
    io,
    sync::Arc,
    time::{Duration, Instant},
};

pub(super) use self::{inserts::insert_with, signals::deliver_with};
use crate::{
    announce::Announcer,
    connections::Connections,
    error::{DatabaseError, Duplicate, SignalError},
    group::Group,
    per_runtime::Idle,
    signal::Delivery,
    storage::{Locked, NewInstance, NewSignal},
};

/// The most rows in one shared commit.
const BATCH_MAX: usize = 500;
/// Shared commits under way at a time.
const TASKS_MAX: usize = 2;
/// Tries of a batch that Postgres rolled back to resolve a deadlock, after the first.
const DEADLOCK_TRIES_MAX: usize = 10;
/// The SQLSTATE of a statement that was ended: by a timeout, say.
const CANCELLED: &str = "57014";
/// Calls that wait at a time for what somebody else has locked, each on a connection.
const WAITING_MAX: usize = 1;

/// The calls of one runtime.
#[derive(Debug)]
pub(super) struct Calls {
    connections: Connections,
    /// Inserts that no other transaction can hold up.
    plain: Arc<Group<inserts::Job>>,
    /// Inserts with a unique key, which somebody else may be inserting.
    unique: Arc<Group<inserts::Job>>,
    signals: Arc<Group<signals::Job>>,
}

impl Calls {
    pub(super) fn new(connections: &Connections, announcer: &Arc<Announcer>) -> Self {
        Self {
            connections: connections.clone(),
            plain: inserts::group(connections, announcer),
            unique: inserts::group(connections, announcer),
            signals: signals::group(connections, announcer),
        }
    }

    pub(super) async fn insert(
        &self,
        row: NewInstance,
    ) -> Result<Result<i64, Duplicate>, DatabaseError> {
        let group = if row.unique_key.is_some() { &self.unique } else { &self.plain };
        let _under_way = self.connections.under_way();
        let (job, answer) = inserts::Job::new(row);
        group.submit(job);
        answer.await.unwrap_or_else(|_| Err(stopped("insert an instance")))
    }

    pub(super) async fn signal(&self, signal: NewSignal) -> Result<Delivery, SignalError> {
        let _under_way = self.connections.under_way();
        let (job, answer) = signals::Job::new(signal);
        self.signals.submit(job);
        answer.await.unwrap_or_else(|_| Err(stopped("deliver a signal").into()))
    }
}

impl Idle for Calls {
    fn is_idle(&self) -> bool {
        self.plain.is_idle() && self.unique.is_idle() && self.signals.is_idle()
    }
}

/// The task that carried the call was dropped with its runtime, or panicked.
fn stopped(operation: &'static str) -> DatabaseError {
    DatabaseError::new(operation)(sqlx::Error::WorkerCrashed)
}

/// The time that a call waits for what somebody else has locked.
pub(super) struct Wait<'a> {
    operation: &'static str,
    what: &'a str,
    since: Instant,
    patience: Duration,
    /// The wait of the next try for a locked row or key.
    pub(super) locked: Locked,
}

impl<'a> Wait<'a> {
    pub(super) fn new(connections: &Connections, operation: &'static str, what: &'a str) -> Self {
        let (since, patience) = (Instant::now(), connections.patience());
        Self { operation, what, since, patience, locked: Locked::WaitBriefly }
    }

    /// The answer of a try; none if it found something locked, and is worth another one.
    pub(super) fn over<T>(
        &mut self,
        answer: Result<T, DatabaseError>,
    ) -> Option<Result<T, DatabaseError>> {
        match answer {
            Err(error) if error.is_locked() => {
                held(self.operation, self.what, self.since, self.patience).map(Err)
            }
            // The statement timeout may have ended a wait for the lock. The next try waits for
            // less, so that a lock timeout says if it was the lock.
            Err(error)
                if self.locked == Locked::WaitBriefly && error.sqlstate() == Some(CANCELLED) =>
            {
                self.locked = Locked::WaitAMoment;
                None
            }
            answer => Some(answer),
        }
    }
}

/// Somebody else had something locked for as long as a call waits, if it is so long by now.
fn held(
    operation: &'static str,
    what: &str,
    since: Instant,
    patience: Duration,
) -> Option<DatabaseError> {
    let error = || {
        let text = format!(
            "{what} is locked by another transaction, and has been for {patience:?}: that transaction must end first"
        );
        DatabaseError::new(operation)(sqlx::Error::Io(io::Error::new(
            io::ErrorKind::TimedOut,
            text,
        )))
    };
    (since.elapsed() >= patience).then(error)
}
