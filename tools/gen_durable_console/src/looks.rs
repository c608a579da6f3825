//! The looks at the database that views show.
//!
//! Invariant: a look only reads, in transactions that may not write and under a statement timeout.
//! It examines a bounded number of rows: the library's calls see to that.

use std::time::{Duration, Instant, SystemTime};

use gen_durable::{
    Client, Status,
    error::{DatabaseError, FindError},
    operate::{
        AuditPage, Bucket, Count, Cursor, Depth, Details, Entry, Finding, HistoryEntry, Inbox,
        LimitEntry, List, MachineEntry, OperateError, Page, PauseEntry, QueueEntry, RunPage,
        ScheduleEntry, StepCount, Tree, Waiting, WorkerEntry,
    },
};

use crate::{
    bulk::{BulkActions, Standing},
    filter::Filter,
    view::{AuditFilter, View},
};

/// The most instances, audit entries, buckets or waiting instances that a page shows.
pub(crate) const PAGE: usize = 50;
/// The failed instances that the overview lists.
const RECENT: usize = 8;
/// The instances that a preview lists.
const PREVIEW: usize = 10;
/// The runs of a page of an instance's timeline.
const RUNS: usize = 100;

/// The longest time that a look may take, with all of its statements.
const LOOK_MAX: Duration = Duration::from_secs(5);

/// A look at a view.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) model: Model,
    /// The time that the database took, with the wait for a connection.
    pub(crate) took: Duration,
    pub(crate) at: SystemTime,
}

/// The things that were found, for each view.
#[derive(Debug)]
pub(crate) enum Model {
    Overview(Overview),
    Instances { list: List, count: Count },
    Instance(Box<Instance>),
    Entry(Box<HistoryEntry>),
    Machines(Machines),
    Machine(Box<Machine>),
    Queues(Vec<QueueEntry>),
    Limits(Vec<LimitEntry>),
    Limit { limit: LimitEntry, buckets: Vec<Bucket>, waiting: Vec<Waiting> },
    Schedules(Vec<ScheduleEntry>),
    Workers(Vec<WorkerEntry>),
    Doctor(Vec<Finding>),
    Audit(AuditPage),
    Bulk(Standing),
}

/// The fleet at a glance.
#[derive(Debug)]
pub(crate) struct Overview {
    pub(crate) queues: Vec<QueueEntry>,
    pub(crate) workers: Vec<WorkerEntry>,
    pub(crate) machines: Vec<MachineEntry>,
    pub(crate) pauses: Vec<PauseEntry>,
    pub(crate) failed: Vec<Entry>,
}

/// All machines, and what is paused of them.
#[derive(Debug)]
pub(crate) struct Machines {
    pub(crate) machines: Vec<MachineEntry>,
    pub(crate) pauses: Vec<PauseEntry>,
}

/// A machine in one version.
#[derive(Debug)]
pub(crate) struct Machine {
    pub(crate) entry: MachineEntry,
    pub(crate) versions: Vec<u32>,
    pub(crate) counts: Vec<StepCount>,
    pub(crate) pauses: Vec<PauseEntry>,
}

/// An instance, as far as it is there: its history may outlive it.
#[derive(Debug)]
pub(crate) struct Instance {
    pub(crate) id: i64,
    pub(crate) details: Option<Details>,
    /// A part of what it did.
    pub(crate) runs: RunPage,
    pub(crate) pauses: Vec<PauseEntry>,
    pub(crate) machine: Option<MachineEntry>,
    pub(crate) inbox: Option<Inbox>,
    pub(crate) tree: Option<Tree>,
    pub(crate) audit: AuditPage,
}

/// The reason why a view has nothing to show.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unseen {
    /// There is no such thing.
    #[error("{0}")]
    Unknown(String),
    /// The library refuses a value of the view, for example as too long.
    #[error("{0}")]
    Bad(String),
    /// The schema is missing, or is of another version.
    #[error("the database has no gen_durable schema of this version: run `gen-durable migrate up`")]
    NoSchema,
    /// The login may not look.
    #[error(
        "the console's login may not look: run `gen-durable migrate roles`, and grant it \
         gen_durable_operator to look, or gen_durable_supervisor to act"
    )]
    NoRight,
    /// The database failed. The text may say too much for a page, so the log has it.
    #[error("the database gave no answer in time, or failed: the log of this program says how")]
    Database(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl From<DatabaseError> for Unseen {
    fn from(error: DatabaseError) -> Self {
        match error.sqlstate() {
            Some("42P01" | "3F000" | "42703") => Self::NoSchema,
            Some("42501") => Self::NoRight,
            _ => Self::Database(error.into()),
        }
    }
}

impl From<FindError> for Unseen {
    fn from(error: FindError) -> Self {
        match error {
            FindError::Database(error) => error.into(),
            error => Self::Bad(error.to_string()),
        }
    }
}

impl From<OperateError> for Unseen {
    fn from(error: OperateError) -> Self {
        match error {
            OperateError::Database(error) => error.into(),
            error @ OperateError::Unknown { .. } => Self::Unknown(error.to_string()),
            error => Self::Bad(error.to_string()),
        }
    }
}

/// Looks at a view.
pub(crate) async fn look(client: &Client, bulk: &BulkActions, view: &View) -> Result<Seen, Unseen> {
    let began = Instant::now();
    let late = |_| Unseen::Database("the look took too long, and was given up".into());
    let model = tokio::time::timeout(LOOK_MAX, Box::pin(model(client, bulk, view))).await;
    let model = model.map_err(late).flatten();
    let took = began.elapsed();
    if let Err(Unseen::Database(error)) = &model {
        tracing::warn!(target: "gen_durable::console", error = %Causes(&**error), view = ?view, "a look failed");
    }
    Ok(Seen { model: model?, took, at: SystemTime::now() })
}

/// An error with all its causes.
pub(crate) struct Causes<'a>(pub(crate) &'a (dyn std::error::Error + 'static));

impl std::fmt::Display for Causes<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

async fn model(client: &Client, bulk: &BulkActions, view: &View) -> Result<Model, Unseen> {
    Ok(match view {
        View::Overview => Model::Overview(overview(client).await?),
        View::Instances { filter, before } => {
            let chosen = filter.on(client);
            let list = chosen.list(page(*before).size(PAGE)).await?;
            Model::Instances { list, count: chosen.count().await? }
        }
        View::Instance { id, before } => {
            Model::Instance(Box::new(instance(client, *id, page(*before)).await?))
        }
        View::Entry { instance, entry } => {
            let found = client.instance_by_id(*instance).history_entry(*entry).await?;
            Model::Entry(Box::new(found.ok_or_else(|| {
                Unseen::Unknown(format!("the history of instance {instance} has no entry {entry}"))
            })?))
        }
        View::Machines => Model::Machines(Machines {
            machines: client.machines().await?,
            pauses: client.pauses().await?,
        }),
        View::Machine { name, version } => {
            Model::Machine(Box::new(machine(client, name, *version).await?))
        }
        View::Queues => Model::Queues(client.queues().await?),
        View::Limits => Model::Limits(client.limits().await?),
        View::Limit { name, after } => limit(client, name, after.as_deref()).await?,
        View::Schedules { after } => Model::Schedules(client.schedules(after.as_deref()).await?),
        View::Workers => Model::Workers(client.workers().await?),
        View::Doctor => Model::Doctor(client.diagnose().await?),
        View::Audit { filter, before } => Model::Audit(audit(client, filter, *before).await?),
        View::Bulk { id } => Model::Bulk(bulk.standing(*id).ok_or_else(|| {
            Unseen::Unknown(format!("this console knows of no action {id} on many instances"))
        })?),
    })
}

/// Returns the page before this entry, or the newest one.
fn page(before: Option<i64>) -> Page {
    before.map_or(Page::first(), |id| Page::after(Cursor::from_raw(id)))
}

async fn overview(client: &Client) -> Result<Overview, Unseen> {
    let failed = client.all_instances().status(Status::Failed);
    Ok(Overview {
        queues: client.queues().await?,
        workers: client.workers().await?,
        machines: client.machines().await?,
        pauses: client.pauses().await?,
        failed: failed.list(Page::first().size(RECENT)).await?.entries,
    })
}

async fn machine(client: &Client, name: &str, version: Option<u32>) -> Result<Machine, Unseen> {
    let counts = client.step_counts(name).await?;
    let mut machines = client.machines().await?;
    machines.retain(|machine| machine.name == name);
    let versions: Vec<u32> = machines.iter().map(|machine| machine.version).collect();
    let wanted = version.or(versions.last().copied());
    let machine = machines.into_iter().find(|machine| Some(machine.version) == wanted);
    let machine = machine.ok_or_else(|| {
        let version = version.map(|version| format!(" in version {version}")).unwrap_or_default();
        Unseen::Unknown(format!("no engine has registered machine {name}{version}"))
    })?;
    let counts = counts.into_iter().filter(|count| count.version == machine.version).collect();
    let pauses = client.pauses().await?;
    Ok(Machine { entry: machine, versions, counts, pauses })
}

async fn instance(client: &Client, id: i64, runs: Page) -> Result<Instance, Unseen> {
    let handle = client.instance_by_id(id);
    let details = match handle.get().await {
        Ok(details) => Some(details),
        Err(OperateError::Unknown { .. }) => None,
        Err(error) => return Err(error.into()),
    };
    let runs = handle.runs(runs.size(RUNS)).await?;
    let audit = client.audit().instance(id).list(Page::first().size(PAGE)).await?;
    if details.is_none() && runs.entries.is_empty() && audit.entries.is_empty() {
        return Err(OperateError::Unknown { id }.into());
    }
    let (mut pauses, mut machine, mut inbox, mut tree) = (Vec::new(), None, None, None);
    if let Some(details) = &details {
        pauses = handle.pauses().await?;
        let mut machines = client.machines().await?;
        machines.retain(|machine| machine.name == details.machine);
        machine = machines.into_iter().find(|machine| machine.version == details.version);
        inbox = if_there(handle.inbox().await)?;
        tree = if_there(handle.tree().await)?;
    }
    Ok(Instance { id, details, runs, pauses, machine, inbox, tree, audit })
}

/// Returns what was found of an instance. None if it was deleted a moment ago.
fn if_there<T>(found: Result<T, OperateError>) -> Result<Option<T>, OperateError> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(OperateError::Unknown { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

async fn limit(client: &Client, name: &str, after: Option<&str>) -> Result<Model, Unseen> {
    let handle = client.limit(name);
    let limit = handle.get().await?;
    let limit =
        limit.ok_or_else(|| Unseen::Unknown(format!("no engine has declared the limit {name}")))?;
    let mut buckets = handle.buckets(after).await?;
    buckets.truncate(PAGE);
    let keyed = buckets.iter().any(|bucket| bucket.key.is_some());
    let mut waiting = if keyed { Vec::new() } else { handle.waiting(None).await? };
    waiting.truncate(PAGE);
    Ok(Model::Limit { limit, buckets, waiting })
}

async fn audit(
    client: &Client,
    filter: &AuditFilter,
    before: Option<i64>,
) -> Result<AuditPage, Unseen> {
    let mut audit = client.audit();
    if let Some(instance) = filter.instance {
        audit = audit.instance(instance);
    }
    if let Some(actor) = &filter.actor {
        audit = audit.actor(actor);
    }
    if let Some(action) = &filter.action {
        audit = audit.action(action);
    }
    if let Some(machine) = &filter.machine {
        audit = audit.machine(machine);
    }
    Ok(audit.list(page(before).size(PAGE)).await?)
}

/// Looks at the instances that an action on many would meet first, and counts all.
pub(crate) async fn preview(client: &Client, filter: &Filter) -> Result<(List, Count), Unseen> {
    let chosen = filter.on(client);
    let list = chosen.list(Page::first().size(PREVIEW)).await?;
    Ok((list, chosen.count().await?))
}

/// Returns what waits in some queues, by kind.
pub(crate) fn totals(queues: &[QueueEntry]) -> Vec<Depth> {
    let mut all: Vec<Depth> = Vec::new();
    for depth in queues.iter().flat_map(|queue| &queue.depths) {
        match all.iter_mut().find(|total| total.waits == depth.waits) {
            None => all.push(depth.clone()),
            Some(total) => {
                total.count += depth.count;
                total.capped |= depth.capped;
                total.oldest = total.oldest.into_iter().chain(depth.oldest).min();
            }
        }
    }
    all
}
