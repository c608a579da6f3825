//! The server: its settings, its clock, its connections, its tables and its transactions.

use std::time::{Duration, SystemTime};

use super::{
    Doctor, Finding, Illness, Severity,
    finding::{Findings, Since, listed},
};
use crate::{
    error::DatabaseError,
    storage::{self, ServerState},
};

/// The oldest version of Postgres that is supported.
const VERSION_MIN: i32 = 140_000;
/// The most by which the clocks may differ.
const SKEW_MAX: Duration = Duration::from_secs(1);
/// The shortest timeout that leaves the statements of an engine their time.
const TIMEOUT_MIN: Duration = Duration::from_secs(10);
/// The time after which a transaction is old.
const TRANSACTION_MAX: Duration = Duration::from_hours(1);
/// The ages of transaction ids at which to warn, and at which it is urgent. Postgres refuses to
/// write at 2,100 million.
const XID_AGES: [i64; 2] = [1_000_000_000, 1_800_000_000];
/// The number of dead rows from which on a table may be bloated.
const DEAD_MIN: i64 = 100_000;
/// The time within which a vacuum should have come.
const VACUUM_MAX: Duration = Duration::from_mins(10);

impl Doctor<'_> {
    pub(super) async fn look_at_server(&mut self) -> Result<(), DatabaseError> {
        let began = SystemTime::now();
        let server =
            self.look("the server", async |connection| storage::check_server(connection).await);
        if let Some(server) = server.await? {
            let ended = SystemTime::now();
            self.now = server.clock;
            self.compare_clocks(began, ended);
            self.findings.settings(&server);
            self.findings.reserves(&server);
        }
        // The options of this session may set short timeouts, as tools do. They say nothing of the
        // engines' sessions, so they are left out.
        let options = self.client.connections().options();
        let timeouts = self.look("the timeouts", async |connection| {
            storage::check_timeouts(connection, TIMEOUT_MIN, options.as_deref()).await
        });
        for timeout in timeouts.await?.into_iter().flatten() {
            let (name, value) = (&timeout.name, &timeout.value);
            let (whose, cure) = match &timeout.role {
                Some(role) => (
                    format!(" of role {role}"),
                    format!("alter role \"{}\" reset {name}", role.replace('"', "\"\"")),
                ),
                None => {
                    (String::new(), format!("raise {name}, for the logins of engines at least"))
                }
            };
            self.findings.add(Finding::new(
                Severity::Warning,
                Illness::ShortTimeout,
                format!("setting {name}{whose}"),
                format!("it is {value}, and statements of an engine may take some seconds"),
                cure,
            ));
        }
        self.look_at_transactions().await
    }

    /// Compares the database's clock with this process's, which was read before and after it.
    fn compare_clocks(&mut self, began: SystemTime, ended: SystemTime) {
        let clock = self.now;
        let ahead = clock.duration_since(ended + SKEW_MAX).is_ok();
        let behind = (clock + SKEW_MAX).duration_since(began).is_err();
        if ahead || behind {
            let by = if ahead { Since(Some(ended), clock) } else { Since(Some(clock), began) };
            let word = if ahead { "ahead of" } else { "behind" };
            self.findings.add(Finding::new(
                Severity::Warning,
                Illness::ClockSkew,
                "the clocks",
                format!("the database's clock is {by} {word} that of this process"),
                "synchronise both hosts (NTP); due times follow the database's clock",
            ));
        }
    }

    async fn look_at_transactions(&mut self) -> Result<(), DatabaseError> {
        let transactions = self.look("the transactions", async |connection| {
            storage::check_transactions(connection, TRANSACTION_MAX).await
        });
        for transaction in transactions.await?.into_iter().flatten() {
            let (name, since) = (&transaction.name, Since(transaction.since, self.now));
            let held = "and vacuum removes no row that died since";
            self.findings.add(match &*transaction.kind {
                "session" => Finding::new(
                    Severity::Warning,
                    Illness::OldTransaction,
                    format!("session {name}"),
                    format!("its transaction has been open for {since}, {held}"),
                    format!(
                        "end it: select pg_terminate_backend({})",
                        name.split(' ').next().unwrap_or_default()
                    ),
                ),
                "prepared" => Finding::new(
                    Severity::Warning,
                    Illness::OldPreparedTransaction,
                    format!("prepared transaction {name}"),
                    format!("it has been open for {since}, keeps its locks, {held}"),
                    format!(
                        "commit prepared '{0}', or: rollback prepared '{0}'",
                        name.replace('\'', "''")
                    ),
                ),
                _ => Finding::new(
                    Severity::Info,
                    Illness::CouldNotLook,
                    "the transactions of other roles",
                    format!("this login does not see those of {name} sessions"),
                    "grant it pg_read_all_stats",
                ),
            });
        }
        Ok(())
    }

    pub(super) async fn look_at_tables(&mut self, engines: bool) -> Result<(), DatabaseError> {
        let tables =
            self.look("the tables", async |connection| storage::check_tables(connection).await);
        for table in tables.await?.into_iter().flatten() {
            let (name, live, dead) = (&table.name, table.live, table.dead);
            let subject = format!("table {name}");
            if table.off {
                self.findings.add(Finding::new(
                    Severity::Error,
                    Illness::NoAutovacuum,
                    subject,
                    "its own settings turn autovacuum off, so dead rows are not removed",
                    format!("alter table gen_durable.{name} reset (autovacuum_enabled)"),
                ));
            } else if dead > DEAD_MIN.max(live)
                && Since(table.vacuumed, self.now).age() > VACUUM_MAX
            {
                self.findings.add(Finding::new(
                    Severity::Warning,
                    Illness::Bloat,
                    subject,
                    format!(
                        "it has {dead} dead rows and {live} others, and the last vacuum was {} ago",
                        Since(table.vacuumed, self.now)
                    ),
                    format!("look for what holds vacuum back, then: vacuum gen_durable.{name}"),
                ));
            }
        }
        let history = self.look("the partitions of the history", async |connection| {
            storage::check_history(connection).await
        });
        let Some(history) = history.await? else { return Ok(()) };
        let keep = "run an engine with maintenance, or: select gen_durable.keep_history(null)";
        // An engine adds them when it starts.
        if engines && !history.missing.is_empty() {
            self.findings.add(Finding::new(
                Severity::Warning,
                Illness::HistoryPartitions,
                "table history",
                format!("it has no partition for {}", listed(&history.missing)),
                keep,
            ));
        }
        if history.rest {
            self.findings.add(Finding::new(
                Severity::Warning,
                Illness::HistoryPartitions,
                "table history_default",
                "it has rows, and each new partition of the history reads them under a lock",
                "move them elsewhere, and vacuum it",
            ));
        }
        Ok(())
    }
}

impl Findings {
    /// Judges the version and the settings.
    fn settings(&mut self, server: &ServerState) {
        let version = server.version;
        if version < VERSION_MIN {
            self.add(Finding::new(
                Severity::Error,
                Illness::OldServer,
                "the server",
                format!("its version is {}.{}", version / 10_000, version % 10_000),
                "use PostgreSQL 14 or later",
            ));
        }
        for (name, value) in server.settings.iter().filter(|(_, value)| value == "off") {
            let (illness, explanation) = match *name {
                "autovacuum" | "track_counts" => (
                    Illness::NoAutovacuum,
                    "dead rows are not removed, and all statements become slow",
                ),
                "synchronous_commit" => (
                    Illness::UnsafeSetting,
                    "a crash of the server loses the last commits, though they were answered",
                ),
                _ => (Illness::UnsafeSetting, "a crash of the server can destroy the database"),
            };
            self.add(Finding::new(
                Severity::Error,
                illness,
                format!("setting {name}"),
                format!("it is {value}: {explanation}"),
                format!("alter system set {name} = on, and reload the server"),
            ));
        }
    }

    /// Judges what runs out: connections and transaction ids.
    fn reserves(&mut self, server: &ServerState) {
        let (used, most) = (server.connections, server.max_connections);
        if used * 10 > most * 9 {
            self.add(Finding::new(
                Severity::Warning,
                Illness::FewConnections,
                "the connections",
                format!("{used} of {most} are in use"),
                "raise max_connections, give programs smaller pools, or use a pooler",
            ));
        }
        let age = server.xid_age;
        if age > XID_AGES[0] {
            let severity = if age > XID_AGES[1] { Severity::Error } else { Severity::Warning };
            self.add(Finding::new(
                severity,
                Illness::Wraparound,
                "the transaction ids",
                format!("the oldest is {age} transactions old; at 2100 million Postgres refuses to write"),
                "end old transactions, and run vacuum freeze",
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(version: i32, connections: i64, xid_age: i64) -> Vec<(Severity, Illness)> {
        let mut findings = Findings::new();
        let server = ServerState {
            clock: SystemTime::UNIX_EPOCH,
            version,
            settings: vec![("fsync", "on".to_owned()), ("synchronous_commit", "local".to_owned())],
            max_connections: 100,
            connections,
            xid_age,
        };
        findings.settings(&server);
        findings.reserves(&server);
        findings.sorted().into_iter().map(|found| (found.severity, found.illness)).collect()
    }

    #[test]
    fn a_server_that_is_old_or_runs_out_of_something_is_ill() {
        assert_eq!(findings(140_000, 90, 1_000_000_000), []);
        assert_eq!(findings(130_014, 0, 0), [(Severity::Error, Illness::OldServer)]);
        assert_eq!(findings(180_000, 91, 0), [(Severity::Warning, Illness::FewConnections)]);
        let ages = [1_000_000_001, 1_800_000_001].map(|age| findings(180_000, 0, age));
        let expected = [Severity::Warning, Severity::Error];
        assert_eq!(ages, expected.map(|severity| vec![(severity, Illness::Wraparound)]));
    }
}
