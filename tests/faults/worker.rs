//! A worker process: an engine with the machines of the chaos run. It runs until its stdin is
//! closed. Each line on its stdin is a new password of its login.
//!
//! Invariant: it ends by itself when its parent is gone. If it is stopped it cannot, and `process`
//! kills it.

use std::{io::Write, process::ExitCode, time::Duration};

use gen_durable::{Engine, Limit};
use sqlx::{
    PgPool,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use tokio::io::{AsyncBufReadExt, BufReader};

use crate::{
    beats::with_beats,
    booker::Booker,
    giant::Giant,
    machines::{Chain, Collector, Deadly, Held, Keyed, Leaf, Once, Stopper},
    parcels::{Order, Parcel},
    runs,
    trips::Trip,
    turnstile::{self, Counted},
    wild::Wild,
};

/// Its exit code if it was told to shut down and could not reach the database.
pub const UNREACHED: u8 = 3;

/// The number of connections that its engine opens for itself, beside the one that listens.
const ENGINE_CONNECTIONS: u32 = 10;
/// The number of its steps that run in a transaction at once, each on a connection.
const TRANSACTIONS: u32 = 4;
/// The number of connections that its steps may open.
const STEP_CONNECTIONS: u32 = 5;
/// The number of sockets that the runtime has for itself: a pair for signals, and a copy of one
/// end.
const RUNTIME_SOCKETS: u32 = 3;
/// The most sockets that it may have open, once it is at rest.
pub const SOCKETS_MAX: u32 =
    ENGINE_CONNECTIONS + 1 + TRANSACTIONS + STEP_CONNECTIONS + runs::CONNECTIONS + RUNTIME_SOCKETS;

/// The options of a worker process.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// The URL of the database.
    #[arg(long)]
    pub url: String,
    /// Its lease, in milliseconds.
    #[arg(long, default_value_t = 2000)]
    pub lease: u64,
    /// The slots of its queue `default`.
    #[arg(long, default_value_t = 20)]
    pub slots: usize,
    /// After how many workers lost in a row an instance fails.
    #[arg(long, default_value_t = 20)]
    pub crashes: u32,
    /// The URL of the database with the oracle's tables, where runs of chained and keyed steps are
    /// recorded.
    #[arg(long)]
    pub runs: Option<String>,
    /// The number of its schedules, which fire each second.
    #[arg(long, default_value_t = 0)]
    pub beats: u32,
    /// The bounds of the limit of counted runs: `at_once,starts,millis,burst`. Without them it runs
    /// none.
    #[arg(long, value_parser = turnstile::bounds)]
    pub limit: Option<Limit>,
}

/// Runs until stdin is closed. Prints to stdout how many outcomes it lost, and what panicked.
///
/// # Errors
///
/// Those of the engine's start and shutdown, except for a database that cannot be reached. Also an
/// invalid URL.
pub async fn run(options: Options) -> Result<ExitCode, Box<dyn std::error::Error + Send + Sync>> {
    let _ = tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        .try_init();
    // The machines panic on purpose.
    std::panic::set_hook(Box::new(|panic| {
        let panic = panic.to_string().replace('\n', " ");
        if !panic.contains("on purpose") {
            eprintln!("{panic}");
            let _ = writeln!(std::io::stdout(), "panic {panic}");
        }
    }));
    if let Some(url) = &options.runs {
        runs::record(url)?;
    }
    let connect: PgConnectOptions = options.url.parse()?;
    let pool = PgPoolOptions::new()
        .max_connections(STEP_CONNECTIONS)
        .acquire_timeout(Duration::from_secs(5))
        .connect_lazy_with(connect);
    let mut closed = tokio::spawn(hear_passwords(pool.clone()));
    let engine = tokio::select! {
        engine = start(&options, &pool) => engine?,
        _ = &mut closed => return Ok(ExitCode::SUCCESS),
    };
    println!("worker {}", engine.worker());
    let mut ticks = tokio::time::interval(Duration::from_millis(20));
    let mut lost = 0;
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            _ = &mut closed => break,
        }
        let now = engine.metrics().lost_commits;
        if now > lost {
            lost = now;
            println!("lost {lost}");
        }
    }
    match engine.shutdown().await {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(gen_durable::Error::Database(error)) => {
            tracing::debug!(%error, "could not say goodbye");
            Ok(ExitCode::from(UNREACHED))
        }
        Err(error) => Err(error.into()),
    }
}

/// Reads passwords until stdin is closed, and uses each for the connections from then on.
async fn hear_passwords(pool: PgPool) {
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    while let Ok(Some(password)) = lines.next_line().await {
        let options = pool.connect_options().as_ref().clone();
        pool.set_connect_options(options.password(&password));
    }
}

/// Starts the engine, and tries again for as long as there is no database.
async fn start(
    options: &Options,
    pool: &PgPool,
) -> Result<Engine, Box<dyn std::error::Error + Send + Sync>> {
    loop {
        let builder = Engine::builder(pool.clone())
            .machine::<Chain>()
            .machine::<Collector>()
            .machine::<Leaf>()
            .machine::<Keyed>()
            .machine::<Stopper>()
            .machine::<Once>()
            .machine::<Booker>()
            .machine::<Order>()
            .machine::<Parcel>()
            .machine::<Trip>()
            .machine::<Wild>()
            .machine::<Giant>()
            .machine::<Held>()
            .machine::<Deadly>()
            .resource(pool.clone())
            .connections_max(ENGINE_CONNECTIONS)
            .max_transactions(TRANSACTIONS)
            .queue("default", options.slots)
            .queue("keyed", 10)
            .lease_ttl(Duration::from_millis(options.lease))
            .crashes_max(options.crashes)
            .drain_timeout(Duration::from_secs(10));
        let mut builder = with_beats(builder, options.beats);
        if let Some(limit) = options.limit {
            builder = builder
                .machine::<Counted>()
                .queue("counted", options.slots)
                .limit(turnstile::LIMIT, limit);
        }
        match builder.start().await {
            Ok(engine) => return Ok(engine),
            // A worker in production would end if the schema is away for a moment, and a supervisor
            // would start another one. This loop stands in for both.
            Err(
                error @ (gen_durable::Error::Database(_)
                | gen_durable::Error::SchemaTooOld { found: 0, .. }),
            ) => {
                tracing::debug!(%error, "could not start; trying again");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
}
