//! Why a migration did not happen.
//!
//! Invariant: nothing was changed. `Display` states the cause, so `source` has none: whoever prints
//! a chain of errors prints it once.

use std::{fmt, time::Duration};

use sqlx::{ConnectOptions, Connection, PgPool};

use crate::Migration;

/// The time for a connection that shows why the pool had none.
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
    /// The schema `gen_durable` has a table `migrations` that is not this program's.
    #[error(
        "`gen_durable.migrations` is not this program's ledger, as it has no column `{missing}`: the schema \
         `gen_durable` is somebody else's; rename it, or use another database"
    )]
    ForeignLedger {
        /// A column, with its type, that the ledger has.
        missing: &'static str,
    },
    /// The schema `gen_durable` has tables, and no ledger of migrations.
    #[error(
        "the schema `gen_durable` has a table `{relation}` and no ledger of migrations: it is somebody else's; \
         rename it, or use another database"
    )]
    ForeignSchema {
        /// One of its tables or views.
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
    /// There is no such version.
    #[error("there is no schema version {version}; the versions are 1 to {latest}")]
    UnknownVersion {
        /// The version asked for.
        version: i32,
        /// The last there is.
        latest: i32,
    },
    /// The roles are those of another version.
    #[error(
        "the database has schema version {found}, and the roles are for {latest}; migrate it first (`gen-durable-migrate up`)"
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
        /// How many.
        live: i64,
    },
    /// A migration's statements failed.
    #[error("migration {version} ({name}) {direction} failed: {cause}")]
    Migration {
        /// Its number.
        version: i32,
        /// Its name.
        name: &'static str,
        /// `up` or `down`.
        direction: &'static str,
        /// What the database said.
        cause: Cause,
    },
    /// The database failed.
    #[error("could not {operation}: {cause}")]
    Database {
        /// What was tried.
        operation: &'static str,
        /// What the database or the driver said.
        cause: Cause,
    },
}

/// What the database or the driver said.
pub struct Cause(sqlx::Error);

impl Cause {
    /// Postgres's code for what is wrong, of five characters, if it was Postgres that said so.
    pub fn sqlstate(&self) -> Option<&str> {
        let error = self.0.as_database_error()?;
        let error = error.try_downcast_ref::<sqlx::postgres::PgDatabaseError>()?;
        Some(error.code())
    }

    /// The driver's own error, to be downcast to its type (`sqlx::Error`).
    pub fn driver_error(&self) -> &(dyn std::error::Error + Send + Sync + 'static) {
        &self.0
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            // Without the line of Postgres's own source that the driver adds.
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

/// Without Postgres's details, which may hold a row.
impl fmt::Debug for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Why a pool has no connection to give: where the server is gone, full or starting up, it says no
/// more than that its time is up.
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
