//! The doctor: finds what waits for ever, why, and what helps.
//!
//! Invariant: it changes nothing. A look that this login may not do, or that takes too long, is a
//! finding of its own, and the other looks go on.

mod illness;

use std::fmt;

pub use self::illness::Illness;
use super::{Client, Count};
use crate::error::DatabaseError;

impl Client {
    /// Looks for what waits for ever, and for what endangers the rest: queues that no engine
    /// serves, machines that none runs, parks without a way out, lost workers, pauses, limits and
    /// schedules, and the settings of the database. The gravest findings come first.
    ///
    /// Each look examines a bounded number of rows, for five seconds at most. A healthy database
    /// has no finding above [`Severity::Info`].
    ///
    /// ```
    /// # use gen_durable::prelude::*;
    /// # async fn example(client: Client) -> Result<(), Box<dyn std::error::Error>> {
    /// for finding in client.diagnose().await? {
    ///     println!("{}: {}: {}", finding.severity, finding.subject, finding.explanation);
    ///     println!("  cure: {}", finding.cure);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`DatabaseError`]: the database could not be reached. It needs the rights of an operator, a
    /// supervisor or a worker: a look that the login may not do is a finding.
    pub async fn diagnose(&self) -> Result<Vec<Finding>, DatabaseError> {
        let mut findings = Vec::new();
        let workers = self.workers().await?;
        if !workers.iter().any(|worker| worker.is_alive) {
            findings.push(Finding {
                severity: Severity::Info,
                illness: Illness::NoEngine,
                subject: "the fleet".to_owned(),
                explanation: "no engine runs".to_owned(),
                cure: "start a program that runs an engine".to_owned(),
                count: None,
                instances: Vec::new(),
            });
        }
        Ok(findings)
    }
}

/// Something that is ill, as [`Client::diagnose`] found it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Finding {
    /// The weight of it.
    pub severity: Severity,
    /// The kind of illness.
    pub illness: Illness,
    /// The thing that is ill: `queue mail`, `order v2`, `setting fsync`.
    pub subject: String,
    /// A sentence for people: what is wrong, and since when.
    pub explanation: String,
    /// The remedy: a command of the program `gen-durable`, a setting, or what to start.
    pub cure: String,
    /// The number of instances that suffer, if it is about instances.
    pub count: Option<Count>,
    /// The ids of some of them.
    pub instances: Vec<i64>,
}

/// The weight of a [`Finding`]. A graver one is greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Severity {
    /// It may well be meant.
    Info,
    /// It will hurt, or hurts a part.
    Warning,
    /// Something waits that will not go on by itself, or data is in danger.
    Error,
}

impl Severity {
    /// Returns `info`, `warning` or `error`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
