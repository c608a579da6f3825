//! The machines that engines have registered, and how many instances stand at each of their steps.

use std::{collections::BTreeMap, fmt, time::SystemTime};

use super::{super::Client, LIST_MAX, Waits, count, look, number};
use crate::{
    error::{DatabaseError, FindError},
    history::History,
    keys::check_name,
    machine::graph::Graph,
    storage::{self, CountRow, MachineRow},
};

impl Client {
    /// Lists the machines that engines have registered, each version by itself, by name and
    /// version, up to 1,000.
    ///
    /// ```
    /// # use gen_durable::prelude::*;
    /// # async fn example(client: Client) -> Result<(), Box<dyn std::error::Error>> {
    /// for machine in client.machines().await? {
    ///     println!("{} v{}: {} workers", machine.name, machine.version, machine.workers);
    ///     if let Some(graph) = machine.graph() {
    ///         println!("{}", graph.to_mermaid());
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`DatabaseError`]: the database failed. It needs the rights of an operator or a worker.
    pub async fn machines(&self) -> Result<Vec<MachineEntry>, DatabaseError> {
        let rows = look(self, "list machines", async |connection| {
            storage::list_machines(connection, LIST_MAX).await
        });
        Ok(rows.await?.into_iter().map(MachineEntry::of).collect())
    }

    /// Counts the instances of a machine that have not ended and those that have failed, by the
    /// step at which they stand and by what they wait for. The counts are as bounded as those of
    /// [`depths`](Self::depths).
    ///
    /// # Errors
    ///
    /// [`FindError`]: the text cannot be the name of a machine; the database failed. It needs the
    /// rights of an operator or a worker.
    pub async fn step_counts(&self, machine: &str) -> Result<Vec<StepCount>, FindError> {
        check_name("the machine's name", machine)?;
        let counts = look(self, "count instances by their steps", async |connection| {
            storage::count_waiting(connection, Some(machine)).await
        });
        Ok(step_counts(&counts.await?))
    }
}

/// Adds the counts up by version and step.
fn step_counts(rows: &[CountRow]) -> Vec<StepCount> {
    let mut counts: BTreeMap<(u32, &str, Waits), StepCount> = BTreeMap::new();
    for row in rows {
        // The statements use no other words.
        let Some(waits) = Waits::of(&row.waits) else { continue };
        let version = number(row.fsm_version);
        let all = counts.entry((version, &row.step, waits)).or_insert_with(|| StepCount {
            version,
            step: row.step.clone(),
            waits,
            count: 0,
            capped: false,
            oldest: None,
        });
        all.count += count(row.count);
        all.capped |= row.capped;
        all.oldest = all.oldest.into_iter().chain(row.oldest).min();
    }
    counts.into_values().collect()
}

/// The instances of a machine that stand at a step and wait for the same kind of thing.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct StepCount {
    /// The version of the machine.
    pub version: u32,
    /// The name of the step.
    pub step: String,
    /// The thing that they wait for.
    pub waits: Waits,
    /// Their number, as far as they were counted.
    pub count: u64,
    /// True if there are more than the call has counted, or may be.
    pub capped: bool,
    /// The time since which the first of those that were counted waits, as in a
    /// [`Depth`](super::Depth).
    pub oldest: Option<SystemTime>,
}

/// A machine in one version, as the newest engine that ran it has registered it.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct MachineEntry {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: u32,
    /// The queue of an instance whose insert names none.
    pub queue: String,
    /// The step that an instance begins with.
    pub first_step: String,
    /// The step that answers a cancel. None if a cancel ends the instance.
    pub on_cancel: Option<String>,
    /// Its steps.
    pub steps: Vec<String>,
    /// The names of the signals that it takes.
    pub signals: Vec<String>,
    /// The runs that its history records.
    pub history: History,
    /// The time at which an engine registered it as it is.
    pub registered_at: SystemTime,
    /// The number of living engines that run or upgrade it.
    pub workers: u32,
    /// The graph as JSON.
    graph: Option<String>,
}

impl MachineEntry {
    fn of(row: MachineRow) -> Self {
        Self {
            name: row.fsm,
            version: number(row.fsm_version),
            queue: row.queue,
            first_step: row.initial,
            on_cancel: row.on_cancel,
            steps: row.steps,
            signals: row.signals,
            // The table's check allows nothing else.
            history: row.history.and_then(|level| History::of(&level)).unwrap_or_default(),
            registered_at: row.registered_at,
            workers: number(row.workers),
            graph: row.graph,
        }
    }

    /// Returns the graph of its steps. None if only a newer version was ever run, which upgrades
    /// this one.
    pub fn graph(&self) -> Option<Graph<String>> {
        Graph::from_json(self.graph.as_deref()?)
    }

    /// Returns the graph as the engine has stored it: see [`Graph::to_json`].
    pub fn graph_json(&self) -> Option<&str> {
        self.graph.as_deref()
    }
}

impl fmt::Debug for MachineEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MachineEntry")
            .field("name", &self.name)
            .field("version", &self.version)
            .field("steps", &self.steps)
            .field("workers", &self.workers)
            .finish_non_exhaustive()
    }
}
