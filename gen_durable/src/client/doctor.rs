//! The doctor: finds what waits for ever, why, and what helps.
//!
//! Invariant: it changes nothing. A look that this login may not do, or that takes too long, is a
//! finding of its own, and the other looks go on.

mod finding;
mod fleet;
mod illness;
mod parks;
mod schedules;
mod server;
mod waiting;

use std::time::SystemTime;

use sqlx::PgConnection;

use self::finding::Findings;
pub use self::{
    finding::{Finding, Severity},
    illness::Illness,
};
use super::{Client, looks};
use crate::{error::DatabaseError, storage};

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
    /// [`DatabaseError`]: the database could not be reached, or refused the login. A right that the
    /// login lacks for a look is a finding. An operator, a supervisor and a worker have all but one
    /// of them: Postgres shows the transactions of others to members of `pg_read_all_stats`.
    pub async fn diagnose(&self) -> Result<Vec<Finding>, DatabaseError> {
        let mut doctor = Doctor { client: self, now: SystemTime::now(), findings: Findings::new() };
        if doctor.look_at_schema().await? {
            doctor.look_at_server().await?;
            let engines = doctor.look_at_engines().await?;
            doctor.look_at_pauses().await?;
            doctor.look_at_parks().await?;
            doctor.look_at_waiting(engines).await?;
            doctor.look_at_schedules(engines).await?;
            doctor.look_at_tables(engines).await?;
        }
        Ok(doctor.findings.sorted())
    }
}

/// The state of one diagnosis.
struct Doctor<'a> {
    client: &'a Client,
    /// The time by the database's clock, once that was read.
    now: SystemTime,
    findings: Findings,
}

impl Doctor<'_> {
    /// Looks once. None if that failed, which is noted as a finding.
    async fn look<T>(
        &mut self,
        what: &'static str,
        look: impl AsyncFnOnce(&mut PgConnection) -> Result<T, sqlx::Error>,
    ) -> Result<Option<T>, DatabaseError> {
        match looks::look(self.client, "diagnose the database", look).await {
            Ok(found) => Ok(Some(found)),
            Err(error) if is_of_one_look(&error) => {
                self.findings.failed(what, &error);
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Looks at the schema. False if there is none that the other looks could read.
    async fn look_at_schema(&mut self) -> Result<bool, DatabaseError> {
        let found = self.look("the schema's version", async |connection| {
            storage::schema_version(connection).await
        });
        let Some(found) = found.await? else { return Ok(true) };
        if let Some(finding) = schema(found.version, found.serves, storage::SCHEMA_VERSION) {
            self.findings.add(finding);
        }
        Ok(found.version > 0)
    }
}

/// Compares the version of a schema, and the oldest program that it serves, with the version that
/// this program knows.
fn schema(version: i32, serves: i32, known: i32) -> Option<Finding> {
    let (up, newer) = ("gen-durable migrate up", "use programs with a newer gen_durable");
    let (severity, illness, explanation, cure) = if version == 0 {
        let text = "the database has no schema of gen_durable".to_owned();
        (Severity::Error, Illness::NoSchema, text, up)
    } else if version < known {
        let text = format!("its version is {version}, and this program is written for {known}");
        (Severity::Error, Illness::SchemaBehind, text, up)
    } else if serves > known {
        let text = format!(
            "its version {version} serves programs of version {serves} on, and this one is of {known}"
        );
        (Severity::Error, Illness::SchemaAhead, text, newer)
    } else if version > known {
        let text = format!("its version is {version}, and this program knows {known}");
        (Severity::Info, Illness::SchemaAhead, text, newer)
    } else {
        return None;
    };
    Some(Finding::new(severity, illness, "the schema", explanation, cure))
}

/// True if Postgres refused this look, and may allow others: a right is missing, it took too long,
/// or a table is of another version.
fn is_of_one_look(error: &DatabaseError) -> bool {
    // The classes of errors that end the session: no connection (08), no login (28), no such
    // database (3D), no resources (53), and a shutdown by the administrator (57P). A statement that
    // took too long has the code 57014, and is of one look.
    let lost = ["08", "28", "3D", "53", "57P"];
    error.sqlstate().is_some_and(|code| !lost.iter().any(|class| code.starts_with(class)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schema_of_another_version_is_ill() {
        let judged = |version, serves| {
            schema(version, serves, 3).map(|found| (found.severity, found.illness))
        };
        assert_eq!(judged(0, 0), Some((Severity::Error, Illness::NoSchema)));
        assert_eq!(judged(2, 1), Some((Severity::Error, Illness::SchemaBehind)));
        assert_eq!(judged(3, 3), None);
        assert_eq!(judged(4, 3), Some((Severity::Info, Illness::SchemaAhead)));
        assert_eq!(judged(5, 4), Some((Severity::Error, Illness::SchemaAhead)));
    }
}
