//! Delivers signals.
//!
//! Invariant: a signal is in the inbox of a live instance, or its sender is told why not.

use std::collections::{BTreeSet, HashSet};

use sqlx::{PgConnection, Row};

use super::{
    Locked,
    inbox::parse_inbox,
    insert::{Birth, TRIES_MAX, any, unique_holders},
    row::{Addressee, Claimed, Kind, NewSignal},
    time,
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

    /// Returns the answer of a batch that has this signal alone and waited for its target.
    pub(crate) fn only(mut self, signal: &NewSignal) -> Result<Delivery, SignalError> {
        self.deliveries.pop().flatten().unwrap_or_else(|| Err(nobody(signal)))
    }
}

/// Finds the targets of signals: none for a unique key that no instance holds.
pub(crate) async fn resolve(
    connection: &mut PgConnection,
    signals: &[&NewSignal],
) -> Result<Vec<Option<i64>>, sqlx::Error> {
    // A signal by key knows its machine.
    let by_key =
        signals.iter().filter_map(|signal| Some((signal.fsm.as_deref()?, signal.unique_key()?)));
    let keys: Vec<(&str, &str)> = by_key.collect();
    let found = if keys.is_empty() { Vec::new() } else { unique_holders(connection, keys).await? };
    let mut found = found.into_iter();
    let target = |signal: &&NewSignal| match &signal.target {
        Addressee::Id(id) => Some(*id),
        Addressee::Key(_) => found.next().flatten(),
    };
    Ok(signals.iter().map(target).collect())
}

/// Delivers a batch: in one statement, if all its targets are addressed by their ids. Otherwise it
/// takes several, and the caller has begun a transaction.
///
/// A unique key is looked up first, and under the target's lock the statement sees if the target
/// still holds the key. If it does not, the key is looked up once more: the key may have a new
/// holder by then.
pub(crate) async fn deliver(
    connection: &mut PgConnection,
    signals: &[&NewSignal],
    locked: Locked,
) -> Result<Sent, sqlx::Error> {
    let deliveries = signals.iter().map(|_| None).collect();
    let mut sent = Sent { deliveries, woken: Vec::new() };
    let mut open: Vec<usize> = (0..signals.len()).collect();
    for _ in 0..TRIES_MAX {
        let part: Vec<&NewSignal> = open.iter().map(|index| signals[*index]).collect();
        let targets = resolve(connection, &part).await?;
        let found: Vec<(usize, i64)> = open
            .iter()
            .zip(targets)
            .filter_map(|(index, target)| {
                if target.is_none() {
                    sent.deliveries[*index] = Some(Err(nobody(signals[*index])));
                }
                Some((*index, target?))
            })
            .collect();
        open = deliver_to(connection, signals, &found, locked, &mut sent).await?;
        if open.is_empty() {
            return Ok(sent);
        }
    }
    Err(sqlx::Error::Protocol("a unique key changed hands too often".into()))
}

/// Delivers the signals with these places in the batch to these targets. Returns the places of
/// those whose targets no longer hold the unique key.
async fn deliver_to(
    connection: &mut PgConnection,
    signals: &[&NewSignal],
    found: &[(usize, i64)],
    locked: Locked,
    sent: &mut Sent,
) -> Result<Vec<usize>, sqlx::Error> {
    if found.is_empty() {
        return Ok(Vec::new());
    }
    let targets: Vec<i64> = found.iter().map(|(_, target)| *target).collect();
    let places = found.iter().map(|(place, _)| *place);
    let signals: Vec<&NewSignal> = places.map(|place| signals[place]).collect();
    let unique_keys: Vec<Option<&str>> = signals.iter().map(|signal| signal.unique_key()).collect();
    let fsms: Vec<Option<&str>> = signals.iter().map(|signal| signal.fsm.as_deref()).collect();
    let names: Vec<&str> = signals.iter().map(|signal| signal.name.as_str()).collect();
    let payloads: Vec<&str> = signals.iter().map(|signal| signal.payload.0.as_str()).collect();
    let keys: Vec<Option<&str>> =
        signals.iter().map(|signal| signal.dedup_key.as_deref()).collect();
    let trace_contexts: Vec<Option<&str>> =
        signals.iter().map(|signal| signal.trace_context.as_deref()).collect();
    let rows = sqlx::query(DELIVER)
        .bind(targets)
        .bind(fsms)
        .bind(names)
        .bind(payloads)
        .bind(keys)
        .bind(locked == Locked::Skip)
        .bind(locked.timeout())
        .bind(unique_keys)
        .bind(any(trace_contexts))
        .fetch_all(connection)
        .await?;
    let mut targets_seen = HashSet::new();
    let mut released = Vec::new();
    for ((row, signal), (place, target)) in rows.iter().zip(signals).zip(found) {
        let woken_queue: Option<String> = row.try_get("woken_queue")?;
        let woken = woken_queue.filter(|_| !signal.silent).map(|queue| (*target, queue));
        // Another signal of the batch may have the same target.
        sent.woken.extend(woken.filter(|(target, _)| targets_seen.insert(*target)));
        // A target that another transaction has locked is left to a later try.
        if row.try_get("held")? {
            continue;
        }
        if row.try_get("released")? {
            released.push(*place);
            continue;
        }
        let status: Option<&str> = row.try_get("status")?;
        let judged = judge(signal, *target, row.try_get("fsm")?, status, row.try_get("fresh")?);
        sent.deliveries[*place] = Some(judged);
    }
    Ok(released)
}

/// Makes the error of a signal whose target does not exist.
fn nobody(signal: &NewSignal) -> SignalError {
    let key = match &signal.target {
        Addressee::Key(key) => key.clone(),
        Addressee::Id(id) => return SignalError::Unknown { id: *id },
    };
    SignalError::NoHolder { machine: signal.fsm.clone().unwrap_or_default(), key }
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
            report_to: row.try_get("report_to")?,
            trace_context: row.try_get("trace_context")?,
            now: time(row.try_get("claimed_at")?),
            waited: std::time::Duration::ZERO,
            inbox: parse_inbox(row.try_get("inbox")?)?,
        })
    });
    claimed.collect()
}

/// Returns a signal's answer. `id` is its target, `found` the target's machine, and `fresh` says
/// that the signal is no duplicate.
fn judge(
    signal: &NewSignal,
    id: i64,
    found: Option<String>,
    status: Option<&str>,
    fresh: bool,
) -> Result<Delivery, SignalError> {
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
