//! Measures several worker processes on one Postgres, and the calls of one process that another
//! process serves.

use std::time::{Duration, Instant};

use gen_durable::prelude::*;

use crate::{
    bare::ONE_STEP,
    bench::{Bench, Error, Figure, Row, Sample, Target},
    inserts, latency,
    machines::{Listener, OneStep},
    processes::{BYSTANDER, Fleet, WORKER},
};

/// The slots of a worker's queue, as many as in this process.
pub const SLOTS: usize = 100;
const LISTENERS: usize = 8;

pub fn figures() -> Vec<Figure> {
    let workers =
        |name, run| Figure::new(name, "instances/s", "one process", Target::AtLeast(0.9), run);
    let remote = |name, target| Row { name, unit: "ms", baseline: "in the process", target };
    vec![
        workers("two_workers", |bench| Box::pin(workers_against_one(bench, 2))).rounds(3),
        workers("four_workers", |bench| Box::pin(workers_against_one(bench, 4))).rounds(3),
        workers("eight_workers", |bench| Box::pin(workers_against_one(bench, 8))).rounds(3),
        Figure::several(
            vec![
                remote("insert_to_done_remote_p50", Target::AtMost(2.0)),
                remote("insert_to_done_remote_p99", Target::None),
            ],
            |bench| Box::pin(remote_inserts(bench)),
        )
        .rounds(3),
        Figure::several(
            vec![
                remote("signal_to_done_remote_p50", Target::AtMost(2.0)),
                remote("signal_to_done_remote_p99", Target::None),
            ],
            |bench| Box::pin(remote_signals(bench)),
        )
        .rounds(3),
        Figure::new(
            "inserts_beside_8_listeners",
            "inserts/s",
            "nobody listens",
            Target::AtLeast(0.9),
            |bench| Box::pin(beside_listeners(bench)),
        )
        .rounds(3),
    ]
}

async fn workers_against_one(bench: &Bench, workers: usize) -> Result<Sample, Error> {
    let one = drained_by(bench, 1).await?;
    Ok(Sample::against(drained_by(bench, workers).await?, one))
}

/// Measures the instances a second that this many workers run together.
///
/// The workers run some instances before the measurement. Starting a process, opening connections
/// and planning statements is not measured: it would take much of the two seconds that eight
/// workers need.
async fn drained_by(bench: &Bench, workers: usize) -> Result<f64, Error> {
    let rows = bench.rows(100_000);
    bench.clear().await?;
    let mut fleet = Fleet::spawn(bench, WORKER, workers, SLOTS)?;
    fleet.start().await?;
    fleet.ready().await?;
    drain(bench, bench.rows(5_000) * workers as i64).await?;
    bench.settle().await?;
    let took = drain(bench, rows).await?;
    fleet.stop().await?;
    bench.all_done().await?;
    Ok(rows as f64 / took.as_secs_f64())
}

/// Measures the time in which the workers drain this many rows, inserted at once.
async fn drain(bench: &Bench, rows: i64) -> Result<Duration, Error> {
    bench.add(ONE_STEP.fsm, ONE_STEP.step, ONE_STEP.state, rows, None).await?;
    let began = Instant::now();
    bench.execute("select pg_notify('gen_durable', 'checkout')").await?;
    bench.until_drained().await?;
    Ok(began.elapsed())
}

/// Starts a worker process, and waits until it is ready.
pub async fn worker(bench: &Bench) -> Result<Fleet, Error> {
    let mut fleet = Fleet::spawn(bench, WORKER, 1, SLOTS)?;
    fleet.start().await?;
    fleet.ready().await?;
    Ok(fleet)
}

/// Measures the time from insert to done in another process, beside that in this process.
async fn remote_inserts(bench: &Bench) -> Result<Vec<Sample>, Error> {
    let count = bench.rows(1_000);
    bench.clear().await?;
    bench.settle().await?;
    let engine = bench.engine().machine::<OneStep>().start().await?;
    let local = latency::inserts(engine.client(), count).await?;
    engine.shutdown().await?;
    let fleet = worker(bench).await?;
    let remote = latency::inserts(&Client::new(bench.pool.clone()), count).await?;
    fleet.stop().await?;
    Ok(latency::compared(&remote, &local))
}

/// Measures the time from signal to done in another process, beside that in this process.
async fn remote_signals(bench: &Bench) -> Result<Vec<Sample>, Error> {
    let count = bench.rows(1_000);
    bench.clear().await?;
    let engine = bench.engine().machine::<Listener>().start().await?;
    let ids = latency::park(bench, engine.client(), count).await?;
    bench.settle().await?;
    let local = latency::signals(engine.client(), ids).await?;
    engine.shutdown().await?;
    let fleet = worker(bench).await?;
    let client = Client::new(bench.pool.clone());
    let ids = latency::park(bench, &client, count).await?;
    bench.settle().await?;
    let remote = latency::signals(&client, ids).await?;
    fleet.stop().await?;
    Ok(latency::compared(&remote, &local))
}

/// Measures inserts by many tasks, beside eight engines that hear each announcement and find no
/// instance of their machines. The baseline is the same inserts without those engines.
async fn beside_listeners(bench: &Bench) -> Result<Sample, Error> {
    let each = bench.rows(1_000).max(20);
    let warm_up = bench.rows(500).max(20);
    // New sessions of the client and of the engines are slow at first. A warm-up ends that before
    // the measurement.
    bench.clear().await?;
    inserts::by_tasks(bench, warm_up).await?;
    let alone = inserts::by_tasks(bench, each).await?;
    let mut fleet = Fleet::spawn(bench, BYSTANDER, LISTENERS, SLOTS)?;
    bench.clear().await?;
    fleet.start().await?;
    fleet.ready().await?;
    inserts::by_tasks(bench, warm_up).await?;
    let beside = inserts::by_tasks(bench, each).await?;
    fleet.stop().await?;
    Ok(Sample::against(beside, alone))
}
