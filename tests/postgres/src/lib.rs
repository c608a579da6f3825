//! A throw-away Postgres: started from installed binaries, and gone with the process that started
//! it, however that ends.
//!
//! [`Server`] is a cluster of our own on a private Unix socket. [`Cluster`] is that, or somebody's
//! own server if `DATABASE_URL` is set. [`Template`] makes a database once, and [`TestDb`] copies
//! it for each test.
//!
//! Invariant: nothing is left behind: no process, no directory, no database.

mod binaries;
mod cluster;
mod error;
mod server;
mod watchdog;

pub use crate::{
    binaries::unprivileged,
    cluster::{Cluster, Template, TestDb},
    error::Error,
    server::{Builder, Mode, Server},
};
