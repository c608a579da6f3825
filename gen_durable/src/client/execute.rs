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
        insert_or_signal::InsertOrSignal,
        signal::Signal,
    },
    status::{Delivery, Reached},
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

impl<M: Machine> InsertOrSignal<M> {
    /// Inserts the instance with the signal, or sends the signal to the instance that holds its
    /// unique key: one of the two, in one transaction. In the caller's own transaction (`&mut *tx`)
    /// it commits with that.
    ///
    /// When this returns, the signal is durable, unless it is part of a transaction of the
    /// caller's. A transaction of the caller's with the isolation level `repeatable read` or
    /// `serializable` may fail with a serialization error, as its snapshot may be older than the
    /// holder.
    ///
    /// # Errors
    ///
    /// [`SignalError`]: the holder of the key has ended ([`SignalError::Terminal`]); the insert has
    /// no unique key; the state, the payload or an option cannot be stored; the database failed.
    pub async fn execute<'e>(
        self,
        on: impl ExecuteOn<'e>,
    ) -> Result<Reached<InstanceId<M>>, SignalError> {
        let target = on.into_target();
        let (row, signal) = self.into_rows(target.value_max())?;
        let found = target.insert_or_signal(row, signal).await?;
        let id = InstanceId::from_raw(found.id);
        if found.status.is_terminal() {
            return Err(SignalError::Terminal { id: found.id, status: found.status });
        }
        Ok(match (found.started, found.fresh) {
            (true, _) => Reached::Started(id),
            (false, true) => Reached::Signalled(id),
            (false, false) => Reached::Duplicate(id),
        })
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
    /// [`SignalError`]: the instance is unknown, of another machine or terminal; no instance holds
    /// the unique key; the payload cannot be stored; the database failed.
    pub async fn execute<'e>(self, on: impl ExecuteOn<'e>) -> Result<Delivery, SignalError> {
        let target = on.into_target();
        let signal = self.into_row(target.value_max())?;
        target.signal(signal).await
    }
}
