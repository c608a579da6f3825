//! Reasons for which there is no server or no database.
//!
//! Invariant: each message says what to do, and quotes a server that did not start. `Debug` prints
//! the message too: `expect` and `main` print errors by it, and a user sees nothing after that.

use std::{fmt, io, path::PathBuf};

use crate::binaries::has_program;

/// A server that could not be started, or a database that could not be made.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No server is installed, and none was fetched.
    #[error("no Postgres server was found, and {why}\n{}", ways_out())]
    NoServer {
        /// The reasons for which each means fetched none.
        why: String,
    },
    /// `PG_BIN_DIR` is set, but the directory holds no server.
    #[error(
        "PG_BIN_DIR is {0}, which holds no `initdb` and `postgres`; set it to a directory that does"
    )]
    WrongBinDir(PathBuf),
    /// A command failed.
    #[error("`{command}` failed; it said:\n{output}")]
    Command {
        /// The command.
        command: String,
        /// Its output.
        output: String,
    },
    /// The server ended while it started.
    #[error("the server did not start; its log says:\n{log}\n{}", ways_out())]
    NotStarted {
        /// The server's log.
        log: String,
    },
    /// The system refused something.
    #[error("could not {operation}: {source}")]
    Io {
        /// The operation that failed.
        operation: String,
        /// The cause.
        source: io::Error,
    },
    /// The function that prepares a template failed.
    #[error("could not prepare the template: {source}")]
    SetUp {
        /// The error of that function.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A statement failed.
    #[error("could not {operation}: {source}")]
    Database {
        /// The operation that failed.
        operation: &'static str,
        /// The cause.
        source: sqlx::Error,
    },
}

impl fmt::Debug for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

impl Error {
    pub(crate) fn io(operation: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { operation: operation.into(), source }
    }

    pub(crate) fn database(operation: &'static str) -> impl FnOnce(sqlx::Error) -> Self {
        move |source| Self::Database { operation, source }
    }
}

/// Says what a user without a server can do, or with one that does not start.
fn ways_out() -> String {
    let installers = [
        ("apt-get", "apt-get update && apt-get install postgresql"),
        ("dnf", "dnf install postgresql-server"),
        ("zypper", "zypper install postgresql-server"),
        ("apk", "apk add postgresql"),
        ("pacman", "pacman -S postgresql"),
        ("brew", "brew install postgresql"),
    ];
    let installer = installers.iter().find(|(program, _)| has_program(program));
    let install = installer.map_or(String::new(), |(_, command)| format!(": `{command}`"));
    format!(
        "there are three ways out:\n\
         \x20 1. install the system's package{install}\n\
         \x20 2. set PG_BIN_DIR to the directory that holds `initdb` and `postgres`\n\
         \x20 3. set DATABASE_URL to a server that is running already"
    )
}
