//! A throw-away Postgres: started from installed binaries, and gone with the process that started
//! it, however that ends. Where none are installed, they are fetched once for the user.
//!
//! [`Server`] is a cluster of our own on a private Unix socket. [`Cluster`] is that, or somebody's
//! own server if `DATABASE_URL` is set. [`Template`] makes a database once, and [`TestDb`] copies
//! it for each test.
//!
//! These variables of the environment decide:
//!
//! | variable | meaning |
//! |---|---|
//! | `DATABASE_URL` | [`Cluster`] uses this server, and starts none |
//! | `PG_BIN_DIR` | the directory with `initdb` and `postgres`, in place of the newest that is installed |
//! | `GEN_DURABLE_TEST_ENCODING` | the encoding of databases, with the locale C, in place of `UTF8`: `LATIN1` |
//! | `GEN_DURABLE_FETCH_POSTGRES` | `1`: a server may be fetched, also where `CI` is set; `0`: none is |
//! | `XDG_CACHE_HOME` | a fetched server is kept there, not in `~/.cache`; root's is in `/var/cache` |
//!
//! Invariant: nothing is left behind: no process, no directory, no database. A fetched
//! server stays.

mod binaries;
mod cluster;
mod encoding;
mod error;
mod fetch;
mod server;
mod watchdog;

pub use crate::{
    binaries::unprivileged,
    cluster::{Cluster, Template, TestDb},
    error::Error,
    server::{Builder, Mode, Server},
};
