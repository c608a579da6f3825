//! `limits`: shows limits, what waits for them, and sets other bounds.
//!
//! Invariant: a limit that no engine has declared is refused.

use std::time::Duration;

use gen_durable::{
    Client, Limit,
    operate::{Bounds, Bucket, LimitEntry, LimitReset, Waiting},
};

use crate::{
    connect::Database,
    failure::Failure,
    operator::Operator,
    print::{Cell, Object, Out, Style, Table, left, maybe, right},
    when,
};

/// Show limits and what waits for them, and set other bounds.
#[derive(Debug, clap::Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "\
Example:
  gen-durable limits
  gen-durable limits set stripe --at-once 2 --per 10/1s --reason 'they ask for less'"
)]
pub(crate) struct Limits {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Set other bounds than those of the declaration.
    #[command(after_help = "\
Bounds that are not given do not apply any more.

Example:
  gen-durable limits set stripe --at-once 2 --per 10/1s --burst 5")]
    Set(Set),
    /// Return to the bounds of the declaration.
    #[command(after_help = "\
Example:
  gen-durable limits reset stripe")]
    Reset {
        /// The limit.
        name: String,
        #[command(flatten)]
        operator: Operator,
    },
    /// Show the buckets of a limit: one for each key that is in use.
    #[command(after_help = "\
Example:
  gen-durable limits buckets stripe")]
    Buckets {
        /// The limit.
        name: String,
        /// Go on after this key.
        #[arg(long, value_name = "KEY")]
        after: Option<String>,
    },
    /// Show the instances that wait for a limit, in the order in which they are let in.
    #[command(after_help = "\
Example:
  gen-durable limits waiting stripe --key 'customer 7'")]
    Waiting {
        /// The limit.
        name: String,
        /// The key, if the limit has keys.
        #[arg(long, value_name = "KEY")]
        key: Option<String>,
    },
}

#[derive(Debug, clap::Args)]
struct Set {
    /// The limit.
    name: String,
    /// The most runs at once.
    #[arg(long, value_name = "NUMBER")]
    at_once: Option<u32>,
    /// The most starts in a time, such as 100/1s.
    #[arg(long, value_name = "NUMBER/DURATION", value_parser = rate)]
    per: Option<(u32, Duration)>,
    /// The starts that may come together.
    #[arg(long, value_name = "NUMBER", requires = "per")]
    burst: Option<u32>,
    #[command(flatten)]
    operator: Operator,
}

fn rate(text: &str) -> Result<(u32, Duration), String> {
    let wrong = || format!("`{text}` is no rate; write it like 100/1s");
    let (number, period) = text.split_once('/').ok_or_else(wrong)?;
    Ok((number.trim().parse().map_err(|_| wrong())?, when::duration(period)?))
}

impl Limits {
    pub(crate) async fn run(self, database: &Database, out: &mut Out) -> Result<(), Failure> {
        let client = database.client().await?;
        match self.command {
            None => list(&client, out).await,
            Some(Command::Set(set)) => set.run(&client, out).await,
            Some(Command::Reset { name, operator }) => {
                let reset = client.limit(&name).reset().by(operator.name());
                let said = match reset.reason(&operator.reason).execute(&client).await? {
                    LimitReset::Reset => "reset",
                    _ => "had no other bounds than those of its declaration",
                };
                let object = || Object::new().with("limit", &*name).with("answer", said);
                out.answer(&format!("limit {name}: {said}"), object, None)
            }
            Some(Command::Buckets { name, after }) => {
                out.no_ids("limits buckets")?;
                exists(&client, &name).await?;
                let buckets = client.limit(name).buckets(after.as_deref()).await?;
                print_buckets(&buckets, out)
            }
            Some(Command::Waiting { name, key }) => {
                exists(&client, &name).await?;
                let waiting = client.limit(name).waiting(key.as_deref()).await?;
                print_waiting(&waiting, out)
            }
        }
    }
}

/// Refuses a limit that no engine has declared.
async fn exists(client: &Client, name: &str) -> Result<(), Failure> {
    if client.limit(name).get().await?.is_some() {
        return Ok(());
    }
    Err(Failure::not_found(format!(
        "no engine has declared the limit `{name}`; `gen-durable limits` lists those that there are"
    )))
}

impl Set {
    async fn run(self, client: &Client, out: &mut Out) -> Result<(), Failure> {
        let mut limit = Limit::new();
        if let Some(number) = self.at_once {
            limit = limit.at_once(number);
        }
        if let Some((number, period)) = self.per {
            limit = limit.per(number, period);
        }
        if let Some(burst) = self.burst {
            limit = limit.burst(burst);
        }
        let set = client.limit(&self.name).set(limit).by(self.operator.name());
        set.reason(&self.operator.reason).execute(client).await?;
        let object = || Object::new().with("limit", &*self.name).with("answer", "set");
        out.answer(&format!("limit {}: set", self.name), object, None)
    }
}

async fn list(client: &Client, out: &mut Out) -> Result<(), Failure> {
    out.no_ids("limits")?;
    let table = Table::new([
        left("LIMIT"),
        left("IN FORCE"),
        maybe("DECLARED"),
        maybe("SET BY"),
        right("WORKERS"),
    ]);
    let row = |limit: &LimitEntry| {
        let other = limit.set.as_ref().map(|_| limit.declared.to_string());
        let by = limit.set.as_ref().map(|set| match &set.reason {
            Some(reason) => format!("{}: {reason}", set.by),
            None => set.by.clone(),
        });
        let workers = limit.declared_by.len();
        let style = if workers == 0 { Style::Warning } else { Style::Plain };
        vec![
            Cell::plain(&limit.name),
            Cell::plain(limit.in_force.to_string()),
            Cell::maybe(other),
            Cell::maybe(by),
            Cell::styled(workers.to_string(), style),
        ]
    };
    let limits = client.limits().await?;
    out.things(&limits, table, row, limit_json, |_| None)
}

fn limit_json(limit: &LimitEntry) -> Object {
    let set = limit.set.as_ref().map(|set| {
        Object::new()
            .object("bounds", Some(bounds_json(set.bounds)))
            .with("by", &*set.by)
            .with("reason", set.reason.as_deref())
            .time("set_at", set.set_at)
    });
    Object::new()
        .with("name", &*limit.name)
        .object("declared", Some(bounds_json(limit.declared)))
        .object("in_force", Some(bounds_json(limit.in_force)))
        .object("set", set)
        .with("declared_by", limit.declared_by.clone())
}

fn bounds_json(bounds: Bounds) -> Object {
    Object::new()
        .with("at_once", bounds.at_once)
        .with("starts", bounds.per.map(|(starts, _)| starts))
        .with("period_seconds", bounds.per.map(|(_, period)| period.as_secs_f64()))
        .with("burst", bounds.burst)
}

fn print_buckets(buckets: &[Bucket], out: &mut Out) -> Result<(), Failure> {
    let table = Table::new([left("KEY"), right("RUNNING"), right("WAITING"), maybe("ROOM")]);
    let now = out.now;
    let row = |bucket: &Bucket| {
        vec![
            Cell::maybe(bucket.key.as_ref()),
            Cell::number(bucket.running),
            Cell::plain(bucket.waiting.to_string()),
            Cell::maybe(bucket.until.map(|until| when::relative(until, now))),
        ]
    };
    let json = |bucket: &Bucket| {
        Object::new()
            .with("key", bucket.key.as_deref())
            .with("running", bucket.running)
            .with("waiting", bucket.waiting.to_string())
            .time("until", bucket.until)
    };
    out.things(buckets, table, row, json, |_| None)
}

fn print_waiting(waiting: &[Waiting], out: &mut Out) -> Result<(), Failure> {
    let table = Table::new([
        right("ID"),
        left("MACHINE"),
        left("STEP"),
        right("PRIORITY"),
        left("DUE"),
        left("ROOM"),
    ]);
    let now = out.now;
    let ago = |time| Cell::maybe(Option::map(time, |time| when::relative(time, now)));
    let row = |waiting: &Waiting| {
        vec![
            Cell::number(waiting.id),
            Cell::plain(&waiting.machine),
            Cell::plain(&waiting.step),
            Cell::number(waiting.priority),
            ago(waiting.due_at),
            if waiting.blocked { Cell::plain("behind its key") } else { ago(waiting.until) },
        ]
    };
    let json = |waiting: &Waiting| {
        Object::new()
            .with("id", waiting.id)
            .with("machine", &*waiting.machine)
            .with("step", &*waiting.step)
            .with("priority", waiting.priority)
            .time("due_at", waiting.due_at)
            .with("blocked", waiting.blocked)
            .time("until", waiting.until)
    };
    out.things(waiting, table, row, json, |waiting| Some(waiting.id))
}
