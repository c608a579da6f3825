//! The program `gen-durable-migrate`.
//!
//! Invariant: the exit status is 0 if the command succeeded. If not, it is 1, and one line on
//! standard error says why.

use std::process::ExitCode;

use clap::Parser;
use gen_durable_migrate::cli;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match cli::run(cli::Args::parse()).await {
        Ok(text) => {
            print!("{text}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            // The text of an error includes its causes.
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
