//! The error of a failed database operation: the operation, the cause, and what helps.
//!
//! Invariant: `Display` states the cause, so `source` returns none. A printer of error chains then
//! prints it once. No public field or signature has a type of the driver.

use std::{error::Error as StdError, fmt, sync::Arc};

use super::cause::Cause;
use crate::fault::{self, Fault};

/// The database failed.
///
/// Its text says what was tried, what the database or the driver said, and what to do if that is
/// known. The text has everything, so [`source`](std::error::Error::source) returns nothing: a
/// printer of whole chains would repeat it. [`sqlstate`](Self::sqlstate) tells one failure from
/// another.
///
/// Neither its text nor its `Debug` output has Postgres's details, which may hold a whole row. They
/// are in [`driver_error`](Self::driver_error).
///
/// ```
/// use gen_durable::prelude::*;
/// # #[durable_fsm(state = i64, output = ())]
/// # pub enum Invoice { Send }
/// # #[durable_fsm]
/// # impl Invoice { async fn send(cx: Context<Self>) -> Outcome<Self> { cx.done(()) } }
///
/// # async fn example(client: Client) -> Result<(), Box<dyn std::error::Error>> {
/// match Invoice::insert(42).execute(&client).await {
///     Err(InsertError::Database(error)) if error.sqlstate() == Some("42501") => {
///         eprintln!("this login may not insert instances: {error}");
///     }
///     other => println!("instance {}", other?),
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
#[non_exhaustive]
pub struct DatabaseError {
    /// The operation that failed, worded to follow "could not".
    pub operation: &'static str,
    /// The driver's error. Calls that shared a commit share its failure.
    source: Arc<sqlx::Error>,
}

impl DatabaseError {
    pub(crate) fn new(operation: &'static str) -> impl FnOnce(sqlx::Error) -> Self {
        move |source| Self { operation, source: Arc::new(source) }
    }

    /// Returns Postgres's code of five characters, if Postgres reported the error: `23514` for a
    /// check that failed, `42501` for a missing right.
    pub fn sqlstate(&self) -> Option<&str> {
        let error = self.source.as_database_error()?;
        let error = error.try_downcast_ref::<sqlx::postgres::PgDatabaseError>()?;
        Some(error.code())
    }

    /// True if the same call may succeed a little later without any repair: the connection broke,
    /// the server restarts, every connection was in use.
    pub fn is_transient(&self) -> bool {
        fault::is_transient(&self.source)
    }

    /// True if another transaction kept a needed lock for too long.
    pub(crate) fn is_locked(&self) -> bool {
        Fault::of(&self.source) == Fault::Locked
    }

    /// True if a part of the batch may work. Postgres itself reported the error, so the batch was
    /// rolled back.
    pub(crate) fn is_divisible(&self) -> bool {
        let fault = Fault::of(&self.source);
        self.source.as_database_error().is_some()
            && matches!(fault, Fault::Data | Fault::Size | Fault::Locked | Fault::Unclear)
    }

    pub(crate) fn is_lasting(&self) -> bool {
        fault::is_lasting(&self.source)
    }

    /// Returns the driver's own error, to be downcast to its type (`sqlx::Error`).
    ///
    /// It may hold Postgres's details, and with them a whole row: print it with care.
    pub fn driver_error(&self) -> &(dyn StdError + Send + Sync + 'static) {
        &*self.source
    }

    /// Returns the message and the hint of the server.
    pub(crate) fn said(&self) -> Option<(String, Option<String>)> {
        let error = self.source.as_database_error()?;
        let error = error.try_downcast_ref::<sqlx::postgres::PgDatabaseError>()?;
        Some((error.message().to_owned(), error.hint().map(str::to_owned)))
    }

    /// Returns advice how to mend the failure, if the code tells.
    fn cure(&self) -> Option<&'static str> {
        match self.sqlstate()? {
            // The table or the schema does not exist.
            "42P01" | "3F000" => Some(
                "the database has no gen_durable schema: \
                 run `gen-durable migrate up` or call `gen_durable_migrate::up(&pool)`",
            ),
            // The column does not exist.
            "42703" => Some(
                "the database's gen_durable schema is of another version: \
                 run `gen-durable migrate up` or call `gen_durable_migrate::up(&pool)`",
            ),
            // A right is missing.
            "42501" => Some(
                "run `gen-durable migrate roles` and grant the login gen_durable_app to insert and \
                 signal, gen_durable_worker for an engine, gen_durable_operator to look, or \
                 gen_durable_supervisor to act",
            ),
            _ => None,
        }
    }
}

impl fmt::Display for DatabaseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "could not {}: {}", self.operation, Cause(&self.source))?;
        match self.cure() {
            Some(cure) => write!(f, "; {cure}"),
            None => Ok(()),
        }
    }
}

impl StdError for DatabaseError {}

impl fmt::Debug for DatabaseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DatabaseError")
            .field("operation", &self.operation)
            .field("cause", &format_args!("{}", Cause(&self.source)))
            .finish()
    }
}
