//! `audit`: shows what operators did.
//!
//! Invariant: a list that ends early says so on standard error, and where to go on.

use gen_durable::{
    Client,
    operate::{AuditEntry, Cursor, Page},
};

use crate::{
    choice::Address,
    failure::Failure,
    print::{Cell, Object, Out, Table, left, maybe, note, right},
    when,
};

/// The most entries of a page.
const PAGE_MAX: usize = 1_000;

/// Show what operators did, newest first.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  gen-durable audit --by ada
  gen-durable audit --instance 42 --json")]
pub(crate) struct Audit {
    /// The actions on this instance: an id, or MACHINE/KEY for the one that holds a unique key.
    #[arg(long, value_name = "INSTANCE")]
    instance: Option<String>,
    /// The actions of this operator.
    #[arg(long, value_name = "NAME")]
    by: Option<String>,
    /// The actions of this name, such as retry or pause.
    #[arg(long, value_name = "NAME")]
    action: Option<String>,
    /// The actions on this machine and its instances.
    #[arg(long, value_name = "NAME")]
    machine: Option<String>,
    /// The most entries that are shown.
    #[arg(long, value_name = "NUMBER", default_value_t = 50)]
    limit: usize,
    /// Go on where another list ended: it has named this number.
    #[arg(long, value_name = "CURSOR")]
    after: Option<i64>,
}

impl Audit {
    pub(crate) async fn run(self, client: &Client, out: &mut Out) -> Result<(), Failure> {
        let mut audit = client.audit();
        if let Some(instance) = &self.instance {
            audit = audit.instance(Address::read(instance)?.id(client).await?);
        }
        if let Some(by) = self.by {
            audit = audit.actor(by);
        }
        if let Some(action) = self.action {
            audit = audit.action(action);
        }
        if let Some(machine) = self.machine {
            audit = audit.machine(machine);
        }
        let mut page = self.after.map(Cursor::from_raw).map_or_else(Page::first, Page::after);
        let (mut entries, mut more) = (Vec::new(), None);
        while entries.len() < self.limit {
            let size = (self.limit - entries.len()).min(PAGE_MAX);
            let found = audit.list(page.size(size)).await?;
            entries.extend(found.entries);
            more = found.next;
            let Some(next) = found.next else { break };
            page = Page::after(next);
        }
        print(&entries, out)?;
        if let Some(next) = more {
            note(&format!("there may be more: go on with --after {}", next.get()));
        }
        Ok(())
    }
}

fn print(entries: &[AuditEntry], out: &mut Out) -> Result<(), Failure> {
    let table = Table::new([
        right("ENTRY"),
        left("WHEN"),
        left("BY"),
        left("ACTION"),
        left("SUBJECT"),
        maybe("REASON"),
    ]);
    let now = out.now;
    let row = |entry: &AuditEntry| {
        vec![
            Cell::number(entry.id),
            Cell::plain(when::relative(entry.at, now)),
            Cell::plain(&entry.actor),
            Cell::plain(&entry.action),
            Cell::plain(subject(entry)),
            Cell::maybe(entry.reason.as_ref()),
        ]
    };
    let json = |entry: &AuditEntry| {
        Object::new()
            .with("entry", entry.id)
            .time("at", entry.at)
            .with("by", &*entry.actor)
            .with("action", &*entry.action)
            .with("reason", entry.reason.as_deref())
            .with("instance", entry.instance)
            .with("machine", entry.machine.as_deref())
            .with("step", entry.step.as_deref())
            .with("queue", entry.queue.as_deref())
            .with("schedule", entry.schedule.as_deref())
            .with("limit", entry.limit.as_deref())
    };
    out.things(entries, table, row, json, |entry| entry.instance)
}

/// Names the thing that was acted on: `instance 42 (order)`, `queue mail`, `order@charge`.
fn subject(entry: &AuditEntry) -> String {
    let machine = entry.machine.as_deref().unwrap_or_default();
    match entry {
        AuditEntry { instance: Some(id), .. } if machine.is_empty() => format!("instance {id}"),
        AuditEntry { instance: Some(id), .. } => format!("instance {id} ({machine})"),
        AuditEntry { queue: Some(queue), .. } => format!("queue {queue}"),
        AuditEntry { schedule: Some(schedule), .. } => format!("schedule {schedule}"),
        AuditEntry { limit: Some(limit), .. } => format!("limit {limit}"),
        AuditEntry { step: Some(step), .. } => format!("{machine}@{step}"),
        _ => format!("machine {machine}"),
    }
}
