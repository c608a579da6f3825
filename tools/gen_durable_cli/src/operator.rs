//! The operator in whose name a command acts, as the audit notes it.
//!
//! Invariant: an action always has an operator.

/// The options of every action.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Audit")]
pub(crate) struct Operator {
    /// The operator that the audit names; by default the user of this system, and the host.
    #[arg(long, value_name = "NAME")]
    by: Option<String>,
    /// The reason that the audit notes.
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    pub(crate) reason: String,
}

impl Operator {
    /// Returns the operator's name.
    pub(crate) fn name(&self) -> String {
        Self::named(self.by.clone())
    }

    /// Returns this name, or that of the user.
    pub(crate) fn named(by: Option<String>) -> String {
        by.unwrap_or_else(|| {
            let user = whoami::username().unwrap_or_else(|_| "somebody".to_owned());
            match whoami::hostname() {
                Ok(host) => format!("{user}@{host}"),
                Err(_) => user,
            }
        })
    }
}
