//! `schedules`: shows schedules, and pauses, resumes and runs them.
//!
//! Invariant: a schedule that no engine has declared is refused.

use std::time::SystemTime;

use gen_durable::{
    Client,
    operate::{Asked, Resumed, ScheduleEntry},
};

use crate::{
    connect::Database,
    failure::Failure,
    operator::Operator,
    print::{Cell, Object, Out, Style, Table, left, maybe},
    when,
};

/// Show schedules, and pause, resume or run them.
#[derive(Debug, clap::Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "\
Example:
  gen-durable schedules
  gen-durable schedules run-now 'nightly report'"
)]
pub(crate) struct Schedules {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Keep a schedule from firing.
    #[command(after_help = "\
Example:
  gen-durable schedules pause 'nightly report' --until 1d")]
    Pause {
        /// The schedule.
        name: String,
        /// The end of the pause: RFC 3339, or 2h for two hours from now.
        #[arg(long, value_name = "TIME", value_parser = when::future)]
        until: Option<SystemTime>,
        #[command(flatten)]
        operator: Operator,
    },
    /// End the pause of a schedule.
    #[command(after_help = "\
Example:
  gen-durable schedules resume 'nightly report'")]
    Resume {
        /// The schedule.
        name: String,
        #[command(flatten)]
        operator: Operator,
    },
    /// Make a schedule fire now, besides its ticks.
    #[command(after_help = "\
Example:
  gen-durable schedules run-now 'nightly report'")]
    RunNow {
        /// The schedule.
        name: String,
        #[command(flatten)]
        operator: Operator,
    },
}

impl Schedules {
    pub(crate) async fn run(self, database: &Database, out: &mut Out) -> Result<(), Failure> {
        let client = database.client().await?;
        let (name, said) = match self.command {
            None => return list(&client, out).await,
            Some(Command::Pause { name, until, operator }) => {
                let pause = client.schedule(&name).pause().by(operator.name());
                let pause = pause.reason(&operator.reason);
                match until {
                    Some(until) => pause.until(until).execute(&client).await?,
                    None => pause.execute(&client).await?,
                }
                (name, "paused")
            }
            Some(Command::Resume { name, operator }) => {
                let resume = client.schedule(&name).resume().by(operator.name());
                match resume.reason(&operator.reason).execute(&client).await? {
                    Resumed::NotPaused => (name, "was not paused"),
                    _ => (name, "resumed"),
                }
            }
            Some(Command::RunNow { name, operator }) => {
                let run = client.schedule(&name).run_now().by(operator.name());
                match run.reason(&operator.reason).execute(&client).await? {
                    Asked::Undeclared => {
                        (name, "fires when an engine that declares it starts; none runs now")
                    }
                    _ => (name, "fires now"),
                }
            }
        };
        let object = || Object::new().with("schedule", &*name).with("answer", said);
        out.answer(&format!("schedule {name}: {said}"), object, None)
    }
}

async fn list(client: &Client, out: &mut Out) -> Result<(), Failure> {
    out.no_ids("schedules")?;
    let mut schedules: Vec<ScheduleEntry> = Vec::new();
    loop {
        let after = schedules.last().map(|schedule| schedule.name.clone());
        let page = client.schedules(after.as_deref()).await?;
        if page.is_empty() {
            break;
        }
        schedules.extend(page);
    }
    let table = Table::new([
        left("SCHEDULE"),
        left("MACHINE"),
        left("NEXT"),
        left("LAST"),
        left("DECLARATION"),
        maybe("PAUSED"),
        maybe("ERROR"),
    ]);
    let now = out.now;
    let row = |schedule: &ScheduleEntry| {
        let ago = |time| Cell::maybe(Option::map(time, |time| when::relative(time, now)));
        let undeclared = schedule.declared_by.is_empty();
        let next = match schedule.next {
            _ if undeclared => Cell::styled("no program declares it", Style::Warning),
            next => ago(next),
        };
        let paused = schedule.paused.as_ref().map(|pause| {
            let until = pause.until.map(|until| format!(", ends {}", when::relative(until, now)));
            format!("by {}{}", pause.by, until.unwrap_or_default())
        });
        vec![
            Cell::plain(&schedule.name),
            Cell::plain(&schedule.machine),
            next,
            ago(schedule.last),
            Cell::plain(&schedule.declaration),
            paused.map_or_else(Cell::empty, |text| Cell::styled(text, Style::Warning)),
            schedule
                .last_error
                .as_ref()
                .map_or_else(Cell::empty, |text| Cell::styled(text, Style::Bad)),
        ]
    };
    out.things(&schedules, table, row, json, |_| None)
}

fn json(schedule: &ScheduleEntry) -> Object {
    let paused = schedule.paused.as_ref().map(|pause| {
        Object::new()
            .with("by", &*pause.by)
            .with("reason", pause.reason.as_deref())
            .time("paused_at", pause.paused_at)
            .time("until", pause.until)
    });
    Object::new()
        .with("name", &*schedule.name)
        .with("machine", &*schedule.machine)
        .with("declaration", &*schedule.declaration)
        .with("declared_by", schedule.declared_by.clone())
        .time("next", schedule.next)
        .time("last", schedule.last)
        .with("last_instance", schedule.last_instance)
        .time("waiting", schedule.waiting)
        .time("asked", schedule.asked)
        .with("last_error", schedule.last_error.as_deref())
        .time("failed_at", schedule.failed_at)
        .object("paused", paused)
}
