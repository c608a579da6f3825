//! An insert with a signal: it starts an instance, or signals the one that holds the unique key.
//!
//! Invariant: the insert has a unique key, by which the holder is found.

use std::fmt;

use super::{Machine, insert::Insert, signal::Signal};
use crate::{
    error::EncodeError,
    storage::{NewInstance, NewSignal},
};

/// A new instance with a signal, which goes to the holder of the unique key if the key is taken.
/// Nothing happens before [`execute`](Self::execute).
///
/// [`Insert::with_signal`] makes one.
#[must_use = "it is executed by `.execute(…)`"]
pub struct InsertOrSignal<M: Machine> {
    insert: Insert<M>,
    signal: Signal<M>,
}

impl<M: Machine> InsertOrSignal<M> {
    pub(crate) fn new(insert: Insert<M>, signal: Signal<M>) -> Self {
        Self { insert, signal }
    }

    /// Makes a redelivery harmless, as [`Signal::dedup_key`] does. An instance knows the key until
    /// it is deleted, so a key is no help once the instance has given its unique key back: a
    /// redelivery then starts another instance. `unique_while` with the terminal statuses prevents
    /// that.
    pub fn dedup_key(mut self, key: impl Into<String>) -> Self {
        self.signal = self.signal.dedup_key(key);
        self
    }

    /// Announces it to no engine, as [`Insert::silent`] says.
    pub fn silent(mut self) -> Self {
        self.insert = self.insert.silent();
        self.signal = self.signal.silent();
        self
    }

    pub(crate) fn into_rows(self, max: usize) -> Result<(NewInstance, NewSignal), EncodeError> {
        let row = self.insert.into_row(max)?;
        if row.unique_key.is_none() {
            return Err(EncodeError::NoUniqueKey);
        }
        Ok((row, self.signal.into_row(max)?))
    }
}

// Written by hand: a derive would require `M: Clone`.
impl<M: Machine<State: Clone>> Clone for InsertOrSignal<M> {
    fn clone(&self) -> Self {
        Self { insert: self.insert.clone(), signal: self.signal.clone() }
    }
}

impl<M: Machine> fmt::Debug for InsertOrSignal<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InsertOrSignal")
            .field("insert", &self.insert)
            .field("signal", &self.signal)
            .finish()
    }
}
