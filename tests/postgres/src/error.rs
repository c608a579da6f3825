//! Why no server could be had.
//!
//! Invariant: the message says what to do; a server that did not start is quoted.

use std::{io, path::PathBuf};

/// A server could not be started, or a database not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No binaries were found.
    #[error(
        "no Postgres server was found; there are three ways out:\n\
         \x20 1. install one: `apt-get install postgresql`, `dnf install postgresql-server`, or `brew install postgresql`\n\
         \x20 2. set PG_BIN_DIR to the directory that holds `initdb` and `postgres`\n\
         \x20 3. set DATABASE_URL to a server that is running already"
    )]
    NoBinaries,
    /// `PG_BIN_DIR` is set, and holds no server.
    #[error(
        "PG_BIN_DIR is {0}, which holds no `initdb` and `postgres`; set it to a directory that does"
    )]
    WrongBinDir(PathBuf),
    /// The server's binaries could not be downloaded.
    #[error("Postgres could not be downloaded: {0}")]
    Download(String),
    /// A command failed.
    #[error("`{command}` failed; it said:\n{output}")]
    Command {
        /// The command.
        command: String,
        /// What it printed.
        output: String,
    },
    /// The server ended while it started.
    #[error("the server did not start; its log says:\n{log}")]
    NotStarted {
        /// The server's log.
        log: String,
    },
    /// The system refused something.
    #[error("could not {operation}: {source}")]
    Io {
        /// What was tried.
        operation: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// A statement failed.
    #[error("could not {operation}: {source}")]
    Database {
        /// What was tried.
        operation: &'static str,
        /// Why not.
        source: sqlx::Error,
    },
}

impl Error {
    pub(crate) fn io(operation: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { operation, source }
    }

    pub(crate) fn database(operation: &'static str) -> impl FnOnce(sqlx::Error) -> Self {
        move |source| Self::Database { operation, source }
    }
}
