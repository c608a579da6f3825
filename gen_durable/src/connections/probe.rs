//! Finds out why a pool had no connection to give.
//!
//! A pool that finds the server gone, full or starting up tries again until its time is up. It then
//! says no more than that. A connection that is made outside of the pool says why.
//!
//! Invariant: one connection is tried at a time, and no more often than [`FRESH`], because many
//! calls may ask at once.

use std::{
    io,
    time::{Duration, Instant},
};

use sqlx::{ConnectOptions, Connection, PgPool};
use tokio::sync::Mutex;

use super::within;
use crate::error::Cause;

/// The time that a connection may take to be made and closed.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);
/// The time for which an answer serves the calls that ask after it.
const FRESH: Duration = Duration::from_secs(1);

/// The last answer: its time, and the error if there was one.
#[derive(Debug, Default)]
pub(super) struct Probe {
    last: Mutex<Option<(Instant, Option<String>)>>,
}

impl Probe {
    /// Tries to make a connection, and returns why the pool had none. If it can be made, all of the
    /// pool's connections were in use.
    pub(super) async fn why(&self, pool: &PgPool) -> sqlx::Error {
        let mut last = self.last.lock().await;
        match &*last {
            Some((at, said)) if at.elapsed() < FRESH => match said {
                Some(text) => sqlx::Error::Io(io::Error::other(text.clone())),
                None => sqlx::Error::PoolTimedOut,
            },
            _ => {
                let options = pool.connect_options();
                let made =
                    within(PROBE_TIMEOUT, async { options.connect().await?.close().await }).await;
                let said = made.as_ref().err().map(|error| Cause(error).to_string());
                *last = Some((Instant::now(), said));
                made.err().unwrap_or(sqlx::Error::PoolTimedOut)
            }
        }
    }
}
