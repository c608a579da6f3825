//! What an insert or a signal is executed on: with others, by itself, or in the caller's transaction.
//!
//! Invariant: nobody but this crate says what can be executed on.

use sqlx::{PgConnection, PgPool, Postgres, Transaction, pool::PoolConnection};

use crate::{client::Client, state};

/// Where a call is executed.
#[doc(hidden)]
#[derive(Debug)]
pub enum Target<'e> {
    /// Together with other calls.
    Client(&'e Client),
    /// By itself.
    Pool(&'e PgPool),
    /// In the caller's transaction.
    Connection(&'e mut PgConnection),
}

impl Target<'_> {
    pub(crate) fn value_max(&self) -> usize {
        match self {
            Self::Client(client) => client.value_max(),
            Self::Pool(_) | Self::Connection(_) => state::VALUE_MAX,
        }
    }
}

/// What an insert or a signal can be executed on: `&Engine`, `&Client`, `&PgPool`, and, for the
/// caller's own transaction, `&mut *tx` or any `&mut PgConnection`.
#[diagnostic::on_unimplemented(
    message = "nothing can be executed on `{Self}`",
    label = "expected `&Engine`, `&Client`, `&PgPool` or `&mut *tx`"
)]
pub trait ExecuteOn<'e>: sealed::Sealed {
    #[doc(hidden)]
    fn into_target(self) -> Target<'e>;
}

mod sealed {
    pub trait Sealed {}
}

impl sealed::Sealed for &crate::Engine {}
impl<'e> ExecuteOn<'e> for &'e crate::Engine {
    fn into_target(self) -> Target<'e> {
        Target::Client(self.client())
    }
}

impl sealed::Sealed for &Client {}
impl<'e> ExecuteOn<'e> for &'e Client {
    fn into_target(self) -> Target<'e> {
        Target::Client(self)
    }
}

impl sealed::Sealed for &PgPool {}
impl<'e> ExecuteOn<'e> for &'e PgPool {
    fn into_target(self) -> Target<'e> {
        Target::Pool(self)
    }
}

impl sealed::Sealed for &mut PgConnection {}
impl<'e> ExecuteOn<'e> for &'e mut PgConnection {
    fn into_target(self) -> Target<'e> {
        Target::Connection(self)
    }
}

impl sealed::Sealed for &mut Transaction<'_, Postgres> {}
impl<'e> ExecuteOn<'e> for &'e mut Transaction<'_, Postgres> {
    fn into_target(self) -> Target<'e> {
        Target::Connection(self)
    }
}

impl sealed::Sealed for &mut PoolConnection<Postgres> {}
impl<'e> ExecuteOn<'e> for &'e mut PoolConnection<Postgres> {
    fn into_target(self) -> Target<'e> {
        Target::Connection(self)
    }
}
