//! The floor: the engine's own statements in a bare loop, with no engine and no user code.
//!
//! Each connection claims a batch and commits it, as often as an instance has steps, until nothing
//! is left. The best batch size and number of connections are found by a sweep.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use sqlx::{AssertSqlSafe, PgConnection, Row, SqlSafeStr};

use crate::bench::{Bench, Error};

const CLAIM: &str = include_str!("../../src/storage/sql/claim.sql");
const COMMIT: &str = include_str!("../../src/storage/sql/commit.sql");
const INSERT: &str = include_str!("../../src/storage/sql/insert.sql");
const DELIVER: &str = include_str!("../../src/storage/sql/deliver.sql");
const REGISTER_WORKER: &str = include_str!("../../src/storage/sql/register_worker.sql");

/// How the bare loop runs best on this server.
#[derive(Clone, Copy, Debug)]
pub struct Floor {
    pub connections: usize,
    pub batch: i64,
}

/// What a bare loop works on.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub fsm: &'static str,
    pub step: &'static str,
    pub steps: usize,
    pub state: &'static str,
    pub listens: bool,
}

pub const ONE_STEP: Shape =
    Shape { fsm: "one_step", step: "go", steps: 1, state: r#"{"n":1}"#, listens: false };
pub const TEN_STEPS: Shape =
    Shape { fsm: "ten_steps", step: "link", steps: 10, state: r#"{"n":1}"#, listens: false };

/// A row in the hands of a bare loop.
#[derive(Clone, Copy, Debug)]
pub struct Held {
    pub id: i64,
    pub revision: i64,
}

pub async fn register(connection: &mut PgConnection) -> Result<i64, Error> {
    Ok(sqlx::query_scalar(REGISTER_WORKER)
        .bind("bare")
        .bind(3_600_000_000_i64)
        .fetch_one(connection)
        .await?)
}

pub async fn claim(
    connection: &mut PgConnection,
    worker: i64,
    shape: Shape,
    batch: i64,
) -> Result<Vec<Held>, Error> {
    let listening: Vec<&str> = if shape.listens { vec![shape.fsm] } else { Vec::new() };
    let row = sqlx::query(CLAIM)
        .bind(worker)
        .bind(vec!["checkout"])
        .bind(vec![batch])
        .bind(vec![shape.fsm])
        .bind(vec![1_i32])
        .bind(listening)
        .fetch_one(connection)
        .await?;
    let ids: Option<Vec<i64>> = row.try_get(0)?;
    let revisions: Option<Vec<i64>> = row.try_get(6)?;
    let rows = ids.unwrap_or_default().into_iter().zip(revisions.unwrap_or_default());
    Ok(rows.map(|(id, revision)| Held { id, revision }).collect())
}

/// Commits one outcome for all that is held; `last` says that it is `done`.
///
/// The statement leaves out a row that another connection's claim has locked just now (it saw the row
/// as it was before): such rows are committed again, as the engine does.
pub async fn commit(
    connection: &mut PgConnection,
    worker: i64,
    shape: Shape,
    held: &mut [Held],
    last: bool,
) -> Result<(), Error> {
    let mut open = held.to_vec();
    loop {
        let done = commit_once(connection, worker, shape, &open, last).await?;
        if done.len() == open.len() {
            break;
        }
        let done: HashSet<i64> = done.into_iter().collect();
        open.retain(|row| !done.contains(&row.id));
    }
    for row in held {
        row.revision += 1;
    }
    Ok(())
}

async fn commit_once(
    connection: &mut PgConnection,
    worker: i64,
    shape: Shape,
    held: &[Held],
    last: bool,
) -> Result<Vec<i64>, Error> {
    let count = held.len();
    let (status, step, result) =
        if last { ("done", None, Some("null")) } else { ("executing", Some(shape.step), None) };
    let row = sqlx::query(COMMIT)
        .bind(held.iter().map(|row| row.id).collect::<Vec<_>>())
        .bind(vec![worker; count])
        .bind(held.iter().map(|row| row.revision).collect::<Vec<_>>())
        .bind(vec![status; count])
        .bind(vec![step; count])
        .bind(vec![Some(shape.state); count])
        .bind(vec![result; count])
        .bind(vec![None::<&str>; count])
        .bind(vec![0_i32; count])
        .bind(vec![None::<i64>; count])
        .bind(vec![None::<&str>; count])
        .bind(vec![None::<i64>; count])
        .bind(vec![shape.listens; count])
        .bind(Vec::<i64>::new())
        .bind(vec![None::<i32>; count])
        .fetch_one(connection)
        .await?;
    Ok(row.try_get::<Option<Vec<i64>>, _>(0)?.unwrap_or_default())
}

pub async fn insert(
    connection: &mut PgConnection,
    shape: Shape,
    rows: usize,
) -> Result<Vec<i64>, Error> {
    let answer = sqlx::query(INSERT)
        .bind(vec![shape.fsm; rows])
        .bind(vec![1_i32; rows])
        .bind(vec![shape.step; rows])
        .bind(vec![shape.state; rows])
        .bind(vec!["checkout"; rows])
        .bind(vec![0_i16; rows])
        .bind(vec![0_i64; rows])
        .bind(vec![None::<i64>; rows])
        .bind(vec![None::<&str>; rows])
        .bind(vec![None::<&str>; rows])
        .bind(vec![None::<&str>; rows])
        .fetch_one(connection)
        .await?;
    Ok(answer.try_get(0)?)
}

pub async fn deliver(
    connection: &mut PgConnection,
    target: i64,
    name: &'static str,
    payload: &'static str,
) -> Result<(), Error> {
    sqlx::query(AssertSqlSafe(DELIVER).into_sql_str())
        .bind(vec![target])
        .bind(vec![None::<&str>])
        .bind(vec![name])
        .bind(vec![payload])
        .bind(vec![None::<&str>])
        .fetch_all(connection)
        .await?;
    Ok(())
}

/// Runs all that is loaded to its end; how long it took.
pub async fn drain(bench: &Bench, shape: Shape, floor: Floor) -> Result<Duration, Error> {
    let mut loops = Vec::new();
    for _ in 0..floor.connections {
        let mut connection = bench.pool.acquire().await?;
        let worker = register(&mut connection).await?;
        loops.push((connection, worker));
    }
    let began = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for (mut connection, worker) in loops {
        tasks.spawn(async move {
            loop {
                let mut held = claim(&mut connection, worker, shape, floor.batch).await?;
                if held.is_empty() {
                    return Ok::<(), Error>(());
                }
                for step in 1..=shape.steps {
                    commit(&mut connection, worker, shape, &mut held, step == shape.steps).await?;
                }
            }
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    Ok(began.elapsed())
}

/// The best of several batch sizes and numbers of connections.
pub async fn sweep(bench: &Bench) -> Result<Floor, Error> {
    const ROWS: i64 = 30_000;
    let mut best: Option<(f64, Floor)> = None;
    for connections in [1, 2, 3, 4] {
        for batch in [200, 500, 1000] {
            let floor = Floor { connections, batch };
            bench.load(ONE_STEP.fsm, ONE_STEP.step, ONE_STEP.state, ROWS).await?;
            let rate = ROWS as f64 / drain(bench, ONE_STEP, floor).await?.as_secs_f64();
            if best.is_none_or(|(known, _)| rate > known) {
                best = Some((rate, floor));
            }
        }
    }
    Ok(best.map_or(bench.floor, |(rate, floor)| {
        eprintln!("bare loop at its best: {floor:?}, {rate:.0}/s");
        floor
    }))
}
