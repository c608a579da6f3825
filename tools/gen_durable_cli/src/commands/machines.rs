//! `machines` and `graph`: shows machines, draws them, and pauses and resumes them or their steps.
//!
//! Invariant: a machine that no engine has registered is refused.

use std::time::SystemTime;

use gen_durable::{
    Client,
    operate::{MachineEntry, MachineHandle, Resumed, StepCount},
};

use super::ls;
use crate::{
    connect::Database,
    failure::{Failure, Kind},
    operator::Operator,
    print::{Cell, Object, Out, Style, Table, left, maybe, note, right},
    when,
};

/// Show machines, and their steps with what stands there; pause and resume them.
#[derive(Debug, clap::Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "\
Example:
  gen-durable machines
  gen-durable machines steps order
  gen-durable machines pause order --step charge --reason 'the bank is down'"
)]
pub(crate) struct Machines {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Count the instances of a machine by step, and by what they wait for.
    #[command(after_help = "\
Example:
  gen-durable machines steps order")]
    Steps {
        /// The machine.
        name: String,
    },
    /// Keep a machine or one of its steps from running. Steps that are under way finish.
    #[command(after_help = "\
Example:
  gen-durable machines pause order --step charge --until 2h --reason 'the bank is down'")]
    Pause {
        /// The machine.
        name: String,
        /// This step alone.
        #[arg(long, value_name = "NAME")]
        step: Option<String>,
        /// The end of the pause: RFC 3339, or 2h for two hours from now.
        #[arg(long, value_name = "TIME", value_parser = when::future)]
        until: Option<SystemTime>,
        #[command(flatten)]
        operator: Operator,
    },
    /// End the pause of a machine, or that of one of its steps.
    #[command(after_help = "\
Example:
  gen-durable machines resume order --step charge")]
    Resume {
        /// The machine.
        name: String,
        /// This step alone.
        #[arg(long, value_name = "NAME")]
        step: Option<String>,
        #[command(flatten)]
        operator: Operator,
    },
}

impl Machines {
    pub(crate) async fn run(self, database: &Database, out: &mut Out) -> Result<(), Failure> {
        out.no_ids("machines")?;
        let client = database.client().await?;
        let (name, step, said) = match self.command {
            None => return list(&client, out).await,
            Some(Command::Steps { name }) => return steps(&client, &name, out).await,
            Some(Command::Pause { name, step, until, operator }) => {
                let pause = match (&step, client.machine_by_name(&name)) {
                    (Some(step), machine) => machine.pause_step(step),
                    (None, machine) => machine.pause(),
                };
                let pause = pause.by(operator.name()).reason(&operator.reason);
                match until {
                    Some(until) => pause.until(until).execute(&client).await?,
                    None => pause.execute(&client).await?,
                }
                (name, step, "paused")
            }
            Some(Command::Resume { name, step, operator }) => {
                let machine: MachineHandle<String> = client.machine_by_name(&name);
                let resume = match &step {
                    Some(step) => machine.resume_step(step),
                    None => machine.resume(),
                };
                let resume = resume.by(operator.name()).reason(&operator.reason);
                match resume.execute(&client).await? {
                    Resumed::NotPaused => (name, step, "was not paused"),
                    _ => (name, step, "resumed"),
                }
            }
        };
        let scope = match &step {
            Some(step) => format!("{name}@{step}"),
            None => format!("machine {name}"),
        };
        let object = || {
            let object = Object::new().with("machine", &*name);
            object.with("step", step.as_deref()).with("answer", said)
        };
        out.answer(&format!("{scope}: {said}"), object, None)
    }
}

async fn list(client: &Client, out: &mut Out) -> Result<(), Failure> {
    let machines = client.machines().await?;
    let in_force = client.pauses().await?;
    // A step's pause prints as `order@charge`, and a machine's as `machine order`.
    let paused = |machine: &MachineEntry| {
        let scopes = in_force.iter().map(|pause| pause.scope.to_string());
        let step = format!("{}@", machine.name);
        let whole = format!("machine {}", machine.name);
        let ours = scopes.filter_map(|scope| {
            if scope == whole {
                Some("all".to_owned())
            } else {
                scope.strip_prefix(&step).map(str::to_owned)
            }
        });
        ours.collect::<Vec<_>>()
    };
    let table = Table::new([
        left("MACHINE"),
        right("WORKERS"),
        left("QUEUE"),
        left("STEPS"),
        maybe("SIGNALS"),
        left("HISTORY"),
        left("REGISTERED"),
        maybe("PAUSED"),
    ]);
    let now = out.now;
    let row = |machine: &MachineEntry| {
        let workers = if machine.workers == 0 { Style::Warning } else { Style::Plain };
        vec![
            Cell::plain(ls::machine(&machine.name, machine.version)),
            Cell::styled(machine.workers.to_string(), workers),
            Cell::plain(&machine.queue),
            Cell::plain(machine.steps.join(" ")),
            Cell::plain(machine.signals.join(" ")),
            Cell::plain(machine.history.as_str()),
            Cell::plain(when::relative(machine.registered_at, now)),
            Cell::styled(paused(machine).join(" "), Style::Warning),
        ]
    };
    let json = |machine: &MachineEntry| {
        Object::new()
            .with("name", &*machine.name)
            .with("version", machine.version)
            .with("queue", &*machine.queue)
            .with("first_step", &*machine.first_step)
            .with("on_cancel", machine.on_cancel.as_deref())
            .with("steps", machine.steps.clone())
            .with("signals", machine.signals.clone())
            .with("history", machine.history.as_str())
            .time("registered_at", machine.registered_at)
            .with("workers", machine.workers)
            .with("paused", paused(machine))
    };
    out.things(&machines, table, row, json, |_| None)
}

/// Refuses a machine that no engine has registered. Returns its versions, the newest last.
pub(super) async fn registered(client: &Client, name: &str) -> Result<Vec<MachineEntry>, Failure> {
    let all = client.machines().await?;
    let names: Vec<&str> = all.iter().map(|machine| &*machine.name).collect();
    if !names.contains(&name) {
        let known = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
        return Err(Failure::not_found(format!(
            "no engine has registered a machine `{name}`; there are: {known}"
        )));
    }
    let mut ours: Vec<MachineEntry> =
        all.into_iter().filter(|machine| machine.name == name).collect();
    ours.sort_by_key(|machine| machine.version);
    Ok(ours)
}

async fn steps(client: &Client, name: &str, out: &mut Out) -> Result<(), Failure> {
    registered(client, name).await?;
    let counts = client.step_counts(name).await?;
    let table =
        Table::new([right("VERSION"), left("STEP"), left("WAITS"), right("COUNT"), left("OLDEST")]);
    let now = out.now;
    let row = |count: &StepCount| {
        vec![
            Cell::number(count.version),
            Cell::plain(&count.step),
            Cell::plain(count.waits.as_str()),
            Cell::plain(format!("{}{}", count.count, if count.capped { "+" } else { "" })),
            Cell::maybe(count.oldest.map(|oldest| when::relative(oldest, now))),
        ]
    };
    let json = |count: &StepCount| {
        Object::new()
            .with("version", count.version)
            .with("step", &*count.step)
            .with("waits", count.waits.as_str())
            .with("count", count.count)
            .with("is_exact", !count.capped)
            .time("oldest", count.oldest)
    };
    out.things(&counts, table, row, json, |_| None)
}

/// Draw a machine, as an engine has registered it.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  gen-durable graph order > order.mmd
  gen-durable graph order --form dot | dot -Tsvg > order.svg")]
pub(crate) struct Graph {
    /// The machine.
    machine: String,
    /// The version; by default the newest.
    #[arg(long, value_name = "NUMBER")]
    machine_version: Option<u32>,
    /// The language of the drawing.
    #[arg(long, value_name = "FORM", default_value = "mermaid")]
    form: Form,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Form {
    /// For Markdown, say.
    Mermaid,
    /// For Graphviz.
    Dot,
}

impl Graph {
    pub(crate) async fn run(self, client: &Client, out: &mut Out) -> Result<(), Failure> {
        out.no_ids("graph")?;
        let versions = registered(client, &self.machine).await?;
        let wanted = |entry: &&MachineEntry| {
            self.machine_version.is_none_or(|version| entry.version == version)
        };
        let Some(entry) = versions.iter().rev().find(wanted) else {
            return Err(Failure::not_found(format!(
                "no engine has registered this version of machine `{}`; see `gen-durable machines`",
                self.machine
            )));
        };
        let Some(graph) = entry.graph() else {
            return Err(Failure::new(
                Kind::Refused,
                format!("machine `{}` was registered without a graph", self.machine),
            ));
        };
        if let (crate::print::Format::Json, Some(json)) = (out.format, entry.graph_json()) {
            let object = Object::new().with("machine", &*entry.name).with("version", entry.version);
            return out.text(&object.raw("graph", json).line());
        }
        if !graph.is_complete() {
            note("the graph is not complete: some steps have targets that only running them shows");
        }
        let drawing = match self.form {
            Form::Mermaid => graph.to_mermaid(),
            Form::Dot => graph.to_dot(),
        };
        // A drawing has lines, and its names are checked as all others are.
        for line in drawing.lines() {
            out.line(&crate::print::plain(line))?;
        }
        Ok(())
    }
}
