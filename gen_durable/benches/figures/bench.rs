//! The server, the database, and what a figure is.

use std::{future::Future, pin::Pin, time::Duration};

use gen_durable::{Engine, EngineBuilder};
use gen_durable_test_postgres::Server;
use sqlx::{PgPool, postgres::PgPoolOptions};
use tokio::sync::{Mutex, OnceCell};

use crate::{
    bare::Shape,
    floor::{Floor, Work},
};

pub type Error = Box<dyn std::error::Error + Send + Sync>;

/// How long anything may take before the benchmark gives up.
pub const WAIT_MAX: Duration = Duration::from_mins(10);

/// A measurement, and that of its baseline in the same round.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    pub value: f64,
    pub baseline: Option<f64>,
}

impl Sample {
    pub fn of(value: f64) -> Self {
        Self { value, baseline: None }
    }

    pub fn against(value: f64, baseline: f64) -> Self {
        Self { value, baseline: Some(baseline) }
    }

    /// What the target is about.
    pub fn ratio(&self) -> f64 {
        self.baseline.map_or(self.value, |baseline| self.value / baseline)
    }
}

/// What a figure must reach.
#[derive(Clone, Copy, Debug)]
pub enum Target {
    AtLeast(f64),
    AtMost(f64),
    /// Reported for comparison.
    None,
}

type Running<'a, T> = Pin<Box<dyn Future<Output = Result<T, Error>> + Send + 'a>>;

/// A row of the table.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    pub name: &'static str,
    pub unit: &'static str,
    /// What it is divided by.
    pub baseline: &'static str,
    pub target: Target,
}

enum Run {
    One(fn(&Bench) -> Running<'_, Sample>),
    Several(fn(&Bench) -> Running<'_, Vec<Sample>>),
}

/// A measurement that is repeated, and the rows of the table that it gives.
pub struct Figure {
    pub rows: Vec<Row>,
    pub rounds: usize,
    /// Only with `--long`.
    pub long: bool,
    run: Run,
}

impl Figure {
    pub fn new(
        name: &'static str,
        unit: &'static str,
        baseline: &'static str,
        target: Target,
        run: fn(&Bench) -> Running<'_, Sample>,
    ) -> Self {
        let rows = vec![Row { name, unit, baseline, target }];
        Self { rows, rounds: 5, long: false, run: Run::One(run) }
    }

    /// One measurement that gives several rows, in their order.
    pub fn several(rows: Vec<Row>, run: fn(&Bench) -> Running<'_, Vec<Sample>>) -> Self {
        Self { rows, rounds: 5, long: false, run: Run::Several(run) }
    }

    pub async fn run(&self, bench: &Bench) -> Result<Vec<Sample>, Error> {
        match self.run {
            Run::One(run) => Ok(vec![run(bench).await?]),
            Run::Several(run) => run(bench).await,
        }
    }

    pub fn rounds(mut self, rounds: usize) -> Self {
        self.rounds = rounds;
        self
    }

    pub fn long(mut self) -> Self {
        self.long = true;
        self
    }
}

/// What the figures share.
pub struct Bench {
    pub pool: PgPool,
    pub url: String,
    pub quick: bool,
    /// How bare loops run best, as far as somebody has asked for it.
    pub floors: Mutex<Vec<(Work, Shape, Floor)>>,
    /// Instances a second with inserts running, once somebody has asked for it.
    pub rate_max: OnceCell<f64>,
    pub version: String,
    /// The server's first process, the parent of all others, if the server is on this machine.
    pub postmaster: u32,
    _server: Option<Server>,
}

impl Bench {
    pub async fn start(quick: bool) -> Result<Self, Error> {
        let (url, server) = match std::env::var("DATABASE_URL") {
            Ok(url) if !url.is_empty() => (url, None),
            _ => {
                let server = Server::builder()
                    .setting("shared_buffers", "1GB")
                    .setting("max_wal_size", "4GB")
                    .start()?;
                (server.url("postgres"), Some(server))
            }
        };
        let pool = PgPoolOptions::new().max_connections(20).connect(&url).await?;
        gen_durable_migrate::up(&pool).await?;
        let version = sqlx::query_scalar("show server_version").fetch_one(&pool).await?;
        let backend: i32 = sqlx::query_scalar("select pg_backend_pid()").fetch_one(&pool).await?;
        let postmaster = parent_of(backend).unwrap_or(0);
        Ok(Self {
            pool,
            url,
            quick,
            floors: Mutex::default(),
            rate_max: OnceCell::new(),
            version,
            postmaster,
            _server: server,
        })
    }

    /// A number of rows for a full run, and a hundredth of it for a quick one.
    pub fn rows(&self, full: i64) -> i64 {
        if self.quick { (full / 100).max(100) } else { full }
    }

    pub async fn execute(&self, statement: &'static str) -> Result<(), Error> {
        sqlx::raw_sql(statement).execute(&self.pool).await?;
        Ok(())
    }

    /// Empty tables, and no checkpoint due for a while.
    pub async fn clear(&self) -> Result<(), Error> {
        self.execute(
            "truncate gen_durable.instances, gen_durable.signals, gen_durable.signal_keys,
                      gen_durable.workers restart identity",
        )
        .await?;
        self.execute("checkpoint").await
    }

    /// Tables as after a quiet night.
    pub async fn settle(&self) -> Result<(), Error> {
        self.execute("vacuum (analyze) gen_durable.instances").await?;
        self.execute("vacuum (analyze) gen_durable.signals").await
    }

    /// Empty tables, and this many runnable instances of a machine.
    pub async fn load(&self, fsm: &str, step: &str, state: &str, rows: i64) -> Result<(), Error> {
        self.clear().await?;
        self.add(fsm, step, state, rows, None).await?;
        self.settle().await
    }

    /// Empty tables, and what a bare loop works on; each of its partition keys is that of ten rows.
    pub async fn load_shape(&self, shape: Shape, rows: i64) -> Result<(), Error> {
        let state = shape.state_after(0);
        if !shape.keyed {
            return self.load(shape.fsm, shape.step, &state, rows).await;
        }
        self.clear().await?;
        sqlx::query(
            "insert into gen_durable.instances
                 (fsm, fsm_version, step, state, queue, partition_key, unique_key, unique_scope)
             select $1, 1, $2, $3::text::json, 'checkout', 'customer:' || n % ($4 / 10), 'order:' || n,
                    '{runnable,executing,awaiting_signal}'
             from generate_series(1, $4) as n",
        )
        .bind(shape.fsm)
        .bind(shape.step)
        .bind(state)
        .bind(rows)
        .execute(&self.pool)
        .await?;
        self.settle().await
    }

    pub async fn add(
        &self,
        fsm: &str,
        step: &str,
        state: &str,
        rows: i64,
        partition_key: Option<&str>,
    ) -> Result<(), Error> {
        sqlx::query(
            "insert into gen_durable.instances (fsm, fsm_version, step, state, queue, partition_key)
             select $1, 1, $2, $3::text::json, 'checkout', $5 from generate_series(1, $4)",
        )
        .bind(fsm)
        .bind(step)
        .bind(state)
        .bind(rows)
        .bind(partition_key)
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// How long something is watched in a full run, and in a quick one.
    pub fn time(&self, full: Duration, quick: Duration) -> Duration {
        if self.quick { quick } else { full }
    }

    /// Waits until the queue `checkout` is empty, looking at it as little as possible: a query for what is
    /// left steps over all that was claimed.
    pub async fn until_drained(&self) -> Result<(), Error> {
        // Rows run in the order of their ids, or nearly so.
        let last: i64 = sqlx::query_scalar(
            "select max(id) from gen_durable.instances where queue = 'checkout'",
        )
        .fetch_one(&self.pool)
        .await?;
        loop {
            let done: bool = sqlx::query_scalar(
                "select status = 'done' from gen_durable.instances where id = $1",
            )
            .bind(last)
            .fetch_one(&self.pool)
            .await?;
            if done {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        loop {
            let left: bool = sqlx::query_scalar(
                "select exists (
                     select from gen_durable.instances
                     where locked_by is not null and queue = 'checkout'
                 ) or exists (
                     select from gen_durable.instances
                     where status = 'runnable' and not blocked and queue = 'checkout'
                 )",
            )
            .fetch_one(&self.pool)
            .await?;
            if !left {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Whether every instance has ended well: a figure of work that was not done says nothing.
    pub async fn all_done(&self) -> Result<(), Error> {
        let open: i64 =
            sqlx::query_scalar("select count(*) from gen_durable.instances where status <> 'done'")
                .fetch_one(&self.pool)
                .await?;
        if open > 0 { Err(format!("{open} instances did not end").into()) } else { Ok(()) }
    }

    /// An engine with its defaults: one queue, nothing else tuned.
    pub fn engine(&self) -> EngineBuilder {
        Engine::builder(self.pool.clone()).queue("checkout", 100)
    }
}

/// Waits until the engine has run this many steps and holds nothing any more.
pub async fn until_steps(engine: &Engine, steps: u64) -> Result<(), Error> {
    let waited = tokio::time::timeout(WAIT_MAX, async {
        loop {
            let metrics = engine.metrics();
            if metrics.steps >= steps && metrics.claimed == 0 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    waited.await.map_err(|_elapsed| format!("{:?} after {WAIT_MAX:?}", engine.metrics()).into())
}

fn parent_of(pid: i32) -> Option<u32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}
