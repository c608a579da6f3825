//! The start of every example: its options, and a migrated database.
//!
//! The database is on a throw-away Postgres. `DATABASE_URL` names another server instead, and
//! `--data DIR` keeps the cluster in a directory.

use std::{fmt, path::PathBuf};

use clap::Parser;
use gen_durable_postgres::Server;
use sqlx::{PgPool, postgres::PgPoolOptions};

/// The error of an example: any error, boxed.
pub struct Error(Box<dyn std::error::Error + Send + Sync>);

/// Lets `?` turn any error, and a text, into the error of an example.
impl<E: Into<Box<dyn std::error::Error + Send + Sync>>> From<E> for Error {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

/// `main` prints its error by `Debug`. A person reads it, so the output is the message with its
/// causes.
impl fmt::Debug for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut said = self.0.to_string();
        formatter.write_str(&said)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            let text = error.to_string();
            // Some messages already end with their cause.
            if !said.ends_with(&text) {
                write!(formatter, "\n  caused by: {text}")?;
            }
            said = text;
            cause = error.source();
        }
        Ok(())
    }
}

/// The options that every example takes.
#[derive(Debug, Parser)]
pub struct Options {
    /// Keeps the database in this directory; otherwise the example removes it at its end.
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Runs on this server instead of a throw-away one.
    #[arg(long, env = "DATABASE_URL", hide_env_values = true, conflicts_with = "data")]
    pub database_url: Option<String>,
}

/// A migrated database. A server that was started for it runs until this value is dropped.
#[derive(Debug)]
pub struct Session {
    /// A pool on the database.
    pub pool: PgPool,
    /// The database's URL, for other processes.
    pub url: String,
    _server: Option<Server>,
}

impl Session {
    /// Reads the command line, starts a server if none is named, and migrates the database.
    ///
    /// # Errors
    ///
    /// The server could not be started or reached, or the database could not be migrated.
    pub async fn open() -> Result<Self, Error> {
        Self::with(Options::parse()).await
    }

    /// Starts a server if the options name none, and migrates the database.
    ///
    /// # Errors
    ///
    /// The errors are those of [`open`](Self::open).
    pub async fn with(options: Options) -> Result<Self, Error> {
        tracing_subscriber::fmt()
            .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
            .with_writer(std::io::stderr)
            .init();
        let (url, server) = if let Some(url) = options.database_url {
            (url, None)
        } else {
            // The server calls fsync, as the examples are about durability.
            let mut builder = Server::builder();
            if let Some(data) = options.data {
                builder = builder.data_dir(data);
            }
            let server = builder.start()?;
            (server.url("postgres"), Some(server))
        };
        let pool = PgPoolOptions::new().connect(&url).await?;
        gen_durable_migrate::up(&pool).await?;
        Ok(Self { pool, url, _server: server })
    }
}

#[cfg(test)]
mod tests {
    use super::Error;

    #[derive(Debug, thiserror::Error)]
    #[error("the disk is full")]
    struct Disk;

    #[derive(Debug, thiserror::Error)]
    #[error("could not write: {source}")]
    struct Write {
        source: Disk,
    }

    #[derive(Debug, thiserror::Error)]
    #[error("no receipt")]
    struct Receipt(#[source] Write);

    #[test]
    fn p58_an_error_is_printed_with_its_causes_once() {
        let error = Error::from(Receipt(Write { source: Disk }));
        assert_eq!(
            format!("{error:?}"),
            "no receipt\n  caused by: could not write: the disk is full"
        );
        assert_eq!(format!("{:?}", Error::from("a text")), "a text");
    }
}
