//! The reasons for which a migration did not happen.
//!
//! Invariant: after an error nothing was changed. `Display` states the cause and `source` is empty,
//! so a program that prints a chain of errors prints the cause once.

use std::{fmt, time::Duration};

use sqlx::{ConnectOptions, Connection, PgPool};

use crate::Migration;

/// The time in which a connection of its own must show why the pool had none.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// A migration failed; the database is as it was.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The database was migrated by a newer program.
    #[error(
        "the database has schema version {found}, which serves engines from version {serves} on, and this \
         program knows {latest}; use a newer gen_durable_migrate"
    )]
    TooNew {
        /// The version found.
        found: i32,
        /// The oldest engine that it serves.
        serves: i32,
        /// The version that this program knows.
        latest: i32,
    },
    /// The schema `gen_durable` has a table `migrations` that this program did not make.
    #[error(
        "`gen_durable.migrations` is not this program's ledger, as it has no column `{missing}`: the schema \
         `gen_durable` is somebody else's; rename it, or use another database"
    )]
    ForeignLedger {
        /// A column of the ledger, with its type, that the table lacks.
        missing: &'static str,
    },
    /// The schema `gen_durable` has tables but no ledger of migrations.
    #[error(
        "the schema `gen_durable` has a table `{relation}` and no ledger of migrations: it is somebody else's; \
         rename it, or use another database"
    )]
    ForeignSchema {
        /// A table or view of the schema.
        relation: String,
    },
    /// The login may make no tables in the schema `gen_durable`.
    #[error(
        "the schema `gen_durable` belongs to `{owner}`, and this login may make no tables in it; migrate as \
         `{owner}`, or let it be granted: `grant usage, create on schema gen_durable to …`"
    )]
    NoRight {
        /// The owner of the schema.
        owner: String,
    },
    /// No migration has this version.
    #[error("there is no schema version {version}; the versions are 1 to {latest}")]
    UnknownVersion {
        /// The version asked for.
        version: i32,
        /// The latest version.
        latest: i32,
    },
    /// The database is not at the version that the roles are written for.
    #[error(
        "the database has schema version {found}, and the roles are for {latest}; migrate it first (`gen-durable migrate up`)"
    )]
    OtherVersion {
        /// The version found; 0 if there is none.
        found: i32,
        /// The version that this program knows.
        latest: i32,
    },
    /// Instances that have not ended would be lost.
    #[error("{live} live instances would be lost; let them end first, or force it (`--force`)")]
    LiveInstances {
        /// The number of instances that have not ended.
        live: i64,
    },
    /// A migration's statements failed.
    #[error("migration {version} ({name}) {direction} failed: {cause}")]
    Migration {
        /// The number of the migration.
        version: i32,
        /// The name of the migration.
        name: &'static str,
        /// `up` or `down`.
        direction: &'static str,
        /// The error that the database gave.
        cause: Cause,
    },
    /// The database failed.
    #[error("could not {operation}: {cause}")]
    Database {
        /// The operation that failed.
        operation: &'static str,
        /// The error that the database or the driver gave.
        cause: Cause,
    },
}

/// The error that the database or the driver gave.
pub struct Cause(sqlx::Error);

impl Cause {
    /// Returns the SQLSTATE, Postgres's code of five characters, if the error came from Postgres.
    pub fn sqlstate(&self) -> Option<&str> {
        let error = self.0.as_database_error()?;
        let error = error.try_downcast_ref::<sqlx::postgres::PgDatabaseError>()?;
        Some(error.code())
    }

    /// Returns the driver's own error, to be downcast to its type (`sqlx::Error`).
    pub fn driver_error(&self) -> &(dyn std::error::Error + Send + Sync + 'static) {
        &self.0
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            // The driver's text also names a line of Postgres's own source, which helps no user.
            sqlx::Error::Database(error) => {
                f.write_str(error.message())?;
                error.code().map_or(Ok(()), |code| write!(f, " (SQLSTATE {code})"))
            }
            sqlx::Error::Io(error) => error.fmt(f),
            sqlx::Error::Tls(error) => write!(f, "TLS: {error}"),
            sqlx::Error::Configuration(error) => error.fmt(f),
            sqlx::Error::Protocol(text) => f.write_str(text),
            sqlx::Error::PoolTimedOut => f.write_str(
                "every connection of the pool was in use for as long as its `acquire_timeout`",
            ),
            error => error.fmt(f),
        }
    }
}

/// Leaves out Postgres's details, which may hold the values of a row.
impl fmt::Debug for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Finds out why a pool has no connection to give. If the server is gone, full or starting up, the
/// pool's own error only says that the time is up.
pub(crate) async fn why(pool: &PgPool, error: sqlx::Error) -> sqlx::Error {
    if !matches!(error, sqlx::Error::PoolTimedOut) {
        return error;
    }
    let options = pool.connect_options();
    let made = async { options.connect().await?.close().await };
    match tokio::time::timeout(PROBE_TIMEOUT, made).await {
        Ok(Err(error)) => error,
        Ok(Ok(())) => sqlx::Error::PoolTimedOut,
        Err(_elapsed) => {
            sqlx::Error::Protocol(format!("no answer from the server within {PROBE_TIMEOUT:?}"))
        }
    }
}

impl Error {
    pub(crate) fn database(operation: &'static str) -> impl FnOnce(sqlx::Error) -> Self {
        move |error| Self::Database { operation, cause: Cause(error) }
    }

    pub(crate) fn migration(
        migration: &Migration,
        direction: &'static str,
    ) -> impl FnOnce(sqlx::Error) -> Self {
        let (version, name) = (migration.version, migration.name);
        move |error| Self::Migration { version, name, direction, cause: Cause(error) }
    }
}
