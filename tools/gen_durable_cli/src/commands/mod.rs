//! The commands, a module for each family.
//!
//! Invariant: each command's help has an example, and none shows a state that was not asked for.

mod act;
mod audit;
mod completions;
mod console;
mod doctor;
mod fork;
mod get;
mod history;
mod insert;
mod limits;
pub(crate) mod ls;
mod machines;
mod migrate;
mod queues;
mod schedules;
mod signal;
mod tree;
mod wait;
mod workers;

use crate::{failure::Failure, options::Options, print::Out};

/// A command.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    #[command(flatten)]
    Look(Look),
    #[command(flatten)]
    Act(act::Act),
    Insert(insert::Insert),
    Signal(signal::Signal),
    Fork(fork::Fork),
    Queues(queues::Queues),
    Machines(machines::Machines),
    Limits(limits::Limits),
    Schedules(schedules::Schedules),
    #[command(subcommand)]
    Migrate(migrate::Migrate),
    Console(console::Console),
    Completions(completions::Completions),
}

/// A command that looks at instances.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Look {
    Ls(ls::Ls),
    Get(get::Get),
    History(history::History),
    Tree(tree::Tree),
    Wait(wait::Wait),
    Workers(workers::Workers),
    Graph(machines::Graph),
    Audit(audit::Audit),
    Doctor(doctor::Doctor),
}

/// Runs a command.
pub(crate) async fn run(options: Options, out: &mut Out) -> Result<(), Failure> {
    let database = options.database;
    match options.command {
        Command::Completions(command) => command.run(out),
        Command::Migrate(command) => command.run(&database, out).await,
        Command::Look(look) => {
            let client = database.client().await?;
            match look {
                Look::Ls(command) => command.run(&client, out).await,
                Look::Get(command) => command.run(&client, out).await,
                Look::History(command) => command.run(&client, out).await,
                Look::Tree(command) => command.run(&client, out).await,
                Look::Wait(command) => command.run(&client, out).await,
                Look::Workers(command) => command.run(&client, out).await,
                Look::Graph(command) => command.run(&client, out).await,
                Look::Audit(command) => command.run(&client, out).await,
                Look::Doctor(command) => command.run(&client, out).await,
            }
        }
        Command::Act(act) => act.run(&database, out).await,
        Command::Console(command) => command.run(&database, out).await,
        Command::Insert(command) => command.run(&database, out).await,
        Command::Signal(command) => command.run(&database, out).await,
        Command::Fork(command) => command.run(&database, out).await,
        Command::Queues(command) => command.run(&database, out).await,
        Command::Machines(command) => command.run(&database, out).await,
        Command::Limits(command) => command.run(&database, out).await,
        Command::Schedules(command) => command.run(&database, out).await,
    }
}
