//! The server, the database, and the definition of a figure, for all files of the benchmark.

use std::{future::Future, pin::Pin, time::Duration};

use gen_durable::{Engine, EngineBuilder};
use gen_durable_postgres::Server;
use sqlx::{PgPool, postgres::PgPoolOptions};
use tokio::sync::{Mutex, OnceCell};

use crate::{
    bare::Shape,
    floor::{Floor, Work},
};

pub type Error = Box<dyn std::error::Error + Send + Sync>;

/// The benchmark gives up on a wait after this time. Every wait of a sound run ends far earlier.
pub const WAIT_MAX: Duration = Duration::from_mins(10);

/// A measurement, and the measurement of its baseline in the same round.
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

    /// The number that the target bounds: the value over its baseline. Without a baseline it is the
    /// value itself.
    pub fn ratio(&self) -> f64 {
        self.baseline.map_or(self.value, |baseline| self.value / baseline)
    }
}

/// The bound that a figure must keep.
#[derive(Clone, Copy, Debug)]
pub enum Target {
    AtLeast(f64),
    AtMost(f64),
    /// No bound: the figure is reported for comparison.
    None,
}

type Running<'a, T> = Pin<Box<dyn Future<Output = Result<T, Error>> + Send + 'a>>;

/// A row of the table.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    pub name: &'static str,
    pub unit: &'static str,
    /// The name of the measurement that the value is divided by.
    pub baseline: &'static str,
    pub target: Target,
}

enum Run {
    One(fn(&Bench) -> Running<'_, Sample>),
    Several(fn(&Bench) -> Running<'_, Vec<Sample>>),
}

/// A measurement that is repeated, and the rows that it adds to the table.
pub struct Figure {
    pub rows: Vec<Row>,
    pub rounds: usize,
    /// True if the figure is measured only with `--long`.
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

    /// Makes a figure whose one measurement gives several rows, in their order.
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

/// The parts that all figures share.
pub struct Bench {
    pub pool: PgPool,
    pub url: String,
    pub quick: bool,
    /// The best settings of each bare loop that a figure has asked for.
    pub floors: Mutex<Vec<(Work, Shape, Floor)>>,
    /// The instances a second that an engine runs while they are inserted, once a figure has asked
    /// for it.
    pub rate_max: OnceCell<f64>,
    pub version: String,
    /// The id of the server's first process, the parent of its other processes. Zero if the server
    /// is on another machine.
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

    /// Returns this number of rows for a full run, and a hundredth of it for a quick one.
    pub fn rows(&self, full: i64) -> i64 {
        if self.quick { (full / 100).max(100) } else { full }
    }

    pub async fn execute(&self, statement: &'static str) -> Result<(), Error> {
        sqlx::raw_sql(statement).execute(&self.pool).await?;
        Ok(())
    }

    /// Empties the tables, and makes a checkpoint, so that none is due for a while.
    pub async fn clear(&self) -> Result<(), Error> {
        self.execute(
            "truncate gen_durable.instances, gen_durable.signals, gen_durable.signal_keys,
                      gen_durable.workers, gen_durable.declarations,
                      gen_durable.limit_buckets restart identity",
        )
        .await?;
        self.execute("checkpoint").await
    }

    /// Vacuums and analyzes the tables, as autovacuum does in quiet hours.
    pub async fn settle(&self) -> Result<(), Error> {
        self.execute("vacuum (analyze) gen_durable.instances").await?;
        self.execute("vacuum (analyze) gen_durable.signals").await
    }

    /// Empties the tables, and adds this many runnable instances of a machine.
    pub async fn load(&self, fsm: &str, step: &str, state: &str, rows: i64) -> Result<(), Error> {
        self.clear().await?;
        self.add(fsm, step, state, rows, None).await?;
        self.settle().await
    }

    /// Empties the tables, and adds the rows of a bare loop. If they have partition keys, ten rows
    /// share each key.
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

    /// Returns the time of a measurement: `full` for a full run, `quick` for a quick one.
    pub fn time(&self, full: Duration, quick: Duration) -> Duration {
        if self.quick { quick } else { full }
    }

    /// Waits until the queue `checkout` is empty. It asks for the last row first: a query for the
    /// rows that are left steps over the index entries of all claimed rows.
    pub async fn until_drained(&self) -> Result<(), Error> {
        // Rows run nearly in the order of their ids, so the last one ends late.
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
                     where status = 'runnable' and blocked_by = 0 and queue = 'checkout'
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

    /// Fails unless every instance is done: a figure of work that was not done says nothing.
    pub async fn all_done(&self) -> Result<(), Error> {
        let open: i64 =
            sqlx::query_scalar("select count(*) from gen_durable.instances where status <> 'done'")
                .fetch_one(&self.pool)
                .await?;
        if open > 0 { Err(format!("{open} instances did not end").into()) } else { Ok(()) }
    }

    /// Returns the builder of an engine with one queue and otherwise the defaults.
    pub fn engine(&self) -> EngineBuilder {
        Engine::builder(self.pool.clone()).queue("checkout", 100)
    }
}

/// Waits until the engine has run this many steps and has no claimed instance left.
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
