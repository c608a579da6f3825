//! The table `declarations`: the limits and schedules that the program of each worker declares.
//!
//! Invariant: a worker is registered together with all that its program declares, or not at all.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use sqlx::{PgConnection, Row};

use super::{
    begin,
    limits::{DeclaredLimit, LIMIT, LOCK_DECLARATIONS, register_limits},
    workers::{Process, register_worker},
};

const DECLARE: &str = include_str!("sql/declare.sql");

/// The kind of a declaration, as the table has it, and its name.
type Subject = (String, String);

/// All that the program of an engine declares.
#[derive(Debug, Default)]
pub(crate) struct Declarations {
    bodies: BTreeMap<Subject, String>,
    pub(crate) limits: Vec<DeclaredLimit>,
    /// The times at which they appeared, in microseconds since 1970, as the database said when the
    /// engine declared them last.
    appeared: Mutex<BTreeMap<Subject, i64>>,
}

impl Declarations {
    /// Adds a limit.
    pub(crate) fn add_limit(&mut self, limit: DeclaredLimit) {
        self.add(LIMIT, &limit.name, limit.body.clone());
        self.limits.push(limit);
    }

    /// Adds a declaration of the kind `limit` or `schedule`. A second one of a name replaces the
    /// first.
    pub(crate) fn add(&mut self, kind: &str, name: &str, body: String) {
        self.bodies.insert((kind.to_owned(), name.to_owned()), body);
    }
}

/// Registers a worker with its declarations, and returns its id, which is never used again.
/// Without declarations it runs one statement.
pub(crate) async fn register_declaring(
    connection: &mut PgConnection,
    ttl: Duration,
    process: &Process<'_>,
    declared: &Declarations,
) -> Result<i64, sqlx::Error> {
    if declared.bodies.is_empty() {
        return register_worker(connection, ttl, process).await;
    }
    let mut transaction = begin(connection).await?;
    sqlx::query(LOCK_DECLARATIONS).execute(&mut *transaction).await?;
    let worker = register_worker(&mut transaction, ttl, process).await?;
    let appeared = declare(&mut transaction, worker, declared).await?;
    if !declared.limits.is_empty() {
        register_limits(&mut transaction, &declared.limits).await?;
    }
    transaction.commit().await?;
    *declared.appeared.lock().unwrap_or_else(PoisonError::into_inner) = appeared;
    Ok(worker)
}

/// Declares all of them for a worker, and returns the times at which they appeared. The transaction
/// has taken the lock before.
async fn declare(
    transaction: &mut PgConnection,
    worker: i64,
    declared: &Declarations,
) -> Result<BTreeMap<Subject, i64>, sqlx::Error> {
    let subjects = || declared.bodies.keys();
    let known: Vec<Option<i64>> = {
        let appeared = declared.appeared.lock().unwrap_or_else(PoisonError::into_inner);
        subjects().map(|subject| appeared.get(subject).copied()).collect()
    };
    let rows = sqlx::query(DECLARE)
        .bind(worker)
        .bind(subjects().map(|(kind, _)| kind.as_str()).collect::<Vec<_>>())
        .bind(subjects().map(|(_, name)| name.as_str()).collect::<Vec<_>>())
        .bind(declared.bodies.values().map(String::as_str).collect::<Vec<_>>())
        .bind(known)
        .fetch_all(transaction)
        .await?;
    let appeared = |row: &sqlx::postgres::PgRow| {
        Ok(((row.try_get("kind")?, row.try_get("name")?), row.try_get("appeared_at")?))
    };
    rows.iter().map(appeared).collect()
}
