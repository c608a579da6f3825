//! The program `gen-durable-migrate`.
//!
//! Invariant: the exit status is 0 if it did what it was told, and 1 with one line on standard
//! error if not.

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
            // Its text has its causes.
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
