//! The engines: whether there are any, what they leave waiting, and what lost ones have left.

use std::time::Duration;

use super::{
    super::looks::{LIST_MAX, number},
    Doctor, Finding, Illness, Severity,
    finding::{Quoted, Since, listed},
};
use crate::{
    error::DatabaseError,
    storage::{self, WaitingKind},
};

/// The time after which a lost worker should have been removed. Reapers look every third of a
/// lease.
const LOST_MAX: Duration = Duration::from_mins(1);

impl Doctor<'_> {
    /// Looks at the engines. Returns true if one lives.
    pub(super) async fn look_at_engines(&mut self) -> Result<bool, DatabaseError> {
        let workers = self.look("the workers", async |connection| {
            storage::list_workers(connection, LIST_MAX).await
        });
        let workers = workers.await?;
        let engines =
            workers.as_ref().is_none_or(|workers| workers.iter().any(|worker| worker.is_alive));
        for worker in workers.into_iter().flatten().filter(|worker| !worker.is_alive) {
            let since = Since(Some(worker.lease_expires_at), self.now);
            if since.age() < LOST_MAX {
                continue;
            }
            let host = worker.host.map(|host| format!(" on {host}")).unwrap_or_default();
            self.findings.add(
                Finding::new(
                    Severity::Error,
                    Illness::LostWorker,
                    format!("worker {} ({}{host})", worker.id, worker.name),
                    format!(
                        "its lease ran out {since} ago, and no engine has taken what it had claimed"
                    ),
                    "run an engine with maintenance, which is on by default",
                )
                .with_count(u64::try_from(worker.claimed).unwrap_or(0), Vec::new()),
            );
        }
        self.look_at_holders().await?;
        self.look_at_debts().await?;
        let kinds = self.look("the instances that are due", async |connection| {
            storage::check_kinds(connection).await
        });
        let kinds = kinds.await?.unwrap_or_default();
        if engines {
            for kind in kinds {
                let finding = self.waiting(kind);
                self.findings.add(finding);
            }
        } else {
            self.no_engine(kinds);
        }
        Ok(engines)
    }

    /// Notes that no engine lives. There is one finding for all that waits: one engine may cure it.
    fn no_engine(&mut self, kinds: Vec<WaitingKind>) {
        let new = |severity, explanation: String| {
            let cure = "start a program that runs an engine";
            Finding::new(severity, Illness::NoEngine, "the fleet", explanation, cure)
        };
        if kinds.is_empty() {
            self.findings.add(new(Severity::Info, "no engine runs, and no instance is due".into()));
        }
        let mut names: Vec<String> = kinds.iter().map(name).collect();
        names.dedup();
        for kind in kinds {
            let text = format!("no engine runs, and instances wait: {}", listed(&names));
            self.findings.add(new(Severity::Error, text).with(kind.affected));
        }
    }

    /// Says why instances wait that no living engine claims.
    fn waiting(&self, kind: WaitingKind) -> Finding {
        let (queue, machine) = (&kind.queue, name(&kind));
        // Those that are to run later may be served by then.
        let is_due = kind.oldest.is_none_or(|oldest| oldest <= self.now);
        let severity = if is_due { Severity::Error } else { Severity::Info };
        let since = Since(kind.oldest, self.now);
        let since = if is_due { format!("for {since}") } else { "to run later".to_owned() };
        let (illness, subject, explanation, cure) = if !kind.served {
            (
                Illness::UnservedQueue,
                format!("queue {queue}"),
                format!(
                    "instances of {machine} wait in it {since}, and no living engine serves it"
                ),
                format!("start an engine with `.queue({queue:?}, slots)`"),
            )
        } else if kind.run {
            (
                Illness::Unreachable,
                format!("{machine} in queue {queue}"),
                format!(
                    "instances wait {since}: the engines that serve the queue do not run the machine, and those that run it do not serve the queue"
                ),
                format!("add the machine to the engines with `.queue({queue:?}, slots)`"),
            )
        } else if kind.versions.is_empty() {
            (
                Illness::UnknownMachine,
                format!("machine {}", kind.fsm),
                format!("instances wait in queue {queue} {since}, and no living engine runs it"),
                format!(
                    "start a program that runs {machine}, or end them: gen-durable kill --machine={}",
                    Quoted(&kind.fsm)
                ),
            )
        } else {
            (
                Illness::UnknownVersion,
                machine,
                format!(
                    "instances wait in queue {queue} {since}, and living engines run other versions: {}",
                    listed(&kind.versions)
                ),
                format!(
                    "run version {0} beside the others, or let a newer one upgrade it (`upgrades = …`)",
                    kind.fsm_version
                ),
            )
        };
        Finding::new(severity, illness, subject, explanation, cure).with(kind.affected)
    }

    async fn look_at_holders(&mut self) -> Result<(), DatabaseError> {
        let holders = self.look("the claimed instances", async |connection| {
            storage::check_holders(connection).await
        });
        for (worker, affected) in holders.await?.into_iter().flatten() {
            let finding = Finding::new(
                Severity::Error,
                Illness::OrphanedInstances,
                format!("worker {worker}"),
                "instances are executing in its name, and it does not exist",
                "run an engine with maintenance, which is on by default",
            );
            self.findings.add(finding.with(affected));
        }
        Ok(())
    }

    async fn look_at_debts(&mut self) -> Result<(), DatabaseError> {
        let debts = self
            .look("what instances owe", async |connection| storage::check_debts(connection).await);
        let Some(debts) = debts.await?.flatten() else { return Ok(()) };
        let of = |count: i64, what: &str| (count > 0).then(|| format!("{count} {what}"));
        let parts = [
            of(debts.reports, "ends are not reported"),
            of(debts.keys, "partition keys are not freed"),
            of(debts.answers, "cancels are not answered"),
        ];
        let parts: Vec<String> = parts.into_iter().flatten().collect();
        let finding = Finding::new(
            Severity::Error,
            Illness::Unsettled,
            "what transactions left to engines",
            format!("for more than a minute {}", listed(&parts)),
            "run an engine with maintenance that knows the machines; see its log for what fails",
        );
        self.findings.add(finding.with(debts.affected));
        Ok(())
    }
}

/// Returns the name of a machine with its version.
fn name(kind: &WaitingKind) -> String {
    format!("{} v{}", kind.fsm, number(kind.fsm_version))
}
