//! The floor: bare loops over the engine's own statements, with no user code.
//!
//! Each connection claims a batch and commits it, as often as an instance has steps, until nothing
//! is left. The best batch size and number of connections are found by a sweep.

use std::{
    future::Future,
    sync::Arc,
    time::{Duration, Instant},
};

use sqlx::{Connection, PgConnection};
use tokio::{sync::Mutex, task::JoinSet};

use crate::{
    bare::{self, Outcome, Shape, Watermarks},
    bench::{Bench, Error},
};

/// How the bare loop runs best on this server.
#[derive(Clone, Copy, Debug)]
pub struct Floor {
    pub connections: usize,
    pub batch: i64,
}

/// One of the connections that share the work.
struct Lane {
    connection: PgConnection,
    worker: i64,
    shape: Shape,
    batch: i64,
    watermarks: Watermarks,
}

impl Lane {
    /// Claims a batch and takes each row to its end; whether there was one.
    async fn finish_batch(&mut self) -> Result<bool, Error> {
        let Self { connection, worker, shape, batch, watermarks } = self;
        let claimed = bare::claim(connection, *worker, *shape, *batch, watermarks).await?;
        let (mut held, mut keys) = (claimed.held, claimed.keys);
        let found = !held.is_empty() || !claimed.candidates.is_empty();
        if !claimed.candidates.is_empty() {
            let heads =
                bare::claim_partitions(connection, *worker, *shape, &claimed.candidates).await?;
            held.extend(heads.0);
            keys.extend(heads.1);
        }
        for _ in 1..shape.steps {
            bare::commit(connection, *worker, *shape, &mut held, Outcome::Next).await?;
        }
        if keys.is_empty() {
            bare::commit(connection, *worker, *shape, &mut held, Outcome::Done).await?;
        } else {
            bare::commit_and_free(connection, *worker, *shape, &held, &keys).await?;
        }
        Ok(found)
    }

    /// Claims a batch and parks it; the ids.
    async fn park_batch(&mut self) -> Result<Vec<i64>, Error> {
        let Self { connection, worker, shape, batch, watermarks } = self;
        let mut held = bare::claim(connection, *worker, *shape, *batch, watermarks).await?.held;
        bare::commit(connection, *worker, *shape, &mut held, Outcome::Await).await?;
        Ok(held.iter().map(|row| row.id).collect())
    }
}

/// Runs the same on each connection; how long it took. The connections are new, as an engine's are: a session
/// that has run for a while has its memory, and the shared buffers, mapped already.
async fn each<F>(
    bench: &Bench,
    shape: Shape,
    floor: Floor,
    run: impl Fn(Lane) -> F,
) -> Result<Duration, Error>
where
    F: Future<Output = Result<(), Error>> + Send + 'static,
{
    let mut lanes = Vec::new();
    for _ in 0..floor.connections {
        let mut connection = PgConnection::connect(&bench.url).await?;
        let worker = bare::register(&mut connection).await?;
        let batch = floor.batch;
        lanes.push(Lane { connection, worker, shape, batch, watermarks: Watermarks::default() });
    }
    let began = Instant::now();
    let mut tasks: JoinSet<_> = lanes.into_iter().map(run).collect();
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    Ok(began.elapsed())
}

/// Runs all that is loaded to its end; how long it took.
pub async fn drain(bench: &Bench, shape: Shape, floor: Floor) -> Result<Duration, Error> {
    let mut took = Duration::ZERO;
    loop {
        took += each(bench, shape, floor, |mut lane| async move {
            while lane.finish_batch().await? {}
            Ok(())
        })
        .await?;
        let began = Instant::now();
        let rescued = shape.keyed && rescue(bench).await?;
        took += began.elapsed();
        if !rescued {
            return Ok(took);
        }
    }
}

/// Frees the keys whose next row was locked by somebody when they became free, as the engine's service
/// does; whether there were any.
async fn rescue(bench: &Bench) -> Result<bool, Error> {
    let mut connection = bench.pool.acquire().await?;
    bare::rescue_stranded(&mut connection).await
}

/// Inserts rows and runs them to their end, batch by batch; how long it took.
async fn live(bench: &Bench, shape: Shape, floor: Floor, rows: i64) -> Result<Duration, Error> {
    // The shares are equal, and none is short.
    let per_lane = (rows as usize).div_ceil(floor.connections) as i64;
    each(bench, shape, floor, move |mut lane| async move {
        let mut left = per_lane;
        while left > 0 {
            let batch = left.min(lane.batch);
            bare::insert(&mut lane.connection, shape, batch as usize).await?;
            left -= batch;
            lane.finish_batch().await?;
        }
        while lane.finish_batch().await? {}
        Ok(())
    })
    .await
}

/// Parks all that is loaded, sends each a signal and runs it to its end; how long it took.
///
/// All have parked before the first signal: a lane that still parked would park what others woke, for ever.
async fn park_and_signal(bench: &Bench, shape: Shape, floor: Floor) -> Result<Duration, Error> {
    let parked = Arc::new(Mutex::new(Vec::new()));
    let parking = each(bench, shape, floor, |mut lane| {
        let parked = Arc::clone(&parked);
        async move {
            loop {
                let batch = lane.park_batch().await?;
                if batch.is_empty() {
                    return Ok(());
                }
                parked.lock().await.push(batch);
            }
        }
    })
    .await?;
    let ending = each(bench, shape, floor, |mut lane| {
        let parked = Arc::clone(&parked);
        async move {
            loop {
                let batch = parked.lock().await.pop();
                let Some(batch) = batch else { break };
                bare::deliver(&mut lane.connection, &batch).await?;
                lane.finish_batch().await?;
            }
            while lane.finish_batch().await? {}
            Ok(())
        }
    })
    .await?;
    Ok(parking + ending)
}

/// What a bare loop does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    Drain,
    Live,
    ParkAndSignal,
}

/// Prepares the tables and does the work; how long that took.
pub async fn run(
    bench: &Bench,
    work: Work,
    shape: Shape,
    floor: Floor,
    rows: i64,
) -> Result<Duration, Error> {
    match work {
        Work::Live => bench.clear().await?,
        Work::Drain | Work::ParkAndSignal => bench.load_shape(shape, rows).await?,
    }
    let took = match work {
        Work::Drain => drain(bench, shape, floor).await?,
        Work::Live => live(bench, shape, floor, rows).await?,
        Work::ParkAndSignal => park_and_signal(bench, shape, floor).await?,
    };
    bench.all_done().await?;
    Ok(took)
}

/// How such work runs best: a sweep over numbers of connections and batch sizes, done once.
pub async fn best(bench: &Bench, work: Work, shape: Shape, rows: i64) -> Result<Floor, Error> {
    let mut known = bench.floors.lock().await;
    if let Some((_, _, floor)) = known.iter().find(|of| of.0 == work && of.1 == shape) {
        return Ok(*floor);
    }
    let mut best = (Duration::MAX, Floor { connections: 2, batch: 500 });
    if !bench.quick {
        for connections in [1, 2, 4] {
            for batch in [100, 300, 1000] {
                let floor = Floor { connections, batch };
                let took = run(bench, work, shape, floor, rows / 3).await?;
                if took < best.0 {
                    best = (took, floor);
                }
            }
        }
    }
    known.push((work, shape, best.1));
    Ok(best.1)
}
