//! The meaning of a database error: transient or lasting, certain or not, and to blame on the statement,
//! on its data or on the database.
//!
//! Invariant: the SQLSTATE or the driver's variant decides, never a message's text.

use std::time::Duration;

/// A statement was given up.
#[derive(Debug, thiserror::Error)]
#[error("no answer within {0:?}; the connection counts as lost")]
pub(crate) struct NoAnswer(pub(crate) Duration);

/// Whether an error leaves open what became of a transaction: there was no answer, or it is of the
/// connection, perhaps of one behind a pooler.
pub(crate) fn is_uncertain(error: &sqlx::Error) -> bool {
    error.as_database_error().is_none_or(|error| {
        let code = error.code();
        let code = code.as_deref().unwrap_or_default();
        ["08", "57P", "58", "40003"].iter().any(|class| code.starts_with(class))
    })
}

/// What an error says of the statement that failed, and of what it was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Nothing: the connection or the server failed, or a conflict was resolved.
    Connection,
    /// Somebody else has something locked.
    Locked,
    /// A value is one that Postgres does not take.
    Data,
    /// It was too large or too slow, or there was too much of it.
    Size,
    /// The database is not as it should be: a table or a right is missing.
    Database,
    /// Anything: a trigger, a bug.
    Unclear,
}

impl Fault {
    pub(crate) fn of(error: &sqlx::Error) -> Self {
        let error = match error {
            sqlx::Error::Database(error) => error,
            sqlx::Error::Io(error) if matches!(error.get_ref(), Some(cause) if cause.is::<NoAnswer>()) =>
            {
                return Self::Size;
            }
            sqlx::Error::Encode(_) => return Self::Size,
            error if is_transient(error) => return Self::Connection,
            _ => return Self::Unclear,
        };
        let code = error.code();
        let code = code.as_deref().unwrap_or_default();
        let is = |classes: &[&str]| classes.iter().any(|class| code.starts_with(class));
        if is(&["55P03"]) {
            Self::Locked
        } else if is(&["57014", "53200", "53400"]) {
            // Cancelled (by a timeout, say), out of memory or of room for temporary files.
            Self::Size
        } else if is(&["21", "22", "23", "27", "44", "54"]) {
            // Cardinality, data, constraints, a trigger's changes, a view's check, limits of Postgres.
            Self::Data
        } else if is(&["08", "40", "53", "57", "25006", "25P03", "25P04", "58"]) {
            Self::Connection
        } else if is(&["25", "26", "28", "3D", "3F", "42", "55"]) {
            Self::Database
        } else {
            Self::Unclear
        }
    }
}

/// Whether a statement has waited for a lock for as long as it may.
pub(crate) fn is_lock_timeout(error: &sqlx::Error) -> bool {
    error.as_database_error().and_then(sqlx::error::DatabaseError::code).as_deref() == Some("55P03")
}

/// Whether Postgres rolled the transaction back to resolve a conflict: it is safe to try again.
pub(crate) fn is_rolled_back(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
    code.is_some_and(|code| code == "40P01" || code == "40001")
}

/// Tells whether an error lasts until somebody mends the database, the login or the program: who
/// waits for something need not wait longer.
pub(crate) fn is_lasting(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Database(error) => {
            let code = error.code();
            let code = code.as_deref().unwrap_or_default();
            // The login is refused, no such database, no such schema; syntax, no such table or
            // column, no right to it.
            ["28", "3D", "3F", "42"].iter().any(|class| code.starts_with(class))
        }
        sqlx::Error::PoolClosed
        | sqlx::Error::Configuration(_)
        | sqlx::Error::TypeNotFound { .. }
        | sqlx::Error::ColumnIndexOutOfBounds { .. }
        | sqlx::Error::ColumnNotFound(_)
        | sqlx::Error::ColumnDecode { .. } => true,
        _ => false,
    }
}

/// Whether an error says that the connection, and not the statement, failed: trying again may help.
pub(crate) fn is_transient(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Database(error) => {
            let code = error.code();
            let code = code.as_deref().unwrap_or_default();
            // Connection, rollback (serialisation, deadlock), resources, operator intervention,
            // lock not available, read-only (a standby after a failover), a transaction that was
            // silent or open for too long, internal system errors.
            ["08", "40", "53", "57", "55P03", "25006", "25P03", "25P04", "58"]
                .iter()
                .any(|class| code.starts_with(class))
        }
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::Protocol(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::WorkerCrashed => true,
        _ => false,
    }
}
