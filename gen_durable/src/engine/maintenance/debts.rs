//! Does what is still to be done for rows, because the transaction that changed them could not:
//!
//! - It reports ends. The commit of a step above `read committed` cannot, nor can the reaper, nor
//!   an action in a caller's transaction.
//! - It frees the partition keys of instances that an action has ended.
//! - It has cancels answered: by this engine, if it runs the instance ([`crate::engine::cancels`]),
//!   and at once, if nobody does.
//!
//! Invariant: each debt is settled once, however many processes look at it. Rows and receivers that
//! others have locked are left for the next look.

use std::time::Instant;

use super::{BATCH_MAX, Database, KEYED_BATCH_MAX, Progress};
use crate::storage::{self, OWES_ANSWER, OWES_KEY, OWES_REPORT, Owing};

/// Looks at all rows that owe something, batch by batch. There is more to do if there were any:
/// some may have been locked.
pub(super) async fn run_once(database: &Database) -> Result<Progress, sqlx::Error> {
    let (mut after, mut progress) = (None, Progress::Idle);
    loop {
        let (rows, seen) = page(database, &mut after).await?;
        if !rows.is_empty() {
            progress = Progress::More;
            settle(database, &rows, seen).await?;
        }
        if after.is_none() {
            return Ok(progress);
        }
    }
}

/// Has this engine answer the cancels of its own instances.
pub(super) async fn ask_own(database: &Database) -> Result<Progress, sqlx::Error> {
    let (mut after, mut progress) = (None, Progress::Idle);
    loop {
        let (rows, seen) = page(database, &mut after).await?;
        if !rows.is_empty() {
            progress = Progress::More;
        }
        ask(database, &rows, seen);
        if after.is_none() {
            return Ok(progress);
        }
    }
}

/// Returns a page of rows, and the time from before they were read.
async fn page(
    database: &Database,
    after: &mut Option<i64>,
) -> Result<(Vec<Owing>, Instant), sqlx::Error> {
    let mut connection = database.connections.get().await?;
    let seen = Instant::now();
    let owed = storage::owed(&mut connection, after, BATCH_MAX);
    let result = database.connections.within(owed).await;
    Ok((connection.done(result)?, seen))
}

fn ask(database: &Database, rows: &[Owing], seen: Instant) {
    let worker = database.lease.worker();
    let own = |row: &&Owing| {
        row.owes & OWES_ANSWER != 0 && row.executing && row.locked_by == Some(worker)
    };
    let own: Vec<i64> = rows.iter().filter(own).map(|row| row.id).collect();
    database.ask(&own, seen);
}

async fn settle(database: &Database, rows: &[Owing], seen: Instant) -> Result<(), sqlx::Error> {
    ask(database, rows, seen);
    let owing = |bit: i32| rows.iter().filter(move |row| row.owes & bit != 0);

    let reports: Vec<(i64, i64)> =
        owing(OWES_REPORT).filter_map(|row| Some((row.id, row.report_to?))).collect();
    if !reports.is_empty() {
        let mut connection = database.connections.get().await?;
        let settle = storage::settle_reports(&mut connection, &reports);
        let result = database.connections.within(settle).await;
        let settled = connection.done(result)?;
        log_dropped(&settled.dropped);
        database.notifier.announce(settled.queues.iter().map(String::as_str));
    }

    let ended: Vec<&Owing> = owing(OWES_KEY).collect();
    for part in ended.chunks(usize::try_from(KEYED_BATCH_MAX).unwrap_or(usize::MAX)) {
        let ids: Vec<i64> = part.iter().map(|row| row.id).collect();
        let keys: Vec<String> = part.iter().filter_map(|row| row.partition_key.clone()).collect();
        let mut connection = database.connections.get().await?;
        let settle = storage::settle_keys(&mut connection, &ids, &keys);
        let result = database.connections.within(settle).await;
        let queues = connection.done(result)?;
        database.notifier.announce(queues.iter().map(String::as_str));
    }

    let nobodys: Vec<i64> =
        owing(OWES_ANSWER).filter(|row| !row.executing).map(|row| row.id).collect();
    for part in nobodys.chunks(usize::try_from(KEYED_BATCH_MAX).unwrap_or(usize::MAX)) {
        let mut connection = database.connections.get().await?;
        // No worker is named: the page may be old, and a row that executes by now is left alone.
        let answer = storage::answer_cancels(&mut connection, part, None);
        let result = database.connections.within(answer).await;
        let answered = connection.done(result)?;
        log_dropped(&answered.settled.dropped);
        let queues = answered.queues.iter().chain(&answered.settled.queues);
        database.notifier.announce(queues.map(String::as_str));
    }
    Ok(())
}

/// Logs one line for all reports of a batch that have no live receiver.
pub(in crate::engine) fn log_dropped(dropped: &[(i64, i64)]) {
    if let Some((instance, receiver)) = dropped.first() {
        tracing::warn!(
            instance,
            receiver,
            reports = dropped.len(),
            "reports of ended instances were dropped: their receivers have ended or do not exist"
        );
    }
}
