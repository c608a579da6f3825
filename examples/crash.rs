//! A crash: a worker process is killed in the middle of a step. Another one finishes the instance
//! from its last committed step.
//!
//! ```text
//! cargo run --example crash
//! ```
//!
//! The example's process inserts the instance and runs no step. It starts the workers: processes of
//! the same program, with `--worker`.

use std::{
    process::Stdio,
    time::{Duration, Instant},
};

use clap::Parser;
use gen_durable::prelude::*;
use gen_durable_examples::{Error, Options, Session};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader, Lines},
    process::{Child, ChildStdout, Command},
};

/// The committed outcomes, each with the process that it came from.
#[derive(Default, DurableState)]
struct ParcelState {
    committed: Vec<String>,
}

#[durable_fsm(state = ParcelState, output = Vec<String>)]
enum Parcel {
    Charge,
    Pack,
    Ship,
}

#[durable_fsm]
impl Parcel {
    async fn charge(mut cx: Context<Self>) -> Outcome<Self> {
        begin(&mut cx);
        cx.next(Parcel::Pack)
    }

    async fn pack(mut cx: Context<Self>) -> Outcome<Self> {
        begin(&mut cx);
        if cx.attempt() == 0 {
            // The process is killed before this ends. All that the step did outside of Postgres
            // before stays done, and the next run does it again: it must be idempotent.
            tokio::time::sleep(Duration::from_hours(1)).await;
        }
        cx.next(Parcel::Ship)
    }

    async fn ship(mut cx: Context<Self>) -> Outcome<Self> {
        begin(&mut cx);
        let committed = cx.state.committed.clone();
        cx.done(committed)
    }
}

/// Tells the parent by stdout that a step runs. Notes it in the state too, which is stored when the
/// outcome is committed.
fn begin(cx: &mut Context<Parcel>) {
    println!("{} attempt {}", cx.step_name(), cx.attempt());
    cx.state.committed.push(format!("{} by process {}", cx.step_name(), std::process::id()));
}

#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    options: Options,
    /// Runs steps until stdin is closed.
    #[arg(long, hide = true)]
    worker: bool,
}

#[tokio::main]
async fn main() -> Result<(), Error> {
    let arguments = Arguments::parse();
    if arguments.worker {
        return work(arguments.options).await;
    }
    println!("starting Postgres and bringing its schema up to date …");
    let session = Session::with(arguments.options).await?;
    tokio::time::timeout(Duration::from_mins(1), watch(&session)).await?
}

/// Runs an engine in a worker process, until stdin is closed.
async fn work(options: Options) -> Result<(), Error> {
    let session = Session::with(options).await?;
    let engine = Engine::builder(session.pool.clone())
        .machine::<Parcel>()
        // After this long without a renewal of its lease, a worker counts as lost. The default of
        // 30 s suits processes that may be slow to answer. One second keeps the example short.
        .lease_ttl(Duration::from_secs(1))
        // If the parent is gone, the shutdown need not wait for the step that takes an hour.
        .drain_timeout(Duration::from_secs(1))
        .start()
        .await?;
    tokio::io::stdin().read_to_end(&mut Vec::new()).await?;
    engine.shutdown().await?;
    Ok(())
}

/// Kills one worker, starts another, and checks which steps each of them ran: the parent's part.
async fn watch(session: &Session) -> Result<(), Error> {
    let client = Client::new(session.pool.clone());
    let id = Parcel::insert(ParcelState::default()).execute(&client).await?;
    println!("instance {id} inserted by process {}, which runs no steps", std::process::id());

    let mut first = Worker::start(&session.url)?;
    while first.next_step().await?.ok_or("the first worker ended by itself")? != "pack attempt 0" {}
    first.child.kill().await?; // SIGKILL on Unix: no handler and no clean-up runs
    let killed = Instant::now();
    println!("process {} killed in the middle of `pack`", first.id);
    let row = client.find(id.get()).await?.ok_or("the instance is gone")?;
    println!("the database still says `{}`: nobody has noticed yet", row.status);

    let mut second = Worker::start(&session.url)?;
    while second.next_step().await?.ok_or("the second worker ended by itself")? != "ship attempt 0"
    {
    }
    let committed = client.wait(id, Duration::from_secs(30)).await?;
    println!("done {:.1?} after the kill; committed were:", killed.elapsed());
    for outcome in &committed {
        println!("  {outcome}");
    }
    drop(second.child.stdin.take());
    let status = second.child.wait().await?;

    // The committed step was not repeated. The interrupted step was, with one more attempt.
    assert_eq!(first.ran, ["charge attempt 0", "pack attempt 0"]);
    assert_eq!(second.ran, ["pack attempt 1", "ship attempt 0"]);
    let (first, second) = (first.id, second.id);
    assert_eq!(
        committed,
        [
            format!("charge by process {first}"),
            format!("pack by process {second}"),
            format!("ship by process {second}"),
        ]
    );
    assert!(status.success(), "the second worker shut down cleanly: {status}");
    Ok(())
}

/// A worker process. Its stdin is a pipe that closes when this process ends, in whatever way.
struct Worker {
    id: u32,
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    ran: Vec<String>,
}

impl Worker {
    fn start(url: &str) -> Result<Self, Error> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg("--worker")
            .env("DATABASE_URL", url)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let stdout = child.stdout.take().ok_or("a worker has no stdout")?;
        let id = child.id().ok_or("a worker has ended already")?;
        println!("process {id} started as a worker");
        Ok(Self { id, child, lines: BufReader::new(stdout).lines(), ran: Vec::new() })
    }

    /// Waits until the worker tells the step that it runs; none if the worker has ended.
    async fn next_step(&mut self) -> Result<Option<String>, Error> {
        let line = self.lines.next_line().await?;
        if let Some(line) = &line {
            println!("  process {}: {line}", self.id);
            self.ran.push(line.clone());
        }
        Ok(line)
    }
}

#[cfg(test)]
mod tests {
    use gen_durable::testing::{Lab, PgPool};

    use super::*;

    /// A crash before a commit runs that step again, and no step before it.
    #[gen_durable::test]
    async fn only_the_step_that_was_cut_off_runs_again(pool: PgPool) -> Result<(), Error> {
        let mut lab = Lab::new(&pool).machine::<Parcel>().start().await?;
        lab.crash_before_commit(Parcel::Charge);
        let id = Parcel::insert(ParcelState::default()).execute(&lab).await?;
        // The step `pack` waits for an hour in its first run, so only its second run is looked at.
        let ship = Parcel::insert(ParcelState::default()).step(Parcel::Ship).execute(&lab).await?;
        lab.crash_before_commit(Parcel::Ship);
        lab.client().machine::<Parcel>().pause_step(Parcel::Pack).execute(&lab).await?;
        let tally = lab.run_until_idle().await?;
        assert_eq!((tally.runs, tally.lost), (4, 2));
        lab.assert_runnable(id, Parcel::Pack).await?;
        let by = |step: &str| format!("{step} by process {}", std::process::id());
        lab.assert_done(ship, &vec![by("ship")]).await?;
        assert_eq!(lab.state(id).await?.committed, [by("charge")]);
        Ok(())
    }

    #[test]
    fn the_graph_is_read_from_the_steps() {
        assert_eq!(
            Parcel::graph().to_mermaid(),
            "stateDiagram-v2
    [*] --> charge
    charge --> pack
    pack --> ship
    ship --> [*]: done
"
        );
    }
}
