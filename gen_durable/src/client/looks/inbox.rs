//! The signals that wait in the inbox of an instance.
//!
//! Invariant: the look is bounded, in signals and in bytes. `Debug` prints no payload.

use std::{fmt, time::SystemTime};

use super::{
    super::{AnyId, InstanceHandle},
    look,
};
use crate::{
    error::OperateError,
    storage::{self, SignalRow},
};

/// The most signals of an inbox that [`InstanceHandle::inbox`] returns.
const SIGNALS_MAX: usize = 100;
/// The most bytes of a payload that it returns. All of them together then take less than 2 MiB.
const PAYLOAD_MAX: i32 = 16 * 1024;

impl<A: AnyId + Clone> InstanceHandle<A> {
    /// Returns the signals that wait in the inbox of the instance: those that no step has consumed.
    /// The oldest comes first. It returns the oldest 100 at most.
    ///
    /// Payloads belong to the application: [`InboxEntry::payload_json`] returns one.
    ///
    /// ```
    /// # use gen_durable::prelude::*;
    /// # async fn example(client: Client) -> Result<(), Box<dyn std::error::Error>> {
    /// let inbox = client.instance_by_id(42).inbox().await?;
    /// for signal in &inbox.entries {
    ///     println!("{} {}: {} bytes", signal.id, signal.name, signal.size);
    /// }
    /// if inbox.capped {
    ///     println!("and more");
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`OperateError`]: the instance does not exist, or is of another machine; no instance holds
    /// the unique key; the database failed. It needs the rights of an operator or a worker.
    pub async fn inbox(&self) -> Result<Inbox, OperateError> {
        let client = &self.client;
        let id = client.id_of::<A, OperateError>(self.address.clone()).await?;
        let machine = A::machine().unwrap_or_default().to_owned();
        let id = id.map_err(|key| OperateError::NoHolder { machine, key })?;
        let found = look(client, "look at the inbox of an instance", async |connection| {
            // One more tells whether there are more.
            storage::list_inbox(connection, id, SIGNALS_MAX + 1, PAYLOAD_MAX).await
        });
        let (found, signals) = found.await?.ok_or(OperateError::Unknown { id })?;
        if let Some(expected) = A::machine()
            && found != expected
        {
            return Err(OperateError::WrongMachine { id, expected: expected.to_owned(), found });
        }
        Ok(Inbox {
            capped: signals.len() > SIGNALS_MAX,
            entries: signals.into_iter().take(SIGNALS_MAX).map(InboxEntry::of).collect(),
        })
    }
}

/// The inbox of an instance, as [`InstanceHandle::inbox`] saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Inbox {
    /// The signals, the oldest first.
    pub entries: Vec<InboxEntry>,
    /// True if there are more.
    pub capped: bool,
}

/// A signal that waits in an [`Inbox`].
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct InboxEntry {
    /// The number of the signal. Those of an instance rise.
    pub id: i64,
    /// Its name.
    pub name: String,
    /// Its deduplication key.
    pub dedup_key: Option<String>,
    /// The time of its arrival, by the database's clock.
    pub arrived_at: SystemTime,
    /// The bytes of its payload, as JSON text. If the payload takes more than 16 KiB in the table,
    /// it is the number of bytes there: Postgres may have compressed them.
    pub size: u64,
    /// The payload as stored.
    payload: Option<String>,
}

impl InboxEntry {
    fn of(row: SignalRow) -> Self {
        Self {
            id: row.id,
            name: row.name,
            dedup_key: row.dedup_key,
            arrived_at: row.arrived_at,
            size: u64::try_from(row.size).unwrap_or(0),
            payload: row.payload,
        }
    }

    /// Returns the payload as JSON text, as it is stored. None if it is longer than 16 KiB: the
    /// look leaves it out.
    pub fn payload_json(&self) -> Option<&str> {
        self.payload.as_deref()
    }
}

/// Does not print the payload, as it may be confidential.
impl fmt::Debug for InboxEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InboxEntry")
            .field("id", &self.id)
            .field("name", &self.name)
            .field("dedup_key", &self.dedup_key)
            .field("arrived_at", &self.arrived_at)
            .field("size", &self.size)
            .finish_non_exhaustive()
    }
}
