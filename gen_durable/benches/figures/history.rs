//! Measures what the history costs: the same machine with and without one.

use std::time::{Duration, Instant};

use gen_durable::{EngineBuilder, prelude::*};

use crate::{
    bare::TEN_STEPS,
    bench::{Bench, Error, Figure, Sample, Target, until_steps},
    machines::{Small, TenSteps},
};

/// The machine [`TenSteps`], with one entry for each step.
#[durable_fsm(name = "ten_steps", queue = "checkout", state = Small, output = (), history = "steps")]
pub enum RecordedSteps {
    Link,
}

#[durable_fsm]
impl RecordedSteps {
    async fn link(mut cx: Context<Self>) -> Outcome<Self> {
        cx.state.n += 1;
        if cx.state.n == 10 { cx.done(()) } else { cx.next(RecordedSteps::Link) }
    }
}

/// The machine [`TenSteps`], with the state after each step.
#[durable_fsm(name = "ten_steps", queue = "checkout", state = Small, output = (), history = "states")]
pub enum RecordedStates {
    Link,
}

#[durable_fsm]
impl RecordedStates {
    async fn link(mut cx: Context<Self>) -> Outcome<Self> {
        cx.state.n += 1;
        if cx.state.n == 10 { cx.done(()) } else { cx.next(RecordedStates::Link) }
    }
}

pub fn figures() -> Vec<Figure> {
    let figure = |name, target, run| Figure::new(name, "commits/s", "no history", target, run);
    vec![
        figure("ten_steps_history_steps", Target::AtLeast(0.7), |bench| {
            Box::pin(async { recorded(bench, bench.engine().machine::<RecordedSteps>()).await })
        }),
        figure("ten_steps_history_states", Target::None, |bench| {
            Box::pin(async { recorded(bench, bench.engine().machine::<RecordedStates>()).await })
        }),
    ]
}

async fn recorded(bench: &Bench, recorded: EngineBuilder) -> Result<Sample, Error> {
    let rows = bench.rows(20_000);
    let plain = run(bench, bench.engine().machine::<TenSteps>(), rows).await?;
    let recorded = run(bench, recorded, rows).await?;
    let entries: i64 = sqlx::query_scalar("select count(*) from gen_durable.history")
        .fetch_one(&bench.pool)
        .await?;
    sqlx::raw_sql("truncate gen_durable.history").execute(&bench.pool).await?;
    let steps = rows * TEN_STEPS.steps as i64;
    if entries != steps {
        return Err(format!("{entries} entries for {steps} steps").into());
    }
    let rate = |took: Duration| steps as f64 / took.as_secs_f64();
    Ok(Sample::against(rate(recorded), rate(plain)))
}

/// Runs the instances of the ten steps to their ends.
async fn run(bench: &Bench, engine: EngineBuilder, rows: i64) -> Result<Duration, Error> {
    bench.load_shape(TEN_STEPS, rows).await?;
    let began = Instant::now();
    let engine = engine.start().await?;
    until_steps(&engine, (rows * TEN_STEPS.steps as i64) as u64).await?;
    let took = began.elapsed();
    engine.shutdown().await?;
    bench.all_done().await?;
    Ok(took)
}
