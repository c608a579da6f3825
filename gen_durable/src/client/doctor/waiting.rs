//! Instances that something holds back: a pause, a limit, another row of their key; and many that
//! failed.

use super::{
    Doctor, Finding, Illness, Severity,
    finding::{Argument, Quoted, Since},
};
use crate::{
    error::DatabaseError,
    storage::{self, Affected},
};

/// The number of failures in an hour from which on they are reported.
const FAILURES_MIN: i64 = 10;

impl Doctor<'_> {
    pub(super) async fn look_at_pauses(&mut self) -> Result<(), DatabaseError> {
        let pauses =
            self.look("the pauses", async |connection| storage::check_pauses(connection).await);
        for pause in pauses.await?.into_iter().flatten() {
            let since = Since(pause.paused_at, self.now);
            let by = pause.actor.map(|actor| format!(" by {actor}")).unwrap_or_default();
            let why = pause.reason.map(|reason| format!(": {reason}")).unwrap_or_default();
            let (illness, subject, cure) = match (pause.queue, pause.fsm, pause.step) {
                (Some(queue), ..) => (
                    Illness::PausedScope,
                    format!("queue {queue}"),
                    format!("gen-durable queues resume {}", Argument(&queue)),
                ),
                (None, Some(fsm), Some(step)) => (
                    Illness::PausedScope,
                    format!("{fsm}@{step}"),
                    format!(
                        "gen-durable machines resume --step={} {}",
                        Quoted(&step),
                        Argument(&fsm)
                    ),
                ),
                (None, Some(fsm), None) => (
                    Illness::PausedScope,
                    format!("machine {fsm}"),
                    format!("gen-durable machines resume {}", Argument(&fsm)),
                ),
                (None, None, _) => (
                    Illness::PausedInstances,
                    "instances".to_owned(),
                    format!("gen-durable resume{}", arguments(&pause.affected.ids)),
                ),
            };
            // A pause that ends by itself holds nothing back for ever.
            let severity = if pause.until.is_some() { Severity::Info } else { Severity::Warning };
            let end = if pause.until.is_some() { "it has an end" } else { "it has no end" };
            let explanation = if illness == Illness::PausedInstances {
                format!("each has a pause of its own, the first for {since}")
            } else {
                format!("paused for {since}{by}{why}; {end}")
            };
            let finding = Finding::new(severity, illness, subject, explanation, cure);
            self.findings.add(finding.with(pause.affected));
        }
        Ok(())
    }

    /// Looks at partition keys, limits and failures.
    pub(super) async fn look_at_waiting(&mut self, engines: bool) -> Result<(), DatabaseError> {
        let keys = self
            .look("the partition keys", async |connection| storage::check_keys(connection).await);
        for key in keys.await?.into_iter().flatten() {
            // Without any engine that is no news.
            if !key.paused && !engines {
                continue;
            }
            let first = key.first;
            let (why, cure) = if key.paused {
                (
                    "is paused",
                    format!(
                        "gen-durable resume {first}, or what is paused: gen-durable get {first}"
                    ),
                )
            } else {
                (
                    "is of a queue or a machine that no living engine runs",
                    format!("run its machine, or end it: gen-durable kill {first}"),
                )
            };
            let finding = Finding::new(
                Severity::Error,
                Illness::HeldKey,
                format!("partition key {}", key.partition_key),
                format!("its first instance, {first}, {why}, and others wait behind it"),
                cure,
            );
            self.findings.add(finding.with(Affected { count: key.count, ids: vec![first] }));
        }
        self.look_at_limits(engines).await?;
        let failures = self.look("the failed instances", async |connection| {
            storage::check_failures(connection, FAILURES_MIN).await
        });
        for failing in failures.await?.into_iter().flatten() {
            let (fsm, step) = (&failing.fsm, &failing.step);
            let error = failing.error.as_deref().unwrap_or("no error was recorded");
            let finding = Finding::new(
                Severity::Warning,
                Illness::ManyFailures,
                format!("{fsm}@{step}"),
                format!(
                    "many instances have failed at this step within an hour, the last: {error}"
                ),
                format!(
                    "mend what fails, then: gen-durable retry --machine={} --step={} --status failed",
                    Quoted(fsm),
                    Quoted(step)
                ),
            );
            self.findings.add(finding.with(failing.affected));
        }
        Ok(())
    }

    async fn look_at_limits(&mut self, engines: bool) -> Result<(), DatabaseError> {
        let buckets =
            self.look("the limits", async |connection| storage::check_limits(connection).await);
        for bucket in buckets.await?.into_iter().flatten() {
            if !bucket.declared && !engines {
                continue;
            }
            let (limit, key) = storage::limit_and_key(&bucket.bucket);
            let subject = format!("limit {limit}");
            let key = key.map(|key| format!(" for the key {key}")).unwrap_or_default();
            let finding = match bucket.most {
                Some(most) if bucket.declared && bucket.weight > most => Finding::new(
                    Severity::Error,
                    Illness::ImpossibleLimit,
                    subject,
                    format!(
                        "a run of weight {} waits for it{key}, and its bounds admit {most} at most",
                        bucket.weight
                    ),
                    format!(
                        "set greater bounds (gen-durable limits set --help), or: gen-durable limits reset {}",
                        Argument(&limit)
                    ),
                ),
                _ => Finding::new(
                    Severity::Warning,
                    Illness::UndeclaredLimit,
                    subject,
                    format!("instances wait for it{key}, and no living engine declares it"),
                    "start a program that declares it; any engine lets them in without its bounds",
                ),
            };
            self.findings.add(finding.with(bucket.affected));
        }
        Ok(())
    }
}

/// Writes ids as arguments of a command, each behind a space.
pub(super) fn arguments(ids: &[i64]) -> String {
    ids.iter().fold(String::new(), |all, id| all + " " + &id.to_string())
}
