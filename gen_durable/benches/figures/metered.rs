//! Measures what metrics cost: the same steps with a Prometheus recorder and without one.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    time::Duration,
};

use gen_durable::Engine;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusRecorder};

use crate::{
    bare::ONE_STEP,
    bench::{Bench, Error, Figure, Sample, Target, until_steps},
    machines::OneStep,
    proc::cpu_time,
};

pub fn figures() -> Vec<Figure> {
    let target = Target::AtMost(1.1);
    let figure = Figure::new("one_step_metrics_cpu", "us/step", "no recorder", target, |bench| {
        Box::pin(async {
            let rows = bench.rows(100_000);
            let plain = run(bench, None, rows).await?;
            let recorder = recorder()?;
            let metered = run(bench, Some(&recorder), rows).await?;
            // The series of the steps that were counted.
            let page = recorder.handle().render();
            if !page.contains(&format!("outcome=\"done\"}} {rows}\n")) {
                return Err(format!("{rows} steps are not on the page: {page}").into());
            }
            let micros = |cpu: Duration| cpu.as_secs_f64() * 1e6 / rows as f64;
            Ok(Sample::against(micros(metered), micros(plain)))
        })
    });
    vec![figure.rounds(5)]
}

fn recorder() -> Result<PrometheusRecorder, Error> {
    let seconds = Matcher::Suffix("_seconds".to_owned());
    let buckets = [0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0, 300.0];
    Ok(PrometheusBuilder::new().set_buckets_for_metric(seconds, &buckets)?.build_recorder())
}

/// Starts an engine whose meters a recorder gets, if there is one. An engine makes them while it
/// starts.
async fn start(bench: &Bench, recorder: Option<&PrometheusRecorder>) -> Result<Engine, Error> {
    let start = bench.engine().machine::<OneStep>().start();
    let Some(recorder) = recorder else { return Ok(start.await?) };
    let mut start = pin!(start);
    let started =
        poll_fn(|context| metrics::with_local_recorder(recorder, || start.as_mut().poll(context)));
    Ok(started.await?)
}

/// Runs the instances to their ends. Returns the processor time of this process and of the server.
async fn run(
    bench: &Bench,
    recorder: Option<&PrometheusRecorder>,
    rows: i64,
) -> Result<Duration, Error> {
    bench.load_shape(ONE_STEP, rows).await?;
    let before = cpu_time(bench)?;
    let engine = start(bench, recorder).await?;
    until_steps(&engine, rows as u64).await?;
    let took = cpu_time(bench)?.saturating_sub(before);
    engine.shutdown().await?;
    bench.all_done().await?;
    Ok(took)
}
