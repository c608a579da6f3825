//! `execute`, the typed face of inserts and signals: it turns types into rows, and the answers into
//! types.
//!
//! Invariant: a value that cannot be stored is refused before anything is sent.

use super::ExecuteOn;
use crate::{
    error::{Duplicate, InsertError, SignalError},
    id::InstanceId,
    machine::{
        Machine,
        insert::{Insert, InsertMany},
        signal::Signal,
    },
    status::Delivery,
};

impl<M: Machine> Insert<M> {
    /// Inserts the instance. Through an engine or a client, concurrent calls share a commit. On a
    /// pool the insert commits by itself, and in the caller's own transaction (`&mut *tx`) it
    /// commits with that.
    ///
    /// When this returns, the instance is durable, unless it is part of a transaction of the
    /// caller's.
    ///
    /// # Errors
    ///
    /// [`InsertError`]: the unique key is taken; the state or an option cannot be stored; the
    /// database failed.
    pub async fn execute<'e>(
        self,
        on: impl ExecuteOn<'e>,
    ) -> Result<InstanceId<M>, InsertError<InstanceId<M>>> {
        let target = on.into_target();
        let row = self.into_row(target.value_max())?;
        let inserted = target.insert(row).await;
        Ok(InstanceId::from_raw(inserted.map_err(InsertError::typed)?.map_err(Duplicate::typed)?))
    }
}

impl<M: Machine> InsertMany<M> {
    /// Inserts them in one transaction, and returns an answer for each, in their order. If a unique
    /// key is taken, that instance alone is a [`Duplicate`].
    ///
    /// # Errors
    ///
    /// [`InsertError`], for all of them: a state or an option cannot be stored; the database
    /// failed. Then nothing is inserted.
    pub async fn execute<'e>(
        self,
        on: impl ExecuteOn<'e>,
    ) -> Result<Vec<Result<InstanceId<M>, Duplicate<InstanceId<M>>>>, InsertError> {
        let target = on.into_target();
        let rows = self.into_rows(target.value_max())?;
        let inserted = target.insert_many(rows).await?;
        let typed = |answer: Result<_, Duplicate>| {
            answer.map(InstanceId::from_raw).map_err(Duplicate::typed)
        };
        Ok(inserted.into_iter().map(typed).collect())
    }
}

impl<M: Machine> Signal<M> {
    /// Sends the signal. Through an engine or a client, concurrent calls share a commit. On a pool
    /// the signal commits by itself, and in the caller's own transaction (`&mut *tx`) it commits
    /// with that.
    ///
    /// When this returns, the signal is durable, unless it is part of a transaction of the
    /// caller's.
    ///
    /// # Errors
    ///
    /// [`SignalError`]: the instance is unknown, of another machine or terminal; the payload
    /// cannot be stored; the database failed.
    pub async fn execute<'e>(self, on: impl ExecuteOn<'e>) -> Result<Delivery, SignalError> {
        let target = on.into_target();
        let signal = self.into_row(target.value_max())?;
        target.signal(signal).await
    }
}
