//! Classifies database errors: an error is transient or lasting, its effect is certain or not, and
//! the statement, its data or the database is to blame.
//!
//! Invariant: the SQLSTATE or the driver's variant decides, never a message's text.

use std::time::Duration;

/// The error of a statement that was given up.
#[derive(Debug, thiserror::Error)]
#[error("no answer within {0:?}; the connection counts as lost")]
pub(crate) struct NoAnswer(pub(crate) Duration);

/// True if an error leaves open what became of a transaction. There was no answer, or the error is
/// one of the connection, perhaps of a connection behind a pooler.
pub(crate) fn is_uncertain(error: &sqlx::Error) -> bool {
    error.as_database_error().is_none_or(|error| {
        let code = error.code();
        let code = code.as_deref().unwrap_or_default();
        ["08", "57P", "58", "40003"].iter().any(|class| code.starts_with(class))
    })
}

/// The engine's own refusal of an instance's outcome, which Postgres would take.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) instance: i64,
    reason: Box<dyn std::error::Error + Send + Sync>,
}

impl Refusal {
    pub(crate) fn new(
        instance: i64,
        reason: impl std::error::Error + Send + Sync + 'static,
    ) -> Self {
        Self { instance, reason: Box::new(reason) }
    }
}

/// The refusals of a batch: at least one.
#[derive(Debug, thiserror::Error)]
#[error("the engine refused {} outcomes", .0.len())]
struct Refused(Vec<Refusal>);

/// Makes the error of a batch with outcomes that the engine refuses. It is the fault of their data.
pub(crate) fn refused(refusals: Vec<Refusal>) -> sqlx::Error {
    sqlx::Error::Decode(Box::new(Refused(refusals)))
}

/// True if the engine refused outcomes of the batch.
pub(crate) fn is_refused(error: &sqlx::Error) -> bool {
    matches!(error, sqlx::Error::Decode(source) if source.is::<Refused>())
}

/// Returns the refusals, or the error if it is another one.
pub(crate) fn refusals(error: sqlx::Error) -> Result<Vec<Refusal>, sqlx::Error> {
    match error {
        sqlx::Error::Decode(source) => match source.downcast::<Refused>() {
            Ok(refused) => Ok(refused.0),
            Err(source) => Err(sqlx::Error::Decode(source)),
        },
        error => Err(error),
    }
}

/// Returns the engine's own reason in an error, or the error itself.
pub(crate) fn reason(error: sqlx::Error) -> Box<dyn std::error::Error + Send + Sync> {
    match refusals(error) {
        Ok(mut refusals) => match refusals.pop() {
            Some(refusal) => refusal.reason,
            None => "the engine refused it".into(),
        },
        Err(error) => Box::new(error),
    }
}

/// The part that an error blames: the statement, its data or the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// None of them: the connection or the server failed, or a conflict was resolved.
    Connection,
    /// Another transaction has a lock that the statement needs.
    Locked,
    /// The data: Postgres does not take a value.
    Data,
    /// The statement: it was too large or too slow, or had too much to do.
    Size,
    /// The database is not as it should be: a table or a right is missing.
    Database,
    /// It may be any of them: a trigger or a bug may be the cause.
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
            error if is_refused(error) => return Self::Data,
            error if is_transient(error) => return Self::Connection,
            _ => return Self::Unclear,
        };
        let code = error.code();
        let code = code.as_deref().unwrap_or_default();
        let is = |classes: &[&str]| classes.iter().any(|class| code.starts_with(class));
        if is(&["55P03"]) {
            Self::Locked
        } else if is(&["57014", "53200", "53400"]) {
            // Cancelled (by a timeout, say), out of memory, or over the limit of temporary files.
            Self::Size
        } else if is(&["21", "22", "23", "27", "44", "54"]) {
            // Cardinality, data, constraints, a trigger's changes, a view's check, limits of
            // Postgres.
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

/// True if a statement has waited for a lock for as long as it may.
pub(crate) fn is_lock_timeout(error: &sqlx::Error) -> bool {
    error.as_database_error().and_then(sqlx::error::DatabaseError::code).as_deref() == Some("55P03")
}

/// True if Postgres rolled the transaction back to resolve a conflict. It is safe to try again.
pub(crate) fn is_rolled_back(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
    code.is_some_and(|code| code == "40P01" || code == "40001")
}

/// True if a connection's prepared statements are gone, or do not fit the tables any more. The
/// driver does not notice.
pub(crate) fn is_stale_plan(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
    code.is_some_and(|code| code == "26000" || code == "0A000" || code == "42P05")
}

/// True if an error lasts until a person mends the database, the login or the program. A call that
/// waits need not wait longer.
pub(crate) fn is_lasting(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Database(error) => {
            let code = error.code();
            let code = code.as_deref().unwrap_or_default();
            // The login is refused; there is no such database or schema; the syntax is wrong; there
            // is no such table or column, or no right to it.
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

/// True if an error says that the connection failed, and not the statement. Another try may help.
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
