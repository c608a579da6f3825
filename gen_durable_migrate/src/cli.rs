//! The command line of `gen-durable-migrate`.
//!
//! Invariant: each command does what a function of the library does, and nothing besides.

use std::{fmt::Write, time::Duration};

use clap::{Parser, Subcommand};
use sqlx::postgres::PgPoolOptions;

use crate::{Down, Error, LATEST, Status};

/// The time in which the server must accept a connection. It is as long as this because the server
/// may be starting up.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(10);

/// Brings a database to `gen_durable`'s schema.
#[derive(Debug, Parser)]
#[command(name = "gen-durable-migrate", version, about)]
pub struct Args {
    /// The database, as `postgres://…`.
    #[arg(long, env = "DATABASE_URL", global = true, hide_env_values = true)]
    database_url: Option<String>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Apply the migrations that are missing.
    Up {
        /// The version to go up to; the latest if left out.
        #[arg(long)]
        to: Option<i32>,
    },
    /// Take migrations back.
    Down {
        /// The version to go down to; 0 removes the schema.
        #[arg(long, default_value_t = 0)]
        to: i32,
        /// Go on even if live instances are lost.
        #[arg(long)]
        force: bool,
    },
    /// Show the database's migrations, and the oldest engine (its schema version) that each serves.
    Status,
    /// Print all migrations as one script for psql.
    Print,
    /// Make the roles for applications, workers and operators, and grant each what it needs in this
    /// database.
    Roles {
        /// Print the script for psql instead.
        #[arg(long)]
        print: bool,
    },
}

/// Runs a command, and returns the text to print.
///
/// # Errors
///
/// Any error of the library, and a missing database URL.
pub async fn run(args: Args) -> Result<String, Box<dyn std::error::Error + Send + Sync>> {
    match args.command {
        Command::Print => return Ok(crate::script()),
        Command::Roles { print: true } => return Ok(crate::ROLES.to_owned()),
        _ => {}
    }
    let url = args
        .database_url
        .ok_or("no database: give `--database-url postgres://…` or set DATABASE_URL")?;
    let options = PgPoolOptions::new().acquire_timeout(ACQUIRE_TIMEOUT);
    let pool = options.connect_lazy(&url).map_err(Error::database("read the database's URL"))?;
    let result = match args.command {
        Command::Up { to } => {
            let to = to.unwrap_or(LATEST);
            crate::up_to(&pool, to)
                .await
                .map(|()| format!("the database is at version {to} or later\n"))
        }
        Command::Down { to, force } => crate::down(&pool, Down { to, force })
            .await
            .map(|()| format!("the database is at version {to} or earlier\n")),
        Command::Status => crate::status(&pool).await.map(|all| table(&all)),
        Command::Roles { .. } => crate::roles(&pool).await.map(|()| {
            "gen_durable_app, gen_durable_worker, gen_durable_supervisor and gen_durable_operator are there; grant them to your logins\n".to_owned()
        }),
        Command::Print => Ok(crate::script()),
    };
    pool.close().await;
    Ok(result?)
}

fn table(all: &[Status]) -> String {
    let mut table = format!("{:<8} {:<24} {:<8} applied\n", "version", "name", "serves");
    for one in all {
        let applied = one.applied_at.as_deref().unwrap_or("no");
        let note = if one.known { "" } else { " (by a newer program)" };
        // The migration serves engines of this version and of any later one.
        let serves = format!("{}+", one.serves);
        let _ = writeln!(table, "{:<8} {:<24} {serves:<8} {applied}{note}", one.version, one.name);
    }
    table
}
