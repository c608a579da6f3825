//! Runs this program again, as processes that each do a part of a figure.
//!
//! Environment variables tell such a process its role. It begins when a line arrives on its
//! standard input. It prints a line when it is ready, and stops when its input is closed.

use std::{process::Stdio, sync::Arc};

use gen_durable::{Engine, EngineBuilder};
use sqlx::postgres::PgPoolOptions;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines, Stdin},
    process::{Child, ChildStdout, Command},
    sync::Notify,
    time::{Duration, sleep},
};

use crate::{
    bench::{Bench, Error},
    machines::{Listener, OneStep, Sleeper, TenSteps},
    proc::resident_kib,
};

/// The environment variable that holds the role of such a process.
pub const ROLE: &str = "GEN_DURABLE_BENCH_ROLE";
const URL: &str = "GEN_DURABLE_BENCH_URL";
const SLOTS: &str = "GEN_DURABLE_BENCH_SLOTS";

/// The role of a process that runs instances.
pub const WORKER: &str = "worker";
/// The role of a process that hears announcements, but has none of the announced machines.
pub const BYSTANDER: &str = "bystander";
/// The role of a process that sleeps in many steps at once, and prints the memory that they take.
const SLEEPER: &str = "sleeper";

/// Runs the role of such a process until its input is closed.
pub async fn work(role: &str) -> Result<(), Error> {
    let pool = PgPoolOptions::new().connect(&std::env::var(URL)?).await?;
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    lines.next_line().await?;
    let slots: usize = std::env::var(SLOTS)?.parse()?;
    let engine = Engine::builder(pool).queue("checkout", slots);
    match role {
        WORKER => serve(engine.machine::<OneStep>().machine::<Listener>(), lines).await,
        BYSTANDER => serve(engine.machine::<TenSteps>(), lines).await,
        SLEEPER => weigh(engine, slots).await,
        other => Err(format!("no such role: {other}").into()),
    }
}

async fn serve(engine: EngineBuilder, mut lines: Lines<BufReader<Stdin>>) -> Result<(), Error> {
    let engine = engine.start().await?;
    println!("ready");
    lines.next_line().await?;
    engine.shutdown().await?;
    Ok(())
}

/// Prints by how many KiB the resident set of this process grows until all slots are taken.
async fn weigh(engine: EngineBuilder, slots: usize) -> Result<(), Error> {
    let engine = engine.machine::<Sleeper>().resource(Arc::new(Notify::new())).start().await?;
    // After this time the connections are open and the first claims are over.
    sleep(Duration::from_millis(300)).await;
    let before = resident_kib()?;
    println!("ready");
    while engine.metrics().claimed < slots {
        sleep(Duration::from_millis(5)).await;
    }
    sleep(Duration::from_millis(100)).await;
    println!("{}", resident_kib()? - before);
    // The parent kills this process.
    std::future::pending().await
}

/// Processes of one role. Dropping the fleet kills them.
pub struct Fleet(Vec<(Child, Lines<BufReader<ChildStdout>>)>);

impl Fleet {
    pub fn spawn(bench: &Bench, role: &str, count: usize, slots: usize) -> Result<Self, Error> {
        let one = |_| {
            let mut child = Command::new(std::env::current_exe()?)
                .env(ROLE, role)
                .env(URL, &bench.url)
                .env(SLOTS, slots.to_string())
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .kill_on_drop(true)
                .spawn()?;
            let output = child.stdout.take().ok_or("a process's output is piped")?;
            Ok((child, BufReader::new(output).lines()))
        };
        (0..count).map(one).collect::<Result<_, Error>>().map(Self)
    }

    pub async fn start(&mut self) -> Result<(), Error> {
        for (child, _) in &mut self.0 {
            let stdin = child.stdin.as_mut().ok_or("a process's input is piped")?;
            stdin.write_all(b"go\n").await?;
        }
        Ok(())
    }

    /// Waits until each process has printed that it is ready.
    pub async fn ready(&mut self) -> Result<(), Error> {
        for (_, lines) in &mut self.0 {
            lines.next_line().await?.ok_or("a process ended before it was ready")?;
        }
        Ok(())
    }

    pub async fn stop(self) -> Result<(), Error> {
        for (mut child, _) in self.0 {
            drop(child.stdin.take());
            child.wait().await?;
        }
        Ok(())
    }
}

/// Measures the memory of a running step, in KiB, in a new process that runs this many steps at
/// once.
pub async fn memory_per_step(bench: &Bench, steps: i64) -> Result<f64, Error> {
    bench.clear().await?;
    let mut sleeper = Fleet::spawn(bench, SLEEPER, 1, steps as usize)?;
    sleeper.start().await?;
    sleeper.ready().await?;
    bench.add("sleeper", "sleep", r#"{"n":1}"#, steps, None).await?;
    let (_, lines) = &mut sleeper.0[0];
    let grown: f64 = lines.next_line().await?.ok_or("the process ended")?.parse()?;
    Ok(grown / steps as f64)
}
