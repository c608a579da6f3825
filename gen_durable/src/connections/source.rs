//! The caller's pool, from which an engine takes the options of its own connections.
//!
//! Invariant: a connection is made with the options that the caller's pool has at that moment. A
//! password that is rotated, or a token that is replaced, reaches the engine by
//! `PgPool::set_connect_options` on that pool. Connections that were made before stay.

use std::sync::{Arc, Mutex, PoisonError};

use sqlx::{PgPool, postgres::PgConnectOptions};

use super::Connections;

/// The origin of the options of an engine's own pool.
#[derive(Debug)]
pub(super) struct Source {
    pool: PgPool,
    /// The options that were passed on last. They are held so that no other options can have their
    /// address, by which a change is noticed.
    taken: Mutex<Arc<PgConnectOptions>>,
}

impl Source {
    pub(super) fn new(pool: PgPool) -> Self {
        let taken = Mutex::new(pool.connect_options());
        Self { pool, taken }
    }

    /// Returns the options that were passed on last.
    pub(super) fn options(&self) -> PgConnectOptions {
        (**self.taken.lock().unwrap_or_else(PoisonError::into_inner)).clone()
    }

    /// Passes the caller's options on to the engine's own pool, if they have changed.
    pub(super) fn pass_on(&self, own: &PgPool) {
        let current = self.pool.connect_options();
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if !Arc::ptr_eq(&current, &taken) {
            own.set_connect_options((*current).clone());
            *taken = current;
        }
    }
}

impl Connections {
    /// Returns the options with which sessions start: `-c statement_timeout=2s`.
    pub(crate) fn options(&self) -> Option<String> {
        Some(self.inner.pool().connect_options().get_options()?.to_owned())
    }
}
