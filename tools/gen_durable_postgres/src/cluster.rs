//! Databases for tests: one template, made once, and a copy of it for each test.
//!
//! Invariant: a database is dropped with its test, even if the test panics, and on a user's own
//! server too. A template stays there, and so do the databases of killed processes. The next run
//! drops them: their names carry a number of the run, and a run that lives holds a lock on its
//! number.

use std::{
    future::Future,
    sync::atomic::{AtomicU32, Ordering},
    time::{SystemTime, UNIX_EPOCH},
};

use sqlx::{
    AssertSqlSafe, ConnectOptions, Connection, Executor, PgConnection, PgPool,
    postgres::{PgConnectOptions, PgPoolOptions},
};

use crate::{Error, Server, encoding};

/// The beginning of the names of all databases of tests.
const PREFIX: &str = "gen_durable_test_";
/// The class of the advisory locks. A run that lives holds the one of its number.
const LOCK_CLASS: i32 = 0x6764;

/// A server for databases: the user's own one, or a throw-away one.
///
/// A throw-away server is gone when this value is dropped, or when its process ends.
#[derive(Debug)]
pub struct Cluster {
    admin_url: String,
    server: Option<Server>,
}

impl Cluster {
    /// Takes the server of `DATABASE_URL`, or starts a throw-away one. A `fast` throw-away server
    /// trades durability for speed.
    ///
    /// # Errors
    ///
    /// [`Error`] if no server can be had.
    pub fn from_env_or_throwaway(fast: bool) -> Result<Self, Error> {
        match std::env::var("DATABASE_URL") {
            Ok(admin_url) if !admin_url.is_empty() => Ok(Self { admin_url, server: None }),
            _ => {
                let server = Server::builder().fast(fast).start()?;
                Ok(Self { admin_url: server.url("postgres"), server: Some(server) })
            }
        }
    }

    /// Returns the URL for creating databases.
    pub fn admin_url(&self) -> &str {
        &self.admin_url
    }

    /// Returns the server if it is a throw-away one.
    pub fn server(&self) -> Option<&Server> {
        self.server.as_ref()
    }
}

/// A database that is copied for each test.
///
/// It lives as long as its process. On a user's own server it stays after that, and the next run
/// that makes a template there drops it.
#[derive(Debug)]
pub struct Template {
    admin: PgConnectOptions,
    run: i32,
    name: String,
    /// Holds the advisory lock of this run. The thread ends with the process, and the lock with it.
    _keeper: std::thread::JoinHandle<()>,
}

impl Template {
    /// Makes the template. `set_up` gets a pool on it.
    ///
    /// # Errors
    ///
    /// [`Error::Database`] if a database cannot be made, or [`Error::SetUp`] with the error of
    /// `set_up`.
    pub async fn create<F, R, E>(cluster: &Cluster, set_up: F) -> Result<Self, Error>
    where
        F: FnOnce(PgPool) -> R,
        R: Future<Output = Result<(), E>>,
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let admin: PgConnectOptions =
            cluster.admin_url().parse().map_err(Error::database("read the URL"))?;
        let run = run_number();
        let keeper = keep_lock(admin.clone(), run)?;
        if cluster.server().is_none() {
            remove_leftovers(&admin).await?;
        }
        let name = format!("{PREFIX}{run}_template");
        execute(&admin, format!("create database \"{name}\"{}", encoding::clause())).await?;
        let pool = PgPoolOptions::new()
            .connect_with(admin.clone().database(&name))
            .await
            .map_err(Error::database("connect to the template"))?;
        let result = set_up(pool.clone()).await;
        pool.close().await;
        result.map_err(|error| Error::SetUp { source: error.into() })?;
        Ok(Self { admin, run, name, _keeper: keeper })
    }

    /// Makes a copy of the template. Its pool belongs to the runtime of this call.
    ///
    /// # Errors
    ///
    /// [`Error::Database`] if it cannot be made.
    pub async fn database(&self) -> Result<TestDb, Error> {
        self.make(format!(" template \"{}\"", self.name)).await
    }

    /// Makes an empty database.
    ///
    /// # Errors
    ///
    /// [`Error::Database`] if it cannot be made.
    pub async fn empty_database(&self) -> Result<TestDb, Error> {
        self.make(encoding::clause()).await
    }

    async fn make(&self, from: String) -> Result<TestDb, Error> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("{PREFIX}{}_{count}", self.run);
        execute(&self.admin, format!("create database \"{name}\"{from}")).await?;
        let options = self.admin.clone().database(&name);
        let url = options.to_url_lossy().to_string();
        let database = Database { admin: self.admin.clone(), name };
        let pool = PgPoolOptions::new()
            .max_connections(20)
            .connect_with(options)
            .await
            .map_err(Error::database("connect to the test's database"))?;
        Ok(TestDb { url, pool, database })
    }
}

/// A test's own database. When this value is dropped, Postgres ends all connections to the database
/// and drops it.
#[derive(Debug)]
pub struct TestDb {
    url: String,
    // The pool is dropped before its database. Postgres waits for a tenth of a second if it has to
    // end connections itself.
    pool: PgPool,
    database: Database,
}

/// A database that is dropped with this value.
#[derive(Debug)]
struct Database {
    admin: PgConnectOptions,
    name: String,
}

impl TestDb {
    /// Returns a pool on it.
    pub fn pool(&self) -> &PgPool {
        &self.pool
    }

    /// Returns its URL.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Returns its name.
    pub fn name(&self) -> &str {
        &self.database.name
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let (admin, name) = (self.admin.clone(), std::mem::take(&mut self.name));
        // This needs a thread with a runtime of its own: the current runtime may be the one that is
        // blocked here, or may have ended.
        let dropped = std::thread::spawn(move || {
            block_on(execute(&admin, format!("drop database if exists \"{name}\" with (force)")))
        });
        if let Ok(Err(error)) = dropped.join() {
            eprintln!("a test's database was left behind: {error}");
        }
    }
}

fn block_on<T>(future: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Error::io("start a runtime"))?
        .block_on(future)
}

pub(crate) async fn execute(admin: &PgConnectOptions, statement: String) -> Result<(), Error> {
    let failed = "make or drop a database";
    let mut connection = admin.connect().await.map_err(Error::database(failed))?;
    connection.execute(AssertSqlSafe(statement)).await.map_err(Error::database(failed))?;
    connection.close().await.map_err(Error::database(failed))
}

/// Returns a number that no other run is likely to have.
fn run_number() -> i32 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let mixed = since.as_nanos() ^ (u128::from(std::process::id()) << 12);
    i32::try_from(mixed & 0x7fff_ffff).unwrap_or(0)
}

/// Holds an advisory lock for as long as the process lives.
fn keep_lock(admin: PgConnectOptions, run: i32) -> Result<std::thread::JoinHandle<()>, Error> {
    let (held, wait) = std::sync::mpsc::channel();
    let keeper = std::thread::spawn(move || {
        let _ = block_on(async {
            let failed = Error::database("lock this run's databases");
            let locked = async {
                let mut connection = admin.connect().await?;
                sqlx::query("select pg_advisory_lock($1, $2)")
                    .bind(LOCK_CLASS)
                    .bind(run)
                    .execute(&mut connection)
                    .await?;
                Ok::<PgConnection, sqlx::Error>(connection)
            };
            match locked.await {
                Ok(connection) => {
                    let _ = held.send(Ok(()));
                    // The connection ends with the process, and so does the lock.
                    std::future::pending::<()>().await;
                    drop(connection);
                }
                Err(error) => {
                    let _ = held.send(Err(failed(error)));
                }
            }
            Ok(())
        });
    });
    match wait.recv() {
        Ok(Ok(())) => Ok(keeper),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(Error::Command {
            command: "lock".to_owned(),
            output: "the keeper of the lock ended".to_owned(),
        }),
    }
}

/// Drops the databases of runs that do not live any more.
async fn remove_leftovers(admin: &PgConnectOptions) -> Result<(), Error> {
    let failed = "look for databases that were left behind";
    let mut connection = admin.connect().await.map_err(Error::database(failed))?;
    let names: Vec<String> = sqlx::query_scalar("select datname::text from pg_database")
        .fetch_all(&mut connection)
        .await
        .map_err(Error::database(failed))?;
    for name in names {
        let run = name.strip_prefix(PREFIX).and_then(|rest| rest.split('_').next()?.parse().ok());
        let Some(run): Option<i32> = run else { continue };
        let gone: bool = sqlx::query_scalar("select pg_try_advisory_lock($1, $2)")
            .bind(LOCK_CLASS)
            .bind(run)
            .fetch_one(&mut connection)
            .await
            .map_err(Error::database(failed))?;
        if gone {
            let statement = format!("drop database if exists \"{name}\" with (force)");
            let _ = connection.execute(AssertSqlSafe(statement)).await;
        }
    }
    Ok(())
}
