//! The only place with SQL: every statement is a file in `sql/`, and the file, the constant and the
//! function that runs it share a name.
//!
//! Invariant: storage knows rows, not machines; no statement is built from strings.

mod claim;
mod commit;
mod deliver;
mod inbox;
mod insert;
mod maintenance;
mod row;
mod workers;

pub(crate) use self::{
    claim::{Claim, claim, next_due},
    commit::{Committed, Unblocked, Verdict, commit, unblock_again},
    deliver::{Sent, deliver},
    inbox::load_inbox,
    insert::insert,
    maintenance::{
        Ended, PRUNE_MAX, Retention, announce, ended, notify, prune, reap, rescue_stranded, retain,
        unknown_kinds, unserved_queues, wake_timed_out,
    },
    row::{
        Change, ClaimRequest, Claimed, Commit, Due, Eligible, First, Inbox, InboxRow, Kind, Kinds,
        LostClaim, Missing, NewInstance, NewSignal, Portion, Upgraded,
    },
    workers::{
        abandon, is_foreign_ledger, lost_claims, register_worker, remove_worker, renew_lease,
        schema_version, session,
    },
};

use std::time::Duration;

use sqlx::{Connection, PgConnection, Postgres, Transaction};

const BEGIN: &str = include_str!("sql/begin.sql");

/// What a call does about a row or a key that somebody else's transaction has locked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Locked {
    /// It waits as long as its transaction does, which is the caller's.
    Wait,
    /// It waits for a second.
    WaitBriefly,
    /// It waits for as long as most have something locked: some commits.
    WaitAMoment,
    /// It does without: others in its batch must not wait.
    Skip,
}

impl Locked {
    /// How long it waits, as a setting.
    fn timeout(self) -> Option<&'static str> {
        match self {
            Self::Wait => None,
            Self::WaitBriefly => Some("1s"),
            // Nothing tells that a unique key is being inserted, but that it takes long.
            Self::WaitAMoment | Self::Skip => Some("20ms"),
        }
    }
}

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

/// The version of the schema that these statements are written for.
pub(crate) const SCHEMA_VERSION: i32 = 1;

/// Begins a transaction of the engine's own. It waits for no lock longer than a second.
async fn begin(connection: &mut PgConnection) -> Result<Transaction<'_, Postgres>, sqlx::Error> {
    connection.begin_with(BEGIN).await
}

/// A duration as the statements take it. Anything beyond a hundred years means the same.
fn micros(duration: Duration) -> i64 {
    const CENTURY: i64 = 100 * 366 * 24 * 3600 * 1_000_000;
    i64::try_from(duration.as_micros()).map_or(CENTURY, |micros| micros.min(CENTURY))
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
