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

use super::{BATCH_MAX, Database, KEYED_BATCH_MAX, Progress, cancels};
use crate::storage::{self, OWES_ANSWER, OWES_KEY, OWES_REPORT, Owing};

/// Looks at all rows that owe something, batch by batch. There is more to do if there were any:
/// some may have been locked. After an error the other debts are settled all the same.
pub(super) async fn run_once(database: &Database) -> Result<Progress, sqlx::Error> {
    let (mut after, mut result) = (None, Ok(Progress::Idle));
    loop {
        let (rows, seen) = page(database, &mut after).await?;
        if !rows.is_empty() {
            let settled = settle(database, &rows, seen).await;
            result = result.and(settled.map(|()| Progress::More));
        }
        if after.is_none() {
            return result;
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
    let reported = report(database, rows).await;
    let freed = free(database, rows).await;
    reported.and(freed).and(answer(database, rows).await)
}

fn owing(rows: &[Owing], bit: i32) -> impl Iterator<Item = &Owing> {
    rows.iter().filter(move |row| row.owes & bit != 0)
}

async fn report(database: &Database, rows: &[Owing]) -> Result<(), sqlx::Error> {
    let ends = owing(rows, OWES_REPORT).filter_map(|row| Some((row.id, row.report_to?)));
    let ends: Vec<(i64, i64)> = ends.collect();
    if ends.is_empty() {
        return Ok(());
    }
    let mut connection = database.connections.get().await?;
    let settle = storage::settle_reports(&mut connection, &ends);
    let result = database.connections.within(settle).await;
    let settled = connection.done(result)?;
    log_dropped(&settled.dropped);
    database.notifier.announce(settled.queues.iter().map(String::as_str));
    Ok(())
}

async fn free(database: &Database, rows: &[Owing]) -> Result<(), sqlx::Error> {
    let ended: Vec<&Owing> = owing(rows, OWES_KEY).collect();
    let mut result = Ok(());
    for part in ended.chunks(usize::try_from(KEYED_BATCH_MAX).unwrap_or(usize::MAX)) {
        result = result.and(free_part(database, part).await);
    }
    result
}

async fn free_part(database: &Database, part: &[&Owing]) -> Result<(), sqlx::Error> {
    let ids: Vec<i64> = part.iter().map(|row| row.id).collect();
    let keys: Vec<String> = part.iter().filter_map(|row| row.partition_key.clone()).collect();
    let mut connection = database.connections.get().await?;
    let settle = storage::settle_keys(&mut connection, &ids, &keys);
    let result = database.connections.within(settle).await;
    let queues = connection.done(result)?;
    database.notifier.announce(queues.iter().map(String::as_str));
    Ok(())
}

/// Answers the cancels of instances that nobody runs.
async fn answer(database: &Database, rows: &[Owing]) -> Result<(), sqlx::Error> {
    let nobodys = owing(rows, OWES_ANSWER).filter(|row| !row.executing);
    let nobodys: Vec<i64> = nobodys.map(|row| row.id).collect();
    let Some(shared) = database.engine.upgrade().filter(|_| !nobodys.is_empty()) else {
        return Ok(());
    };
    // No worker is named: the page may be old, and a row that executes by now is left alone.
    cancels::answer_these(&shared, &nobodys, None).await
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
