//! The administrator changes the database: logins, rights, names, isolation.
//!
//! ```text
//!   whole ──harm──► broken ──mend──► whole        password: rotated ──told──► everybody uses it
//! ```
//!
//! Invariant: at most one thing is broken at a time, and `mend` puts it right.

use std::time::{Duration, Instant};

use sqlx::{
    AssertSqlSafe, Connection, PgConnection, PgPool,
    postgres::{PgConnectOptions, PgPoolOptions},
};

use crate::Error;

/// The login of the workers.
const WORKER: &str = "chaos_worker";
/// That of the driver.
const APP: &str = "chaos_app";

/// The time for which connections to a running server are tried.
const CONNECT_MAX: Duration = Duration::from_secs(20);

/// Waits briefly for a lock; without it, the table is left as it is.
const LOCK_MAX: &str = "set lock_timeout = '500ms'";

/// A mistake that somebody makes, and mends.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Harm {
    /// The logins are members of no role.
    Rights,
    /// A table has another name.
    Table(&'static str),
    /// The schema has another name.
    Schema,
}

impl Harm {
    fn statements(self) -> (String, String) {
        match self {
            Self::Rights => (
                format!(
                    "revoke gen_durable_worker from {WORKER}; revoke gen_durable_app from {APP}"
                ),
                format!("grant gen_durable_worker to {WORKER}; grant gen_durable_app to {APP}"),
            ),
            Self::Table(table) => (
                format!("alter table gen_durable.{table} rename to away"),
                format!("alter table gen_durable.away rename to {table}"),
            ),
            Self::Schema => (
                "alter schema gen_durable rename to away".to_owned(),
                "alter schema away rename to gen_durable".to_owned(),
            ),
        }
    }
}

pub(crate) struct Administrator {
    url: String,
    broken: Option<Harm>,
    /// The logins' password is of this number.
    password: u32,
    /// The one that they use.
    told: u32,
}

impl Administrator {
    pub(crate) fn new(url: String) -> Self {
        Self { url, broken: None, password: 0, told: 0 }
    }

    /// Makes the logins, which may do what the roles may, and write the oracle's log.
    pub(crate) async fn set_up(&self, pool: &PgPool) -> Result<(), Error> {
        gen_durable_migrate::roles(pool).await?;
        let path: String = sqlx::query_scalar("show hba_file").fetch_one(pool).await?;
        let rules = std::fs::read_to_string(&path)?;
        let logins = format!("local all {WORKER},{APP} password");
        std::fs::write(&path, format!("{logins}\n{rules}"))?;
        self.run(format!(
            "create role {WORKER} login password '{password}' in role gen_durable_worker;
             create role {APP} login password '{password}' in role gen_durable_app;
             grant usage on schema chaos to {WORKER}, {APP};
             grant insert on all tables in schema chaos to {WORKER}, {APP};
             grant usage on all sequences in schema chaos to {WORKER}, {APP};
             select pg_reload_conf()",
            password = secret(self.password)
        ))
        .await
    }

    /// The options of a worker's connections, as it knows them.
    pub(crate) fn worker(&self, url: &str) -> Result<PgConnectOptions, Error> {
        Ok(url.parse::<PgConnectOptions>()?.username(WORKER).password(&self.known_password()))
    }

    /// The driver's pool.
    pub(crate) fn driver_pool(&self, url: &str) -> Result<PgPool, Error> {
        let options: PgConnectOptions = url.parse()?;
        Ok(PgPoolOptions::new()
            .max_connections(20)
            .acquire_timeout(Duration::from_secs(3))
            .connect_lazy_with(options.username(APP).password(&self.known_password())))
    }

    /// The password that has been told last.
    pub(crate) fn known_password(&self) -> String {
        secret(self.told)
    }

    /// Breaks something; whether it did: what is in use for long cannot be renamed.
    pub(crate) async fn harm(&mut self, harm: Harm) -> Result<bool, Error> {
        if self.broken.is_some() {
            return Ok(false);
        }
        let mut connection = self.connect().await?;
        sqlx::raw_sql(LOCK_MAX).execute(&mut connection).await?;
        let done = sqlx::raw_sql(AssertSqlSafe(harm.statements().0)).execute(&mut connection).await;
        let _ = connection.close().await;
        match done {
            Ok(_) => {
                self.broken = Some(harm);
                Ok(true)
            }
            Err(sqlx::Error::Database(error)) if error.code().as_deref() == Some("55P03") => {
                Ok(false)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Puts right what is broken.
    pub(crate) async fn mend(&mut self) -> Result<(), Error> {
        if let Some(harm) = self.broken {
            self.run(harm.statements().1).await?;
            self.broken = None;
        }
        Ok(())
    }

    /// New connections begin at this isolation level; at Postgres's own if there is none.
    pub(crate) async fn isolate(&self, level: Option<&str>) -> Result<(), Error> {
        let name: String =
            self.url.parse::<PgConnectOptions>()?.get_database().unwrap_or_default().to_owned();
        let change = level.map_or_else(
            || "reset default_transaction_isolation".to_owned(),
            |level| format!("set default_transaction_isolation = '{level}'"),
        );
        self.run(format!("alter database {name} {change}")).await
    }

    /// Changes the password, which nobody is told yet.
    pub(crate) async fn rotate(&mut self) -> Result<(), Error> {
        let password = secret(self.password + 1);
        self.run(format!(
            "alter role {WORKER} password '{password}'; alter role {APP} password '{password}'"
        ))
        .await?;
        self.password += 1;
        Ok(())
    }

    /// From now on the last password is known.
    pub(crate) fn tell(&mut self, driver: &PgPool) {
        self.told = self.password;
        let options = driver.connect_options().as_ref().clone();
        driver.set_connect_options(options.password(&self.known_password()));
    }

    /// Connects, also to a server that has said a moment too soon that it is ready.
    async fn connect(&self) -> Result<PgConnection, Error> {
        let since = Instant::now();
        loop {
            match PgConnection::connect(&self.url).await {
                Err(_) if since.elapsed() < CONNECT_MAX => {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                connected => return Ok(connected?),
            }
        }
    }

    async fn run(&self, statements: String) -> Result<(), Error> {
        let mut connection = self.connect().await?;
        sqlx::raw_sql(AssertSqlSafe(statements)).execute(&mut connection).await?;
        Ok(connection.close().await?)
    }
}

fn secret(number: u32) -> String {
    format!("secret{number}")
}
