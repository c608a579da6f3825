//! The registered rows: the machines and queues that engines have run.
//!
//! Invariant: they say what the newest engine of each version said. No row is deleted, so a version
//! stays while an instance of it exists.

use serde_json::Value;
use sqlx::PgConnection;

use super::begin;

const REGISTER_MACHINES: &str = include_str!("sql/register_machines.sql");
const REGISTER_QUEUES: &str = include_str!("sql/register_queues.sql");

/// A machine in one version, as its code says.
#[derive(Clone, Debug)]
pub(crate) struct NewMachine {
    pub(crate) fsm: &'static str,
    pub(crate) fsm_version: u32,
    pub(crate) queue: &'static str,
    /// The step that an instance begins with.
    pub(crate) initial: &'static str,
    /// The step to which a cancel sends an instance.
    pub(crate) on_cancel: Option<&'static str>,
    pub(crate) steps: &'static [&'static str],
    pub(crate) signals: &'static [&'static str],
    /// The graph of the steps, as JSON. None if the process only upgrades instances of the version.
    /// The version's own engine says more, and its row stays.
    pub(crate) graph: Option<String>,
    pub(crate) history: &'static str,
}

/// Registers machines and queues, all or none.
pub(crate) async fn register(
    connection: &mut PgConnection,
    machines: &[NewMachine],
    queues: &[String],
) -> Result<(), sqlx::Error> {
    let mut transaction = begin(connection).await?;
    if !machines.is_empty() {
        sqlx::query(REGISTER_MACHINES)
            .bind(column(machines, |machine| machine.fsm))
            .bind(column(machines, |machine| {
                i32::try_from(machine.fsm_version).unwrap_or(i32::MAX)
            }))
            .bind(column(machines, |machine| machine.queue))
            .bind(column(machines, |machine| machine.initial))
            .bind(column(machines, |machine| machine.on_cancel))
            .bind(column(machines, |machine| json(machine.steps)))
            .bind(column(machines, |machine| json(machine.signals)))
            .bind(column(machines, |machine| machine.graph.as_deref()))
            .bind(column(machines, |machine| machine.history))
            .execute(&mut *transaction)
            .await?;
    }
    sqlx::query(REGISTER_QUEUES).bind(queues).execute(&mut *transaction).await?;
    transaction.commit().await
}

/// Returns the values of a parameter that has one for each machine.
fn column<'a, T>(machines: &'a [NewMachine], of: impl Fn(&'a NewMachine) -> T) -> Vec<T> {
    machines.iter().map(of).collect()
}

/// Returns names as a JSON array.
fn json(names: &[&str]) -> String {
    Value::from(names.to_vec()).to_string()
}

/// True if the database's encoding cannot express a name.
pub(crate) fn is_inexpressible(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
    matches!(code.as_deref(), Some("22P05" | "22021"))
}
