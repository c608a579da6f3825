//! The workers: the engines that run, or that were lost a moment ago.

use std::time::SystemTime;

use super::{super::Client, LIST_MAX, count, look, number};
use crate::{
    error::DatabaseError,
    storage::{self, WorkerRow},
};

impl Client {
    /// Lists the engines, the oldest first, up to 1,000. One whose lease has run out is lost, and
    /// stays in the list until the reaper of another engine has taken what it had claimed.
    ///
    /// ```
    /// # use gen_durable::prelude::*;
    /// # async fn example(client: Client) -> Result<(), Box<dyn std::error::Error>> {
    /// for worker in client.workers().await? {
    ///     let state = if worker.is_alive { "alive" } else { "lost" };
    ///     println!("{} {state}, {} claimed", worker.name, worker.executing);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`DatabaseError`]: the database failed. It needs the rights of an operator or a worker.
    pub async fn workers(&self) -> Result<Vec<WorkerEntry>, DatabaseError> {
        let rows = look(self, "list workers", async |connection| {
            storage::list_workers(connection, LIST_MAX).await
        });
        Ok(rows.await?.into_iter().map(WorkerEntry::of).collect())
    }
}

/// An engine, as [`Client::workers`] saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct WorkerEntry {
    /// Its id, as it stands in histories.
    pub id: i64,
    /// Its name.
    pub name: String,
    /// The host of its process, as far as that was found out.
    pub host: Option<String>,
    /// The number of its process on that host.
    pub pid: Option<i64>,
    /// The version of this library in its program.
    pub library: Option<String>,
    /// The time at which it was started, by the database's clock.
    pub started_at: SystemTime,
    /// The time until which its lease lasts, unless it renews it.
    pub lease_ends_at: SystemTime,
    /// True if its lease lasts, by the database's clock.
    pub is_alive: bool,
    /// The queues that it serves, and the steps that it runs at once in each.
    pub queues: Vec<(String, u32)>,
    /// The machines that it runs, each with its version. An older version that it upgrades has an
    /// entry too.
    pub machines: Vec<(String, u32)>,
    /// The number of instances that it has claimed. At most 10,000 of all workers together
    /// are counted, those of the oldest workers first.
    pub executing: u64,
    /// True if it may have claimed more.
    pub executing_capped: bool,
}

impl WorkerEntry {
    fn of(row: WorkerRow) -> Self {
        let numbers = |pairs: Vec<(String, i32)>| {
            pairs.into_iter().map(|(name, value)| (name, number(value))).collect()
        };
        Self {
            id: row.id,
            name: row.name,
            host: row.host,
            pid: row.pid,
            library: row.library,
            started_at: row.started_at,
            lease_ends_at: row.lease_expires_at,
            is_alive: row.is_alive,
            queues: numbers(row.queues),
            machines: numbers(row.kinds),
            executing: count(row.claimed),
            executing_capped: row.capped,
        }
    }
}
