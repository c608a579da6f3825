//! Runs the floor: bare loops over the engine's own statements, with no user code, as baselines.
//!
//! Each connection claims a batch and commits it once for each step of an instance, until no row is
//! left. A sweep finds the best batch size and number of connections.

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

/// The settings of a bare loop; [`best`] finds the fastest ones.
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
    /// Claims a batch and runs each row to its end. Returns true if there was a row.
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

    /// Claims a batch and parks it. Returns the ids.
    async fn park_batch(&mut self) -> Result<Vec<i64>, Error> {
        let Self { connection, worker, shape, batch, watermarks } = self;
        let mut held = bare::claim(connection, *worker, *shape, *batch, watermarks).await?.held;
        bare::commit(connection, *worker, *shape, &mut held, Outcome::Await).await?;
        Ok(held.iter().map(|row| row.id).collect())
    }
}

/// Runs `run` on each connection, and returns the time until all have ended. The connections are
/// new, as those of a new engine are. A session that has run for a while would be faster, as it has
/// already mapped its memory and the shared buffers.
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

/// Runs all loaded instances to their end, and returns the time that it took.
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

/// Unblocks the keys whose next rows another transaction had locked when the keys became free, as
/// the engine's service does. Returns true if there were any.
async fn rescue(bench: &Bench) -> Result<bool, Error> {
    let mut connection = bench.pool.acquire().await?;
    bare::rescue_stranded(&mut connection).await
}

/// Inserts rows and runs them to their end, batch by batch. Returns the time that it took.
async fn live(bench: &Bench, shape: Shape, floor: Floor, rows: i64) -> Result<Duration, Error> {
    // All shares are equal, so up to one row a lane is inserted beyond `rows`.
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

/// Parks all loaded instances, sends each a signal and runs it to its end. Returns the time that it
/// took.
///
/// All instances have parked before the first signal is sent. Otherwise a lane that still parks
/// would claim and park again the instances that another lane has woken.
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

/// The kinds of work of a bare loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    Drain,
    Live,
    ParkAndSignal,
}

/// Prepares the tables and does the work. Returns the time of the work alone.
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

/// Returns the fastest settings for this work. The first call for a work and a shape tries several
/// numbers of connections and batch sizes; a quick run takes a guess.
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
