//! `history`: shows what an instance has done.
//!
//! Invariant: states are shown only with `--state`.

use std::time::Duration;

use gen_durable::{
    Client,
    operate::{Cursor, HistoryEntry, Page},
};

use crate::{
    choice::Address,
    failure::Failure,
    print::{Cell, Object, Out, Style, Table, left, maybe, note, right},
    when,
};

/// Show the newest 1,000 runs of an instance, as far as its machine records them. The newest comes
/// last.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  gen-durable history 42
  gen-durable history 42 --state --json")]
pub(crate) struct History {
    /// The instance: an id, or MACHINE/KEY for the one that holds a unique key.
    #[arg(value_name = "INSTANCE")]
    target: String,
    /// Show the states too, if they are recorded. They belong to the application.
    #[arg(long)]
    state: bool,
}

impl History {
    pub(crate) async fn run(self, client: &Client, out: &mut Out) -> Result<(), Failure> {
        out.no_ids("history")?;
        let id = Address::read(&self.target)?.id(client).await?;
        let handle = client.instance_by_id(id);
        let entries = handle.history().await?;
        if let Some(oldest) = entries.first() {
            let before = Page::after(Cursor::from_raw(oldest.id));
            if !handle.runs(before.size(1)).await?.entries.is_empty() {
                note(&format!("only the newest {} runs are shown", entries.len()));
            }
        }
        if entries.is_empty() {
            // The history may outlive its instance, and an instance may have none.
            handle.get().await?;
            note("nothing is recorded of this instance: see the option `history` of its machine");
        }
        let table = Table::new([
            right("ENTRY"),
            left("STEP"),
            right("ATTEMPT"),
            left("OUTCOME"),
            left("NEXT"),
            left("ENDED"),
            right("TOOK"),
            right("WORKER"),
            maybe("ERROR"),
            maybe("STATE"),
        ]);
        let now = out.now;
        out.things(
            &entries,
            table,
            |entry| self.row(entry, now),
            |entry| self.json(entry),
            |_| None,
        )
    }

    fn row(&self, entry: &HistoryEntry, now: std::time::SystemTime) -> Vec<Cell> {
        let style = match &*entry.outcome {
            "done" => Style::Good,
            "failed" | "lost" => Style::Bad,
            "cancelled" => Style::Warning,
            _ => Style::Plain,
        };
        let state = entry.state_json().filter(|_| self.state);
        vec![
            Cell::number(entry.id),
            Cell::plain(&entry.step),
            Cell::number(entry.attempt),
            Cell::styled(&entry.outcome, style),
            Cell::maybe(entry.next_step.as_ref()),
            Cell::plain(when::relative(entry.ended_at, now)),
            Cell::plain(when::rough(took(entry))),
            entry.worker.map_or_else(Cell::empty, Cell::number),
            Cell::maybe(entry.error.as_ref()),
            Cell::maybe(state),
        ]
    }

    fn json(&self, entry: &HistoryEntry) -> Object {
        let object = Object::new()
            .with("entry", entry.id)
            .with("instance", entry.instance)
            .with("machine", &*entry.machine)
            .with("version", entry.version)
            .with("step", &*entry.step)
            .with("attempt", entry.attempt)
            .with("outcome", &*entry.outcome)
            .with("next_step", entry.next_step.as_deref())
            .with("error", entry.error.as_deref())
            .time("started_at", entry.started_at)
            .time("ended_at", entry.ended_at)
            .with("worker", entry.worker);
        if self.state { object.raw("state", entry.state_json().unwrap_or("null")) } else { object }
    }
}

fn took(entry: &HistoryEntry) -> Duration {
    entry.ended_at.duration_since(entry.started_at).unwrap_or_default()
}
