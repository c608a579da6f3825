//! Steps a second, with the engine's defaults, beside the bare loop.

use std::time::{Duration, Instant};

use gen_durable::EngineBuilder;

use crate::{
    bare::{self, ONE_STEP, Shape, TEN_STEPS},
    bench::{Bench, Error, Figure, Sample, Target, until_steps},
    machines::{OneStep, TenSteps},
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

/// Steps a second of an engine and of the bare loop, on the same rows.
async fn against_bare(
    bench: &Bench,
    engine: EngineBuilder,
    shape: Shape,
    rows: i64,
) -> Result<Sample, Error> {
    let steps = rows * shape.steps as i64;
    bench.load(shape.fsm, shape.step, shape.state.replace('1', "0").as_str(), rows).await?;
    let bare = bare::drain(bench, shape, bench.floor).await?;
    bench.load(shape.fsm, shape.step, shape.state.replace('1', "0").as_str(), rows).await?;
    let began = Instant::now();
    let engine = engine.start().await?;
    until_steps(&engine, steps as u64).await?;
    let took = began.elapsed();
    engine.shutdown().await?;
    let rate = |took: Duration| steps as f64 / took.as_secs_f64();
    Ok(Sample::against(rate(took), rate(bare)))
}
