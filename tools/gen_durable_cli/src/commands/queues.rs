//! `queues`: shows queues and what waits in them, and pauses and resumes them.
//!
//! Invariant: a count that is not exact has a `+`, as in all tables.

use std::time::SystemTime;

use gen_durable::{
    Client,
    operate::{Depth, QueueEntry, Resumed, Waits},
};

use super::get::{pause_json, paused};
use crate::{
    connect::Database,
    failure::Failure,
    operator::Operator,
    print::{Cell, Object, Out, Style, Table, left, maybe, right},
    when,
};

/// Show queues, their workers and what waits in them; pause and resume them.
#[derive(Debug, clap::Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "\
Example:
  gen-durable queues
  gen-durable queues pause mail --until 2h --reason 'the provider is down'"
)]
pub(crate) struct Queues {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Keep the instances of a queue from running. Steps that are under way finish.
    #[command(after_help = "\
Example:
  gen-durable queues pause mail --until 2h --reason 'the provider is down'")]
    Pause {
        /// The queue.
        name: String,
        /// The end of the pause: RFC 3339, or 2h for two hours from now.
        #[arg(long, value_name = "TIME", value_parser = when::future)]
        until: Option<SystemTime>,
        #[command(flatten)]
        operator: Operator,
    },
    /// End the pause of a queue.
    #[command(after_help = "\
Example:
  gen-durable queues resume mail")]
    Resume {
        /// The queue.
        name: String,
        #[command(flatten)]
        operator: Operator,
    },
}

impl Queues {
    pub(crate) async fn run(self, database: &Database, out: &mut Out) -> Result<(), Failure> {
        out.no_ids("queues")?;
        let client = database.client().await?;
        let (name, said) = match self.command {
            None => return list(&client, out).await,
            Some(Command::Pause { name, until, operator }) => {
                let pause = client.queue(&name).pause().by(operator.name());
                let pause = pause.reason(&operator.reason);
                match until {
                    Some(until) => pause.until(until).execute(&client).await?,
                    None => pause.execute(&client).await?,
                }
                (name, "paused")
            }
            Some(Command::Resume { name, operator }) => {
                let resume = client.queue(&name).resume().by(operator.name());
                match resume.reason(&operator.reason).execute(&client).await? {
                    Resumed::NotPaused => (name, "was not paused"),
                    _ => (name, "resumed"),
                }
            }
        };
        let object = || Object::new().with("queue", &*name).with("answer", said);
        out.answer(&format!("queue {name}: {said}"), object, None)
    }
}

async fn list(client: &Client, out: &mut Out) -> Result<(), Failure> {
    let queues = client.queues().await?;
    let table = Table::new([
        left("QUEUE"),
        right("WORKERS"),
        right("SLOTS"),
        right("DUE"),
        right("RUNNING"),
        right("SCHEDULED"),
        right("AWAITING"),
        right("HELD"),
        right("FAILED"),
        maybe("OLDEST"),
        maybe("PAUSED"),
    ]);
    let now = out.now;
    let row = |queue: &QueueEntry| {
        let workers = if queue.workers == 0 { Style::Warning } else { Style::Plain };
        let of = |waits: &[Waits]| count(&queue.depths, waits);
        let due = queue.depths.iter().find(|depth| depth.waits == Waits::Due);
        let oldest = due.and_then(|due| due.oldest);
        vec![
            Cell::plain(&queue.name),
            Cell::styled(queue.workers.to_string(), workers),
            Cell::number(queue.slots),
            of(&[Waits::Due]),
            of(&[Waits::Executing]),
            of(&[Waits::Scheduled]),
            of(&[Waits::Awaiting]),
            of(&[Waits::Paused, Waits::Limited, Waits::Blocked]),
            of(&[Waits::Failed]),
            Cell::maybe(oldest.map(|oldest| when::relative(oldest, now))),
            queue
                .paused
                .as_ref()
                .map_or_else(Cell::empty, |pause| Cell::styled(paused(pause, now), Style::Warning)),
        ]
    };
    out.things(&queues, table, row, json, |_| None)
}

/// The number of instances that wait for one of these things: `12`, or `10000+`.
fn count(depths: &[Depth], waits: &[Waits]) -> Cell {
    let counted = depths.iter().filter(|depth| waits.contains(&depth.waits));
    let (count, capped) = counted
        .fold((0, false), |(count, capped), depth| (count + depth.count, capped || depth.capped));
    Cell::plain(format!("{count}{}", if capped { "+" } else { "" }))
}

fn json(queue: &QueueEntry) -> Object {
    let depths = queue.depths.iter().map(|depth| {
        Object::new()
            .with("waits", depth.waits.as_str())
            .with("count", depth.count)
            .with("is_exact", !depth.capped)
            .time("oldest", depth.oldest)
    });
    Object::new()
        .with("name", &*queue.name)
        .with("is_registered", queue.registered)
        .with("workers", queue.workers)
        .with("slots", queue.slots)
        .objects("depths", depths)
        .object("paused", queue.paused.as_ref().map(pause_json))
}
