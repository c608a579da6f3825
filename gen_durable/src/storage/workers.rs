//! The table `workers`: one row with a lease for each running engine.
//!
//! Invariant: a lease is measured by the database's clock alone.

use std::time::Duration;

use sqlx::{PgConnection, Row};

use super::{
    micros,
    row::{Kind, Kinds, LostClaim},
};
use crate::connections::SettingUp;

const ABANDON: &str = include_str!("sql/abandon.sql");
const LOST_CLAIMS: &str = include_str!("sql/lost_claims.sql");
const REGISTER_WORKER: &str = include_str!("sql/register_worker.sql");
const RENEW_LEASE: &str = include_str!("sql/renew_lease.sql");
const REMOVE_WORKER: &str = include_str!("sql/remove_worker.sql");
const SESSION: &str = include_str!("sql/session.sql");
const SCHEMA_VERSION: &str = include_str!("sql/schema_version.sql");

/// The process of a worker: what it runs, and where.
#[derive(Clone, Debug)]
pub(crate) struct Process<'a> {
    /// The name of the worker.
    pub(crate) name: &'a str,
    pub(crate) queues: Vec<&'a str>,
    /// The number of steps that each queue may run at once.
    pub(crate) slots: Vec<i32>,
    /// The machines that it runs.
    pub(crate) kinds: &'a Kinds,
    pub(crate) host: Option<String>,
    /// The number of the process on its host.
    pub(crate) pid: u32,
    /// The version of this library.
    pub(crate) library: &'static str,
}

/// Registers a worker and returns its id, which is never used again.
pub(super) async fn register_worker(
    connection: &mut PgConnection,
    ttl: Duration,
    process: &Process<'_>,
) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar(REGISTER_WORKER)
        .bind(process.name)
        .bind(micros(ttl))
        .bind(&process.queues)
        .bind(&process.slots)
        .bind(&process.kinds.fsms)
        .bind(&process.kinds.versions)
        .bind(process.host.as_deref())
        .bind(i64::from(process.pid))
        .bind(process.library)
        .fetch_one(connection)
        .await
}

/// Renews a lease. False if the worker was removed.
pub(crate) async fn renew_lease(
    connection: &mut PgConnection,
    worker: i64,
    ttl: Duration,
) -> Result<bool, sqlx::Error> {
    let done = sqlx::query(RENEW_LEASE).bind(worker).bind(micros(ttl)).execute(connection).await?;
    Ok(done.rows_affected() == 1)
}

/// Removes a worker that has nothing left to do.
pub(crate) async fn remove_worker(
    connection: &mut PgConnection,
    worker: i64,
) -> Result<(), sqlx::Error> {
    sqlx::query(REMOVE_WORKER).bind(worker).execute(connection).await?;
    Ok(())
}

/// Sets a session up for the statements of an engine.
pub(crate) fn session(connection: &mut PgConnection) -> SettingUp<'_> {
    Box::pin(async move {
        // The statement runs once for each session, so it is not prepared.
        sqlx::raw_sql(SESSION).execute(connection).await?;
        Ok(())
    })
}

/// The versions that a database's migrations state.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Schema {
    /// The newest migration. 0 if there is none.
    pub(crate) version: i32,
    /// The oldest engine that all migrations serve, by its
    /// [`SCHEMA_VERSION`](super::SCHEMA_VERSION).
    pub(crate) serves: i32,
}

/// Reads the version of the schema.
pub(crate) async fn schema_version(connection: &mut PgConnection) -> Result<Schema, sqlx::Error> {
    match sqlx::query(SCHEMA_VERSION).fetch_one(connection).await {
        Ok(row) => Ok(Schema {
            version: row.try_get::<Option<i32>, _>("version")?.unwrap_or(0),
            serves: row.try_get::<Option<i32>, _>("serves")?.unwrap_or(0),
        }),
        // There is no such schema, or no such table in it.
        Err(sqlx::Error::Database(error))
            if matches!(error.code().as_deref(), Some("42P01" | "3F000")) =>
        {
            Ok(Schema::default())
        }
        Err(error) => Err(error),
    }
}

/// True if an error of [`schema_version`] means that the table is not one of `gen_durable`.
pub(crate) fn is_foreign_ledger(error: &sqlx::Error) -> bool {
    match error {
        // The table has no such column, or Postgres knows no maximum of the column's type.
        sqlx::Error::Database(error) => {
            matches!(error.code().as_deref(), Some("42703" | "42883"))
        }
        sqlx::Error::ColumnDecode { .. } => true,
        _ => false,
    }
}

/// Returns lost claims of a worker: rows that it holds besides those that it knows.
pub(crate) async fn lost_claims(
    connection: &mut PgConnection,
    worker: i64,
    known: &[i64],
    batch_max: i64,
) -> Result<Vec<LostClaim>, sqlx::Error> {
    let rows = sqlx::query(LOST_CLAIMS)
        .bind(worker)
        .bind(known)
        .bind(batch_max)
        .fetch_all(connection)
        .await?;
    rows.iter()
        .map(|row| {
            Ok(LostClaim {
                id: row.try_get(0)?,
                kind: Kind { fsm: row.try_get(1)?, fsm_version: row.try_get(2)? },
                revision: row.try_get(3)?,
                partition_key: row.try_get(4)?,
            })
        })
        .collect()
}

/// Leaves rows that a worker holds to the reaper.
pub(crate) async fn abandon(
    connection: &mut PgConnection,
    worker: i64,
    ids: &[i64],
) -> Result<(), sqlx::Error> {
    sqlx::query(ABANDON).bind(worker).bind(ids).execute(connection).await?;
    Ok(())
}
