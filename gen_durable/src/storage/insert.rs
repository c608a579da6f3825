//! Inserting instances.
//!
//! Invariant: one answer for each row, in their order; a duplicate hurts no other row.

use std::{collections::HashMap, time::SystemTime};

use sqlx::{PgConnection, Row};

use super::{
    Locked, begin, micros,
    row::{Eligible, NewInstance},
};
use crate::error::Duplicate;

const INSERT: &str = include_str!("sql/insert.sql");
const INSERT_ALIKE: &str = include_str!("sql/insert_alike.sql");
const INSERT_PLAIN: &str = include_str!("sql/insert_plain.sql");
const UNIQUE_HOLDERS: &str = include_str!("sql/unique_holders.sql");

/// How often a unique key may be freed between the insert that found it taken and the look at who
/// holds it before that counts as a failure of the database.
const TRIES_MAX: usize = 100;

/// The bytes of state in one statement: Postgres takes no message beyond 1 GiB.
const STATEMENT_BYTES_MAX: usize = 128 * 1024 * 1024;

/// Inserts rows: all or none, if the connection is in no transaction of the caller's.
pub(crate) async fn insert(
    connection: &mut PgConnection,
    rows: &[NewInstance],
    locked: Locked,
) -> Result<Vec<Result<i64, Duplicate>>, sqlx::Error> {
    let bytes: usize = rows.iter().map(|row| row.state.0.len()).sum();
    // A key that is taken is looked up, and perhaps inserted, by further statements. If one of them fails,
    // the rows of the first must not stay: whoever tries again would insert them a second time.
    let statements = bytes > STATEMENT_BYTES_MAX
        || rows.len() > 1 && rows.iter().any(|row| row.unique_key.is_some());
    if locked == Locked::Wait || !statements {
        return insert_all(connection, rows, locked).await;
    }
    let mut transaction = begin(connection).await?;
    let answers = insert_all(&mut transaction, rows, locked).await?;
    transaction.commit().await?;
    Ok(answers)
}

/// Inserts rows, in one statement unless unique keys collide or there is too much of them.
async fn insert_all(
    connection: &mut PgConnection,
    rows: &[NewInstance],
    locked: Locked,
) -> Result<Vec<Result<i64, Duplicate>>, sqlx::Error> {
    let all: Vec<&NewInstance> = rows.iter().collect();
    let mut answers: Vec<Option<Result<i64, Duplicate>>> =
        insert_rows(connection, &all, locked).await?.into_iter().map(|id| id.map(Ok)).collect();
    for _ in 0..TRIES_MAX {
        let open: Vec<usize> = (0..rows.len()).filter(|index| answers[*index].is_none()).collect();
        if open.is_empty() {
            break;
        }
        // A second statement, as the holder may have committed after the first one's snapshot.
        let holders = unique_holders(connection, open.iter().map(|index| &rows[*index])).await?;
        let mut again = Vec::new();
        for (index, holder) in open.into_iter().zip(holders) {
            match holder {
                Some(id) => {
                    answers[index] = Some(Err(Duplicate { machine: rows[index].fsm, id }));
                }
                // The holder ended or was pruned meanwhile: the key may be free now.
                None => again.push(index),
            }
        }
        let retried: Vec<&NewInstance> = again.iter().map(|index| &rows[*index]).collect();
        if !retried.is_empty() {
            for (index, id) in
                again.into_iter().zip(insert_rows(connection, &retried, locked).await?)
            {
                answers[index] = id.map(Ok);
            }
        }
    }
    answers
        .into_iter()
        .map(|answer| {
            answer
                .ok_or_else(|| sqlx::Error::Protocol("a unique key changed hands too often".into()))
        })
        .collect()
}

/// Inserts rows, in statements of a bounded size: an id for each row that was inserted.
pub(super) async fn insert_rows(
    connection: &mut PgConnection,
    rows: &[&NewInstance],
    locked: Locked,
) -> Result<Vec<Option<i64>>, sqlx::Error> {
    let mut ids = Vec::with_capacity(rows.len());
    let mut left = rows;
    while !left.is_empty() {
        let mut bytes = 0;
        let fits = left.iter().take_while(|row| {
            bytes += row.state.0.len();
            bytes <= STATEMENT_BYTES_MAX
        });
        let (portion, others) = left.split_at(fits.count().max(1));
        ids.extend(insert_portion(connection, portion, locked).await?);
        left = others;
    }
    Ok(ids)
}

/// Runs the statement `insert`, or `insert_plain` if no row has a unique key, or `insert_alike` if they differ in
/// their states alone: an id for each row that was inserted.
async fn insert_portion(
    connection: &mut PgConnection,
    rows: &[&NewInstance],
    locked: Locked,
) -> Result<Vec<Option<i64>>, sqlx::Error> {
    fn column<'a, T>(rows: &[&'a NewInstance], of: impl Fn(&'a NewInstance) -> T) -> Vec<T> {
        rows.iter().map(|row| of(row)).collect()
    }
    let scope = |row: &NewInstance| {
        row.unique_key.as_ref().map(|_| {
            row.unique_scope.iter().map(|status| status.as_str()).collect::<Vec<_>>().join(",")
        })
    };
    let version = |row: &NewInstance| i32::try_from(row.fsm_version).unwrap_or(i32::MAX);
    let states = column(rows, |row| row.state.0.as_str());
    let plain = rows.iter().all(|row| row.unique_key.is_none());
    let query = if let Some(row) = alike(rows) {
        sqlx::query(INSERT_ALIKE)
            .bind(row.fsm)
            .bind(version(row))
            .bind(row.step)
            .bind(states)
            .bind(&row.queue)
            .bind(row.priority)
    } else {
        let query = if plain { sqlx::query(INSERT_PLAIN) } else { sqlx::query(INSERT) };
        let query = query
            .bind(column(rows, |row| row.fsm))
            .bind(column(rows, version))
            .bind(column(rows, |row| row.step))
            .bind(states)
            .bind(column(rows, |row| row.queue.as_str()))
            .bind(column(rows, |row| row.priority))
            .bind(column(rows, |row| delay(row.eligible)))
            .bind(column(rows, |row| scheduled_at(row.eligible)))
            .bind(column(rows, |row| row.partition_key.as_deref()))
            .bind(blocked(rows));
        if plain {
            query
        } else {
            query
                .bind(column(rows, |row| row.unique_key.as_deref()))
                .bind(column(rows, scope))
                .bind(locked.timeout())
        }
    };
    let answer = query.fetch_one(connection).await?;
    // An aggregate of no rows is null.
    Ok(answer.try_get::<Option<_>, _>(0)?.unwrap_or_default())
}

/// The first of rows that may run at once, have no keys and differ in their states alone.
fn alike<'a>(rows: &[&'a NewInstance]) -> Option<&'a NewInstance> {
    let place = |row: &'a NewInstance| {
        (row.fsm, row.fsm_version, row.step, row.queue.as_str(), row.priority)
    };
    let (first, others) = rows.split_first()?;
    let keyless = |row: &NewInstance| row.partition_key.is_none() && row.unique_key.is_none();
    let alike = |row: &&'a NewInstance| {
        keyless(row) && matches!(row.eligible, Eligible::Now) && place(row) == place(first)
    };
    (alike(first) && others.iter().all(alike)).then_some(first)
}

/// Which rows wait behind another one of this insert, and need not be in the claim's index before their
/// partition key is freed. A hundred thousand rows of one key would be taken out of it again one by one.
///
/// Of a key's rows of one queue, machine and version the first is left in the index, and with it the key:
/// whoever claims it finds the key's true head, blocked or not, and whoever frees the key takes the next
/// one back. They become visible together, so nobody can claim, end and free the first without seeing the
/// others. It must be sure to come, and to come now: it has no unique key, for which it may be left out,
/// and neither it nor what waits for it has a schedule. What is more urgent stays in the index too.
fn blocked(rows: &[&NewInstance]) -> Vec<bool> {
    type Place<'a> = (&'a str, &'a str, &'a str, u32);
    fn place(row: &NewInstance) -> Option<Place<'_>> {
        let key = row.partition_key.as_deref()?;
        let now = matches!(row.eligible, Eligible::Now);
        now.then_some((key, row.queue.as_str(), row.fsm, row.fsm_version))
    }
    // Rows of one insert are due at the same moment, and their ids grow.
    let mut first: HashMap<Place<'_>, (i16, usize)> = HashMap::new();
    for (index, row) in rows.iter().enumerate().filter(|(_, row)| row.unique_key.is_none()) {
        if let Some(place) = place(row) {
            let order = (row.priority, index);
            first.entry(place).and_modify(|first| *first = order.min(*first)).or_insert(order);
        }
    }
    let behind = |(index, row): (usize, &&NewInstance)| {
        let first = place(row).and_then(|place| first.get(&place));
        first.is_some_and(|first| *first < (row.priority, index))
    };
    rows.iter().enumerate().map(behind).collect()
}

fn delay(eligible: Eligible) -> i64 {
    match eligible {
        Eligible::In(delay) => micros(delay),
        Eligible::Now | Eligible::At(_) => 0,
    }
}

/// The end of the year 9999, in microseconds since 1970: as late as makes sense.
const LATEST: i64 = 253_402_300_799_000_000;

fn scheduled_at(eligible: Eligible) -> Option<i64> {
    match eligible {
        Eligible::At(time) => Some(match time.duration_since(SystemTime::UNIX_EPOCH) {
            Ok(after) => i64::try_from(after.as_micros()).map_or(LATEST, |time| time.min(LATEST)),
            Err(before) => -micros(before.duration()),
        }),
        Eligible::Now | Eligible::In(_) => None,
    }
}

async fn unique_holders(
    connection: &mut PgConnection,
    rows: impl Iterator<Item = &NewInstance>,
) -> Result<Vec<Option<i64>>, sqlx::Error> {
    let (fsms, keys): (Vec<&str>, Vec<Option<&str>>) =
        rows.map(|row| (row.fsm, row.unique_key.as_deref())).unzip();
    sqlx::query_scalar(UNIQUE_HOLDERS).bind(fsms).bind(keys).fetch_all(connection).await
}
