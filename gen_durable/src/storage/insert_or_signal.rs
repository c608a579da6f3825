//! Sends a signal to the holder of a unique key, and inserts the instance if there is none.
//!
//! Invariant: the new instance and its signal are committed together.

use sqlx::{PgConnection, Row};

use super::{
    Locked,
    insert::{TRIES_MAX, delay, receiver, scheduled_at, scope, version},
    row::{NewInstance, NewSignal},
};
use crate::status::{Status, UnknownStatus};

const INSERT_OR_SIGNAL: &str = include_str!("sql/insert_or_signal.sql");

/// The instance that a signal has reached, or that refused it.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) id: i64,
    /// True if the instance is new.
    pub(crate) started: bool,
    /// True if the signal was delivered. Otherwise the instance has ended, or the signal is a
    /// duplicate.
    pub(crate) fresh: bool,
    pub(crate) status: Status,
    /// The instance's queue, if the signal woke it.
    pub(crate) woken_queue: Option<String>,
}

impl Found {
    /// Returns the instance's queue, if the signal woke it and that is to be announced.
    pub(crate) fn woken(&self, signal: &NewSignal) -> Option<&str> {
        self.woken_queue.as_deref().filter(|_| !signal.silent)
    }
}

/// Inserts the instance with the signal, or delivers the signal to the instance that holds its
/// unique key. Each try is one statement, so the call needs no transaction.
pub(crate) async fn insert_or_signal(
    connection: &mut PgConnection,
    row: &NewInstance,
    signal: &NewSignal,
    locked: Locked,
) -> Result<Found, sqlx::Error> {
    for _ in 0..TRIES_MAX {
        let answer = sqlx::query(INSERT_OR_SIGNAL)
            .bind(row.fsm)
            .bind(version(row))
            .bind(row.step)
            .bind(row.state.0.as_str())
            .bind(row.queue.as_str())
            .bind(row.priority)
            .bind(delay(row.eligible))
            .bind(scheduled_at(row.eligible))
            .bind(row.partition_key.as_deref())
            .bind(row.unique_key.as_deref())
            .bind(scope(row))
            .bind(signal.name.as_str())
            .bind(signal.payload.0.as_str())
            .bind(signal.dedup_key.as_deref())
            .bind(locked.timeout())
            .bind(receiver(row))
            .bind(&signal.trace_context)
            .fetch_optional(&mut *connection)
            .await?;
        if let Some(answer) = answer {
            let status: &str = answer.try_get("status")?;
            return Ok(Found {
                id: answer.try_get("id")?,
                started: answer.try_get("started")?,
                fresh: answer.try_get("fresh")?,
                status: status
                    .parse()
                    .map_err(|error: UnknownStatus| sqlx::Error::Decode(error.into()))?,
                woken_queue: answer.try_get("woken_queue")?,
            });
        }
    }
    Err(sqlx::Error::Protocol("a unique key changed hands too often".into()))
}
