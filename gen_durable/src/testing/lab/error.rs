//! The errors of a lab: they print where an instance stands, and what was done.

use std::fmt;

use crate::error::{DatabaseError, Error};

/// The most connections that a lab uses at once: a step's, the engine's, and the lab's own.
pub(super) const POOL_MIN: u32 = 3;

/// A lab could not do its work, or something did not hold.
///
/// Its `Debug` is its text, so that a test which returns it prints that.
#[derive(thiserror::Error)]
#[error(transparent)]
pub struct LabError(Box<Kind>);

#[derive(Debug, thiserror::Error)]
enum Kind {
    #[error("the lab could not start: {0}")]
    Start(Error),
    #[error("the lab could not migrate the database: {0}")]
    Migrate(gen_durable_migrate::Error),
    #[error("{0}")]
    Database(DatabaseError),
    #[error("the test could not be explored: {0}")]
    Copies(gen_durable_postgres::Error),
    #[error(
        "another lab has this database, and with it the time; give each lab a database of its own, or close the first one (one that ended with its test has left the function `lab_set_clock` in our schema: drop it)"
    )]
    Taken,
    #[error(
        "the pool of a lab needs at least {POOL_MIN} connections, and this one has {0}; raise `max_connections`"
    )]
    SmallPool(u32),
    #[error("{what}\n{trace}")]
    Failed { what: String, trace: String },
}

impl LabError {
    pub(super) fn taken() -> Self {
        Self(Box::new(Kind::Taken))
    }

    pub(super) fn small_pool(connections: u32) -> Self {
        Self(Box::new(Kind::SmallPool(connections)))
    }

    /// Something did not hold. `trace` says what was done before.
    pub(crate) fn failed(what: impl Into<String>, trace: impl Into<String>) -> Self {
        Self(Box::new(Kind::Failed { what: what.into(), trace: trace.into() }))
    }
}

impl fmt::Debug for LabError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<Error> for LabError {
    fn from(error: Error) -> Self {
        Self(Box::new(Kind::Start(error)))
    }
}

impl From<gen_durable_migrate::Error> for LabError {
    fn from(error: gen_durable_migrate::Error) -> Self {
        Self(Box::new(Kind::Migrate(error)))
    }
}

impl From<gen_durable_postgres::Error> for LabError {
    fn from(error: gen_durable_postgres::Error) -> Self {
        Self(Box::new(Kind::Copies(error)))
    }
}

impl From<DatabaseError> for LabError {
    fn from(error: DatabaseError) -> Self {
        Self(Box::new(Kind::Database(error)))
    }
}
