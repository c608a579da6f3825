//! Delivers signals.
//!
//! Invariant: a signal is in the inbox of a live instance, or its sender is told why not.

use std::collections::{BTreeSet, HashSet};

use sqlx::{PgConnection, Row};

use super::{
    Locked,
    claim::time,
    inbox::parse_inbox,
    insert::Birth,
    row::{Claimed, Kind, NewSignal},
};
use crate::{
    error::SignalError,
    status::{Delivery, Status},
};

const DELIVER: &str = include_str!("sql/deliver.sql");
const CLAIM_WOKEN: &str = include_str!("sql/claim_woken.sql");

/// The result of a batch of signals.
#[derive(Debug)]
pub(crate) struct Sent {
    /// One answer for each signal, in their order. None if another transaction has the target
    /// locked, and the batch skips such targets.
    pub(crate) deliveries: Vec<Option<Result<Delivery, SignalError>>>,
    /// The instances that were woken, with their queues, which are to be announced.
    pub(crate) woken: Vec<(i64, String)>,
}

impl Sent {
    pub(crate) fn queues(&self) -> impl Iterator<Item = &str> {
        self.woken.iter().map(|(_, queue)| queue.as_str())
    }

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
    let mut targets_seen = HashSet::new();
    let mut sent = Sent { deliveries: Vec::with_capacity(rows.len()), woken: Vec::new() };
    for (row, signal) in rows.iter().zip(signals) {
        let woken_queue: Option<String> = row.try_get(3)?;
        let woken = woken_queue.filter(|_| !signal.silent).map(|queue| (signal.target, queue));
        // Another signal of the batch may have the same target.
        sent.woken.extend(woken.filter(|(target, _)| targets_seen.insert(*target)));
        let held: bool = row.try_get(4)?;
        let status: Option<&str> = row.try_get(1)?;
        let judged = judge(signal, row.try_get(0)?, status, row.try_get(2)?);
        sent.deliveries.push((!held).then_some(judged));
    }
    Ok(sent)
}

/// Claims instances that this transaction has woken, if no other row of their queues waits.
pub(crate) async fn claim_woken(
    transaction: &mut PgConnection,
    birth: &Birth,
    woken: &[(i64, String)],
) -> Result<Vec<Claimed>, sqlx::Error> {
    let claims = woken.iter().zip(&birth.claims).filter(|(_, claim)| **claim);
    let (ids, queues): (Vec<i64>, BTreeSet<&str>) =
        claims.map(|((id, queue), _)| (*id, queue.as_str())).unzip();
    let places = birth.kinds.in_queues(queues);
    let rows = sqlx::query(CLAIM_WOKEN)
        .bind(birth.worker)
        .bind(ids)
        .bind(places.queues)
        .bind(places.fsms)
        .bind(places.versions)
        .fetch_all(transaction)
        .await?;
    let claimed = rows.iter().map(|row| {
        Ok(Claimed {
            id: row.try_get("id")?,
            worker: birth.worker,
            revision: row.try_get("revision")?,
            kind: Kind { fsm: row.try_get("fsm")?, fsm_version: row.try_get("fsm_version")? },
            step: row.try_get("step")?,
            state: row.try_get("state")?,
            queue: row.try_get("queue")?,
            partition_key: None,
            attempt: row.try_get("attempt")?,
            failures: row.try_get("failures")?,
            timed_out: false,
            now: time(row.try_get("claimed_at")?),
            inbox: parse_inbox(row.try_get("inbox")?)?,
        })
    });
    claimed.collect()
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
