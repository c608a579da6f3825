//! Measures steps a second with the engine's defaults, beside the bare loop.

use std::time::{Duration, Instant};

use gen_durable::EngineBuilder;

use crate::{
    bare::{ONE_STEP, Shape, TEN_STEPS},
    bench::{Bench, Error, Figure, Sample, Target, until_steps},
    floor::{self, Work},
    machines::{OneStep, TenSteps},
    proc::cpu_time,
};

pub fn figures() -> Vec<Figure> {
    vec![
        Figure::new("one_step", "instances/s", "bare loop", Target::AtLeast(0.8), |bench| {
            Box::pin(async move {
                let engine = bench.engine().machine::<OneStep>();
                against_bare(bench, engine, ONE_STEP, bench.rows(100_000)).await
            })
        }),
        Figure::new("ten_steps", "commits/s", "bare loop", Target::AtLeast(0.8), |bench| {
            Box::pin(async move {
                let engine = bench.engine().machine::<TenSteps>();
                against_bare(bench, engine, TEN_STEPS, bench.rows(20_000)).await
            })
        }),
        Figure::new("one_step_cpu", "us/step", "bare loop", Target::None, |bench| {
            Box::pin(async move {
                let engine = bench.engine().machine::<OneStep>();
                cpu_against_bare(bench, engine, ONE_STEP, bench.rows(100_000)).await
            })
        })
        .rounds(3),
        Figure::new("ten_steps_cpu", "us/step", "bare loop", Target::None, |bench| {
            Box::pin(async move {
                let engine = bench.engine().machine::<TenSteps>();
                cpu_against_bare(bench, engine, TEN_STEPS, bench.rows(20_000)).await
            })
        })
        .rounds(3),
        Figure::new("ten_steps_no_run_ahead", "commits/s", "bare loop", Target::None, |bench| {
            Box::pin(async move {
                let engine = bench.engine().machine::<TenSteps>();
                let engine = engine.run_ahead(1, Duration::from_secs(1));
                against_bare(bench, engine, TEN_STEPS, bench.rows(10_000)).await
            })
        })
        .rounds(3),
    ]
}

/// Measures the steps a second of an engine and of the bare loop, on the same rows.
pub async fn against_bare(
    bench: &Bench,
    engine: EngineBuilder,
    shape: Shape,
    rows: i64,
) -> Result<Sample, Error> {
    let steps = (rows * shape.steps as i64) as f64;
    let (engine, bare) = run_both(bench, engine, shape, rows).await?;
    Ok(Sample::against(steps / engine.took.as_secs_f64(), steps / bare.took.as_secs_f64()))
}

/// Measures the processor time of both. On a shared machine it varies less than the elapsed time.
async fn cpu_against_bare(
    bench: &Bench,
    engine: EngineBuilder,
    shape: Shape,
    rows: i64,
) -> Result<Sample, Error> {
    let steps = (rows * shape.steps as i64) as f64;
    let (engine, bare) = run_both(bench, engine, shape, rows).await?;
    let micros = |run: Run| run.cpu.as_secs_f64() * 1e6 / steps;
    Ok(Sample::against(micros(engine), micros(bare)))
}

/// The times of a run.
#[derive(Clone, Copy)]
struct Run {
    took: Duration,
    /// The processor time of this process and of the server.
    cpu: Duration,
}

async fn run_both(
    bench: &Bench,
    engine: EngineBuilder,
    shape: Shape,
    rows: i64,
) -> Result<(Run, Run), Error> {
    let steps = rows * shape.steps as i64;
    let floor = floor::best(bench, Work::Drain, shape, rows).await?;
    bench.load_shape(shape, rows).await?;
    let cpu = cpu_time(bench)?;
    let took = floor::drain(bench, shape, floor).await?;
    let bare = Run { took, cpu: cpu_time(bench)?.saturating_sub(cpu) };
    bench.all_done().await?;
    bench.load_shape(shape, rows).await?;
    let cpu = cpu_time(bench)?;
    let began = Instant::now();
    let engine = engine.start().await?;
    until_steps(&engine, steps as u64).await?;
    let run = Run { took: began.elapsed(), cpu: cpu_time(bench)?.saturating_sub(cpu) };
    engine.shutdown().await?;
    bench.all_done().await?;
    Ok((run, bare))
}
