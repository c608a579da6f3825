//! `ls`: lists instances, newest first.
//!
//! Invariant: a list that ends early says so on standard error, and where to go on.

use gen_durable::{
    Client, Status,
    operate::{Cursor, Entry, Page},
};

use crate::{
    choice::Filter,
    failure::Failure,
    print::{Cell, Format, Object, Out, Style, Table, left, maybe, note, right},
};

/// The most instances that a call lists.
const PAGE_MAX: usize = 1_000;

/// List instances, newest first.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  gen-durable ls --machine order --status failed --changed-since 1d
  gen-durable ls --status failed -o ids | xargs -r gen-durable retry")]
pub(crate) struct Ls {
    /// The most instances that are listed.
    #[arg(long, value_name = "NUMBER", default_value_t = 50)]
    limit: usize,
    /// List all, however many there are.
    #[arg(long, conflicts_with = "limit")]
    all: bool,
    /// Go on where another list ended: it has named this number.
    #[arg(long, value_name = "CURSOR")]
    after: Option<i64>,
    /// Print the number of instances, which is counted up to 10,000.
    #[arg(long, conflicts_with_all = ["limit", "all", "after"])]
    count: bool,
    #[command(flatten)]
    filter: Filter,
}

impl Ls {
    pub(crate) async fn run(self, client: &Client, out: &mut Out) -> Result<(), Failure> {
        let instances = self.filter.instances(client);
        if self.count {
            out.no_ids("ls --count")?;
            let count = instances.count().await?.to_string();
            let object = || {
                let number = count.trim_end_matches('+').parse::<u64>().unwrap_or_default();
                Object::new().with("count", number).with("is_exact", !count.ends_with('+'))
            };
            return out.answer(&count, object, None);
        }
        let mut left = if self.all { usize::MAX } else { self.limit };
        let mut page = self.after.map(Cursor::from_raw).map_or_else(Page::first, Page::after);
        let mut entries = Vec::new();
        let mut more = None;
        while left > 0 {
            let list = instances.list(page.size(left.min(PAGE_MAX))).await?;
            left -= list.entries.len().min(left);
            entries.extend(list.entries);
            // Programs get each page as soon as it is there. A table has one width for all rows.
            if out.format != Format::Table {
                print(&entries, out)?;
                entries.clear();
            }
            more = list.next;
            let Some(next) = list.next else { break };
            page = Page::after(next);
        }
        if out.format == Format::Table {
            print(&entries, out)?;
        }
        if let Some(next) = more {
            note(&format!("there may be more: go on with --after {}, or take --all", next.get()));
        }
        Ok(())
    }
}

fn print(entries: &[Entry], out: &mut Out) -> Result<(), Failure> {
    match out.format {
        Format::Table => {
            let table = table(entries, out);
            out.table(&table)
        }
        _ => out.things(entries, Table::of_fields(), |_| Vec::new(), json, |entry| Some(entry.id)),
    }
}

/// The table of a list of instances.
pub(crate) fn table(entries: &[Entry], out: &Out) -> Table {
    let mut table = Table::new([
        right("ID"),
        left("MACHINE"),
        left("STEP"),
        left("STATUS"),
        right("ATTEMPT"),
        left("QUEUE"),
        left("CHANGED"),
        maybe("DUE"),
        maybe("KEY"),
        maybe("PARTITION"),
        maybe("ERROR"),
    ]);
    for entry in entries {
        let due = entry.due_at.filter(|due| !entry.status.is_terminal() && *due > out.now);
        table.row(vec![
            Cell::number(entry.id),
            Cell::plain(machine(&entry.machine, entry.version)),
            Cell::plain(&entry.step),
            status(entry.status),
            Cell::number(entry.attempt),
            Cell::plain(&entry.queue),
            out.ago(entry.updated_at),
            out.ago_or_not(due),
            Cell::maybe(entry.unique_key.as_ref()),
            Cell::maybe(entry.partition_key.as_ref()),
            Cell::maybe(entry.last_error.as_ref()),
        ]);
    }
    table
}

/// Names a machine in a version: `order`, or `order v2`.
pub(crate) fn machine(name: &str, version: u32) -> String {
    if version == 1 { name.to_owned() } else { format!("{name} v{version}") }
}

/// The status, in its colour.
pub(crate) fn status(status: Status) -> Cell {
    let style = match status {
        Status::Done => Style::Good,
        Status::Failed => Style::Bad,
        Status::Cancelled => Style::Warning,
        Status::Executing => Style::Busy,
        _ => Style::Plain,
    };
    Cell::styled(status.as_str(), style)
}

/// An instance of a list, as JSON.
pub(super) fn json(entry: &Entry) -> Object {
    Object::new()
        .with("id", entry.id)
        .with("machine", &*entry.machine)
        .with("version", entry.version)
        .with("status", entry.status.as_str())
        .with("step", &*entry.step)
        .with("attempt", entry.attempt)
        .with("queue", &*entry.queue)
        .with("partition_key", entry.partition_key.as_deref())
        .with("unique_key", entry.unique_key.as_deref())
        .with("last_error", entry.last_error.as_deref())
        .time("due_at", entry.due_at)
        .time("inserted_at", entry.inserted_at)
        .time("updated_at", entry.updated_at)
        .time("finished_at", entry.finished_at)
}
