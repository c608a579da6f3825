//! Several worker processes on one Postgres, and what one process does for another.
//!
//! A worker is this program again, told by an environment variable; it starts its engine when a line
//! arrives on its standard input, and stops when that is closed.

use std::{
    process::Stdio,
    time::{Duration, Instant},
};

use gen_durable::{Engine, prelude::*};
use sqlx::postgres::PgPoolOptions;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    process::{Child, Command},
};

use crate::{
    bare::ONE_STEP,
    bench::{Bench, Error, Figure, PATIENCE, Sample, Target},
    latency::quantile,
    machines::{Listener, OneStep, Small},
};

/// Set for a worker process: the database.
pub const WORKER: &str = "GEN_DURABLE_BENCH_WORKER";

pub fn figures() -> Vec<Figure> {
    let workers =
        |name, run| Figure::new(name, "instances/s", "one process", Target::AtLeast(0.9), run);
    vec![
        workers("two_workers", |bench| Box::pin(workers_against_one(bench, 2))).rounds(3),
        workers("four_workers", |bench| Box::pin(workers_against_one(bench, 4))).rounds(3),
        workers("eight_workers", |bench| Box::pin(workers_against_one(bench, 8))).rounds(3),
        Figure::new(
            "insert_to_done_remote_p50",
            "ms",
            "in the process",
            Target::AtMost(2.0),
            |bench| Box::pin(remote(bench)),
        )
        .rounds(3),
    ]
}

/// What a worker process does.
pub async fn work(url: &str) -> Result<(), Error> {
    let pool = PgPoolOptions::new().connect(url).await?;
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    lines.next_line().await?;
    let engine = Engine::builder(pool)
        .queue("checkout", 100)
        .machine::<OneStep>()
        .machine::<Listener>()
        .start()
        .await?;
    println!("started");
    lines.next_line().await?;
    engine.shutdown().await?;
    Ok(())
}

struct Fleet(Vec<Child>);

impl Fleet {
    fn spawn(bench: &Bench, workers: usize) -> Result<Self, Error> {
        let children = (0..workers).map(|_| {
            Command::new(std::env::current_exe()?)
                .env(WORKER, &bench.url)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .kill_on_drop(true)
                .spawn()
        });
        Ok(Self(children.collect::<Result<_, std::io::Error>>()?))
    }

    async fn start(&mut self) -> Result<(), Error> {
        for child in &mut self.0 {
            let stdin = child.stdin.as_mut().ok_or("a worker's input is piped")?;
            stdin.write_all(b"go\n").await?;
        }
        Ok(())
    }

    async fn started(&mut self) -> Result<(), Error> {
        for child in &mut self.0 {
            let stdout = child.stdout.take().ok_or("a worker's output is piped")?;
            BufReader::new(stdout).lines().next_line().await?;
        }
        Ok(())
    }

    async fn stop(self) -> Result<(), Error> {
        for mut child in self.0 {
            drop(child.stdin.take());
            child.wait().await?;
        }
        Ok(())
    }
}

async fn workers_against_one(bench: &Bench, workers: usize) -> Result<Sample, Error> {
    let one = drained_by(bench, 1).await?;
    Ok(Sample::against(drained_by(bench, workers).await?, one))
}

/// Instances a second that these many workers run together.
async fn drained_by(bench: &Bench, workers: usize) -> Result<f64, Error> {
    let rows = bench.rows(100_000);
    let mut fleet = Fleet::spawn(bench, workers)?;
    bench.load(ONE_STEP.fsm, ONE_STEP.step, ONE_STEP.state, rows).await?;
    let began = Instant::now();
    fleet.start().await?;
    loop {
        let left: bool = sqlx::query_scalar(
            "select exists (select from gen_durable.instances where locked_by is not null)
                 or exists (select from gen_durable.instances where status = 'runnable' and not blocked)",
        )
        .fetch_one(&bench.pool)
        .await?;
        if !left {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let rate = rows as f64 / began.elapsed().as_secs_f64();
    fleet.stop().await?;
    Ok(rate)
}

/// Insert → done in another process, beside insert → done in one.
async fn remote(bench: &Bench) -> Result<Sample, Error> {
    let count = bench.rows(1_000);
    bench.clear().await?;
    bench.settle().await?;
    let engine = bench.engine().machine::<OneStep>().start().await?;
    let local = one_by_one(engine.client(), count).await?;
    engine.shutdown().await?;
    let mut fleet = Fleet::spawn(bench, 1)?;
    fleet.start().await?;
    fleet.started().await?;
    let remote = one_by_one(&Client::new(bench.pool.clone()), count).await?;
    fleet.stop().await?;
    Ok(Sample::against(quantile(&remote, 0.5), quantile(&local, 0.5)))
}

async fn one_by_one(client: &Client, count: i64) -> Result<Vec<Duration>, Error> {
    let mut times = Vec::new();
    for n in 0..count {
        let began = Instant::now();
        let id = OneStep::insert(Small { n, ..Small::default() }).execute(client).await?;
        client.wait(id, PATIENCE).await?;
        times.push(began.elapsed());
    }
    Ok(times)
}
