//! Measures what the spans of steps cost: the same steps with a subscriber and without one.
//!
//! A subscriber counts on the threads of one runtime. Each measurement therefore has a runtime and
//! a pool of its own.

use std::time::{Duration, Instant};

use gen_durable::Engine;
use opentelemetry::trace::TracerProvider;
use opentelemetry_sdk::{
    error::OTelSdkResult,
    trace::{Sampler, SdkTracerProvider, SpanData, SpanExporter},
};
use sqlx::postgres::PgPoolOptions;
use tracing::Dispatch;
use tracing_subscriber::{filter::LevelFilter, prelude::*};

use crate::{
    bare::{ONE_STEP, Shape, TEN_STEPS},
    bench::{Bench, Error, Figure, Sample, Target, until_steps},
    machines::{OneStep, TenSteps},
};

pub fn figures() -> Vec<Figure> {
    let figure = |name, unit, run| {
        Figure::new(name, unit, "no subscriber", Target::AtLeast(0.9), run).rounds(5)
    };
    vec![
        figure("one_step_info", "instances/s", |bench| Box::pin(one_step(bench, info()))),
        figure("ten_steps_info", "commits/s", |bench| Box::pin(ten_steps(bench, info()))),
        figure("one_step_opentelemetry", "instances/s", |bench| {
            Box::pin(one_step(bench, opentelemetry()))
        }),
        figure("ten_steps_opentelemetry", "commits/s", |bench| {
            Box::pin(ten_steps(bench, opentelemetry()))
        }),
    ]
}

/// A subscriber that formats what it sees of the level INFO, and throws the text away.
fn info() -> Dispatch {
    let layer = tracing_subscriber::fmt::layer().with_writer(std::io::sink);
    tracing_subscriber::registry().with(layer.with_filter(LevelFilter::INFO)).into()
}

/// OpenTelemetry's SDK with the hook. It samples one trace in a hundred, and hands the spans over
/// in batches.
fn opentelemetry() -> Dispatch {
    let provider = SdkTracerProvider::builder()
        .with_sampler(Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(0.01))))
        .with_batch_exporter(Nowhere)
        .build();
    let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("figures"));
    // A figure before this one may have set it.
    let _ = gen_durable_opentelemetry::install();
    tracing_subscriber::registry().with(layer.with_filter(LevelFilter::INFO)).into()
}

/// An exporter that throws spans away.
#[derive(Debug)]
struct Nowhere;

impl SpanExporter for Nowhere {
    async fn export(&self, _: Vec<SpanData>) -> OTelSdkResult {
        Ok(())
    }
}

async fn one_step(bench: &Bench, subscriber: Dispatch) -> Result<Sample, Error> {
    against_none(bench, ONE_STEP, bench.rows(100_000), 1, &subscriber).await
}

async fn ten_steps(bench: &Bench, subscriber: Dispatch) -> Result<Sample, Error> {
    against_none(bench, TEN_STEPS, bench.rows(20_000), 10, &subscriber).await
}

async fn against_none(
    bench: &Bench,
    shape: Shape,
    rows: i64,
    steps: i64,
    subscriber: &Dispatch,
) -> Result<Sample, Error> {
    let steps = (rows * steps) as u64;
    bench.load_shape(shape, rows).await?;
    let without = steps as f64 / run(bench, &Dispatch::none(), steps)?.as_secs_f64();
    bench.load_shape(shape, rows).await?;
    let with = steps as f64 / run(bench, subscriber, steps)?.as_secs_f64();
    Ok(Sample::against(with, without))
}

/// Runs the steps on threads that this subscriber listens to. Returns the time that they took.
fn run(bench: &Bench, subscriber: &Dispatch, steps: u64) -> Result<Duration, Error> {
    let (subscriber, url) = (subscriber.clone(), bench.url.clone());
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .on_thread_start(move || {
            // The subscriber counts on this thread until the thread ends.
            std::mem::forget(tracing::dispatcher::set_default(&subscriber));
        })
        .build()?;
    let ran = runtime.spawn(async move {
        let pool = PgPoolOptions::new().max_connections(20).connect(&url).await?;
        let began = Instant::now();
        let engine = Engine::builder(pool).queue("checkout", 100);
        let engine = engine.machine::<OneStep>().machine::<TenSteps>().start().await?;
        until_steps(&engine, steps).await?;
        let took = began.elapsed();
        engine.shutdown().await?;
        Ok::<_, Error>(took)
    });
    // A thread that is in a runtime may not wait for another one.
    let waiting = std::thread::spawn(move || runtime.block_on(ran));
    waiting.join().map_err(|_| "the measurement panicked")??
}
