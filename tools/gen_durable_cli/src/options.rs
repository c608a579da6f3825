//! The options that all commands share.
//!
//! Invariant: each command's help has an example, and a password is no argument.

use clap::Parser;

use crate::{commands::Command, connect::Database, failure::EXIT_CODES, print::Format};

const CONNECTION: &str = "\
Connection: --database-url or DATABASE_URL; otherwise libpq's variables PGSERVICE, PGHOST, PGPORT, \
PGUSER, PGPASSWORD, PGPASSFILE, PGDATABASE, PGSSLMODE, PGSSLROOTCERT, PGSSLCERT, PGSSLKEY, \
PGOPTIONS and PGCONNECT_TIMEOUT. A password is no argument, as every user of a host sees the \
arguments of all processes.

Output: tables for people, in colour on a terminal unless NO_COLOR is set. --json prints one JSON \
object a line, with times in RFC 3339. -o ids prints ids alone, for a pipe:
  gen-durable ls --status failed -o ids | xargs -r gen-durable retry
States and payloads belong to the application: they are shown only with --state.

Example:
  gen-durable doctor";

/// Migrates a database of gen_durable, shows its instances, and acts on them.
#[derive(Debug, Parser)]
#[command(
    name = "gen-durable",
    version,
    after_help = format!("{CONNECTION}\n\n{EXIT_CODES}"),
    infer_long_args = false,
    max_term_width = 100,
    subcommand_required = true,
    arg_required_else_help = true
)]
pub(crate) struct Options {
    #[command(flatten)]
    pub(crate) database: Database,
    /// Print JSON, one object a line; the same as `-o json`.
    #[arg(long, global = true, conflicts_with = "output", help_heading = "Output")]
    json: bool,
    /// The form of the output: aligned columns, JSON lines, or ids alone.
    #[arg(
        short,
        long,
        value_name = "FORM",
        default_value = "table",
        global = true,
        help_heading = "Output"
    )]
    output: Format,
    #[command(subcommand)]
    pub(crate) command: Command,
}

impl Options {
    pub(crate) fn format(&self) -> Format {
        if self.json { Format::Json } else { self.output }
    }
}
