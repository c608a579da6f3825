//! The administrator changes the database of a chaos run: logins, rights, names, isolation.
//!
//! ```text
//!   whole ──harm──► broken ──mend──► whole        password: rotated ──told──► all clients use it
//! ```
//!
//! Invariant: at most one part is broken at a time, and `mend` repairs it.

use std::time::{Duration, Instant};

use sqlx::{
    AssertSqlSafe, Connection, PgConnection, PgPool,
    postgres::{PgConnectOptions, PgPoolOptions},
};

use crate::Error;

/// The login of the workers.
const WORKER: &str = "chaos_worker";
/// The login of the driver.
const APP: &str = "chaos_app";

/// The longest time to try to connect to a server that runs.
const CONNECT_MAX: Duration = Duration::from_secs(20);

/// The lock timeout of a change. It is short: a table that is in use keeps its name.
const LOCK_MAX: &str = "set lock_timeout = '500ms'";

/// A mistake of an administrator, which is mended later.
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
    /// The number of the password that the logins have now.
    password: u32,
    /// The number of the password that workers and driver use.
    told: u32,
}

impl Administrator {
    pub(crate) fn new(url: String) -> Self {
        Self { url, broken: None, password: 0, told: 0 }
    }

    /// Makes the logins of workers and driver. They are members of the roles, and may write the
    /// oracle's log.
    pub(crate) async fn set_up(&self, pool: &PgPool) -> Result<(), Error> {
        gen_durable_migrate::roles(pool).await?;
        let path: String = sqlx::query_scalar("show hba_file").fetch_one(pool).await?;
        let rules = std::fs::read_to_string(&path)?;
        let logins = format!("local all {WORKER},{APP} password");
        std::fs::write(&path, format!("{logins}\n{rules}"))?;
        self.run(format!(
            "create role {WORKER} login password '{password}' in role gen_durable_worker;
             create role {APP} login password '{password}' in role gen_durable_app, gen_durable_supervisor;
             grant usage on schema chaos to {WORKER}, {APP};
             grant insert on all tables in schema chaos to {WORKER}, {APP};
             grant select, update on chaos.accounts to {WORKER};
             grant usage on all sequences in schema chaos to {WORKER}, {APP};
             select pg_reload_conf()",
            password = secret(self.password)
        ))
        .await
    }

    /// Returns the options of a worker's connections, with the password that it knows.
    pub(crate) fn worker(&self, url: &str) -> Result<PgConnectOptions, Error> {
        Ok(url.parse::<PgConnectOptions>()?.username(WORKER).password(&self.known_password()))
    }

    /// Makes the driver's pool, with the password that it knows.
    pub(crate) fn driver_pool(&self, url: &str) -> Result<PgPool, Error> {
        let options: PgConnectOptions = url.parse()?;
        Ok(PgPoolOptions::new()
            .max_connections(20)
            .acquire_timeout(Duration::from_secs(3))
            .connect_lazy_with(options.username(APP).password(&self.known_password())))
    }

    /// Returns the password that was told last.
    pub(crate) fn known_password(&self) -> String {
        secret(self.told)
    }

    /// Breaks something. Returns false if it did not: a table that stays in use cannot be renamed.
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

    /// Mends what is broken.
    pub(crate) async fn mend(&mut self) -> Result<(), Error> {
        if let Some(harm) = self.broken {
            self.run(harm.statements().1).await?;
            self.broken = None;
        }
        Ok(())
    }

    /// Sets the isolation level at which new connections begin. None stands for Postgres's default.
    pub(crate) async fn isolate(&self, level: Option<&str>) -> Result<(), Error> {
        let name: String =
            self.url.parse::<PgConnectOptions>()?.get_database().unwrap_or_default().to_owned();
        let change = level.map_or_else(
            || "reset default_transaction_isolation".to_owned(),
            |level| format!("set default_transaction_isolation = '{level}'"),
        );
        self.run(format!("alter database {name} {change}")).await
    }

    /// Changes the password of the logins, without telling it to workers and driver.
    pub(crate) async fn rotate(&mut self) -> Result<(), Error> {
        let password = secret(self.password + 1);
        self.run(format!(
            "alter role {WORKER} password '{password}'; alter role {APP} password '{password}'"
        ))
        .await?;
        self.password += 1;
        Ok(())
    }

    /// Tells the current password to workers and driver.
    pub(crate) fn tell(&mut self, driver: &PgPool) {
        self.told = self.password;
        let options = driver.connect_options().as_ref().clone();
        driver.set_connect_options(options.password(&self.known_password()));
    }

    /// Connects to the server. Tries again for a while, as the server may report a moment too soon
    /// that it is ready.
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
