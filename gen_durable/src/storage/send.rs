//! Sends what the outcomes of a batch carry: inserts, signals, and the reports of ended instances.
//!
//! Invariant: it runs in the transaction that applies the outcomes. The messages of an outcome take
//! effect with the outcome, or not at all. If that transaction cannot lock the receiver of a
//! report, the row says that it owes the report, which is delivered later.

use sqlx::{PgConnection, Row};

use super::{
    Locked, begin,
    commit::{Committed, NewRows, lock_ids},
    deliver::deliver,
    insert::{Birth, Inserted, any, insert_all, unique_holders},
    row::{Addressee, Commit, NewInstance, NewSignal, Receiver},
};
use crate::{
    error::Duplicate,
    fault::{Refusal, refused},
    keys::RESERVED,
    value::Json,
};

const OWED_OF: &str = include_str!("sql/owed_of.sql");
const REPORT: &str = include_str!("sql/report.sql");
const SETTLE_OWED: &str = include_str!("sql/settle_owed.sql");

/// The status in a report of an instance that was not inserted.
pub(crate) const TAKEN: &str = "taken";

/// An insert names its receiver by a unique key, which nobody holds.
#[derive(Debug, thiserror::Error)]
#[error(
    "an insert is to report to the instance of machine `{machine}` that holds the unique key `{key}`, and no instance holds it; insert the receiver first, or name it by its id"
)]
pub(crate) struct NoReceiver {
    pub(crate) machine: &'static str,
    pub(crate) key: String,
}

/// Sends what the applied outcomes carry. `ready` are the outcomes of the batch that have verdicts.
pub(super) async fn send(
    connection: &mut PgConnection,
    batch: &[&Commit],
    ready: &[&Commit],
    birth: Option<&Birth>,
    done: &mut Committed,
) -> Result<(), sqlx::Error> {
    let applied: Vec<&Commit> = done.applied(ready).collect();
    let mut signals: Vec<NewSignal> = Vec::new();
    // Inserts come first, so that a signal may go to none of them by mistake: their ids are new.
    if applied.iter().any(|outcome| !outcome.inserts.is_empty()) {
        signals = insert(connection, batch, &applied, birth, done).await?;
    }
    let sent = applied.iter().flat_map(|outcome| &outcome.signals).chain(&signals);
    let sent: Vec<&NewSignal> = sent.collect();
    if !sent.is_empty() {
        let answer = deliver(connection, &sent, Locked::Wait).await?;
        done.queues.extend(answer.queues().map(str::to_owned));
        for (signal, delivery) in sent.iter().zip(answer.deliveries) {
            if matches!(delivery, Some(Err(_))) {
                done.dropped_signals.push((signal.target.to_string(), signal.name.clone()));
            }
        }
    }
    Ok(())
}

/// Reports the ends that the applied outcomes make.
pub(super) async fn report_ends(
    connection: &mut PgConnection,
    ready: &[&Commit],
    done: &mut Committed,
) -> Result<(), sqlx::Error> {
    let ended = done.applied(ready).filter(|outcome| outcome.reports_to().is_some());
    let (ended, traces): (Vec<i64>, Vec<_>) =
        ended.map(|outcome| (outcome.id, outcome.trace_context.as_deref())).unzip();
    if !ended.is_empty() {
        let reported = report(connection, &ended, any(traces)).await?;
        done.queues.extend(reported.queues);
        done.dropped_reports.extend(reported.dropped);
    }
    Ok(())
}

/// Inserts the instances of the applied outcomes. Returns the reports of those whose unique key was
/// taken.
async fn insert(
    connection: &mut PgConnection,
    batch: &[&Commit],
    applied: &[&Commit],
    birth: Option<&Birth>,
    done: &mut Committed,
) -> Result<Vec<NewSignal>, sqlx::Error> {
    // The places of the rows among all inserts of the batch.
    let mut places = Vec::new();
    let mut all = 0;
    let mut next = applied.iter().peekable();
    for outcome in batch {
        if next.next_if(|applied| applied.id == outcome.id).is_some() {
            places.extend(all..all + outcome.inserts.len());
        }
        all += outcome.inserts.len();
    }
    let rows: Vec<&NewInstance> = applied.iter().flat_map(|outcome| &outcome.inserts).collect();
    let owners = applied.iter().flat_map(|outcome| outcome.inserts.iter().map(|_| outcome.id));
    let owners: Vec<i64> = owners.collect();
    // The rows with a receiver that is named by a key are copied, and name it by its id.
    let by_key = |row: &NewInstance| matches!(row.report_to, Some(Receiver::Key { .. }));
    let mut found: Vec<NewInstance> =
        rows.iter().filter(|row| by_key(row)).map(|row| (*row).clone()).collect();
    let mut refusals = Vec::new();
    if !found.is_empty() {
        let mut named: Vec<&mut NewInstance> = found.iter_mut().collect();
        let nobody = find_receivers(connection, &mut named).await?;
        let keyed = rows.iter().zip(&owners).filter(|(row, _)| by_key(row));
        for ((_, owner), nobody) in keyed.zip(nobody) {
            refusals.extend(nobody.map(|nobody| Refusal::new(*owner, nobody)));
        }
        if !refusals.is_empty() {
            return Err(refused(refusals));
        }
    }
    let mut found = found.iter();
    let rows: Vec<&NewInstance> = rows
        .into_iter()
        .map(|row| if by_key(row) { found.next().unwrap_or(row) } else { row })
        .collect();
    let birth = birth.map(|birth| birth.of(&places));
    let Inserted { answers, born } =
        insert_all(connection, &rows, Locked::Wait, birth.as_ref()).await?;
    let mut ids = vec![None; all];
    let mut reports = Vec::new();
    for (((row, answer), place), owner) in rows.iter().zip(answers).zip(places).zip(owners) {
        let duplicate: Duplicate = match answer {
            Ok(id) => {
                ids[place] = Some(id);
                continue;
            }
            Err(duplicate) => duplicate,
        };
        let key = row.unique_key.clone().unwrap_or_default();
        match row.report_to {
            _ if row.refuses_taken => refusals.push(Refusal::new(owner, duplicate)),
            Some(Receiver::Instance(receiver)) => reports.push(NewSignal {
                target: Addressee::Id(receiver),
                fsm: None,
                // report.sql makes the same names and payloads.
                name: format!("{RESERVED}{})", row.fsm),
                payload: taken(duplicate.id, &key),
                dedup_key: None,
                silent: false,
                trace_context: row.trace_context.clone(),
            }),
            _ => done.dropped_inserts.push((row.fsm, key)),
        }
    }
    if !refusals.is_empty() {
        return Err(refused(refusals));
    }
    let claimed = born.claimed.iter().map(|row| row.id).collect();
    done.new = Some(Box::new(NewRows { ids, claimed, born }));
    Ok(reports)
}

/// Makes the payload of the report that an instance was not inserted, as another one holds its
/// unique key.
fn taken(holder: i64, key: &str) -> Json {
    Json(serde_json::json!({ "id": holder, "key": key, "status": TAKEN }).to_string())
}

/// Looks up the receivers that are named by a unique key. The rows name them by their ids from here
/// on. Returns for each row with such a receiver whether nobody holds the key.
pub(crate) async fn find_receivers(
    connection: &mut PgConnection,
    rows: &mut [&mut NewInstance],
) -> Result<Vec<Option<NoReceiver>>, sqlx::Error> {
    let keys = rows.iter().filter_map(|row| match &row.report_to {
        Some(Receiver::Key { fsm, key }) => Some((*fsm, key.as_str())),
        _ => None,
    });
    let mut holders = unique_holders(connection, keys).await?.into_iter();
    let mut nobody = Vec::new();
    for row in rows {
        let Some(Receiver::Key { fsm, key }) = &row.report_to else { continue };
        if let Some(holder) = holders.next().flatten() {
            row.report_to = Some(Receiver::Instance(holder));
            nobody.push(None);
        } else {
            nobody.push(Some(NoReceiver { machine: fsm, key: key.clone() }));
        }
    }
    Ok(nobody)
}

/// The result of reporting ends.
#[derive(Debug, Default)]
pub(crate) struct Settled {
    /// The queues of the receivers that were woken.
    pub(crate) queues: Vec<String>,
    /// The ended instances whose receiver has ended or does not exist, and these receivers.
    pub(crate) dropped: Vec<(i64, i64)>,
    /// The ends that are left for later, as their rows or their receivers are locked.
    pub(crate) left: Vec<i64>,
}

/// Reports the ends of these instances, which this transaction has ended or settled.
async fn report(
    connection: &mut PgConnection,
    ended: &[i64],
    trace_contexts: Option<Vec<Option<&str>>>,
) -> Result<Settled, sqlx::Error> {
    let row = sqlx::query(REPORT).bind(ended).bind(trace_contexts).fetch_one(connection).await?;
    let dropped: Option<Vec<i64>> = row.try_get(1)?;
    let receivers: Option<Vec<i64>> = row.try_get(2)?;
    let dropped = dropped.unwrap_or_default().into_iter().zip(receivers.unwrap_or_default());
    Ok(Settled { queues: row.try_get(0)?, dropped: dropped.collect(), left: Vec::new() })
}

/// Reports ends that are owed, each with its receiver.
pub(crate) async fn settle_reports(
    connection: &mut PgConnection,
    owed: &[(i64, i64)],
) -> Result<Settled, sqlx::Error> {
    let mut transaction = begin(connection).await?;
    let settled = settle(&mut transaction, owed, Locked::Skip).await?;
    transaction.commit().await?;
    Ok(settled)
}

/// The same in a transaction of the caller's.
async fn settle(
    transaction: &mut PgConnection,
    owed: &[(i64, i64)],
    locked: Locked,
) -> Result<Settled, sqlx::Error> {
    if owed.is_empty() {
        return Ok(Settled::default());
    }
    let ids = owed.iter().flat_map(|(id, receiver)| [*id, *receiver]).collect();
    let held = lock_ids(transaction, ids, locked).await?;
    let is_held = |(id, receiver): &(i64, i64)| held.contains(id) || held.contains(receiver);
    let (left, free): (Vec<_>, Vec<_>) = owed.iter().copied().partition(is_held);
    let free: Vec<i64> = free.into_iter().map(|(id, _)| id).collect();
    let ended: Vec<i64> =
        sqlx::query_scalar(SETTLE_OWED).bind(free).fetch_all(&mut *transaction).await?;
    let settled = report(transaction, &ended, None).await?;
    Ok(Settled { left: left.into_iter().map(|(id, _)| id).collect(), ..settled })
}

/// Reports the ends of these instances, as far as they are still owed, in a transaction of the
/// caller's that has locked no other rows but theirs.
pub(super) async fn settle_of(
    transaction: &mut PgConnection,
    ended: &[i64],
    locked: Locked,
) -> Result<Settled, sqlx::Error> {
    let owed: Vec<(i64, i64)> =
        sqlx::query_as(OWED_OF).bind(ended).fetch_all(&mut *transaction).await?;
    settle(transaction, &owed, locked).await
}

/// Reports the ends of these instances, as far as they are still owed.
pub(crate) async fn settle_owed(
    connection: &mut PgConnection,
    ended: &[i64],
    locked: Locked,
) -> Result<Settled, sqlx::Error> {
    let mut transaction = begin(connection).await?;
    let settled = settle_of(&mut transaction, ended, locked).await?;
    transaction.commit().await?;
    Ok(settled)
}
