//! The program `gen-durable`: it migrates a database, shows instances of
//! [gen_durable](https://docs.rs/gen_durable), and acts on them.
//!
//! The crate is a library only for its own tests and for the program. It offers no API: use the
//! program, or the [`Client`](gen_durable::Client) of the library.
//!
//! Invariant: nothing that a database stores reaches a terminal raw, no state is shown that was not
//! asked for, and every failure is one line with an exit code.

#![allow(
    clippy::doc_markdown,
    reason = "comments on options are the help, which prints them as they are"
)]

mod choice;
mod commands;
mod confirm;
mod connect;
mod failure;
mod operator;
mod options;
mod print;
mod service;
mod when;

use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use crate::{failure::Failure, options::Options, print::Out};

/// Returns the commands, with their options and help.
pub fn command() -> clap::Command {
    Options::command()
}

/// Runs the command of this process's arguments. Returns its exit code.
pub async fn run() -> ExitCode {
    let options = match Options::try_parse() {
        Ok(options) => options,
        // Help and the version are no errors, and clap prints them on standard output.
        Err(told) => {
            let code = if told.use_stderr() { failure::Kind::Usage.code() } else { 0 };
            // A reader that is gone does not care.
            let _ = told.print();
            return code.into();
        }
    };
    let mut out = Out::new(options.format());
    let ran = Box::pin(commands::run(options, &mut out)).await;
    // The lines that were printed before a failure come out first.
    let flushed = out.flush();
    match ran.and(flushed.map_err(Failure::from)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            failure.tell();
            failure.kind.code().into()
        }
    }
}
