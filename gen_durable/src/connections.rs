//! Connections for short statements: kept open by an engine, borrowed from the pool by a client.
//!
//! Invariant: a connection on which a statement failed is never kept; the pool tests it first.

use std::{
    ops::{Deref, DerefMut},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use sqlx::{PgConnection, PgPool, Postgres, pool::PoolConnection, postgres::PgListener};

/// How long an engine waits for a connection before it counts as an outage.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);

/// Where connections come from.
#[derive(Clone, Debug)]
pub(crate) struct Connections {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    pool: PgPool,
    idle: Mutex<Vec<PoolConnection<Postgres>>>,
    kept_max: usize,
}

impl Connections {
    /// Connections of the caller's pool, given back after each use.
    pub(crate) fn borrowed(pool: PgPool) -> Self {
        Self { inner: Arc::new(Inner { pool, idle: Mutex::default(), kept_max: 0 }) }
    }

    /// An engine's own connections, with the options and hooks of the caller's pool.
    ///
    /// The caller's steps may hold every connection of the caller's pool; a lease must be renewed
    /// all the same. And a pool tests a connection with a round trip each time that it changes
    /// hands, which a commit of a third of a millisecond cannot afford.
    pub(crate) fn own(pool: &PgPool, connections_max: u32) -> Self {
        let pool = pool
            .options()
            .clone()
            .max_connections(connections_max)
            .min_connections(0)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .connect_lazy_with((*pool.connect_options()).clone());
        let kept_max = connections_max as usize;
        Self { inner: Arc::new(Inner { pool, idle: Mutex::default(), kept_max }) }
    }

    pub(crate) async fn get(&self) -> Result<Connection, sqlx::Error> {
        let kept = self.idle().pop();
        let connection = match kept {
            Some(connection) => connection,
            None => self.inner.pool.acquire().await?,
        };
        Ok(Connection { connection, home: self.clone() })
    }

    pub(crate) async fn listener(&self) -> Result<PgListener, sqlx::Error> {
        PgListener::connect_with(&self.inner.pool).await
    }

    pub(crate) async fn close(&self) {
        let idle = std::mem::take(&mut *self.idle());
        drop(idle);
        self.inner.pool.close().await;
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<PoolConnection<Postgres>>> {
        self.inner.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection for a statement or two.
#[derive(Debug)]
pub(crate) struct Connection {
    connection: PoolConnection<Postgres>,
    home: Connections,
}

impl Connection {
    /// Keeps the connection for the next use if the result is good.
    pub(crate) fn done<T>(self, result: Result<T, sqlx::Error>) -> Result<T, sqlx::Error> {
        if result.is_ok() && !self.home.inner.pool.is_closed() {
            let mut idle = self.home.idle();
            if idle.len() < self.home.inner.kept_max {
                idle.push(self.connection);
            }
        }
        result
    }
}

impl Deref for Connection {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        &self.connection
    }
}

impl DerefMut for Connection {
    fn deref_mut(&mut self) -> &mut PgConnection {
        &mut self.connection
    }
}
