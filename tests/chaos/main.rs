//! The chaos run: worker processes on one Postgres, faults for a given time, and a verdict.
//!
//! ```text
//! cargo run --release --bin chaos -- --seconds 60 --seed 7
//!
//!   driver ──► proxy ──┐
//!   worker ──► proxy ──┼──► Postgres (throw-away, fsync on) ──► oracle: triggers, its own tables
//!   worker ──► proxy ──┘
//! ```
//!
//! The wall clocks of the workers and of Postgres are wrong and jump, if libfaketime is installed
//! (Debian's package `faketime`). Otherwise the run reports that it goes without. Workers and
//! driver have logins with the rights of the roles alone, and passwords that change. Rights, tables
//! and the schema are missing for a moment, and the isolation level is raised.
//!
//! The seed decides which faults come, when, and to which process. The machine's scheduling decides
//! what they meet there. Therefore a seed that fails may need a few runs to fail again.
//!
//! Invariant: the verdict comes from the oracle and from the answers that the driver got. The exit
//! status is the verdict.

#![allow(missing_debug_implementations, reason = "a program is no API")]

mod administrator;
mod bursts;
mod driver;
mod fleet;
mod schedule;

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use clap::{Parser, Subcommand};
use gen_durable_tests::{
    oracle::{self, Figures},
    worker,
};
use sqlx::{
    PgPool,
    postgres::{PgConnectOptions, PgPoolOptions},
};

use crate::{
    driver::Driver,
    fleet::Fleet,
    schedule::{schedule, skews},
};

type Error = Box<dyn std::error::Error + Send + Sync>;

/// The longest time that all instances may take to end after the last fault.
const SETTLE_MAX: Duration = Duration::from_mins(2);

/// The time after which a worker has reached the size that it should keep.
const WARM: Duration = Duration::from_secs(10);

/// The longest time that sessions and connections may be held after all instances have ended. It is
/// longer than Postgres takes to end a transaction that its client left open.
const HELD_MAX: Duration = Duration::from_secs(30);

/// The least seconds of a run in which, with any seed, some worker is lost.
const LONG: u64 = 30;

#[derive(Parser)]
#[command(about = "Worker processes, faults, and an oracle that tells what they did")]
struct Arguments {
    #[command(flatten)]
    options: Options,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Parser)]
struct Options {
    /// The time in seconds in which faults come.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// The seed of the faults; by default it comes from the clock.
    #[arg(long)]
    seed: Option<u64>,
    /// The number of worker processes.
    #[arg(long, default_value_t = 4)]
    workers: usize,
    /// The workers' lease in milliseconds. It is short, so that faults outlive it.
    #[arg(long, default_value_t = 2000)]
    lease: u64,
    /// Prints each fault.
    #[arg(long)]
    verbose: bool,
}

#[derive(Subcommand)]
enum Command {
    /// Runs an engine until stdin is closed. The chaos run starts these.
    #[command(hide = true)]
    Worker(worker::Options),
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let result = match arguments.command {
        Some(Command::Worker(options)) => worker::run(options).await,
        None => run(arguments.options).await.map(|problems| {
            if problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs everything, and returns the problems.
async fn run(options: Options) -> Result<Vec<String>, Error> {
    let seed = options.seed.unwrap_or_else(|| {
        let since = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
        since.as_secs() % 100_000
    });
    println!("chaos: seed {seed}, {} s, {} workers", options.seconds, options.workers);
    let began = Instant::now();
    let skews = skews(seed, options.workers);
    let mut fleet = Fleet::start(&skews, options.lease, options.verbose)?;
    println!("chaos: {}", fleet.clocks());
    let pool = look(&fleet)?;
    gen_durable_migrate::up(&pool).await?;
    oracle::install(&pool).await?;
    fleet.set_up(&pool).await?;
    fleet.start_all()?;

    let mut driver = Driver::start(fleet.driver_pool()?, seed);
    let events = schedule(seed, Duration::from_secs(options.seconds), options.workers);
    let faults = events.len();
    let mut told = Instant::now();
    for event in events {
        tokio::time::sleep_until((began + event.at).into()).await;
        fleet.suffer(&event.fault).await?;
        driver.suffer(event.fault);
        if told.elapsed() > Duration::from_secs(5) {
            told = Instant::now();
            tell(began, &pool, &driver).await;
            // From here on the workers are warm.
            if began.elapsed() > WARM {
                fleet.weigh();
            }
        }
    }
    println!("{:4} s: no more faults", began.elapsed().as_secs());
    fleet.heal().await?;
    let mut problems = driver.finish().await;
    settle(began, &pool, options.workers, &mut problems).await;
    problems.extend(oracle::check(&pool).await?);
    problems.extend(driver.missing(&pool).await?);
    problems.extend(held(&pool, &fleet).await?);
    problems.extend(fleet.shut_down().await?);
    problems.extend(oracle::leftovers(&pool).await?);
    let figures = oracle::figures(&pool).await?;
    problems.extend(figures.missing(options.seconds >= LONG));
    if driver.acknowledged() == 0 {
        problems.push("no call of the driver was acknowledged".to_owned());
    }
    summarise(&pool, &figures, &driver, &fleet, faults, began).await?;
    pool.close().await;
    drop(fleet);
    if problems.is_empty() {
        println!("chaos: all is well");
    } else {
        for problem in &problems {
            println!("WRONG: {problem}");
        }
        println!("chaos: {} problems; run again with --seed {seed}", problems.len());
    }
    Ok(problems)
}

/// Makes a pool for the oracle. Only a stop of Postgres touches it.
fn look(fleet: &Fleet) -> Result<PgPool, Error> {
    let options: PgConnectOptions = fleet.server_url().parse()?;
    Ok(PgPoolOptions::new()
        .acquire_timeout(Duration::from_mins(1))
        .connect_lazy_with(options.application_name("oracle")))
}

/// Prints a line of progress, if the database answers just now.
async fn tell(began: Instant, pool: &PgPool, driver: &Driver) {
    let counts = tokio::time::timeout(Duration::from_secs(1), counts(pool)).await;
    if let Ok(Ok((live, ended))) = counts {
        println!(
            "{:4} s: {ended} ended, {live} live; {} calls acknowledged, {} failed",
            began.elapsed().as_secs(),
            driver.acknowledged(),
            driver.failed()
        );
    }
}

async fn counts(pool: &PgPool) -> Result<(i64, i64), sqlx::Error> {
    sqlx::query_as(
        "select count(*) filter (where finished_at is null), count(finished_at)
         from gen_durable.instances",
    )
    .fetch_one(pool)
    .await
}

/// Counts the workers in the table. A lost worker is removed once its lease has run out.
async fn registered(pool: &PgPool) -> Result<usize, sqlx::Error> {
    let count: i64 =
        sqlx::query_scalar("select count(*) from gen_durable.workers").fetch_one(pool).await?;
    Ok(usize::try_from(count).unwrap_or(0))
}

/// Waits until all instances have ended and all lost workers are removed.
async fn settle(began: Instant, pool: &PgPool, workers: usize, problems: &mut Vec<String>) {
    let since = Instant::now();
    let mut told = Instant::now();
    loop {
        match counts(pool).await {
            Ok((0, _)) if registered(pool).await.is_ok_and(|count| count == workers) => return,
            Ok((live, ended)) if told.elapsed() > Duration::from_secs(5) => {
                told = Instant::now();
                println!("{:4} s: {ended} ended, {live} live", began.elapsed().as_secs());
            }
            Ok(_) => {}
            Err(error) => println!("could not look: {error}"),
        }
        if since.elapsed() > SETTLE_MAX {
            problems.push(format!(
                "{SETTLE_MAX:?} after the faults not everything has ended, or lost workers are left"
            ));
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Waits until no session or connection is held any more. Returns those that are held for too long.
async fn held(pool: &PgPool, fleet: &Fleet) -> Result<Vec<String>, Error> {
    let since = Instant::now();
    loop {
        let mut held = oracle::held(pool).await?;
        held.extend(fleet.crowded());
        if held.is_empty() || since.elapsed() > HELD_MAX {
            return Ok(held);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn summarise(
    pool: &PgPool,
    figures: &Figures,
    driver: &Driver,
    fleet: &Fleet,
    faults: usize,
    began: Instant,
) -> Result<(), Error> {
    let machines: Vec<(String, String, i64)> = sqlx::query_as(
        "select fsm, status, count(*) from gen_durable.instances group by 1, 2 order by 1, 2",
    )
    .fetch_all(pool)
    .await?;
    println!("\nsummary, after {} s", began.elapsed().as_secs());
    for (fsm, status, count) in machines {
        println!("  {fsm:<10} {status:<7} {count:>7}");
    }
    let actions: Vec<(String, i64)> =
        sqlx::query_as("select action, count(*) from gen_durable.audit group by 1 order by 1")
            .fetch_all(pool)
            .await?;
    let actions: Vec<String> =
        actions.iter().map(|(name, count)| format!("{name} {count}")).collect();
    println!("  actions on trips: {}", actions.join(", "));
    let Figures { transitions, claims, reaps, signals, steps, recorded, .. } = figures;
    println!("  transitions {transitions}, claims {claims}, reaps {reaps}, signals {signals}");
    println!("  chained and keyed steps {steps}, whose runs are known {recorded}");
    println!("  events of the schedule {faults}: {}", fleet.suffered());
    println!(
        "  calls of the driver: {} acknowledged, {} failed and, where that is safe, tried again",
        driver.acknowledged(),
        driver.failed()
    );
    println!("  memory of the worker that lived throughout: {}", fleet.memory());
    println!("  outcomes dropped as their worker had lost the instance: {}", fleet.lost_commits());
    Ok(())
}
