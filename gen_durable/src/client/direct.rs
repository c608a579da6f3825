//! Inserts and signals that share no commit: on a pool, or in the caller's transaction.
//!
//! Invariant: work is announced when it is committed, and never before.

use sqlx::{PgConnection, PgPool};

use super::{
    calls::{DEADLOCK_TRIES_MAX, Wait, deliver_with, insert_with},
    notifier::{POLL_INTERVAL, latest_poll},
};
use crate::{
    connections::Connections,
    error::{Cause, DatabaseError, Duplicate, InsertError, SignalError},
    fault,
    status::Delivery,
    storage::{self, Found, Locked, NewInstance, NewSignal},
};

pub(super) const INSERT_OR_SIGNAL: &str = "insert or signal an instance";

pub(crate) async fn insert_on_pool(
    pool: &PgPool,
    rows: Vec<NewInstance>,
) -> Result<Vec<Result<i64, Duplicate>>, InsertError> {
    let connections = Connections::once(pool.clone());
    let mut wait = Wait::new(&connections, "insert instances", "a unique key");
    let answers = loop {
        let tried = insert_with(&connections, &rows, wait.locked).await;
        if let Some(answers) = wait.over(tried) {
            break answers?;
        }
    };
    // After the commit, so that no inserter waits for another: Postgres lets only one transaction
    // with a notification commit at a time. If the announcement fails, the engines' poll finds the
    // rows.
    announce_on_pool(&connections, to_announce(&rows)).await;
    Ok(answers)
}

pub(crate) async fn signal_on_pool(
    pool: &PgPool,
    signal: NewSignal,
) -> Result<Delivery, SignalError> {
    let connections = Connections::once(pool.clone());
    let target = signal.target.to_string();
    let mut wait = Wait::new(&connections, "deliver a signal", &target);
    let sent = loop {
        let tried = deliver_with(&connections, &[&signal], wait.locked).await;
        if let Some(sent) = wait.over(tried) {
            break sent?;
        }
    };
    announce_on_pool(&connections, sent.queues().map(str::to_owned)).await;
    sent.only(&signal)
}

/// Returns the queues of the rows that are to be announced.
fn to_announce<'a>(
    rows: impl IntoIterator<Item = &'a NewInstance>,
) -> impl Iterator<Item = String> {
    let next_look = latest_poll(POLL_INTERVAL);
    rows.into_iter().filter(move |row| row.is_announced(next_look)).map(|row| row.queue.clone())
}

async fn announce_on_pool(connections: &Connections, queues: impl Iterator<Item = String>) {
    let queues = distinct(queues);
    if queues.is_empty() {
        return;
    }
    let Ok(mut connection) = connections.get().await else { return };
    let announced = storage::announce(&mut connection, &queues).await;
    if let Err(error) = connection.done(announced) {
        let error = Cause(&error);
        tracing::debug!(%error, "could not announce work; the engines' poll will find it");
    }
}

pub(crate) async fn insert_in_transaction(
    connection: &mut PgConnection,
    rows: Vec<NewInstance>,
) -> Result<Vec<Result<i64, Duplicate>>, InsertError> {
    let failed = DatabaseError::new("insert instances");
    let inserted = storage::insert(connection, &rows, Locked::Wait, None).await;
    let inserted = inserted.map_err(failed)?;
    notify_in_transaction(connection, to_announce(&rows)).await?;
    Ok(inserted.answers)
}

pub(crate) async fn signal_in_transaction(
    connection: &mut PgConnection,
    signal: NewSignal,
) -> Result<Delivery, SignalError> {
    let failed = DatabaseError::new("deliver a signal");
    let sent = storage::deliver(connection, &[&signal], Locked::Wait).await.map_err(failed)?;
    notify_in_transaction(connection, sent.queues().map(str::to_owned)).await?;
    sent.only(&signal)
}

pub(crate) async fn insert_or_signal_on_pool(
    pool: &PgPool,
    row: NewInstance,
    signal: NewSignal,
) -> Result<Found, DatabaseError> {
    let connections = Connections::once(pool.clone());
    let target = signal.target.to_string();
    let mut wait = Wait::new(&connections, INSERT_OR_SIGNAL, &target);
    let found = loop {
        let tried = insert_or_signal_with(&connections, &row, &signal, wait.locked).await;
        if let Some(found) = wait.over(tried) {
            break found?;
        }
    };
    announce_on_pool(&connections, reached(&found, &row, &signal)).await;
    Ok(found)
}

pub(crate) async fn insert_or_signal_in_transaction(
    connection: &mut PgConnection,
    row: NewInstance,
    signal: NewSignal,
) -> Result<Found, DatabaseError> {
    let found = storage::insert_or_signal(connection, &row, &signal, Locked::Wait).await;
    let found = found.map_err(DatabaseError::new(INSERT_OR_SIGNAL))?;
    notify_in_transaction(connection, reached(&found, &row, &signal)).await?;
    Ok(found)
}

/// Inserts an instance with a signal, or signals the holder of its unique key.
pub(super) async fn insert_or_signal_with(
    connections: &Connections,
    row: &NewInstance,
    signal: &NewSignal,
    locked: Locked,
) -> Result<Found, DatabaseError> {
    let failed = DatabaseError::new(INSERT_OR_SIGNAL);
    let mut tries = 0;
    loop {
        let call = async {
            let mut connection = connections.get().await?;
            let call = storage::insert_or_signal(&mut connection, row, signal, locked);
            let result = connections.within(call).await;
            connection.done(result)
        };
        match call.await {
            // The session's isolation level may be one at which a statement can fail like this.
            Err(error) if fault::is_rolled_back(&error) && tries < DEADLOCK_TRIES_MAX => tries += 1,
            result => return result.map_err(failed),
        }
    }
}

/// Returns the queue to announce, if there is one: that of a new instance, or of one that was
/// woken.
fn reached(found: &Found, row: &NewInstance, signal: &NewSignal) -> impl Iterator<Item = String> {
    let new: Vec<String> = to_announce(found.started.then_some(row)).collect();
    new.into_iter().chain(found.woken(signal).map(str::to_owned))
}

/// Announces work with the caller's transaction, as only the caller knows when it commits.
async fn notify_in_transaction(
    connection: &mut PgConnection,
    queues: impl Iterator<Item = String>,
) -> Result<(), DatabaseError> {
    let queues = distinct(queues);
    if queues.is_empty() {
        return Ok(());
    }
    storage::notify(connection, &queues).await.map_err(DatabaseError::new("announce work"))
}

fn distinct(queues: impl Iterator<Item = String>) -> Vec<String> {
    queues.collect::<std::collections::BTreeSet<_>>().into_iter().collect()
}
