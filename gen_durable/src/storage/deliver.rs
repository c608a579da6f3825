//! Delivers signals.
//!
//! Invariant: a signal is in the inbox of a live instance, or its sender is told why not.

use sqlx::{PgConnection, Row};

use super::{Locked, row::NewSignal};
use crate::{
    error::SignalError,
    status::{Delivery, Status},
};

const DELIVER: &str = include_str!("sql/deliver.sql");

/// The result of a batch of signals.
#[derive(Debug)]
pub(crate) struct Sent {
    /// One answer for each signal, in their order. None if another transaction has the target
    /// locked, and the batch skips such targets.
    pub(crate) deliveries: Vec<Option<Result<Delivery, SignalError>>>,
    /// Queues to announce, because instances in them were woken.
    pub(crate) queues: Vec<String>,
}

impl Sent {
    /// Returns the answer of a batch that has one signal and waited for its target.
    pub(crate) fn only(mut self, id: i64) -> Result<Delivery, SignalError> {
        self.deliveries.pop().flatten().unwrap_or(Err(SignalError::Unknown { id }))
    }
}

/// Delivers a batch in one statement.
pub(crate) async fn deliver(
    connection: &mut PgConnection,
    signals: &[&NewSignal],
    locked: Locked,
) -> Result<Sent, sqlx::Error> {
    let targets: Vec<i64> = signals.iter().map(|signal| signal.target).collect();
    let fsms: Vec<Option<&str>> = signals.iter().map(|signal| signal.fsm.as_deref()).collect();
    let names: Vec<&str> = signals.iter().map(|signal| signal.name.as_str()).collect();
    let payloads: Vec<&str> = signals.iter().map(|signal| signal.payload.0.as_str()).collect();
    let keys: Vec<Option<&str>> =
        signals.iter().map(|signal| signal.dedup_key.as_deref()).collect();
    let rows = sqlx::query(DELIVER)
        .bind(targets)
        .bind(fsms)
        .bind(names)
        .bind(payloads)
        .bind(keys)
        .bind(locked == Locked::Skip)
        .bind(locked.timeout())
        .fetch_all(connection)
        .await?;
    let mut sent = Sent { deliveries: Vec::with_capacity(rows.len()), queues: Vec::new() };
    for (row, signal) in rows.iter().zip(signals) {
        let woken: Option<String> = row.try_get(3)?;
        sent.queues.extend(woken.filter(|_| !signal.silent));
        let held: bool = row.try_get(4)?;
        let status: Option<&str> = row.try_get(1)?;
        let judged = judge(signal, row.try_get(0)?, status, row.try_get(2)?);
        sent.deliveries.push((!held).then_some(judged));
    }
    Ok(sent)
}

/// Returns a signal's answer. `found` is the machine of its target, and `fresh` says that the
/// signal is no duplicate.
fn judge(
    signal: &NewSignal,
    found: Option<String>,
    status: Option<&str>,
    fresh: bool,
) -> Result<Delivery, SignalError> {
    let id = signal.target;
    let (Some(found), Some(status)) =
        (found, status.and_then(|status| status.parse::<Status>().ok()))
    else {
        return Err(SignalError::Unknown { id });
    };
    match &signal.fsm {
        Some(expected) if *expected != found => {
            Err(SignalError::WrongMachine { id, expected: expected.clone(), found })
        }
        _ if status.is_terminal() => Err(SignalError::Terminal { id, status }),
        _ if fresh => Ok(Delivery::Delivered),
        _ => Ok(Delivery::Duplicate),
    }
}
