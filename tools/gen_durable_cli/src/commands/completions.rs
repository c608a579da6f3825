//! `completions`: prints the script with which a shell completes commands.
//!
//! Invariant: the script knows all commands and options, as it is made from them.

use clap_complete::Shell;

use crate::{failure::Failure, print::Out};

/// Print the script with which a shell completes commands and options.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  gen-durable completions bash > ~/.local/share/bash-completion/completions/gen-durable")]
pub(crate) struct Completions {
    /// The shell.
    shell: Shell,
}

impl Completions {
    pub(crate) fn run(self, out: &mut Out) -> Result<(), Failure> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut crate::command(), "gen-durable", &mut script);
        out.text(&String::from_utf8_lossy(&script))
    }
}
