//! Runs the engine's own statements, read from its SQL files, without an engine. The bare loops of
//! `floor` and the baselines of `latency` are made of these functions.
//!
//! Invariant: a bare loop runs the statements that the engine would run for the same work, in
//! transactions of the same shape.

use std::collections::HashSet;

use sqlx::{Connection, PgConnection, Postgres, Row, Transaction};

use crate::bench::Error;

const BEGIN: &str = include_str!("../../src/storage/sql/begin.sql");
const CLAIM: &str = include_str!("../../src/storage/sql/claim.sql");
const LOCK_FREE_PARTITIONS: &str = include_str!("../../src/storage/sql/lock_free_partitions.sql");
const CLAIM_PARTITIONS: &str = include_str!("../../src/storage/sql/claim_partitions.sql");
const COMMIT: &str = include_str!("../../src/storage/sql/commit.sql");
const WAKE_PARKED: &str = include_str!("../../src/storage/sql/wake_parked.sql");
const LOCK_PARTITIONS: &str = include_str!("../../src/storage/sql/lock_partitions.sql");
const UNBLOCK_PARTITIONS: &str = include_str!("../../src/storage/sql/unblock_partitions.sql");
const STRANDED_PARTITIONS: &str = include_str!("../../src/storage/sql/stranded_partitions.sql");
const INSERT: &str = include_str!("../../src/storage/sql/insert_alike.sql");
const DELIVER: &str = include_str!("../../src/storage/sql/deliver.sql");
const EMPTY_INBOXES: &str = include_str!("../../src/storage/sql/empty_inboxes.sql");
const LOCK_INSTANCES: &str = include_str!("../../src/storage/sql/lock_instances.sql");
const REPORT: &str = include_str!("../../src/storage/sql/report.sql");
const SESSION: &str = include_str!("../../src/storage/sql/session.sql");
const REGISTER_WORKER: &str = include_str!("../../src/storage/sql/register_worker.sql");

/// The instances that a bare loop works on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    pub fsm: &'static str,
    pub step: &'static str,
    pub steps: usize,
    pub state: &'static str,
    /// True if an instance waits for a signal before its last step.
    pub listens: bool,
    /// True if an instance has a unique key and a partition key.
    pub keyed: bool,
}

impl Shape {
    /// Returns the state after this many steps. Each step counts `n` up, as a machine would change
    /// its state. A state that never changes would leave next to nothing in the WAL.
    pub fn state_after(&self, steps: usize) -> String {
        self.state.replacen("\"n\":1", &format!("\"n\":{steps}"), 1)
    }
}

pub const ONE_STEP: Shape = Shape {
    fsm: "one_step",
    step: "go",
    steps: 1,
    state: r#"{"n":1}"#,
    listens: false,
    keyed: false,
};
pub const TEN_STEPS: Shape = Shape { fsm: "ten_steps", step: "link", steps: 10, ..ONE_STEP };
pub const LISTENER: Shape = Shape { fsm: "listener", step: "listen", listens: true, ..ONE_STEP };

/// The signal that [`LISTENER`] waits for.
pub const SIGNAL: &str = "go";

/// A row that a bare loop has claimed.
#[derive(Clone, Copy, Debug)]
pub struct Held {
    pub id: i64,
    pub revision: i64,
    /// The number of steps that it has taken.
    pub steps: usize,
}

/// The watermarks that a claim begins at, in the form of the statement's parameters. They are empty
/// at first, and then those that the last claim returned, as in an engine.
#[derive(Clone, Debug, Default)]
pub struct Watermarks {
    places: Vec<i64>,
    priorities: Vec<i16>,
    since: Vec<Option<i64>>,
}

/// The answer of a claim.
#[derive(Debug, Default)]
pub struct Claimed {
    pub held: Vec<Held>,
    /// The partition keys of these rows.
    pub keys: Vec<String>,
    /// Rows with a partition key that the claim left out. A statement of their own claims them.
    pub candidates: Vec<i64>,
}

/// The outcome of a bare loop's step.
#[derive(Clone, Copy, Debug)]
pub enum Outcome {
    Next,
    Await,
    Done,
}

pub async fn register(connection: &mut PgConnection) -> Result<i64, Error> {
    sqlx::raw_sql(SESSION).execute(&mut *connection).await?;
    Ok(sqlx::query_scalar(REGISTER_WORKER)
        .bind("bare")
        .bind(3_600_000_000_i64)
        .bind(vec!["checkout"])
        .bind(vec![1_i32])
        .bind(Vec::<&str>::new())
        .bind(Vec::<i32>::new())
        .bind(None::<&str>)
        .bind(None::<i64>)
        .bind(None::<&str>)
        .fetch_one(connection)
        .await?)
}

async fn begin(connection: &mut PgConnection) -> Result<Transaction<'_, Postgres>, Error> {
    Ok(connection.begin_with(BEGIN).await?)
}

pub async fn claim(
    connection: &mut PgConnection,
    worker: i64,
    shape: Shape,
    batch: i64,
    watermarks: &mut Watermarks,
) -> Result<Claimed, Error> {
    let mut keyed = true;
    let row = loop {
        let answer = sqlx::query(CLAIM)
            .bind(worker)
            .bind(vec!["checkout"])
            .bind(vec![batch])
            .bind(vec![shape.fsm])
            .bind(vec![1_i32])
            .bind(listening(shape))
            // The claim lock is ignored: a loop cannot wait for a lock that another loop holds.
            .bind(vec!["checkout"])
            .bind(keyed)
            .bind(&watermarks.places)
            .bind(&watermarks.priorities)
            .bind(&watermarks.since)
            .bind(i64::MAX)
            .bind(false)
            .fetch_one(&mut *connection)
            .await;
        match answer {
            // Another claim took a key after this statement's snapshot. The claim is repeated
            // without heads of partition keys, as in the engine.
            Err(sqlx::Error::Database(error))
                if keyed
                    && matches!(error.code().as_deref(), Some("23505" | "40P01" | "55P03")) =>
            {
                keyed = false;
            }
            answer => break answer?,
        }
    };
    let whole = watermarks.places.is_empty();
    *watermarks = Watermarks {
        places: row.try_get(10)?,
        priorities: row.try_get(11)?,
        since: row.try_get(12)?,
    };
    // An aggregate of no rows is null.
    let Some(ids): Option<Vec<i64>> = row.try_get(0)? else {
        if whole {
            return Ok(Claimed::default());
        }
        // No row lies after the watermarks. A claim without watermarks finds those before them.
        *watermarks = Watermarks::default();
        return Box::pin(claim(connection, worker, shape, batch, watermarks)).await;
    };
    let keys: Vec<Option<String>> = row.try_get(2)?;
    let revisions: Vec<Option<i64>> = row.try_get(6)?;
    let mut claimed = Claimed::default();
    for ((id, key), revision) in ids.into_iter().zip(keys).zip(revisions) {
        match (key, revision) {
            (key, Some(revision)) => {
                claimed.held.push(Held { id, revision, steps: 0 });
                claimed.keys.extend(key);
            }
            (Some(_), None) => claimed.candidates.push(id),
            // Another claim has taken this row.
            (None, None) => {}
        }
    }
    Ok(claimed)
}

fn listening(shape: Shape) -> Vec<&'static str> {
    if shape.listens { vec![shape.fsm] } else { Vec::new() }
}

/// Claims the heads of the candidates' partition keys. Returns the heads and the keys.
pub async fn claim_partitions(
    connection: &mut PgConnection,
    worker: i64,
    shape: Shape,
    candidates: &[i64],
) -> Result<(Vec<Held>, Vec<String>), Error> {
    let mut transaction = begin(connection).await?;
    let keys: Vec<String> = sqlx::query_scalar(LOCK_FREE_PARTITIONS)
        .bind(candidates)
        .fetch_all(&mut *transaction)
        .await?;
    if keys.is_empty() {
        transaction.rollback().await?;
        return Ok((Vec::new(), Vec::new()));
    }
    let rows = sqlx::query(CLAIM_PARTITIONS)
        .bind(worker)
        .bind(candidates)
        .bind(&keys)
        .bind(vec![shape.fsm])
        .bind(vec![1_i32])
        .bind(listening(shape))
        .bind(vec!["checkout"])
        .bind(i64::MAX)
        .bind(false)
        .fetch_all(&mut *transaction)
        .await?;
    transaction.commit().await?;
    let (mut held, mut keys) = (Vec::new(), Vec::new());
    for row in &rows {
        if let Some(id) = row.try_get(0)? {
            held.push(Held { id, revision: row.try_get(8)?, steps: 0 });
            keys.push(row.try_get(1)?);
        }
    }
    Ok((held, keys))
}

/// Commits one outcome for all claimed rows.
///
/// The statement leaves out a row that another connection's claim has just locked. That claim's
/// snapshot still shows the row as runnable. The function commits such rows again, as the engine
/// does.
pub async fn commit(
    connection: &mut PgConnection,
    worker: i64,
    shape: Shape,
    held: &mut [Held],
    outcome: Outcome,
) -> Result<(), Error> {
    let mut open = held.to_vec();
    while !open.is_empty() {
        let done = match outcome {
            Outcome::Next | Outcome::Done => {
                commit_once(connection, worker, shape, &open, outcome).await?
            }
            Outcome::Await => {
                let mut transaction = begin(connection).await?;
                let done = commit_once(&mut transaction, worker, shape, &open, outcome).await?;
                sqlx::query(WAKE_PARKED)
                    .bind(&done)
                    .bind(Vec::<i64>::new())
                    .fetch_all(&mut *transaction)
                    .await?;
                transaction.commit().await?;
                done
            }
        };
        let done: HashSet<i64> = done.into_iter().collect();
        open.retain(|row| !done.contains(&row.id));
    }
    for row in held {
        row.revision += 1;
        row.steps += 1;
    }
    Ok(())
}

/// Commits the last step of rows that hold partition keys, and unblocks the next row of each key.
pub async fn commit_and_free(
    connection: &mut PgConnection,
    worker: i64,
    shape: Shape,
    held: &[Held],
    keys: &[String],
) -> Result<(), Error> {
    let mut open: Vec<(Held, &str)> =
        held.iter().copied().zip(keys.iter().map(String::as_str)).collect();
    while !open.is_empty() {
        let rows: Vec<Held> = open.iter().map(|(row, _)| *row).collect();
        let mut transaction = begin(connection).await?;
        let done = commit_once(&mut transaction, worker, shape, &rows, Outcome::Done).await?;
        let done: HashSet<i64> = done.into_iter().collect();
        let (freed, left): (Vec<_>, Vec<_>) =
            open.into_iter().partition(|(row, _)| done.contains(&row.id));
        let freed: Vec<&str> = freed.into_iter().map(|(_, key)| key).collect();
        sqlx::query(LOCK_PARTITIONS).bind(&freed).execute(&mut *transaction).await?;
        sqlx::query(UNBLOCK_PARTITIONS).bind(&freed).fetch_all(&mut *transaction).await?;
        transaction.commit().await?;
        open = left;
    }
    Ok(())
}

/// Unblocks the next row of each stranded partition key: a key that no row holds, and whose rows
/// are all blocked. Returns true if there were any.
pub async fn rescue_stranded(connection: &mut PgConnection) -> Result<bool, Error> {
    let mut transaction = begin(connection).await?;
    let keys: Vec<(String, bool)> = sqlx::query_as(STRANDED_PARTITIONS)
        .bind(None::<&str>)
        .bind(i64::MAX)
        .fetch_all(&mut *transaction)
        .await?;
    let stranded: Vec<String> =
        keys.into_iter().filter_map(|(key, stranded)| stranded.then_some(key)).collect();
    sqlx::query(LOCK_PARTITIONS).bind(&stranded).execute(&mut *transaction).await?;
    sqlx::query(UNBLOCK_PARTITIONS).bind(&stranded).fetch_all(&mut *transaction).await?;
    transaction.commit().await?;
    Ok(!stranded.is_empty())
}

async fn commit_once(
    connection: &mut PgConnection,
    worker: i64,
    shape: Shape,
    held: &[Held],
    outcome: Outcome,
) -> Result<Vec<i64>, Error> {
    let count = held.len();
    let (status, step, result, awaits) = match outcome {
        Outcome::Next => ("executing", Some(shape.step), None, None),
        Outcome::Await => ("awaiting_signal", None, None, Some(SIGNAL)),
        Outcome::Done => ("done", None, Some("null"), None),
    };
    // Rows of one batch have taken equally many steps.
    let steps = held.first().map_or(0, |row| row.steps);
    let state = shape.state_after(steps + 1);
    let row = sqlx::query(COMMIT)
        .bind(held.iter().map(|row| row.id).collect::<Vec<_>>())
        .bind(vec![worker; count])
        .bind(held.iter().map(|row| row.revision).collect::<Vec<_>>())
        .bind(vec![status; count])
        .bind(vec![step; count])
        .bind(vec![Some(state.as_str()); count])
        .bind(vec![result; count])
        .bind(vec![None::<&str>; count])
        .bind(vec![0_i32; count])
        .bind(vec![None::<i64>; count])
        .bind(vec![awaits; count])
        .bind(vec![None::<i64>; count])
        .bind(vec![shape.listens; count])
        .bind(Vec::<i64>::new())
        .bind(vec![None::<i32>; count])
        .bind(vec![0_i32; count])
        .bind(Vec::<i64>::new())
        .bind(vec![0_i64; count])
        .fetch_one(connection)
        .await?;
    Ok(row.try_get::<Option<Vec<i64>>, _>(0)?.unwrap_or_default())
}

pub async fn insert(
    connection: &mut PgConnection,
    shape: Shape,
    rows: usize,
) -> Result<Vec<i64>, Error> {
    insert_children(connection, shape, rows, None).await
}

async fn insert_children(
    connection: &mut PgConnection,
    shape: Shape,
    rows: usize,
    parent: Option<i64>,
) -> Result<Vec<i64>, Error> {
    let state = shape.state_after(0);
    let answer = sqlx::query(INSERT)
        .bind(shape.fsm)
        .bind(1_i32)
        .bind(shape.step)
        .bind(vec![state.as_str(); rows])
        .bind("checkout")
        .bind(0_i16)
        .bind(parent)
        .bind(None::<&str>)
        .fetch_one(connection)
        .await?;
    Ok(answer.try_get(0)?)
}

/// Runs a parent and its children: the statements of an engine that does nothing else, a thousand
/// rows at a time.
pub async fn fan_out(
    connection: &mut PgConnection,
    worker: i64,
    parent: Shape,
    child: Shape,
    children: usize,
) -> Result<(), Error> {
    let mut of_parent = Watermarks::default();
    let mut of_children = Watermarks::default();
    insert(connection, parent, 1).await?;
    let mut held = claim(connection, worker, parent, 1, &mut of_parent).await?.held;
    let [Held { id, .. }] = held[..] else { return Err("the parent was not claimed".into()) };
    let mut transaction = begin(connection).await?;
    commit(&mut transaction, worker, parent, &mut held, Outcome::Next).await?;
    insert_children(&mut transaction, child, children, Some(id)).await?;
    transaction.commit().await?;
    loop {
        let mut rows = claim(connection, worker, child, 1000, &mut of_children).await?.held;
        if rows.is_empty() {
            break;
        }
        let mut transaction = begin(connection).await?;
        sqlx::query(LOCK_INSTANCES)
            .bind(vec![id])
            .bind(false)
            .bind("20ms")
            .fetch_all(&mut *transaction)
            .await?;
        commit(&mut transaction, worker, child, &mut rows, Outcome::Done).await?;
        let ended: Vec<i64> = rows.iter().map(|row| row.id).collect();
        sqlx::query(REPORT)
            .bind(ended)
            .bind(None::<Vec<&str>>)
            .fetch_one(&mut *transaction)
            .await?;
        transaction.commit().await?;
    }
    let mut transaction = begin(connection).await?;
    commit(&mut transaction, worker, parent, &mut held, Outcome::Done).await?;
    sqlx::query(EMPTY_INBOXES).bind(vec![id]).execute(&mut *transaction).await?;
    transaction.commit().await?;
    Ok(())
}

/// Sends the signal that [`LISTENER`] waits for.
pub async fn deliver(connection: &mut PgConnection, targets: &[i64]) -> Result<(), Error> {
    let count = targets.len();
    sqlx::query(DELIVER)
        .bind(targets)
        .bind(vec![None::<&str>; count])
        .bind(vec![SIGNAL; count])
        .bind(vec![r#"{"n":1}"#; count])
        .bind(vec![None::<&str>; count])
        .bind(false)
        .bind(None::<&str>)
        .bind(vec![None::<&str>; count])
        .bind(None::<Vec<&str>>)
        .fetch_all(connection)
        .await?;
    Ok(())
}
