//! Inserts instances.
//!
//! Invariant: each row has one answer, and the answers have the order of the rows. A duplicate
//! keeps no other row from being inserted.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use sqlx::{PgConnection, Row, postgres::PgRow};

use super::{
    Locked, begin, micros,
    row::{Claimed, Eligible, Inbox, Kind, Kinds, NewInstance, Receiver},
    since_1970, time,
};
use crate::error::Duplicate;

const INSERT: &str = include_str!("sql/insert.sql");
const INSERT_ALIKE: &str = include_str!("sql/insert_alike.sql");
const INSERT_PLAIN: &str = include_str!("sql/insert_plain.sql");
const INSERT_BORN: &str = include_str!("sql/insert_born.sql");
const INSERT_CLAIMED: &str = include_str!("sql/insert_claimed.sql");
const UNIQUE_HOLDERS: &str = include_str!("sql/unique_holders.sql");

/// The most looks for the holders of unique keys. A holder may free its key between the insert,
/// which found the key taken, and the look. The row is then inserted once more. Likewise a holder
/// may free its key before a signal to it is delivered. If that happens so often, it counts as a
/// failure of the database.
pub(super) const TRIES_MAX: usize = 100;

/// The most bytes of state in one statement. Postgres takes no message beyond 1 GiB.
const STATEMENT_BYTES_MAX: usize = 128 * 1024 * 1024;

/// The claim of new rows by the worker of the process that inserts them. The precondition is that
/// all rows of the insert are due at once and have no partition key.
#[derive(Debug)]
pub(crate) struct Birth {
    pub(crate) worker: i64,
    /// The machines that the worker runs.
    pub(crate) kinds: Arc<Kinds>,
    /// For each row, true if the worker has a slot for it. If such a row has a unique key, it holds
    /// that key while it executes.
    pub(crate) claims: Vec<bool>,
}

impl Birth {
    /// Returns the claim of the rows at these places.
    pub(super) fn of(&self, places: &[usize]) -> Self {
        Self {
            worker: self.worker,
            kinds: Arc::clone(&self.kinds),
            claims: places.iter().map(|place| self.claims[*place]).collect(),
        }
    }
}

/// The result of an insert.
#[derive(Debug)]
pub(crate) struct Inserted {
    /// The answer to each row, in their order.
    pub(crate) answers: Vec<Result<i64, Duplicate>>,
    pub(crate) born: Born,
}

/// The rows that were born claimed.
#[derive(Debug, Default)]
pub(crate) struct Born {
    pub(crate) claimed: Vec<Claimed>,
    /// The time that the statement spent on the look for waiting rows.
    pub(crate) looked: Duration,
}

/// Inserts rows: all or none, unless the connection is in a transaction of the caller. With a
/// `birth`, rows of queues in which nothing waits are claimed.
pub(crate) async fn insert(
    connection: &mut PgConnection,
    rows: &[NewInstance],
    locked: Locked,
    birth: Option<&Birth>,
) -> Result<Inserted, sqlx::Error> {
    let bytes: usize = rows.iter().map(|row| row.state.0.len()).sum();
    // Further statements look up the holder of a taken key, and may insert the row after all. If
    // one of them fails, the rows of the first statement must not stay. A caller that tries again
    // would insert them a second time.
    let statements = bytes > STATEMENT_BYTES_MAX
        || rows.len() > 1 && rows.iter().any(|row| row.unique_key.is_some());
    if locked == Locked::Wait || !statements {
        return insert_all(connection, &rows.iter().collect::<Vec<_>>(), locked, birth).await;
    }
    let rows: Vec<&NewInstance> = rows.iter().collect();
    let mut transaction = begin(connection).await?;
    let inserted = insert_all(&mut transaction, &rows, locked, birth).await?;
    transaction.commit().await?;
    Ok(inserted)
}

/// Inserts rows, in one statement unless unique keys collide or the states are too large for one.
pub(super) async fn insert_all(
    connection: &mut PgConnection,
    rows: &[&NewInstance],
    locked: Locked,
    birth: Option<&Birth>,
) -> Result<Inserted, sqlx::Error> {
    let bytes: usize = rows.iter().map(|row| row.state.0.len()).sum();
    let (ids, born) = match birth.filter(|_| bytes <= STATEMENT_BYTES_MAX) {
        Some(birth) => match alike(rows) {
            // Boxed, as the future of an insert is part of its caller's.
            Some(row) => Box::pin(insert_born(connection, rows, row, birth)).await?,
            None => Box::pin(insert_claimed(connection, rows, locked, birth)).await?,
        },
        None => (insert_rows(connection, rows, locked).await?, Born::default()),
    };
    let mut answers: Vec<Option<Result<i64, Duplicate>>> =
        ids.into_iter().map(|id| id.map(Ok)).collect();
    for _ in 0..TRIES_MAX {
        let open: Vec<usize> = (0..rows.len()).filter(|index| answers[*index].is_none()).collect();
        if open.is_empty() {
            break;
        }
        // This is a second statement, because the holder may have committed after the snapshot of
        // the first one.
        let keys = open.iter().map(|index| {
            (rows[*index].fsm, rows[*index].unique_key.as_deref().unwrap_or_default())
        });
        let holders = unique_holders(connection, keys).await?;
        let mut again = Vec::new();
        for (index, holder) in open.into_iter().zip(holders) {
            match holder {
                Some(id) => {
                    answers[index] = Some(Err(Duplicate { machine: rows[index].fsm, id }));
                }
                // The holder ended or was pruned meanwhile, so the key may be free now.
                None => again.push(index),
            }
        }
        let retried: Vec<&NewInstance> = again.iter().map(|index| rows[*index]).collect();
        if !retried.is_empty() {
            for (index, id) in
                again.into_iter().zip(insert_rows(connection, &retried, locked).await?)
            {
                answers[index] = id.map(Ok);
            }
        }
    }
    let answer = |answer: Option<_>| {
        answer.ok_or_else(|| sqlx::Error::Protocol("a unique key changed hands too often".into()))
    };
    Ok(Inserted { answers: answers.into_iter().map(answer).collect::<Result<_, _>>()?, born })
}

/// Inserts rows and claims some of them. Returns an id for each row, or none if the row's unique
/// key is taken, and the claimed rows.
async fn insert_claimed(
    connection: &mut PgConnection,
    rows: &[&NewInstance],
    locked: Locked,
    birth: &Birth,
) -> Result<(Vec<Option<i64>>, Born), sqlx::Error> {
    let claims = rows.iter().zip(&birth.claims).filter(|(_, claim)| **claim);
    let queues: BTreeSet<&str> = claims.map(|(row, _)| row.queue.as_str()).collect();
    let places = birth.kinds.in_queues(queues);
    let answer = sqlx::query(INSERT_CLAIMED)
        .bind(column(rows, |row| row.fsm))
        .bind(column(rows, version))
        .bind(column(rows, |row| row.step))
        .bind(column(rows, |row| row.state.0.as_str()))
        .bind(column(rows, |row| row.queue.as_str()))
        .bind(column(rows, |row| row.priority))
        .bind(column(rows, |row| row.unique_key.as_deref()))
        .bind(column(rows, scope))
        .bind(&birth.claims)
        // Nobody waits for a unique key if there is none.
        .bind(rows.iter().find(|row| row.unique_key.is_some()).and(locked.timeout()))
        .bind(birth.worker)
        .bind(places.queues)
        .bind(places.fsms)
        .bind(places.versions)
        .bind(column(rows, receiver))
        .bind(trace_contexts(rows))
        .fetch_one(connection)
        .await?;
    let ids: Vec<Option<i64>> = answer.try_get("ids")?;
    let claimed: Vec<bool> = answer.try_get("claimed")?;
    let born = born(rows, &ids, claimed, birth, &answer)?;
    Ok((ids, born))
}

/// Inserts rows that differ in their states alone, of which `first` is the first, and claims some
/// of them.
async fn insert_born(
    connection: &mut PgConnection,
    rows: &[&NewInstance],
    first: &NewInstance,
    birth: &Birth,
) -> Result<(Vec<Option<i64>>, Born), sqlx::Error> {
    // The slots are for the first of the rows.
    let claims = birth.claims.iter().take_while(|claim| **claim).count();
    let answer = sqlx::query(INSERT_BORN)
        .bind(first.fsm)
        .bind(version(first))
        .bind(first.step)
        .bind(column(rows, |row| row.state.0.as_str()))
        .bind(&first.queue)
        .bind(first.priority)
        .bind(receiver(first))
        .bind(birth.worker)
        .bind(i64::try_from(claims).unwrap_or(0))
        .bind(&birth.kinds.fsms)
        .bind(&birth.kinds.versions)
        .bind(&first.trace_context)
        .fetch_one(connection)
        .await?;
    let ids: Vec<i64> = answer.try_get("ids")?;
    let ids: Vec<Option<i64>> = ids.into_iter().map(Some).collect();
    let claims: i64 = answer.try_get("claims")?;
    let claimed = (0..ids.len()).map(|place| i64::try_from(place).is_ok_and(|at| at < claims));
    let born = born(rows, &ids, claimed, birth, &answer)?;
    Ok((ids, born))
}

/// Returns the claimed ones of these rows.
fn born(
    rows: &[&NewInstance],
    ids: &[Option<i64>],
    claimed: impl IntoIterator<Item = bool>,
    birth: &Birth,
    answer: &PgRow,
) -> Result<Born, sqlx::Error> {
    let now = time(answer.try_get("claimed_at")?);
    let claimed = rows.iter().zip(ids).zip(claimed).filter(|(_, claimed)| *claimed);
    let claimed = claimed.filter_map(|((row, id), _)| {
        Some(Claimed {
            id: (*id)?,
            worker: birth.worker,
            revision: 1,
            kind: Kind { fsm: row.fsm.to_owned(), fsm_version: version(row) },
            step: row.step.to_owned(),
            state: Some(row.state.0.clone()),
            queue: row.queue.clone(),
            partition_key: None,
            attempt: 0,
            failures: 0,
            timed_out: false,
            report_to: receiver(row),
            trace_context: row.trace_context.clone(),
            now,
            waited: Duration::ZERO,
            inbox: Inbox::default(),
        })
    });
    let claimed = claimed.collect();
    let took: i64 = answer.try_get("looked")?;
    Ok(Born { claimed, looked: Duration::from_micros(took.unsigned_abs()) })
}

/// Inserts rows, in statements of a bounded size. Returns an id for each row, or none if the row's
/// unique key is taken.
async fn insert_rows(
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

/// Runs the statement `insert_alike` if the rows differ in their states alone, `insert_plain` if no
/// row has a unique key, and otherwise `insert`. Returns an id for each row, or none if the row's
/// unique key is taken.
async fn insert_portion(
    connection: &mut PgConnection,
    rows: &[&NewInstance],
    locked: Locked,
) -> Result<Vec<Option<i64>>, sqlx::Error> {
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
            .bind(receiver(row))
            .bind(&row.trace_context)
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
            query.bind(column(rows, receiver)).bind(trace_contexts(rows))
        } else {
            query
                .bind(column(rows, |row| row.unique_key.as_deref()))
                .bind(column(rows, scope))
                .bind(locked.timeout())
                .bind(column(rows, receiver))
                .bind(trace_contexts(rows))
        }
    };
    let answer = query.fetch_one(connection).await?;
    // An aggregate of no rows is null.
    Ok(answer.try_get::<Option<_>, _>(0)?.unwrap_or_default())
}

/// Returns the values of a parameter that has one for each row.
fn column<'a, T>(rows: &[&'a NewInstance], of: impl Fn(&'a NewInstance) -> T) -> Vec<T> {
    rows.iter().map(|row| of(row)).collect()
}

/// Returns the rows' trace contexts. None if no row has one.
fn trace_contexts<'a>(rows: &[&'a NewInstance]) -> Option<Vec<Option<&'a str>>> {
    any(column(rows, |row| row.trace_context.as_deref()))
}

/// Returns the parameter of an optional value of each row. It is null if all values are.
pub(super) fn any<T>(values: Vec<Option<T>>) -> Option<Vec<Option<T>>> {
    values.iter().any(Option::is_some).then_some(values)
}

pub(super) fn version(row: &NewInstance) -> i32 {
    i32::try_from(row.fsm_version).unwrap_or(i32::MAX)
}

/// Returns the instance to which the row reports its end, which is known by its id by now.
pub(super) fn receiver(row: &NewInstance) -> Option<i64> {
    match row.report_to {
        Some(Receiver::Instance(id)) => Some(id),
        _ => None,
    }
}

/// Returns the statuses in which the row holds its unique key, if it has one.
pub(super) fn scope(row: &NewInstance) -> Option<String> {
    let statuses = row.unique_scope.iter().map(|status| status.as_str());
    row.unique_key.as_ref().map(|_| statuses.collect::<Vec<_>>().join(","))
}

/// Returns the first row, if all rows may run at once, have no keys and differ in their states
/// alone. One span has inserted them, or none.
fn alike<'a>(rows: &[&'a NewInstance]) -> Option<&'a NewInstance> {
    let place = |row: &'a NewInstance| {
        let context = row.trace_context.as_deref();
        let queue = row.queue.as_str();
        (row.fsm, row.fsm_version, row.step, queue, row.priority, receiver(row), context)
    };
    let (first, others) = rows.split_first()?;
    let keyless = |row: &NewInstance| row.partition_key.is_none() && row.unique_key.is_none();
    let alike = |row: &&'a NewInstance| {
        keyless(row) && matches!(row.eligible, Eligible::Now) && place(row) == place(first)
    };
    (alike(first) && others.iter().all(alike)).then_some(first)
}

/// Says which rows wait behind another row of this insert. They need not be in the claim's index
/// before their partition key is freed. Claims would take a hundred thousand rows of one key out of
/// it again, one by one.
///
/// Among a key's rows of one queue, machine and version, the first stays in the index, and
/// represents the key there. A claim that finds it looks for the key's true head, blocked or not. A
/// commit that frees the key takes the next row back into the index. All rows of the insert become
/// visible together. No worker can therefore claim, end and free the first row without seeing the
/// others.
///
/// The first row must be sure to be inserted, and to be due now. It has no unique key, for which it
/// may be left out. Neither it nor the rows that wait for it have a schedule. A row that is more
/// urgent than the first stays in the index too.
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

pub(super) fn delay(eligible: Eligible) -> i64 {
    match eligible {
        Eligible::In(delay) => micros(delay),
        Eligible::Now | Eligible::At(_) => 0,
    }
}

pub(super) fn scheduled_at(eligible: Eligible) -> Option<i64> {
    match eligible {
        Eligible::At(time) => Some(since_1970(time)),
        Eligible::Now | Eligible::In(_) => None,
    }
}

/// Returns the instance that holds each of these keys: a machine, and a unique key of it.
pub(crate) async fn unique_holders<'a>(
    connection: &mut PgConnection,
    keys: impl IntoIterator<Item = (&'a str, &'a str)>,
) -> Result<Vec<Option<i64>>, sqlx::Error> {
    let (fsms, keys): (Vec<&str>, Vec<&str>) = keys.into_iter().unzip();
    sqlx::query_scalar(UNIQUE_HOLDERS).bind(fsms).bind(keys).fetch_all(connection).await
}
