//! The program `gen-durable`.
//!
//! Invariant: it does what [`gen_durable_cli::run`] does, and ends with its exit code.

use std::process::ExitCode;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    gen_durable_cli::run().await
}
