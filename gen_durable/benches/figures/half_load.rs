//! Measures the time of one instance while the engine runs at half of its highest rate.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use gen_durable::{Engine, prelude::Client};
use tokio::task::JoinHandle;

use crate::{
    bare::{self, ONE_STEP},
    bench::{Bench, Error, Figure, Row, Sample, Target},
    fleet,
    latency::{self, quantile},
    machines::{Listener, OneStep, Small},
    processes::Fleet,
    variants,
};

pub fn figures() -> Vec<Figure> {
    let row = |name| Row { name, unit: "ms", baseline: "one bare commit", target: Target::None };
    vec![
        Figure::several(
            vec![
                row("insert_to_done_at_half_load_p50"),
                row("insert_to_done_at_half_load_p99"),
                row("signal_to_done_at_half_load_p50"),
                row("signal_to_done_at_half_load_p99"),
            ],
            |bench| Box::pin(at_half_load(bench, Place::Here)),
        )
        .rounds(3),
        Figure::several(
            vec![
                row("insert_to_done_remote_at_half_load_p50"),
                row("insert_to_done_remote_at_half_load_p99"),
                row("signal_to_done_remote_at_half_load_p50"),
                row("signal_to_done_remote_at_half_load_p99"),
            ],
            |bench| Box::pin(at_half_load(bench, Place::Elsewhere)),
        )
        .rounds(3),
    ]
}

/// Returns half of the rate at which an engine runs instances from insert to end, in instances a
/// second. The first call measures it.
pub async fn half_of_the_most(bench: &Bench) -> Result<f64, Error> {
    let measure = || async {
        let rows = bench.rows(100_000);
        let took = variants::live::<OneStep>(bench, rows, rows as u64).await?;
        Ok::<_, Error>(rows as f64 / took.as_secs_f64())
    };
    Ok(bench.rate_max.get_or_try_init(measure).await? / 2.0)
}

/// Inserts instances at a steady rate until it is stopped.
pub struct Load {
    stop: Arc<AtomicBool>,
    task: JoinHandle<Result<(), Error>>,
}

impl Load {
    pub fn start(client: Client, per_second: f64) -> Self {
        const TICK: Duration = Duration::from_millis(10);
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let task = tokio::spawn(async move {
            let began = Instant::now();
            let mut inserted = 0;
            let mut ticks = tokio::time::interval(TICK);
            while !stopped.load(Ordering::Relaxed) {
                ticks.tick().await;
                // The number is counted from the beginning: the tick after a late one catches up.
                let due = (began.elapsed().as_secs_f64() * per_second) as usize;
                let states = vec![Small::default(); due - inserted];
                inserted = due;
                for id in OneStep::insert_many(states).execute(&client).await? {
                    id?;
                }
            }
            Ok(())
        });
        Self { stop, task }
    }

    pub async fn stop(self) -> Result<(), Error> {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await?
    }
}

/// The process that runs the instances: this one, or a worker process.
enum Place {
    Here,
    Elsewhere,
}

enum Host {
    Here(Engine),
    Elsewhere(Fleet),
}

async fn at_half_load(bench: &Bench, place: Place) -> Result<Vec<Sample>, Error> {
    let count = bench.rows(1_000);
    let rate = half_of_the_most(bench).await?;
    bench.clear().await?;
    let commit = one_commit(bench, count).await?;
    let (host, client) = match place {
        Place::Here => {
            let engine = bench.engine().machine::<OneStep>().machine::<Listener>().start().await?;
            let client = engine.client().clone();
            (Host::Here(engine), client)
        }
        Place::Elsewhere => {
            (Host::Elsewhere(fleet::worker(bench).await?), Client::new(bench.pool.clone()))
        }
    };
    let parked = latency::park(bench, &client, count).await?;
    bench.settle().await?;
    let load = Load::start(client.clone(), rate);
    tokio::time::sleep(bench.time(Duration::from_secs(2), Duration::from_millis(200))).await;
    let inserts = latency::inserts(&client, count).await?;
    let signals = latency::signals(&client, parked).await?;
    load.stop().await?;
    match host {
        Host::Here(engine) => engine.shutdown().await?,
        Host::Elsewhere(fleet) => fleet.stop().await?,
    }
    let at = |times: &[Duration], share| Sample::against(quantile(times, share), commit);
    Ok(vec![at(&inserts, 0.5), at(&inserts, 0.99), at(&signals, 0.5), at(&signals, 0.99)])
}

/// Measures the median time of a statement that inserts one row, in milliseconds.
async fn one_commit(bench: &Bench, count: i64) -> Result<f64, Error> {
    let mut connection = bench.pool.acquire().await?;
    let mut times = Vec::new();
    for _ in 0..count {
        let began = Instant::now();
        bare::insert(&mut connection, ONE_STEP, 1).await?;
        times.push(began.elapsed());
    }
    drop(connection);
    bench.clear().await?;
    Ok(quantile(&times, 0.5))
}
