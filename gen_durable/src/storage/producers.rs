//! The calls of producers that know machines by name alone.
//!
//! Invariant: the schema's functions check the values, as they do for producers in any language.

use sqlx::{PgConnection, Row};

use super::{Eligible, insert::unique_holders, micros, since_1970};
use crate::value::Json;

const INSERT_BY_NAME: &str = include_str!("sql/insert_by_name.sql");

/// A new instance of a machine that is known by name.
#[derive(Debug)]
pub(crate) struct NamedInstance {
    pub(crate) fsm: String,
    /// None for the newest version that an engine has registered.
    pub(crate) fsm_version: Option<i32>,
    pub(crate) step: Option<String>,
    pub(crate) state: Json,
    pub(crate) queue: Option<String>,
    pub(crate) priority: i16,
    pub(crate) eligible: Eligible,
    pub(crate) partition_key: Option<String>,
    pub(crate) unique_key: Option<String>,
    pub(crate) report_to: Option<i64>,
    pub(crate) trace_context: Option<String>,
}

/// Inserts an instance, in a transaction that the caller has begun. If its unique key is taken, it
/// returns the holder, unless that has just given the key back.
pub(crate) async fn insert_by_name(
    transaction: &mut PgConnection,
    new: &NamedInstance,
) -> Result<Result<i64, Option<i64>>, sqlx::Error> {
    let (delay, time) = match new.eligible {
        Eligible::Now => (None, None),
        Eligible::In(delay) => (Some(micros(delay)), None),
        Eligible::At(time) => (None, Some(since_1970(time))),
    };
    let row = sqlx::query(INSERT_BY_NAME)
        .bind(&new.fsm)
        .bind(&new.state.0)
        .bind(new.fsm_version)
        .bind(new.step.as_deref())
        .bind(new.queue.as_deref())
        .bind(i32::from(new.priority))
        .bind(time)
        .bind(delay)
        .bind(new.partition_key.as_deref())
        .bind(new.unique_key.as_deref())
        .bind(new.report_to)
        .bind(new.trace_context.as_deref())
        .fetch_one(&mut *transaction)
        .await?;
    if let Some(id) = row.try_get("id")? {
        return Ok(Ok(id));
    }
    let key = new.unique_key.as_deref().unwrap_or_default();
    let holders = unique_holders(transaction, [(&*new.fsm, key)]).await?;
    Ok(Err(holders.into_iter().flatten().next()))
}
