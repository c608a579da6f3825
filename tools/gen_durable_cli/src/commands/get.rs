//! `get`: shows all of an instance.
//!
//! Invariant: the state, the result and payloads are shown only with `--state`.

use std::time::SystemTime;

use gen_durable::{
    Client, Status,
    operate::{Details, Inbox, InboxEntry, PauseEntry},
};

use super::ls;
use crate::{
    choice::{Address, addresses},
    failure::Failure,
    print::{Cell, Format, Object, Out, Table},
    when,
};

/// Show all of an instance: where it stands, what it waits for, what holds it back, and its inbox.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  gen-durable get 42
  gen-durable get 'order/order 42' --state --json")]
pub(crate) struct Get {
    /// The instances: an id; MACHINE/KEY for the one that holds a unique key; or - to read them
    /// from standard input, one a line.
    #[arg(value_name = "INSTANCE", required = true)]
    targets: Vec<String>,
    /// Show the state and the result too, which belong to the application, and in JSON the payloads
    /// of the signals that wait.
    #[arg(long)]
    state: bool,
}

impl Get {
    pub(crate) async fn run(self, client: &Client, out: &mut Out) -> Result<(), Failure> {
        let mut is_first = true;
        super::act::each(&addresses(&self.targets)?, async |address: &Address| {
            let id = address.id(client).await?;
            let handle = client.instance_by_id(id);
            let details = handle.get().await?;
            let pauses = handle.pauses().await?;
            let inbox = handle.inbox().await?;
            if !std::mem::replace(&mut is_first, false) && out.format == Format::Table {
                out.line("")?;
            }
            self.print(&details, &pauses, &inbox, out)
        })
        .await
    }

    fn print(
        &self,
        details: &Details,
        pauses: &[PauseEntry],
        inbox: &Inbox,
        out: &mut Out,
    ) -> Result<(), Failure> {
        match out.format {
            Format::Ids => out.line(&details.id.to_string()),
            Format::Json => {
                let line = self.json(details, pauses, inbox).line();
                out.text(&line)
            }
            Format::Table => {
                let table = self.table(details, pauses, inbox, out);
                out.table(&table)
            }
        }
    }

    fn table(&self, details: &Details, pauses: &[PauseEntry], inbox: &Inbox, out: &Out) -> Table {
        let mut table = Table::of_fields();
        let mut field = |name: &str, value: Option<Cell>| {
            if let Some(value) = value {
                table.field(name, value);
            }
        };
        let text = |text: &Option<String>| text.as_ref().map(Cell::plain);
        let some = |number: u32| (number > 0).then(|| Cell::number(number));
        let at = |time| {
            let both = |time| format!("{} ({})", when::stamp(time), when::relative(time, out.now));
            Option::map(time, |time| Cell::plain(both(time)))
        };
        field("id", Some(Cell::number(details.id)));
        field("machine", Some(Cell::plain(ls::machine(&details.machine, details.version))));
        field("status", Some(ls::status(details.status)));
        field("step", Some(Cell::plain(&details.step)));
        field("attempt", Some(Cell::number(details.attempt)));
        field("failures", some(details.failures));
        field("crashes", some(details.crashes));
        let awaits = (!details.awaits.is_empty()).then(|| details.awaits.join(", "));
        field("awaits", text(&awaits));
        field("still awaits", details.awaits_more.map(Cell::number));
        field("inbox", waiting(inbox).map(Cell::plain));
        field("wakes", at(details.wakes_at));
        if details.status == Status::Runnable {
            field("due", at(details.due_at));
        }
        let limited = details.limited.as_ref().map(|limited| {
            let key = limited.key.as_ref().map_or_else(String::new, |key| format!(" (key {key})"));
            let until = limited.until.map(|until| when::relative(until, out.now));
            let until = until.map_or_else(String::new, |until| format!(", room {until}"));
            format!("{}{key}{until}", limited.limit)
        });
        field("held back by", text(&limited));
        for pause in pauses {
            field("paused", Some(Cell::plain(paused(pause, out.now))));
        }
        field("queue", Some(Cell::plain(&details.queue)));
        field("priority", (details.priority != 0).then(|| Cell::number(details.priority)));
        field("partition key", text(&details.partition_key));
        let key = details.unique_key.as_ref().map(|key| {
            if details.holds_unique_key { key.clone() } else { format!("{key} (given back)") }
        });
        field("unique key", text(&key));
        field("reports to", details.reports_to.map(Cell::number));
        let worker = details.worker.as_ref().map(|(id, name)| match name {
            Some(name) => format!("{name} ({id})"),
            None => id.to_string(),
        });
        field("worker", text(&worker));
        field("last error", text(&details.last_error));
        field("inserted", at(details.inserted_at));
        field("changed", at(details.updated_at));
        field("cancelled", at(details.cancelled_at));
        field("ended", at(details.finished_at));
        if self.state {
            field("state", Some(Cell::plain(&details.state_json)));
            field("result", text(&details.result_json));
        }
        table
    }

    fn json(&self, details: &Details, pauses: &[PauseEntry], inbox: &Inbox) -> Object {
        let limited = details.limited.as_ref().map(|limited| {
            Object::new()
                .with("limit", &*limited.limit)
                .with("key", limited.key.as_deref())
                .time("until", limited.until)
        });
        let worker = details.worker.as_ref();
        let worker =
            worker.map(|(id, name)| Object::new().with("id", *id).with("name", name.as_deref()));
        let object = Object::new()
            .with("id", details.id)
            .with("machine", &*details.machine)
            .with("version", details.version)
            .with("status", details.status.as_str())
            .with("step", &*details.step)
            .with("attempt", details.attempt)
            .with("failures", details.failures)
            .with("crashes", details.crashes)
            .with("awaits", details.awaits.clone())
            .with("awaits_more", details.awaits_more)
            .time("wakes_at", details.wakes_at)
            .time("due_at", details.due_at)
            .object("limited", limited)
            .objects("pauses", pauses.iter().map(pause_json))
            .objects("inbox", inbox.entries.iter().map(|entry| self.signal_json(entry)))
            .with("inbox_capped", inbox.capped)
            .with("queue", &*details.queue)
            .with("priority", details.priority)
            .with("partition_key", details.partition_key.as_deref())
            .with("unique_key", details.unique_key.as_deref())
            .with("holds_unique_key", details.holds_unique_key)
            .with("reports_to", details.reports_to)
            .object("worker", worker)
            .with("last_error", details.last_error.as_deref())
            .time("inserted_at", details.inserted_at)
            .time("updated_at", details.updated_at)
            .time("cancelled_at", details.cancelled_at)
            .time("finished_at", details.finished_at);
        if self.state {
            let result = details.result_json.as_deref().unwrap_or("null");
            object.raw("state", &details.state_json).raw("result", result)
        } else {
            object
        }
    }

    fn signal_json(&self, entry: &InboxEntry) -> Object {
        let object = Object::new()
            .with("id", entry.id)
            .with("name", &*entry.name)
            .with("dedup_key", entry.dedup_key.as_deref())
            .time("arrived_at", entry.arrived_at)
            .with("size", entry.size);
        if self.state {
            // One that is too long is left out.
            object.raw("payload", entry.payload_json().unwrap_or("null"))
        } else {
            object
        }
    }
}

/// Says how many signals wait, and their names. None if there is none.
fn waiting(inbox: &Inbox) -> Option<String> {
    let mut names: Vec<(&str, usize)> = Vec::new();
    for entry in &inbox.entries {
        match names.iter_mut().find(|(name, _)| *name == entry.name) {
            Some((_, count)) => *count += 1,
            None => names.push((&entry.name, 1)),
        }
    }
    let each = |(name, count): &(&str, usize)| match count {
        1 => (*name).to_owned(),
        count => format!("{count} {name}"),
    };
    let names: Vec<String> = names.iter().map(each).collect();
    let all = match (inbox.entries.len(), inbox.capped) {
        (0, _) => return None,
        (1, false) => "1 signal".to_owned(),
        (count, false) => format!("{count} signals"),
        (count, true) => format!("more than {count} signals; the oldest"),
    };
    Some(format!("{all}: {}", names.join(", ")))
}

/// Says what is paused, by whom, and until when.
pub(super) fn paused(pause: &PauseEntry, now: SystemTime) -> String {
    let until = pause.until.map(|until| format!(", ends {}", when::relative(until, now)));
    let reason = pause.reason.as_ref().map(|reason| format!(": {reason}"));
    format!(
        "{} by {} {}{}{}",
        pause.scope,
        pause.by,
        when::relative(pause.paused_at, now),
        until.unwrap_or_default(),
        reason.unwrap_or_default()
    )
}

pub(super) fn pause_json(pause: &PauseEntry) -> Object {
    Object::new()
        .with("scope", pause.scope.to_string())
        .with("by", &*pause.by)
        .with("reason", pause.reason.as_deref())
        .time("paused_at", pause.paused_at)
        .time("until", pause.until)
}
