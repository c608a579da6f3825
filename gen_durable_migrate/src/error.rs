//! Why a migration did not happen.
//!
//! Invariant: nothing was changed.

use crate::Migration;

/// A migration failed; the database is as it was.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The database was migrated by a newer program.
    #[error(
        "the database has schema version {found}, and this program knows {latest}; use a newer gen_durable_migrate"
    )]
    TooNew {
        /// The version found.
        found: i32,
        /// The version that this program knows.
        latest: i32,
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
    #[error("migration {version} ({name}) {direction} failed")]
    Migration {
        /// Its number.
        version: i32,
        /// Its name.
        name: &'static str,
        /// `up` or `down`.
        direction: &'static str,
        /// What the database said.
        source: sqlx::Error,
    },
    /// The database failed.
    #[error("could not {operation}")]
    Database {
        /// What was tried.
        operation: &'static str,
        /// What the driver said.
        source: sqlx::Error,
    },
}

impl Error {
    pub(crate) fn database(operation: &'static str) -> impl FnOnce(sqlx::Error) -> Self {
        move |source| Self::Database { operation, source }
    }

    pub(crate) fn migration(
        migration: &Migration,
        direction: &'static str,
    ) -> impl FnOnce(sqlx::Error) -> Self {
        let (version, name) = (migration.version, migration.name);
        move |source| Self::Migration { version, name, direction, source }
    }
}
