//! The queues, and what waits in each.

use std::{collections::BTreeMap, fmt, time::SystemTime};

use super::{
    super::{Client, PauseEntry, PauseScope},
    LIST_MAX, count, look, number,
};
use crate::{
    error::DatabaseError,
    storage::{self, CountRow},
};

impl Client {
    /// Lists the queues that engines have registered or serve, that are paused, or in which
    /// instances wait; by their names, and up to 1,000 of each kind.
    ///
    /// ```
    /// # use gen_durable::prelude::*;
    /// # async fn example(client: Client) -> Result<(), Box<dyn std::error::Error>> {
    /// for queue in client.queues().await? {
    ///     println!("{}: {} slots of {} workers", queue.name, queue.slots, queue.workers);
    ///     for depth in &queue.depths {
    ///         let more = if depth.capped { "+" } else { "" };
    ///         println!("  {}{more} {}", depth.count, depth.waits);
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`DatabaseError`]: the database failed. It needs the rights of an operator or a worker.
    pub async fn queues(&self) -> Result<Vec<QueueEntry>, DatabaseError> {
        let pauses = self.pauses().await?;
        let (rows, counts) = look(self, "list queues", async |connection| {
            let rows = storage::list_queues(connection, LIST_MAX).await?;
            Ok((rows, storage::count_waiting(connection, None).await?))
        })
        .await?;
        let mut queues: BTreeMap<String, QueueEntry> = BTreeMap::new();
        for row in rows {
            let queue = entry(&mut queues, &row.name);
            queue.registered = row.registered;
            queue.workers = number(row.workers);
            queue.slots = number(row.slots);
        }
        for pause in pauses {
            if let PauseScope::Queue(name) = pause.scope.clone() {
                entry(&mut queues, &name).paused = Some(pause);
            }
        }
        for depth in depths(&counts) {
            entry(&mut queues, &depth.queue).depths.push(depth);
        }
        Ok(queues.into_values().collect())
    }

    /// Counts the instances that wait, by their queues and by what they wait for.
    ///
    /// The call examines a bounded number of rows, and so takes some milliseconds, however many
    /// instances there are. A count that is [`capped`](Depth::capped) is of a part of them. A queue
    /// whose instances all lie outside of that part is missing. No index has parked instances
    /// without a timeout: they are counted among the 10,000 newest instances.
    ///
    /// # Errors
    ///
    /// [`DatabaseError`]: the database failed. It needs the rights of an operator or a worker.
    pub async fn depths(&self) -> Result<Vec<Depth>, DatabaseError> {
        let counts = look(self, "count what waits in queues", async |connection| {
            storage::count_waiting(connection, None).await
        });
        Ok(depths(&counts.await?))
    }
}

fn entry<'a>(queues: &'a mut BTreeMap<String, QueueEntry>, name: &str) -> &'a mut QueueEntry {
    queues.entry(name.to_owned()).or_insert_with(|| QueueEntry {
        name: name.to_owned(),
        registered: false,
        workers: 0,
        slots: 0,
        paused: None,
        depths: Vec::new(),
    })
}

/// Adds the counts up by queue.
fn depths(counts: &[CountRow]) -> Vec<Depth> {
    let mut depths: BTreeMap<(&str, Waits), Depth> = BTreeMap::new();
    for row in counts {
        // The statements use no other words.
        let Some(waits) = Waits::of(&row.waits) else { continue };
        let depth = depths.entry((&row.queue, waits)).or_insert_with(|| Depth {
            queue: row.queue.clone(),
            waits,
            count: 0,
            capped: false,
            oldest: None,
        });
        depth.count += count(row.count);
        depth.capped |= row.capped;
        depth.oldest = depth.oldest.into_iter().chain(row.oldest).min();
    }
    depths.into_values().collect()
}

/// A queue, as [`Client::queues`] saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct QueueEntry {
    /// Its name.
    pub name: String,
    /// True if an engine has ever served it.
    pub registered: bool,
    /// The number of living engines that serve it.
    pub workers: u32,
    /// The number of steps of it that they run at once, all together.
    pub slots: u32,
    /// Its pause, if it is paused as a whole.
    pub paused: Option<PauseEntry>,
    /// The instances that wait in it. A kind of which there is none is left out.
    pub depths: Vec<Depth>,
}

/// The instances of a queue that wait for the same kind of thing.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Depth {
    /// The queue.
    pub queue: String,
    /// The thing that they wait for.
    pub waits: Waits,
    /// Their number, as far as they were counted.
    pub count: u64,
    /// True if there are more than the call has counted, or may be.
    pub capped: bool,
    /// The time since which the first of those that were counted waits. For scheduled ones it is
    /// the time at which the first is due, for failed ones that of the first end.
    pub oldest: Option<SystemTime>,
}

/// The thing that an instance waits for, as it is counted. An instance that waits for several is
/// counted once. The first that applies counts: its key, its pause, its limit, its cancel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Waits {
    /// It is due, and waits for an engine that claims it.
    Due,
    /// It is to run at a later time.
    Scheduled,
    /// An engine has claimed it: it runs, or is about to.
    Executing,
    /// It is parked, and waits for a signal or a timeout.
    Awaiting,
    /// It has failed, and stays until somebody retries it or its retention is over.
    Failed,
    /// It is paused, or its step, its machine or its queue is.
    Paused,
    /// It waits for room in a limit.
    Limited,
    /// It waits for its partition key, or for an engine that answers its cancel.
    Blocked,
}

impl Waits {
    /// All of them, in their order.
    pub const ALL: [Self; 8] = [
        Self::Due,
        Self::Scheduled,
        Self::Executing,
        Self::Awaiting,
        Self::Failed,
        Self::Paused,
        Self::Limited,
        Self::Blocked,
    ];

    /// Returns its name in lower case: `due`, `scheduled` and so on.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Due => "due",
            Self::Scheduled => "scheduled",
            Self::Executing => "executing",
            Self::Awaiting => "awaiting",
            Self::Failed => "failed",
            Self::Paused => "paused",
            Self::Limited => "limited",
            Self::Blocked => "blocked",
        }
    }

    pub(super) fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|waits| waits.as_str() == name)
    }
}

impl fmt::Display for Waits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
