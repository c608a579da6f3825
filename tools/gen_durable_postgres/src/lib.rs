//! A throw-away Postgres. It is started from installed programs, and is gone with the process that
//! started it, however that process ends. If no programs are installed, they are fetched once for
//! the user.
//!
//! [`Server`] is a cluster of our own on a private Unix socket. [`Cluster`] is such a server, or
//! the user's own one if `DATABASE_URL` is set. [`Template`] makes a database once, and [`TestDb`]
//! is a copy of it for one test:
//!
//! ```no_run
//! use gen_durable_postgres::{Cluster, Template};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let cluster = Cluster::from_env_or_throwaway(true)?;
//! let template = Template::create(&cluster, async |pool| {
//!     sqlx::query("create table stock (sku text primary key, n int)").execute(&pool).await?;
//!     Ok::<(), sqlx::Error>(())
//! })
//! .await?;
//!
//! // For each test: a copy, for which no statement of the template runs again.
//! let database = template.database().await?;
//! sqlx::query("insert into stock values ('lamp', 3)").execute(database.pool()).await?;
//! # Ok(())
//! # }
//! ```
//!
//! The crate knows nothing of `gen_durable`, whose `#[gen_durable::test]` stands on it. It runs on
//! Unix systems.
//!
//! These variables of the environment decide:
//!
//! - `DATABASE_URL`: [`Cluster`] uses this server, and starts none.
//! - `PG_BIN_DIR`: the directory with `initdb` and `postgres`, in place of the newest installed
//!   one.
//! - `GEN_DURABLE_TEST_ENCODING`: the encoding of databases in place of `UTF8`, with the locale C:
//!   `LATIN1`.
//! - `GEN_DURABLE_FETCH_POSTGRES`: `1` allows fetching a server, also if `CI` is set; `0` forbids
//!   it.
//! - `XDG_CACHE_HOME`: the directory of fetched servers in place of `~/.cache`. Root uses
//!   `/var/cache`.
//!
//! Invariant: no process and no directory is left behind. Only a fetched server stays, and on a
//! user's own server the templates of the last run.

mod binaries;
mod cluster;
mod copies;
mod encoding;
mod error;
mod fetch;
mod server;
mod watchdog;

pub use crate::{
    binaries::unprivileged,
    cluster::{Cluster, Template, TestDb},
    copies::Copies,
    error::Error,
    server::{Builder, Mode, Server},
};
