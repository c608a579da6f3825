//! Measures throughput with larger states, keys, signals and inserts, beside the bare loop.

use std::{
    sync::LazyLock,
    time::{Duration, Instant},
};

use gen_durable::{EngineBuilder, InsertMany, prelude::*};
use tokio::task::JoinSet;

use crate::{
    bare::{LISTENER, ONE_STEP, Shape, TEN_STEPS},
    bench::{Bench, Error, Figure, Sample, Target, until_steps},
    floor::{self, Work},
    machines::{Go, Listener, OneStep, Small, TenSteps},
    throughput::against_bare,
};

/// The number of signal calls at a time: enough for two full batches of a client.
const CALLS: usize = 1000;
/// The number of rows of one `insert_many`.
const BATCH: usize = 1000;

/// Returns a state of this many bytes, as JSON.
fn state(bytes: usize) -> String {
    let empty = r#"{"n":1,"ballast":""}"#.len();
    format!(r#"{{"n":1,"ballast":"{}"}}"#, ballast(bytes - empty))
}

/// Returns pseudo-random letters. Postgres would compress repeated ones, and store next to nothing.
fn ballast(bytes: usize) -> String {
    let mut seed = 1_u64;
    let letters = std::iter::repeat_with(|| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let letter = (seed >> 33) % 52;
        char::from(if letter < 26 { b'a' + letter as u8 } else { b'A' + (letter - 26) as u8 })
    });
    letters.take(bytes).collect()
}

static STATE_1K: LazyLock<String> = LazyLock::new(|| state(1024));
static STATE_16K: LazyLock<String> = LazyLock::new(|| state(16 * 1024));

pub fn figures() -> Vec<Figure> {
    let one = |name, target, run| Figure::new(name, "instances/s", "bare loop", target, run);
    let ten = |name, target, run| Figure::new(name, "commits/s", "bare loop", target, run);
    let target = Target::AtLeast(0.8);
    let figures = vec![
        one("one_step_1k", target, |bench| {
            Box::pin(async {
                let shape = Shape { state: &STATE_1K, ..ONE_STEP };
                against_bare(bench, one_step(bench), shape, bench.rows(60_000)).await
            })
        }),
        ten("ten_steps_1k", target, |bench| {
            Box::pin(async {
                let shape = Shape { state: &STATE_1K, ..TEN_STEPS };
                against_bare(bench, ten_steps(bench), shape, bench.rows(10_000)).await
            })
        }),
        one("one_step_16k", target, |bench| {
            Box::pin(async {
                let shape = Shape { state: &STATE_16K, ..ONE_STEP };
                against_bare(bench, one_step(bench), shape, bench.rows(10_000)).await
            })
        }),
        ten("ten_steps_16k", target, |bench| {
            Box::pin(async {
                let shape = Shape { state: &STATE_16K, ..TEN_STEPS };
                against_bare(bench, ten_steps(bench), shape, bench.rows(2_000)).await
            })
        }),
        one("one_step_keyed", target, |bench| {
            Box::pin(async {
                let shape = Shape { keyed: true, ..ONE_STEP };
                against_bare(bench, one_step(bench), shape, bench.rows(40_000)).await
            })
        }),
        ten("ten_steps_keyed", target, |bench| {
            Box::pin(async {
                let shape = Shape { keyed: true, ..TEN_STEPS };
                against_bare(bench, ten_steps(bench), shape, bench.rows(10_000)).await
            })
        }),
        one("park_and_signal", target, |bench| Box::pin(park_and_signal(bench))),
        one("one_step_life", target, |bench| {
            Box::pin(lived::<OneStep>(bench, ONE_STEP, bench.rows(100_000)))
        }),
        ten("ten_steps_life", target, |bench| {
            Box::pin(lived::<TenSteps>(bench, TEN_STEPS, bench.rows(20_000)))
        }),
    ];
    figures.into_iter().map(|figure| figure.rounds(3)).collect()
}

fn one_step(bench: &Bench) -> EngineBuilder {
    bench.engine().machine::<OneStep>()
}

fn ten_steps(bench: &Bench) -> EngineBuilder {
    bench.engine().machine::<TenSteps>()
}

/// Measures instances that are claimed, park, get a signal, are claimed again and end.
///
/// All instances park before the first signal is sent. An instance that finds its signal already in
/// the inbox would not park.
async fn park_and_signal(bench: &Bench) -> Result<Sample, Error> {
    let rows = bench.rows(20_000);
    let floor = floor::best(bench, Work::ParkAndSignal, LISTENER, rows).await?;
    let bare = floor::run(bench, Work::ParkAndSignal, LISTENER, floor, rows).await?;
    bench.load_shape(LISTENER, rows).await?;
    let ids: Vec<i64> = sqlx::query_scalar("select id from gen_durable.instances order by id")
        .fetch_all(&bench.pool)
        .await?;
    let began = Instant::now();
    let engine = bench.engine().machine::<Listener>().start().await?;
    until_steps(&engine, rows as u64).await?;
    let mut calls = JoinSet::new();
    for ids in ids.chunks(ids.len().div_ceil(CALLS)) {
        let (client, ids) = (engine.client().clone(), ids.to_vec());
        calls.spawn(async move {
            for id in ids {
                let id = InstanceId::<Listener>::from_raw(id);
                Listener::signal_go(id, Go { n: 1 }).execute(&client).await?;
            }
            Ok::<(), Error>(())
        });
    }
    while let Some(ended) = calls.join_next().await {
        ended??;
    }
    until_steps(&engine, 2 * rows as u64).await?;
    let took = began.elapsed();
    engine.shutdown().await?;
    bench.all_done().await?;
    Ok(Sample::against(rows as f64 / took.as_secs_f64(), rows as f64 / bare.as_secs_f64()))
}

/// Measures instances that are inserted into an empty table, claimed and run to their end.
async fn lived<M: Steps<State = Small>>(
    bench: &Bench,
    shape: Shape,
    rows: i64,
) -> Result<Sample, Error> {
    let steps = (rows * shape.steps as i64) as f64;
    let floor = floor::best(bench, Work::Live, shape, rows).await?;
    let bare = floor::run(bench, Work::Live, shape, floor, rows).await?;
    let engine = live::<M>(bench, rows, steps as u64).await?;
    Ok(Sample::against(steps / engine.as_secs_f64(), steps / bare.as_secs_f64()))
}

/// Inserts instances from one task and runs them to their end on an engine. Returns the time that
/// it took.
pub async fn live<M: Steps<State = Small>>(
    bench: &Bench,
    rows: i64,
    steps: u64,
) -> Result<Duration, Error> {
    bench.clear().await?;
    let began = Instant::now();
    let engine = bench.engine().machine::<M>().start().await?;
    let mut left = rows as usize;
    while left > 0 {
        let batch = left.min(BATCH);
        let inserts = InsertMany::new((0..batch).map(|_| Insert::<M>::new(Small::default())));
        for id in inserts.execute(&engine).await? {
            id?;
        }
        left -= batch;
    }
    until_steps(&engine, steps).await?;
    let took = began.elapsed();
    engine.shutdown().await?;
    bench.all_done().await?;
    Ok(took)
}
