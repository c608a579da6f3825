//! The three ways of a row to Postgres: in a shared commit, by itself, or in the caller's
//! transaction.
//!
//! [`ExecuteOn`] says which way a call takes. [`Target`] sends the rows, which have lost their
//! types.
//!
//! Invariant: this crate alone implements [`ExecuteOn`].

use sqlx::{PgConnection, PgPool, Postgres, Transaction, pool::PoolConnection};

use super::{
    Client, HOLDER,
    direct::{
        insert_in_transaction, insert_on_pool, insert_or_signal_in_transaction,
        insert_or_signal_on_pool, signal_in_transaction, signal_on_pool,
    },
};
use crate::{
    connections::Connections,
    error::{DatabaseError, Duplicate, InsertError, SignalError},
    status::Delivery,
    storage::{self, Found, NewInstance, NewSignal, NoReceiver, Receiver},
    value,
};

/// The place where a call is executed.
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
    /// Returns the size of the largest value that the target takes, in bytes.
    pub(super) fn value_max(&self) -> usize {
        match self {
            Self::Client(client) => client.value_max(),
            Self::Pool(_) | Self::Connection(_) => value::VALUE_MAX,
        }
    }

    pub(crate) async fn insert(
        self,
        mut row: NewInstance,
    ) -> Result<Result<i64, Duplicate>, InsertError> {
        let target = self.with_receivers(std::slice::from_mut(&mut row)).await?;
        match target {
            Self::Client(client) => client.insert(row).await,
            Self::Pool(pool) => Box::pin(insert_on_pool(pool, vec![row])).await.map(only),
            Self::Connection(connection) => {
                Box::pin(insert_in_transaction(connection, vec![row])).await.map(only)
            }
        }
    }

    pub(crate) async fn insert_many(
        self,
        mut rows: Vec<NewInstance>,
    ) -> Result<Vec<Result<i64, Duplicate>>, InsertError> {
        let target = self.with_receivers(&mut rows).await?;
        match target {
            Self::Client(client) => Box::pin(client.insert_many(rows)).await,
            Self::Pool(pool) => Box::pin(insert_on_pool(pool, rows)).await,
            Self::Connection(connection) => Box::pin(insert_in_transaction(connection, rows)).await,
        }
    }

    pub(super) async fn insert_or_signal(
        self,
        mut row: NewInstance,
        signal: NewSignal,
    ) -> Result<Found, SignalError> {
        let target = self.with_receivers(std::slice::from_mut(&mut row)).await?;
        Ok(match target {
            Self::Client(client) => Box::pin(client.insert_or_signal(row, signal)).await?,
            Self::Pool(pool) => Box::pin(insert_or_signal_on_pool(pool, row, signal)).await?,
            Self::Connection(connection) => {
                Box::pin(insert_or_signal_in_transaction(connection, row, signal)).await?
            }
        })
    }

    /// Looks up the receivers of reports that are named by unique keys. The rows name them by
    /// their ids from here on.
    async fn with_receivers(mut self, rows: &mut [NewInstance]) -> Result<Self, Unfound> {
        let by_key = |row: &&mut NewInstance| matches!(row.report_to, Some(Receiver::Key { .. }));
        let mut rows: Vec<&mut NewInstance> = rows.iter_mut().filter(by_key).collect();
        if rows.is_empty() {
            return Ok(self);
        }
        // It is rare that a receiver is named by its key, and the future of an insert is part of
        // the caller's. Therefore this one is boxed.
        let found = Box::pin(async {
            match &mut self {
                Self::Client(client) => client.find_receivers(&mut rows).await,
                Self::Pool(pool) => {
                    find_receivers(&Connections::once((*pool).clone()), &mut rows).await
                }
                Self::Connection(connection) => {
                    storage::find_receivers(connection, &mut rows).await
                }
            }
        });
        let found = found.await;
        match found.map_err(DatabaseError::new(HOLDER))?.into_iter().flatten().next() {
            None => Ok(self),
            Some(nobody) => Err(Unfound::Nobody(nobody)),
        }
    }

    pub(super) async fn signal(self, signal: NewSignal) -> Result<Delivery, SignalError> {
        match self {
            Self::Client(client) => client.signal(signal).await,
            Self::Pool(pool) => Box::pin(signal_on_pool(pool, signal)).await,
            Self::Connection(connection) => {
                Box::pin(signal_in_transaction(connection, signal)).await
            }
        }
    }
}

/// The receiver of an insert's report was not found.
enum Unfound {
    Nobody(NoReceiver),
    Database(DatabaseError),
}

impl From<DatabaseError> for Unfound {
    fn from(error: DatabaseError) -> Self {
        Self::Database(error)
    }
}

impl From<Unfound> for InsertError {
    fn from(unfound: Unfound) -> Self {
        match unfound {
            Unfound::Nobody(NoReceiver { machine, key }) => Self::NoReceiver { machine, key },
            Unfound::Database(error) => Self::Database(error),
        }
    }
}

impl From<Unfound> for SignalError {
    fn from(unfound: Unfound) -> Self {
        match unfound {
            Unfound::Nobody(NoReceiver { machine, key }) => {
                Self::NoHolder { machine: machine.to_owned(), key }
            }
            Unfound::Database(error) => Self::Database(error),
        }
    }
}

/// Looks receivers up on a connection of its own.
pub(super) async fn find_receivers(
    connections: &Connections,
    rows: &mut [&mut NewInstance],
) -> Result<Vec<Option<NoReceiver>>, sqlx::Error> {
    let mut connection = connections.get().await?;
    let result = connections.within(storage::find_receivers(&mut connection, rows)).await;
    connection.done(result)
}

/// Returns the answer to an insert of one row.
fn only(mut inserted: Vec<Result<i64, Duplicate>>) -> Result<i64, Duplicate> {
    inserted.pop().expect("one row was inserted, so there is one answer")
}

/// The places where an insert or a signal can be executed. They are `&Engine`, `&Client` and
/// `&PgPool`, and, for the caller's own transaction, `&mut *tx` or any `&mut PgConnection`.
#[diagnostic::on_unimplemented(
    message = "nothing can be executed on `{Self}`",
    label = "expected `&Engine`, `&Client`, `&PgPool` or `&mut *tx`"
)]
pub trait ExecuteOn<'e>: sealed::Sealed {
    #[doc(hidden)]
    fn into_target(self) -> Target<'e>;
}

pub(crate) mod sealed {
    pub trait Sealed {}
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
