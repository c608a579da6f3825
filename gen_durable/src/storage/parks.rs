//! The second half of a park: a look at the inbox, once the row is locked.
//!
//! Invariant: no row stays parked that has the signals that it waits for.

use sqlx::PgConnection;

use super::{
    commit::Committed,
    row::{Change, Commit},
};

const COUNT_PARKED: &str = include_str!("sql/count_parked.sql");
const WAKE_PARKED: &str = include_str!("sql/wake_parked.sql");

/// Wakes the rows that this batch parked, if their inbox has an awaited signal that their step has
/// not seen.
pub(super) async fn wake_parked(
    connection: &mut PgConnection,
    batch: &[&Commit],
    done: &mut Committed,
) -> Result<(), sqlx::Error> {
    let mut parked = Vec::new();
    let mut seen_before: Vec<i64> = Vec::new();
    for outcome in done.applied(batch) {
        if let Change::Await { seen, count: None, .. } = &outcome.change {
            parked.push(outcome.id);
            seen_before.extend(seen);
        }
    }
    if parked.is_empty() {
        return Ok(());
    }
    let woken: Vec<String> = sqlx::query_scalar(WAKE_PARKED)
        .bind(parked)
        .bind(seen_before)
        .fetch_all(connection)
        .await?;
    done.queues.extend(woken);
    Ok(())
}

/// Counts the signals of the rows that this batch parked until several have come. It runs before
/// the batch sends signals, which lower the number.
pub(super) async fn count_parked(
    connection: &mut PgConnection,
    batch: &[&Commit],
    done: &mut Committed,
) -> Result<(), sqlx::Error> {
    let parked = done.applied(batch).filter_map(|outcome| {
        let (name, count) = outcome.awaits_count()?;
        Some(Parked { id: outcome.id, name, count })
    });
    let parked: Vec<Parked<'_>> = parked.collect();
    done.queues.extend(count(connection, &parked).await?);
    Ok(())
}

/// A row that is parked until a number of signals of one name have come.
pub(super) struct Parked<'a> {
    pub(super) id: i64,
    pub(super) name: &'a str,
    pub(super) count: i64,
}

/// Runs the statement `count_parked`. Returns the queues of the rows that it woke.
pub(super) async fn count(
    connection: &mut PgConnection,
    parked: &[Parked<'_>],
) -> Result<Vec<String>, sqlx::Error> {
    let ids: Vec<i64> = parked.iter().map(|row| row.id).collect();
    let counts: Vec<i64> = parked.iter().map(|row| row.count).collect();
    let names: Vec<&str> = parked.iter().map(|row| row.name).collect();
    sqlx::query_scalar(COUNT_PARKED).bind(ids).bind(counts).bind(names).fetch_all(connection).await
}
