//! The audit: the actions of operators.

use std::{fmt, time::SystemTime};

use super::{
    super::{Client, Cursor, Page},
    look,
};
use crate::{
    error::DatabaseError,
    storage::{self, AuditFilter, AuditRow},
};

/// A choice of actions, to list. [`Client::audit`] makes one. Each option narrows the choice.
///
/// ```
/// use gen_durable::{operate::Page, prelude::*};
/// # async fn example(client: Client) -> Result<(), Box<dyn std::error::Error>> {
/// let page = client.audit().actor("ada").list(Page::first()).await?;
/// for entry in page.entries {
///     println!("{} did {}: {:?}", entry.actor, entry.action, entry.reason);
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
#[must_use = "a choice of actions is read by `.list(…)`"]
pub struct Audit {
    client: Client,
    filter: AuditFilter,
}

impl Client {
    /// Chooses actions of operators. Nothing is sent yet.
    pub fn audit(&self) -> Audit {
        Audit { client: self.clone(), filter: AuditFilter::default() }
    }
}

impl Audit {
    /// Chooses those on this instance, which need not exist any more.
    pub fn instance(mut self, id: i64) -> Self {
        self.filter.instance = Some(id);
        self
    }

    /// Chooses those of this operator.
    pub fn actor(mut self, actor: impl Into<String>) -> Self {
        self.filter.actor = Some(actor.into());
        self
    }

    /// Chooses those of this name: `cancel`, `pause_queue` and so on.
    pub fn action(mut self, action: impl Into<String>) -> Self {
        self.filter.action = Some(action.into());
        self
    }

    /// Chooses those on instances of this machine, on the machine itself, and on its steps.
    pub fn machine(mut self, machine: impl Into<String>) -> Self {
        self.filter.fsm = Some(machine.into());
        self
    }

    /// Lists a page of them, newest first. It examines 10,000 actions at most: a page may then have
    /// few entries or none, though there are more.
    ///
    /// # Errors
    ///
    /// [`DatabaseError`]: the database failed. It needs the rights of an operator or a worker.
    pub async fn list(&self, page: Page) -> Result<AuditPage, DatabaseError> {
        let size = i64::try_from(page.size).unwrap_or(i64::MAX);
        let found = look(&self.client, "list what operators did", async |connection| {
            storage::list_audit(connection, &self.filter, page.before, size).await
        });
        let (rows, edge) = found.await?;
        Ok(AuditPage {
            entries: rows.into_iter().map(AuditEntry::of).collect(),
            next: edge.map(Cursor::from_raw),
        })
    }
}

impl fmt::Debug for Audit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Audit").field("filter", &self.filter).finish_non_exhaustive()
    }
}

/// A page of actions.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct AuditPage {
    /// The actions, newest first.
    pub entries: Vec<AuditEntry>,
    /// The place to go on. None if there are no others. There may be entries after it even if this
    /// page is not full.
    pub next: Option<Cursor>,
}

/// An action of an operator.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct AuditEntry {
    /// The number of the entry. Later ones have higher numbers, as a rule.
    pub id: i64,
    /// The time of the action.
    pub at: SystemTime,
    /// The operator: the name that was given, or the role of the database session.
    pub actor: String,
    /// The action.
    pub action: String,
    /// The reason that the operator gave.
    pub reason: Option<String>,
    /// The instance.
    pub instance: Option<i64>,
    /// The machine: that of the instance, or the one that was paused or resumed.
    pub machine: Option<String>,
    /// The step that was paused or resumed.
    pub step: Option<String>,
    /// The queue that was paused or resumed.
    pub queue: Option<String>,
    /// The schedule that was paused, resumed or run.
    pub schedule: Option<String>,
    /// The limit whose bounds were set or reset.
    pub limit: Option<String>,
}

impl AuditEntry {
    fn of(row: AuditRow) -> Self {
        Self {
            id: row.id,
            at: row.at,
            actor: row.actor,
            action: row.action,
            reason: row.reason,
            instance: row.instance_id,
            machine: row.fsm,
            step: row.step,
            queue: row.queue,
            schedule: row.schedule,
            limit: row.limit,
        }
    }
}
