//! The fleet of a chaos run: Postgres, the workers, and a proxy and a clock for each of them.
//!
//! Invariant: `heal` undoes every fault except one: half open connections stay so, for the engines
//! to find.

use std::{collections::BTreeMap, os::unix::process::ExitStatusExt, path::PathBuf, time::Duration};

use gen_durable_postgres::Server;
use gen_durable_tests::{
    clock::Clock,
    process::{Ended, Worker},
    proxy::Proxy,
    worker::{SOCKETS_MAX, UNREACHED},
};
use sqlx::{ConnectOptions, PgPool};
use tokio::task::JoinSet;

use crate::{
    Error,
    administrator::{Administrator, Harm},
    schedule::Fault,
};

const DATABASE: &str = "postgres";
const SIGKILL: i32 = 9;
const MIB: u64 = 1024 * 1024;
/// The longest time of a worker's shutdown, whatever happens to the database.
const SHUTDOWN_MAX: Duration = Duration::from_mins(1);
/// The most bytes by which a worker's memory may grow, once it is warm. A row of some MiB exists
/// several times while its step runs, and the allocator keeps that memory.
const GROWTH_MAX: u64 = 160 * MIB;

/// The memory, in bytes, of the worker that no fault ends.
#[derive(Default)]
struct Memory {
    pid: Option<u32>,
    first: u64,
    last: u64,
}

pub(crate) struct Fleet {
    program: PathBuf,
    lease: u64,
    verbose: bool,
    server: Server,
    administrator: Administrator,
    driver_pool: Option<PgPool>,
    /// One proxy for each worker, and then one for the driver.
    proxies: Vec<Proxy>,
    workers: Vec<Option<Worker>>,
    /// The workers that shut down. Faults go on meanwhile, as a shutdown may wait for the end of
    /// one.
    ending: JoinSet<(usize, Result<Ended, Error>)>,
    /// The workers' clocks. Without libfaketime there are none, and all clocks are right.
    clocks: Vec<Clock>,
    server_clock: Option<Clock>,
    memory: Memory,
    suffered: BTreeMap<&'static str, u32>,
    problems: Vec<String>,
    lost_commits: u64,
    running: bool,
    /// True if the harm must be mended as soon as Postgres runs.
    mend_due: bool,
}

impl Fleet {
    pub(crate) fn start(skews: &[i64], lease: u64, verbose: bool) -> Result<Self, Error> {
        let workers = skews.len();
        let server_clock = Clock::new()?;
        let mut server = Server::builder()
            .setting("log_min_messages", "panic")
            // If a connection freezes before it has logged in, it would hold up a stop for a
            // minute.
            .setting("authentication_timeout", "5s");
        for (name, value) in server_clock.iter().flat_map(Clock::environment) {
            server = server.env(name, value);
        }
        let server = server.start()?;
        let mut clocks = Vec::new();
        for skew in skews {
            let Some(clock) = Clock::threaded()? else { break };
            clock.set(*skew)?;
            clocks.push(clock);
        }
        let proxies =
            (0..=workers).map(|_| Proxy::start(server.socket_dir())).collect::<Result<_, _>>()?;
        let administrator = Administrator::new(server.url(DATABASE));
        Ok(Self {
            program: std::env::current_exe()?,
            lease,
            verbose,
            server,
            administrator,
            driver_pool: None,
            proxies,
            workers: (0..workers).map(|_| None).collect(),
            ending: JoinSet::new(),
            clocks,
            server_clock,
            memory: Memory::default(),
            suffered: BTreeMap::new(),
            problems: Vec::new(),
            lost_commits: 0,
            running: true,
            mend_due: false,
        })
    }

    pub(crate) fn server_url(&self) -> String {
        self.server.url(DATABASE)
    }

    /// Makes the logins of workers and driver.
    pub(crate) async fn set_up(&mut self, pool: &PgPool) -> Result<(), Error> {
        self.administrator.set_up(pool).await
    }

    /// Makes a pool that goes through the driver's proxy and suffers its faults.
    pub(crate) fn driver_pool(&mut self) -> Result<PgPool, Error> {
        let url = self.proxies[self.workers.len()].url(DATABASE);
        let pool = self.administrator.driver_pool(&url)?;
        Ok(self.driver_pool.insert(pool).clone())
    }

    pub(crate) fn start_all(&mut self) -> Result<(), Error> {
        (0..self.workers.len()).try_for_each(|index| self.start_worker(index))
    }

    fn start_worker(&mut self, index: usize) -> Result<(), Error> {
        if self.workers[index].is_none() {
            let url = self.administrator.worker(&self.proxies[index].url(DATABASE))?;
            let url = url.to_url_lossy().to_string();
            let clock = self.clocks.get(index);
            // The worker records its runs on a direct connection. The engine does not use it, and
            // no fault of the proxy meets it.
            let runs = self.server_url();
            let arguments = ["--runs", &runs];
            let worker = Worker::start(&self.program, &url, self.lease, &arguments, clock)?;
            self.workers[index] = Some(worker);
        }
        Ok(())
    }

    /// Lets a fault happen.
    #[expect(clippy::too_many_lines, reason = "a list of faults, each a few lines")]
    pub(crate) async fn suffer(&mut self, fault: &Fault) -> Result<(), Error> {
        if self.verbose {
            println!("        {fault:?}");
        }
        self.look_after()?;
        let name = match *fault {
            Fault::Kill(index) => {
                let Some(worker) = self.workers[index].take() else { return Ok(()) };
                let ended = worker.kill()?;
                self.bury(index, &ended, ended.status.signal() == Some(SIGKILL));
                "SIGKILL"
            }
            Fault::Start(index) => return self.start_worker(index),
            Fault::Stop(index) => {
                let Some(worker) = &mut self.workers[index] else { return Ok(()) };
                worker.stop()?;
                "SIGSTOP"
            }
            Fault::GoOn(index) => {
                let Some(worker) = &mut self.workers[index] else { return Ok(()) };
                return Ok(worker.go_on()?);
            }
            Fault::ShutDown(index) => {
                if self.workers[index].as_ref().is_none_or(Worker::is_stopped) {
                    return Ok(());
                }
                self.begin_shutdown(index);
                "shutdown"
            }
            Fault::Postgres(mode) => {
                if !self.running {
                    return Ok(());
                }
                self.server.stop(mode)?;
                self.running = false;
                "Postgres stopped"
            }
            Fault::PostgresBack => return self.start_postgres().await,
            Fault::Terminate => {
                if self.running {
                    let _ = self.terminate().await;
                }
                "terminated"
            }
            Fault::Cut(index) => {
                self.proxies[index].cut();
                "cut"
            }
            Fault::Freeze(index) => {
                self.proxies[index].freeze();
                "half open"
            }
            Fault::Delay(index, delay) => {
                self.proxies[index].delay(delay);
                if delay.is_zero() {
                    return Ok(());
                }
                "delayed"
            }
            Fault::Clock(index, seconds) => {
                let Some(clock) = self.clocks.get(index) else { return Ok(()) };
                clock.set(seconds)?;
                "clock jumped"
            }
            Fault::PostgresClock(seconds) => {
                let Some(clock) = &self.server_clock else { return Ok(()) };
                clock.set(seconds)?;
                "clock of Postgres jumped"
            }
            Fault::Harm(harm) => {
                if !self.running || !self.administrator.harm(harm).await? {
                    return Ok(());
                }
                match harm {
                    Harm::Rights => "rights revoked",
                    Harm::Table(_) | Harm::Schema => "table or schema away",
                }
            }
            Fault::Mend => return self.mend().await,
            Fault::Isolation(level) => {
                if self.running {
                    self.administrator.isolate(level).await?;
                }
                if !self.running || level.is_none() {
                    return Ok(());
                }
                "isolation raised"
            }
            Fault::Rotate => {
                if !self.running {
                    return Ok(());
                }
                self.administrator.rotate().await?;
                "password rotated"
            }
            Fault::Tell => {
                self.tell_password();
                return Ok(());
            }
            // The driver causes these faults; here they are only counted.
            Fault::Giants(..) => "giant rows",
            Fault::Inbox(..) => "giant inbox",
            Fault::Hold(..) => "row or key held",
        };
        *self.suffered.entry(name).or_default() += 1;
        Ok(())
    }

    async fn start_postgres(&mut self) -> Result<(), Error> {
        if !self.running {
            self.server.start_again()?;
            self.running = true;
            if std::mem::take(&mut self.mend_due) {
                self.administrator.mend().await?;
            }
        }
        Ok(())
    }

    async fn mend(&mut self) -> Result<(), Error> {
        if self.running {
            return self.administrator.mend().await;
        }
        self.mend_due = true;
        Ok(())
    }

    fn tell_password(&mut self) {
        if let Some(pool) = &self.driver_pool {
            self.administrator.tell(pool);
        }
        for worker in self.workers.iter_mut().flatten() {
            // `look_after` finds a worker that has just ended.
            let _ = worker.tell(&self.administrator.known_password());
        }
    }

    async fn terminate(&self) -> Result<(), sqlx::Error> {
        use sqlx::Connection;
        let mut connection = sqlx::PgConnection::connect(&self.server_url()).await?;
        sqlx::query(
            "select pg_terminate_backend(pid) from pg_stat_activity
             where backend_type = 'client backend' and pid <> pg_backend_pid()
               and application_name <> 'oracle'",
        )
        .execute(&mut connection)
        .await?;
        connection.close().await
    }

    /// Measures the memory of the worker that no fault ends.
    pub(crate) fn weigh(&mut self) {
        let Some(Some(worker)) = self.workers.last() else { return };
        let Some(bytes) = worker.memory() else { return };
        if self.memory.pid != Some(worker.pid()) {
            self.memory = Memory { pid: Some(worker.pid()), first: bytes, last: bytes };
        }
        self.memory.last = bytes;
    }

    /// Ends all faults except the wrong clocks of the workers.
    pub(crate) async fn heal(&mut self) -> Result<(), Error> {
        if let Some(clock) = &self.server_clock {
            clock.set(0)?;
        }
        self.start_postgres().await?;
        self.administrator.mend().await?;
        self.administrator.isolate(None).await?;
        self.tell_password();
        for proxy in &self.proxies {
            proxy.delay(Duration::ZERO);
        }
        self.look_after()?;
        for worker in self.workers.iter_mut().flatten() {
            worker.go_on()?;
        }
        self.end_shutdowns(false).await?;
        self.start_all()
    }

    /// Finds the workers that ended although no fault ended them. No worker may do so.
    fn look_after(&mut self) -> Result<(), Error> {
        for index in 0..self.workers.len() {
            if let Some(worker) = self.workers[index].take_if(Worker::has_ended) {
                let ended = worker.kill()?;
                self.bury(index, &ended, false);
            }
        }
        Ok(())
    }

    /// Notes the lost outcomes, the panics and the unexpected end of a worker.
    fn bury(&mut self, index: usize, ended: &Ended, expected: bool) {
        self.lost_commits += ended.lost_commits();
        if !expected {
            self.problems.push(format!("worker {index} ended as it should not: {}", ended.status));
        }
        let panics = ended.panics().map(|panic| format!("worker {index}: {panic}"));
        self.problems.extend(panics);
    }

    /// Returns a problem for each worker that has more sockets than its pools may open. A half open
    /// connection counts for as long as the worker has not given it up.
    pub(crate) fn crowded(&self) -> Vec<String> {
        let workers = self.workers.iter().flatten();
        workers
            .filter_map(|worker| Some((worker.pid(), worker.sockets()?)))
            .filter(|(_, sockets)| *sockets > SOCKETS_MAX as usize)
            .map(|(pid, sockets)| {
                format!("worker {pid} has {sockets} sockets, and may have {SOCKETS_MAX}")
            })
            .collect()
    }

    /// Shuts all workers down. Returns every problem of the run. After this no connection is half
    /// open.
    pub(crate) async fn shut_down(&mut self) -> Result<Vec<String>, Error> {
        self.weigh();
        if self.memory.last > self.memory.first + GROWTH_MAX {
            self.problems.push(format!("a worker's memory grew: {}", self.memory()));
        }
        self.look_after()?;
        for index in 0..self.workers.len() {
            self.begin_shutdown(index);
            self.end_shutdowns(true).await?;
        }
        self.proxies.clear();
        // Postgres notices only at its next look that its clients are gone.
        tokio::time::sleep(Duration::from_millis(500)).await;
        Ok(std::mem::take(&mut self.problems))
    }

    fn begin_shutdown(&mut self, index: usize) {
        let Some(worker) = self.workers[index].take() else { return };
        let pid = worker.pid();
        let ended = tokio::task::spawn_blocking(move || worker.shut_down());
        self.ending.spawn(async move {
            let ended = match tokio::time::timeout(SHUTDOWN_MAX, ended).await {
                Ok(Ok(ended)) => ended.map_err(Error::from),
                Ok(Err(error)) => Err(error.into()),
                Err(_) => Err(format!("worker {pid} did not shut down in {SHUTDOWN_MAX:?}").into()),
            };
            (index, ended)
        });
    }

    /// Waits for the shutdowns. In the middle of faults a shutdown may fail to reach the database.
    /// Even then it may not hang, crash or fail in another way.
    async fn end_shutdowns(&mut self, quiet: bool) -> Result<(), Error> {
        while let Some(ended) = self.ending.join_next().await {
            let (index, ended) = ended?;
            let ended = ended?;
            let unreached = ended.status.code() == Some(i32::from(UNREACHED));
            self.bury(index, &ended, ended.success() || unreached && !quiet);
        }
        Ok(())
    }

    pub(crate) fn memory(&self) -> String {
        let Memory { first, last, .. } = self.memory;
        format!("{} MiB at first, {} MiB in the end", first / MIB, last / MIB)
    }

    pub(crate) fn clocks(&self) -> &'static str {
        if self.server_clock.is_some() && !self.clocks.is_empty() {
            "clocks are wrong and jump, the workers' and that of Postgres"
        } else {
            "WITHOUT wrong clocks: libfaketime is not installed (Debian's package `faketime`)"
        }
    }

    pub(crate) fn suffered(&self) -> String {
        let counts = self.suffered.iter().map(|(name, count)| format!("{name} {count}"));
        counts.collect::<Vec<_>>().join(", ")
    }

    pub(crate) fn lost_commits(&self) -> u64 {
        self.lost_commits
    }
}
