//! The primary is lost and its synchronous standby takes over. All that was acknowledged, to a
//! caller or to an engine, is still there.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use gen_durable::{Engine, InsertError, SignalError, prelude::*};
use gen_durable_postgres::{Mode, Server};
use gen_durable_tests::{
    machines::{Collector, CollectorState, EXTERNAL, Leaf, Ping},
    oracle,
    process::Worker,
    proxy::Proxy,
};
use sqlx::{PgPool, postgres::PgPoolOptions};

use crate::support::{eventually, log};

/// The workers' lease. It is short, so that a test of half-open connections does not take long.
const LEASE: Duration = Duration::from_secs(2);
/// The number of commits of a climb.
const HEIGHT: u32 = 25;

/// The states that the runs of each instance saw when they began, kept outside of the database.
///
/// An engine begins a step only on a state that is committed and acknowledged: by the answer to the
/// commit before, or as a row that others may see. Therefore no run may see less than a run before
/// it.
#[derive(Debug, Default)]
pub struct Witness(Mutex<BTreeMap<i64, Vec<u32>>>);

impl Witness {
    fn see(&self, id: i64, n: u32) {
        self.0.lock().unwrap().entry(id).or_default().push(n);
    }

    fn steps(&self) -> usize {
        self.0.lock().unwrap().values().map(Vec::len).sum()
    }

    /// Returns the instances in which a run saw an older state than a run before it.
    fn undone(&self) -> Vec<(i64, Vec<u32>)> {
        let seen = self.0.lock().unwrap().clone();
        seen.into_iter().filter(|(_, seen)| !seen.is_sorted()).collect()
    }
}

#[derive(Clone, Debug, Default, DurableState)]
pub struct ClimbState {
    /// Names the call that inserted the instance. An id is not enough: if no caller was told of it,
    /// it may be given out again after a failover.
    mark: String,
    /// The number of committed steps.
    n: u32,
}

#[durable_fsm(state = ClimbState, output = u32)]
pub enum Climb {
    Up,
}

#[durable_fsm]
impl Climb {
    async fn up(mut cx: Context<Self>, witness: &Arc<Witness>) -> Outcome<Self> {
        witness.see(cx.id().get(), cx.state.n);
        if cx.state.n == HEIGHT {
            return cx.done(HEIGHT);
        }
        cx.state.n += 1;
        // Every eighth step needs a new claim, which may be another worker's.
        if cx.state.n.is_multiple_of(8) {
            return cx.next_in(Climb::Up, Duration::ZERO);
        }
        cx.next(Climb::Up)
    }
}

/// A way to lose the primary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Loss {
    /// Its processes are killed, so connections end.
    Killed,
    /// Its host is gone. The workers' connections stay up and carry nothing any more.
    Vanished,
}

#[tokio::test(flavor = "multi_thread")]
async fn p13_a_killed_primary_takes_nothing_acknowledged_with_it() {
    fail_over(Loss::Killed).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p13_a_vanished_primary_takes_nothing_acknowledged_with_it() {
    fail_over(Loss::Vanished).await;
}

async fn fail_over(loss: Loss) {
    log();
    let (mut primary, standby, wire) = pair().await;
    // The workers and the callers have an endpoint each, as the fault may hit only the workers'
    // one.
    let endpoint = Proxy::start(primary.socket_dir()).unwrap();
    let callers_endpoint = Proxy::start(primary.socket_dir()).unwrap();

    let witness = Arc::new(Witness::default());
    let engines = [engine(&endpoint, &witness).await, engine(&endpoint, &witness).await];
    let program = Path::new(env!("CARGO_BIN_EXE_chaos"));
    let lease = u64::try_from(LEASE.as_millis()).unwrap();
    let process = Worker::start(program, &endpoint.url("postgres"), lease, &[], None).unwrap();
    let callers = Callers::start(&callers_endpoint);
    eventually("there is work under way", async || {
        (witness.steps() > 300 && callers.acknowledged() > 30).then_some(())
    })
    .await;

    // From here on nothing reaches the standby, so nothing is acknowledged. Some commits are under
    // way. When the standby takes over, only the callers and workers that wait for their answers
    // know of them.
    wire.freeze();
    let direct = direct(&primary).await;
    eventually("commits wait for the standby", async || {
        let waiting: i64 = sqlx::query_scalar(
            "select count(*) from pg_stat_activity where wait_event = 'SyncRep'",
        )
        .fetch_one(&direct)
        .await
        .unwrap();
        (waiting >= 3).then_some(())
    })
    .await;
    drop(direct);
    if loss == Loss::Vanished {
        endpoint.freeze();
    }
    primary.stop(Mode::Immediate).unwrap();

    // The endpoints move before the standby is promoted. For a while all clients meet a server that
    // is read-only.
    endpoint.move_to(standby.socket_dir());
    callers_endpoint.move_to(standby.socket_dir());
    let pool = self::direct(&standby).await;
    eventually("the workers have come to the standby", async || {
        let connected: i64 = sqlx::query_scalar(
            "select count(*) from pg_stat_activity
             where backend_type = 'client backend' and application_name <> 'oracle'",
        )
        .fetch_one(&pool)
        .await
        .unwrap();
        (connected >= 3).then_some(())
    })
    .await;
    let seen = (witness.steps(), callers.acknowledged());
    standby.promote().unwrap();

    eventually("the same workers go on", async || {
        let more = (witness.steps() - seen.0, callers.acknowledged() - seen.1);
        (more.0 > 300 && more.1 > 30).then_some(())
    })
    .await;
    let acknowledged = callers.finish().await;
    // The test checks this before it waits for the end, which may not come if something is lost.
    assert_eq!(witness.undone(), [], "a step began on less than was committed before");
    assert_eq!(acknowledged.missing(&pool).await, Vec::<String>::new());
    eventually("everything has ended", async || {
        let live: i64 = sqlx::query_scalar(
            "select count(*) from gen_durable.instances where finished_at is null",
        )
        .fetch_one(&pool)
        .await
        .unwrap();
        (live == 0).then_some(())
    })
    .await;

    assert_eq!(witness.undone(), []);
    assert_eq!(oracle::check(&pool).await.unwrap(), Vec::<String>::new());
    // A worker may be registered anew without knowing it, if the answer was lost. The living
    // workers remove that row, like one of a lost worker.
    let mut seen = Vec::new();
    eventually("nobody but the workers is registered", async || {
        let workers = "select format('worker %s of %s, %s rows', w.id, w.name,
                (select count(*) from gen_durable.instances i where i.locked_by = w.id))
            from gen_durable.workers w order by w.id";
        let workers: Vec<String> = sqlx::query_scalar(workers).fetch_all(&pool).await.unwrap();
        // A failure prints them.
        if workers != seen {
            println!("registered: {workers:#?}");
            seen.clone_from(&workers);
        }
        (workers.len() == 3).then_some(())
    })
    .await;
    for engine in engines {
        engine.shutdown().await.unwrap();
    }
    let status = tokio::task::spawn_blocking(|| process.shut_down()).await.unwrap().unwrap();
    assert!(status.success(), "{status:?}");
    let mut told = Vec::new();
    eventually("nothing is left behind", async || {
        let left = oracle::leftovers(&pool).await.unwrap();
        if left != told {
            eprintln!("left behind: {left:?}");
        }
        told = left;
        told.is_empty().then_some(())
    })
    .await;
}

/// Starts a primary and its synchronous standby, with the schema and the oracle. Returns both, and
/// the wire between them.
async fn pair() -> (Server, Server, Proxy) {
    // `fsync` and `synchronous_commit` are on: a commit is acknowledged when the standby has it.
    let primary =
        Server::builder().setting("synchronous_standby_names", "standby").start().unwrap();
    let wire = Proxy::start(primary.socket_dir()).unwrap();
    let from = wire.dir().to_owned();
    let standby =
        tokio::task::spawn_blocking(move || Server::builder().start_standby(&from, "standby"));
    let standby = standby.await.unwrap().unwrap();
    let pool = direct(&primary).await;
    eventually("the standby is synchronous", async || {
        let state: Option<String> = sqlx::query_scalar(
            "select sync_state from pg_stat_replication where state = 'streaming'",
        )
        .fetch_optional(&pool)
        .await
        .unwrap();
        (state.as_deref() == Some("sync")).then_some(())
    })
    .await;
    gen_durable_migrate::up(&pool).await.unwrap();
    oracle::install(&pool).await.unwrap();
    sqlx::raw_sql(
        "insert into chaos.edges values ('climb', 'up', 'up');
         insert into chaos.ends values ('climb', 'up', 'done');",
    )
    .execute(&pool)
    .await
    .unwrap();
    pool.close().await;
    (primary, standby, wire)
}

/// Opens the test's own connections, which do not go through an endpoint.
async fn direct(server: &Server) -> PgPool {
    let options: sqlx::postgres::PgConnectOptions = server.url("postgres").parse().unwrap();
    let options = options.application_name("oracle");
    PgPoolOptions::new().max_connections(2).connect_with(options).await.unwrap()
}

async fn engine(endpoint: &Proxy, witness: &Arc<Witness>) -> Engine {
    let pool = PgPoolOptions::new()
        .acquire_timeout(Duration::from_secs(5))
        .connect_lazy(&endpoint.url("postgres"))
        .unwrap();
    Engine::builder(pool)
        .machine::<Climb>()
        .machine::<Collector>()
        .machine::<Leaf>()
        .resource(Arc::clone(witness))
        .queue("default", 10)
        .lease_ttl(LEASE)
        .start()
        .await
        .unwrap()
}

/// The calls that were acknowledged.
#[derive(Debug, Default)]
struct Acknowledged {
    /// The inserted climbs: id and `mark`.
    climbs: Vec<(i64, String)>,
    /// The ids of the inserted collectors.
    collectors: Vec<i64>,
    /// The signals: target and deduplication key.
    signals: Vec<(i64, String)>,
}

impl Acknowledged {
    async fn missing(&self, pool: &PgPool) -> Vec<String> {
        let (ids, marks): (Vec<i64>, Vec<&str>) =
            self.climbs.iter().map(|(id, mark)| (*id, mark.as_str())).unzip();
        let (targets, keys): (Vec<i64>, Vec<&str>) =
            self.signals.iter().map(|(id, key)| (*id, key.as_str())).unzip();
        sqlx::query_scalar(
            "select format('climb %s of %s', a.id, a.mark)
             from unnest($1::bigint[], $2::text[]) as a (id, mark)
             where not exists (
                 select from gen_durable.instances i
                 where i.id = a.id and i.fsm = 'climb' and i.state ->> 'mark' = a.mark
             )
             union all
             select format('collector %s', a.id) from unnest($3::bigint[]) as a (id)
             where not exists (
                 select from gen_durable.instances i where i.id = a.id and i.fsm = 'collector'
             )
             union all
             select format('signal %s to %s', a.key, a.id)
             from unnest($4::bigint[], $5::text[]) as a (id, key)
             where not exists (
                 select from chaos.signals s
                 where s.op = 'INSERT' and s.target_id = a.id and s.dedup_key = a.key
             )",
        )
        .bind(ids)
        .bind(marks)
        .bind(&self.collectors)
        .bind(targets)
        .bind(keys)
        .fetch_all(pool)
        .await
        .unwrap()
    }
}

/// Tasks that insert and signal throughout the test. They repeat failed calls, except for inserts
/// of climbs.
struct Callers {
    pool: PgPool,
    stopping: Arc<AtomicBool>,
    acknowledged: Arc<Mutex<Acknowledged>>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Callers {
    fn start(endpoint: &Proxy) -> Self {
        let pool = PgPoolOptions::new()
            .acquire_timeout(Duration::from_secs(5))
            .connect_lazy(&endpoint.url("postgres"))
            .unwrap();
        let stopping = Arc::new(AtomicBool::new(false));
        let acknowledged = Arc::new(Mutex::new(Acknowledged::default()));
        let client = Client::new(pool.clone());
        let tasks = (0..4).map(|task| {
            let caller = Caller {
                client: client.clone(),
                pool: pool.clone(),
                acknowledged: Arc::clone(&acknowledged),
            };
            let stopping = Arc::clone(&stopping);
            tokio::spawn(async move {
                for call in 0.. {
                    if stopping.load(Ordering::Relaxed) {
                        return;
                    }
                    let mark = format!("{task}.{call}");
                    if call % 4 == 3 {
                        caller.collect(mark).await;
                    } else {
                        caller.climb(call, mark).await;
                    }
                }
            })
        });
        let tasks = tasks.collect();
        Self { pool, stopping, acknowledged, tasks }
    }

    fn acknowledged(&self) -> usize {
        let acknowledged = self.acknowledged.lock().unwrap();
        acknowledged.climbs.len() + acknowledged.collectors.len() + acknowledged.signals.len()
    }

    /// Lets each task finish the call that it has begun, and returns all that was acknowledged.
    async fn finish(self) -> Acknowledged {
        self.stopping.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await.unwrap();
        }
        self.pool.close().await;
        std::mem::take(&mut *self.acknowledged.lock().unwrap())
    }
}

struct Caller {
    client: Client,
    pool: PgPool,
    acknowledged: Arc<Mutex<Acknowledged>>,
}

impl Caller {
    /// Inserts a climb. Calls alternate between the client, where they share commits, the pool, and
    /// a transaction of the caller's.
    async fn climb(&self, call: usize, mark: String) {
        let insert = Climb::insert(ClimbState { mark: mark.clone(), n: 0 });
        let inserted = match call % 3 {
            0 => insert.execute(&self.client).await,
            1 => insert.execute(&self.pool).await,
            _ => {
                let Ok(mut transaction) = self.pool.begin().await else { return pause().await };
                let inserted = insert.execute(&mut *transaction).await;
                if transaction.commit().await.is_err() {
                    return pause().await;
                }
                inserted
            }
        };
        // A failed insert is not repeated, as no caller was told that the climb is there.
        match inserted {
            Ok(id) => self.acknowledged.lock().unwrap().climbs.push((id.get(), mark)),
            Err(InsertError::Database(_)) => pause().await,
            Err(error) => panic!("{error}"),
        }
    }

    /// Inserts a collector and sends its two signals. It ends only when it has got both, so each
    /// call is repeated until it is acknowledged.
    async fn collect(&self, mark: String) {
        let state = CollectorState { leaves: 2, external: 2, ..CollectorState::default() };
        let id = loop {
            let insert = Collector::insert(state.clone()).unique_key(&mark);
            match insert.execute(&self.client).await {
                Ok(id) => break id,
                Err(InsertError::Duplicate(held)) => break held.id,
                Err(InsertError::Database(_)) => pause().await,
                Err(error) => panic!("{error}"),
            }
        };
        self.acknowledged.lock().unwrap().collectors.push(id.get());
        for n in EXTERNAL..EXTERNAL + 2 {
            let key = n.to_string();
            loop {
                let signal = Collector::signal_ping(id, Ping { n }).dedup_key(&key);
                match signal.execute(&self.client).await {
                    // The collector has ended if an earlier try arrived and its answer was lost.
                    Ok(_) | Err(SignalError::Terminal { .. }) => break,
                    Err(SignalError::Database(_)) => pause().await,
                    // The collector is lost. The end of the test reports that.
                    Err(SignalError::Unknown { .. }) => return,
                    Err(error) => panic!("{error}"),
                }
            }
            self.acknowledged.lock().unwrap().signals.push((id.get(), key));
        }
    }
}

/// Waits between two tries.
async fn pause() {
    // This is a fixed time: only the next try can find out if the outage is over.
    tokio::time::sleep(Duration::from_millis(20)).await;
}
