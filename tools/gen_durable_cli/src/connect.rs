//! The connection to the database, from an argument or from libpq's variables.
//!
//! Invariant: a password is never an argument, and a wrong value of a variable is an error: a
//! mistyped PGSSLMODE must not turn the encryption off.

use std::{env::VarError, fmt, io, str::FromStr, time::Duration};

use gen_durable::Client;
use sqlx::{
    Connection, PgConnection, PgPool,
    postgres::{PgConnectOptions, PgPoolOptions, PgSslMode},
};

use crate::{
    failure::{Failure, Kind},
    service,
};

/// The time in which the server must accept a connection, unless PGCONNECT_TIMEOUT sets it. It is
/// as long as this because the server may be starting up.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The most connections of a client. A call uses one, and a call that waits for an instance another
/// one.
const CONNECTIONS_MAX: u32 = 2;

/// The database.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Connection")]
pub(crate) struct Database {
    /// The database, as `postgres://USER@HOST/DATABASE`, without a password; by default
    /// DATABASE_URL, or libpq's variables.
    #[arg(long, value_name = "URL", global = true)]
    database_url: Option<String>,
}

impl Database {
    /// Connects, for the calls of a client.
    pub(crate) async fn client(&self) -> Result<Client, Failure> {
        Ok(Client::new(self.pool(CONNECTIONS_MAX).await?))
    }

    /// Connects, with so many connections at most.
    pub(crate) async fn pool(&self, connections_max: u32) -> Result<PgPool, Failure> {
        let options = self.options()?.application_name("gen-durable");
        let timeout = connect_timeout()?;
        let at = place(&options);
        let connecting = PgConnection::connect_with(&options);
        match tokio::time::timeout(timeout, connecting).await {
            Ok(Ok(connection)) => {
                // A pool would try for all of its timeout, and not say why. This connection did.
                let _ = connection.close().await;
            }
            Ok(Err(error)) => return Err(refused(&at, &options, &error)),
            Err(_elapsed) => {
                let text = format!(
                    "{at} did not answer within {timeout:?}; check the host and the port, or raise PGCONNECT_TIMEOUT"
                );
                return Err(Failure::new(Kind::NoConnection, text));
            }
        }
        let pool = PgPoolOptions::new()
            .max_connections(connections_max)
            .acquire_timeout(timeout)
            .connect_lazy_with(options);
        Ok(pool)
    }

    fn options(&self) -> Result<PgConnectOptions, Failure> {
        check_variables()?;
        let (url, source) = match (&self.database_url, variable("DATABASE_URL")?) {
            (Some(url), _) => (url.clone(), "--database-url"),
            (None, Some(url)) => (url, "DATABASE_URL"),
            (None, None) => match variable("PGSERVICE")? {
                Some(name) => (service::url(&name).map_err(Failure::usage)?, "PGSERVICE"),
                None => return Ok(PgConnectOptions::new()),
            },
        };
        if self.database_url.is_some() && has_password(&url) {
            return Err(Failure::usage(
                "--database-url has a password, which every user of this host could see; set \
                 DATABASE_URL or PGPASSWORD instead, or write it into ~/.pgpass",
            ));
        }
        if !url.starts_with("postgres://") && !url.starts_with("postgresql://") {
            let text =
                format!("{source} is no URL of Postgres; write postgres://USER@HOST/DATABASE");
            return Err(Failure::usage(text));
        }
        PgConnectOptions::from_str(&url).map_err(|error| {
            // The error does not repeat the URL, which may have a password.
            Failure::usage(format!("{source} is no URL of Postgres: {error}"))
        })
    }
}

/// True if a URL has a password, before the host or as a parameter.
fn has_password(url: &str) -> bool {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let (before, parameters) = rest.split_once('?').unwrap_or((rest, ""));
    let authority = before.split('/').next().unwrap_or_default();
    let login = authority.rsplit_once('@').map_or("", |(login, _)| login);
    // A name that is written with `%` may be any name.
    let is_password = |name: &str| name == "password" || name.contains('%');
    let mut names = parameters.split('&').filter_map(|parameter| parameter.split('=').next());
    login.contains(':') || names.any(is_password)
}

/// Checks the variables whose wrong values sqlx takes for missing ones.
fn check_variables() -> Result<(), Failure> {
    if let Some(mode) = variable("PGSSLMODE")?
        && PgSslMode::from_str(&mode).is_err()
    {
        return Err(Failure::usage(format!(
            "PGSSLMODE is `{mode}`; it can be disable, allow, prefer, require, verify-ca or verify-full"
        )));
    }
    if let Some(port) = variable("PGPORT")?
        && port.parse::<u16>().is_err()
    {
        return Err(Failure::usage(format!("PGPORT is `{port}`, which is no port")));
    }
    Ok(())
}

fn connect_timeout() -> Result<Duration, Failure> {
    let Some(text) = variable("PGCONNECT_TIMEOUT")? else { return Ok(CONNECT_TIMEOUT) };
    match text.trim().parse() {
        // libpq takes 0 for no timeout. Nobody waits for a day.
        Ok(0) => Ok(Duration::from_hours(24)),
        Ok(seconds) => Ok(Duration::from_secs(seconds).min(Duration::from_hours(24))),
        Err(_) => {
            let text = format!("PGCONNECT_TIMEOUT is `{text}`; it must be a number of seconds");
            Err(Failure::usage(text))
        }
    }
}

/// Returns a variable of the environment, if it is set and not empty.
pub(crate) fn variable(name: &str) -> Result<Option<String>, Failure> {
    match std::env::var(name) {
        Ok(value) => Ok(Some(value).filter(|value| !value.is_empty())),
        Err(VarError::NotPresent) => Ok(None),
        Err(VarError::NotUnicode(_)) => Err(Failure::usage(format!("{name} is no UTF-8 text"))),
    }
}

/// Names the server: `the server at db:5432`.
fn place(options: &PgConnectOptions) -> String {
    match options.get_socket() {
        Some(socket) => format!("the server at {}", socket.display()),
        None => format!("the server at {}:{}", options.get_host(), options.get_port()),
    }
}

/// Says why a connection cannot be had, and what to do.
fn refused(at: &str, options: &PgConnectOptions, error: &sqlx::Error) -> Failure {
    let text = match error {
        sqlx::Error::Database(error) => {
            let message = error.message();
            let cure = match error.code().as_deref() {
                Some("28P01" | "28000") => {
                    "set PGUSER and PGPASSWORD, or write a line into ~/.pgpass"
                }
                Some("3D000") => "name another database in PGDATABASE or the URL",
                Some("53300") => "wait until others have closed theirs",
                _ => "see the server's log",
            };
            format!(
                "{at} refuses the connection of `{}`: {message}; {cure}",
                options.get_username()
            )
        }
        // rustls reports a certificate that it does not trust as invalid data.
        sqlx::Error::Io(error) if error.kind() == io::ErrorKind::InvalidData => {
            unencrypted(at, error)
        }
        sqlx::Error::Tls(error) => unencrypted(at, error),
        sqlx::Error::Io(error) => {
            format!("cannot reach {at}: {error}; check PGHOST and PGPORT, or the URL")
        }
        error => format!("cannot connect to {at}: {error}"),
    };
    Failure::new(Kind::NoConnection, text)
}

fn unencrypted(at: &str, error: impl fmt::Display) -> String {
    format!("cannot encrypt the connection to {at}: {error}; check PGSSLMODE and PGSSLROOTCERT")
}

#[cfg(test)]
mod tests {
    use super::has_password;

    #[test]
    fn a_password_in_a_url_is_found() {
        for url in ["postgres://a:b@h/d", "postgres:///d?password=b", "postgres://a:@h"] {
            assert!(has_password(url), "{url}");
        }
        for url in ["postgres://a@h:5432/d", "postgres:///d?host=/run&user=a", "postgres://h:1/d"] {
            assert!(!has_password(url), "{url}");
        }
    }
}
