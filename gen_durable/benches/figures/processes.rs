//! This program again, as a process that does a part of a figure.
//!
//! What it is to do is told by environment variables. It begins when a line arrives on its standard
//! input, says a line when it is ready, and stops when its input is closed.

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

/// Set for such a process: what it does.
pub const ROLE: &str = "GEN_DURABLE_BENCH_ROLE";
const URL: &str = "GEN_DURABLE_BENCH_URL";
const SLOTS: &str = "GEN_DURABLE_BENCH_SLOTS";

/// Runs instances.
pub const WORKER: &str = "worker";
/// Listens, and knows none of the machines whose instances there are.
pub const BYSTANDER: &str = "bystander";
/// Sleeps in many steps at once, and says how much memory that takes.
const SLEEPER: &str = "sleeper";

/// What the process does.
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

/// How much the resident set of a process grows while all its slots come to be filled.
async fn weigh(engine: EngineBuilder, slots: usize) -> Result<(), Error> {
    let engine = engine.machine::<Sleeper>().resource(Arc::new(Notify::new())).start().await?;
    // Its connections are open and its first looks at the queue are over.
    sleep(Duration::from_millis(300)).await;
    let before = resident_kib()?;
    println!("ready");
    while engine.metrics().claimed < slots {
        sleep(Duration::from_millis(5)).await;
    }
    sleep(Duration::from_millis(100)).await;
    println!("{}", resident_kib()? - before);
    // It is killed in its sleep.
    std::future::pending().await
}

/// Such processes; dropped, they are killed.
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

    /// Until each has said that it is ready.
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

/// KiB that each of so many steps in flight takes, in a process that has done nothing else.
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
