//! Inserts and signals that share commits.
//!
//! Invariant: a call gets exactly one answer. If Postgres refuses a row, only that row's call
//! fails. If another transaction has a row locked, only that row's call waits.

mod inserts;
mod signals;

use std::{
    io,
    sync::Arc,
    time::{Duration, Instant},
};

pub(super) use self::{inserts::insert_with, signals::deliver_with};
use super::{notifier::Notifier, per_runtime::Idle};
use crate::{
    connections::Connections,
    error::{DatabaseError, Duplicate, SignalError},
    group::Group,
    status::Delivery,
    storage::{Locked, NewInstance, NewSignal},
};

/// The most rows in one shared commit.
const BATCH_MAX: usize = 500;
/// The most shared commits of a group that are under way at a time.
const TASKS_MAX: usize = 2;
/// The most further tries of a batch that Postgres rolled back to resolve a deadlock.
pub(super) const DEADLOCK_TRIES_MAX: usize = 10;
/// The SQLSTATE of a statement that was ended, by a timeout for example.
const CANCELLED: &str = "57014";
/// The most calls of a group that wait at a time for a lock of another transaction. Each holds a
/// connection.
const WAITING_MAX: usize = 1;

/// The calls of one runtime.
#[derive(Debug)]
pub(super) struct Calls {
    connections: Connections,
    /// Inserts that no other transaction can hold up.
    plain: Arc<Group<inserts::PendingInsert>>,
    /// Inserts with a unique key, which another transaction may be inserting.
    unique: Arc<Group<inserts::PendingInsert>>,
    signals: Arc<Group<signals::PendingSignal>>,
}

impl Calls {
    pub(super) fn new(connections: &Connections, notifier: &Arc<Notifier>) -> Self {
        Self {
            connections: connections.clone(),
            plain: inserts::group(connections, notifier),
            unique: inserts::group(connections, notifier),
            signals: signals::group(connections, notifier),
        }
    }

    pub(super) async fn insert(
        &self,
        row: NewInstance,
    ) -> Result<Result<i64, Duplicate>, DatabaseError> {
        let group = if row.unique_key.is_some() { &self.unique } else { &self.plain };
        let _under_way = self.connections.under_way();
        let (pending, answer) = inserts::PendingInsert::new(row);
        group.submit(pending);
        answer.await.unwrap_or_else(|_| Err(stopped("insert an instance")))
    }

    pub(super) async fn signal(&self, signal: NewSignal) -> Result<Delivery, SignalError> {
        let _under_way = self.connections.under_way();
        let (pending, answer) = signals::PendingSignal::new(signal);
        self.signals.submit(pending);
        answer.await.unwrap_or_else(|_| Err(stopped("deliver a signal").into()))
    }
}

impl Idle for Calls {
    fn is_idle(&self) -> bool {
        self.plain.is_idle() && self.unique.is_idle() && self.signals.is_idle()
    }
}

/// Makes the error of a call whose task panicked, or was dropped with its runtime.
fn stopped(operation: &'static str) -> DatabaseError {
    DatabaseError::new(operation)(sqlx::Error::WorkerCrashed)
}

/// The wait of a call for a row or a key that another transaction has locked.
pub(super) struct Wait<'a> {
    operation: &'static str,
    what: &'a str,
    since: Instant,
    lock_wait_max: Duration,
    /// The way in which the next try waits for the lock.
    pub(super) locked: Locked,
}

impl<'a> Wait<'a> {
    pub(super) fn new(connections: &Connections, operation: &'static str, what: &'a str) -> Self {
        let (since, lock_wait_max) = (Instant::now(), connections.answer_timeout());
        Self { operation, what, since, lock_wait_max, locked: Locked::WaitASecond }
    }

    /// Returns the answer of a try, or none if the try found something locked and another one is
    /// due.
    pub(super) fn over<T>(
        &mut self,
        answer: Result<T, DatabaseError>,
    ) -> Option<Result<T, DatabaseError>> {
        match answer {
            Err(error) if error.is_locked() => {
                held(self.operation, self.what, self.since, self.lock_wait_max).map(Err)
            }
            // The statement timeout may have ended a wait for the lock. The next try waits for
            // less, so that a lock timeout says if it was the lock.
            Err(error)
                if self.locked == Locked::WaitASecond && error.sqlstate() == Some(CANCELLED) =>
            {
                self.locked = Locked::WaitAMoment;
                None
            }
            answer => Some(answer),
        }
    }
}

/// Returns an error if the call has waited for the lock for as long as a call may.
fn held(
    operation: &'static str,
    what: &str,
    since: Instant,
    lock_wait_max: Duration,
) -> Option<DatabaseError> {
    let error = || {
        let text = format!(
            "{what} is locked by another transaction, and has been for {lock_wait_max:?}: that transaction must end first"
        );
        DatabaseError::new(operation)(sqlx::Error::Io(io::Error::new(
            io::ErrorKind::TimedOut,
            text,
        )))
    };
    (since.elapsed() >= lock_wait_max).then(error)
}
