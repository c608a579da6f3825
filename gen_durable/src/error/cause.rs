//! Prints errors in one line: those of sqlx, and any error with all its causes.
//!
//! Invariant: each cause is stated once. The text has no line number of Postgres's own source, and
//! no details of Postgres, which may hold a whole row.

use std::{error::Error as StdError, fmt};

/// Prints an error of sqlx in this crate's words.
#[derive(Clone, Copy)]
pub(crate) struct Cause<'a>(pub(crate) &'a sqlx::Error);

impl fmt::Display for Cause<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            sqlx::Error::Database(error) => {
                f.write_str(error.message())?;
                match error.code() {
                    Some(code) => write!(f, " (SQLSTATE {code})"),
                    None => Ok(()),
                }
            }
            sqlx::Error::Io(error) => with_causes(error, f),
            sqlx::Error::Tls(error) => {
                f.write_str("TLS: ")?;
                with_causes(&**error, f)
            }
            sqlx::Error::Configuration(error)
            | sqlx::Error::Encode(error)
            | sqlx::Error::Decode(error) => with_causes(&**error, f),
            sqlx::Error::ColumnDecode { index, source } => {
                write!(f, "column {index}: ")?;
                with_causes(&**source, f)
            }
            sqlx::Error::Protocol(text) | sqlx::Error::InvalidArgument(text) => f.write_str(text),
            sqlx::Error::PoolTimedOut => f.write_str(
                "every connection of the pool was in use for as long as its `acquire_timeout`; \
                 raise its `max_connections`, or hold connections for a shorter time",
            ),
            sqlx::Error::PoolClosed => {
                f.write_str("the connection pool is closed, or the engine was shut down")
            }
            sqlx::Error::WorkerCrashed => f.write_str(
                "the task that carried the call has ended; whether it took effect is not known",
            ),
            error => write!(f, "{error}"),
        }
    }
}

/// Prints an error with all its causes.
///
/// Many errors print their cause and return it from `source` as well. A cause that has just been
/// printed is not printed again.
pub(crate) fn with_causes(
    error: &(dyn StdError + 'static),
    f: &mut fmt::Formatter<'_>,
) -> fmt::Result {
    let mut said = text(error);
    f.write_str(&said)?;
    let mut next = source(error);
    while let Some(error) = next {
        let cause = text(error);
        if !said.ends_with(&cause) {
            write!(f, ": {cause}")?;
            said = cause;
        }
        next = source(error);
    }
    Ok(())
}

fn text(error: &(dyn StdError + 'static)) -> String {
    match error.downcast_ref() {
        Some(error) => Cause(error).to_string(),
        None => error.to_string(),
    }
}

/// Returns the next cause. An error of sqlx has none here: its text states all of them.
fn source<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a (dyn StdError + 'static)> {
    if error.is::<sqlx::Error>() { None } else { error.source() }
}

/// True if one of the causes is an error of sqlx, whose `Debug` prints Postgres's details.
pub(crate) fn holds_details(error: &(dyn StdError + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if error.is::<sqlx::Error>() {
            return true;
        }
        next = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[derive(Debug, thiserror::Error)]
    enum Order {
        /// It prints its cause and returns it.
        #[error("could not ship: {0}")]
        Both(#[source] io::Error),
        /// It returns its cause and does not print it.
        #[error("could not ship")]
        Source(#[source] io::Error),
        #[error("could not store: {0}")]
        Stored(#[from] sqlx::Error),
    }

    struct Text<'a>(&'a (dyn StdError + 'static));

    impl fmt::Display for Text<'_> {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            with_causes(self.0, f)
        }
    }

    #[test]
    fn each_cause_is_said_once() {
        let cause = || io::Error::other("the van is gone");
        let expected = "could not ship: the van is gone";
        assert_eq!(Text(&Order::Both(cause())).to_string(), expected);
        assert_eq!(Text(&Order::Source(cause())).to_string(), expected);
        assert_eq!(Text(&io::Error::other(Order::Both(cause()))).to_string(), expected);
        let refused = || sqlx::Error::Io(io::Error::other("refused"));
        assert_eq!(Text(&refused()).to_string(), "refused");
        assert!(holds_details(&Order::Stored(refused())));
        assert!(!holds_details(&Order::Both(cause())));
    }
}
