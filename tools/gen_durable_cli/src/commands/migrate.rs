//! `migrate`: brings a database to the schema of `gen_durable`.
//!
//! Invariant: each command does what a function of `gen_durable_migrate` does, and nothing besides.

use gen_durable_migrate::{Down, LATEST, ROLES, Status};

use crate::{
    connect::Database,
    failure::Failure,
    print::{Cell, Object, Out, Style, Table, left, right},
};

/// Bring a database to the schema of `gen_durable`, and show its migrations.
#[derive(Debug, clap::Subcommand)]
#[command(after_help = "\
Example:
  gen-durable migrate up")]
pub(crate) enum Migrate {
    /// Apply the migrations that are missing.
    #[command(after_help = "\
Example:
  gen-durable migrate up")]
    Up {
        /// The version to go up to; the latest if left out.
        #[arg(long, value_name = "VERSION")]
        to: Option<i32>,
    },
    /// Take migrations back.
    #[command(after_help = "\
Example:
  gen-durable migrate down --to 0 --force")]
    Down {
        /// The version to go down to; 0 removes the schema.
        #[arg(long, value_name = "VERSION", default_value_t = 0)]
        to: i32,
        /// Go on even if live instances are lost.
        #[arg(long)]
        force: bool,
    },
    /// Show the database's migrations, and the oldest engine (its schema version) that each serves.
    #[command(after_help = "\
Example:
  gen-durable migrate status")]
    Status,
    /// Print all migrations as one script for psql.
    #[command(after_help = "\
Example:
  gen-durable migrate script > gen_durable.sql")]
    Script,
    /// Make the roles for applications, workers and operators, and grant each what it needs in this
    /// database.
    #[command(after_help = "\
Example:
  gen-durable migrate roles
  gen-durable migrate roles --print > roles.sql")]
    Roles {
        /// Print the script for psql instead.
        #[arg(long)]
        print: bool,
    },
}

impl Migrate {
    pub(crate) async fn run(self, database: &Database, out: &mut Out) -> Result<(), Failure> {
        match self {
            Self::Script => return out.text(&gen_durable_migrate::script()),
            Self::Roles { print: true } => return out.text(ROLES),
            _ => {}
        }
        out.no_ids("migrate")?;
        let pool = database.pool(1).await?;
        let result = match self {
            Self::Up { to } => {
                let to = to.unwrap_or(LATEST);
                gen_durable_migrate::up_to(&pool, to).await?;
                let object = || Object::new().with("version", to);
                out.answer(&format!("the database is at version {to} or later"), object, None)
            }
            Self::Down { to, force } => {
                gen_durable_migrate::down(&pool, Down { to, force }).await?;
                let object = || Object::new().with("version", to);
                out.answer(&format!("the database is at version {to} or earlier"), object, None)
            }
            Self::Status => status(&gen_durable_migrate::status(&pool).await?, out),
            Self::Roles { .. } => {
                gen_durable_migrate::roles(&pool).await?;
                let roles = [
                    "gen_durable_app",
                    "gen_durable_worker",
                    "gen_durable_supervisor",
                    "gen_durable_operator",
                ];
                let said = format!("{} are there; grant them to your logins", roles.join(", "));
                out.answer(&said, || Object::new().with("roles", roles.to_vec()), None)
            }
            Self::Script => Ok(()),
        };
        pool.close().await;
        result
    }
}

fn status(all: &[Status], out: &mut Out) -> Result<(), Failure> {
    let table = Table::new([right("VERSION"), left("NAME"), left("SERVES"), left("APPLIED")]);
    let row = |one: &Status| {
        let applied = match (&one.applied_at, one.known) {
            (Some(at), true) => Cell::plain(at),
            (Some(at), false) => Cell::plain(format!("{at} (by a newer program)")),
            (None, _) => Cell::styled("no", Style::Warning),
        };
        // The migration serves engines of this version and of any later one.
        let serves = Cell::plain(format!("{}+", one.serves));
        vec![Cell::number(one.version), Cell::plain(&one.name), serves, applied]
    };
    let json = |one: &Status| {
        Object::new()
            .with("version", one.version)
            .with("name", &*one.name)
            .with("serves", one.serves)
            .with("applied_at", one.applied_at.as_deref())
            .with("is_known", one.known)
    };
    out.things(all, table, row, json, |_| None)
}
