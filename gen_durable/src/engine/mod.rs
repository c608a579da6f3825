//! The engine: its start, its end, and the state that its parts share.
//!
//! ```text
//!   claimer ──► slots ──► executor ──► flusher ──► Postgres
//!      ▲                                  │
//!      └── announcements, due rows ◄──────┘      lease · listener · maintenance beside them
//! ```
//!
//! Invariant: after `shutdown` nothing of the engine runs, and no row is left in its name that it
//! could have given back.

mod births;
mod builder;
#[cfg(feature = "testing")]
pub(crate) mod by_hand;
mod cancels;
mod claimer;
mod config;
mod executor;
mod flusher;
mod keeper;
mod latch;
mod lease;
mod life;
mod limiter;
mod listener;
mod lost_claims;
mod maintenance;
mod outage;
mod owed;
mod pauses;
mod process;
mod register;
mod registry;
#[cfg(feature = "schedules")]
mod schedules;
mod services;
mod shutdown;
mod slots;
mod tasks;
mod transactions;
mod unblock;
mod wake;
mod wake_backoff;

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::runtime;

pub use self::builder::EngineBuilder;
use self::{
    births::Births,
    cancels::Cancels,
    config::Config,
    flusher::Flusher,
    keeper::Heart,
    lease::Lease,
    life::Life,
    limiter::Limiter,
    maintenance::Database,
    owed::Owed,
    pauses::Pauses,
    registry::{Registry, Surroundings},
    slots::Queue,
    tasks::Tasks,
    transactions::Transactions,
    wake::Wake,
};
#[cfg(feature = "metrics")]
use crate::meters::view::View;
use crate::{
    client::{
        AnyId, Client, InstanceHandle, Instances, MachineHandle, QueueHandle,
        notifier::Notifier,
        target::{ExecuteOn, Target, sealed},
    },
    connections::Connections,
    error::{DatabaseError, Error, WaitError},
    id::InstanceId,
    machine::{Machine, address::Address},
    meters::{ClaimMeters, LeaseMeters, MaintenanceMeters},
    storage::{Declarations, Kinds},
};

/// A running engine: it claims instances, runs their steps and commits their outcomes.
///
/// Several engines may run in one process and on one database. An engine runs on the runtime that
/// it was started on, and stops with it. If an engine is dropped without a
/// [`shutdown`](Self::shutdown), its steps are cut off and run again elsewhere.
///
/// ```no_run
/// use std::time::Duration;
/// use gen_durable::prelude::*;
///
/// #[durable_fsm(output = String)]
/// pub enum Hello {
///     Greet,
/// }
///
/// #[durable_fsm]
/// impl Hello {
///     async fn greet(cx: Context<Self>) -> Outcome<Self> {
///         cx.done("hello".to_owned())
///     }
/// }
///
/// # async fn example(pool: sqlx::PgPool) -> Result<(), Box<dyn std::error::Error>> {
/// let engine = Engine::builder(pool).machine::<Hello>().queue("default", 10).start().await?;
/// let id = Hello::insert(()).execute(&engine).await?;
/// let greeting = engine.wait(id, Duration::from_secs(10)).await?;
/// engine.shutdown().await?;
/// # Ok(())
/// # }
/// ```
pub struct Engine {
    shared: Arc<Shared>,
}

/// The state that the engine's tasks share.
pub(crate) struct Shared {
    /// The runtime that the engine was started on. Its tasks run there; only the lease has a thread
    /// of its own.
    pub(crate) runtime: runtime::Handle,
    pub(crate) config: Config,
    pub(crate) connections: Connections,
    pub(crate) client: Client,
    pub(crate) notifier: Arc<Notifier>,
    pub(crate) registry: Registry,
    /// The machines of the registry.
    pub(crate) kinds: Arc<Kinds>,
    /// The limits and schedules of its program.
    declared: Declarations,
    #[cfg(feature = "schedules")]
    schedules: schedules::Schedules,
    pub(crate) surroundings: Surroundings,
    pub(crate) transactions: Arc<Transactions>,
    pub(crate) queues: BTreeMap<String, Arc<Queue>>,
    pub(crate) lease: Arc<Lease>,
    heart: Heart,
    limiter: Limiter,
    pub(crate) flusher: Arc<Flusher>,
    pub(crate) owed: Owed,
    pub(crate) tasks: Tasks,
    cancels: Cancels,
    births: Births,
    pauses: Pauses,
    pub(crate) metrics: Counters,
    meters: Meters,
    /// The database's view, if this engine is the observer.
    #[cfg(feature = "metrics")]
    view: View,
    pub(crate) wake: Arc<Wake>,
    pub(crate) life: Arc<Life>,
}

/// The meters of the parts of the engine that own none.
struct Meters {
    claims: ClaimMeters,
    lease: LeaseMeters,
    maintenance: MaintenanceMeters,
}

impl Meters {
    fn new() -> Self {
        Self {
            claims: ClaimMeters::new(),
            lease: LeaseMeters::new(),
            maintenance: MaintenanceMeters::new(),
        }
    }
}

/// Counts of the engine as a whole. Each queue has its own counts besides.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) lost_commits: AtomicU64,
}

/// The present load of an engine, and its counts since it started.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Metrics {
    /// Instances that are claimed now: they wait for a slot, run or commit.
    pub claimed: usize,
    /// Steps that ran to an outcome.
    pub steps: u64,
    /// Outcomes that were dropped because the worker had lost the instance.
    pub lost_commits: u64,
}

impl Engine {
    /// Begins to build an engine on this pool. The engine opens connections of its own, with the
    /// pool's options.
    pub fn builder(pool: sqlx::PgPool) -> EngineBuilder {
        EngineBuilder::new(pool)
    }

    /// Returns the engine's client, which can be cloned. A shutdown closes its connections.
    pub fn client(&self) -> &Client {
        &self.shared.client
    }

    /// Waits until the instance has ended, and returns its result; see [`Client::wait`].
    ///
    /// # Errors
    ///
    /// [`WaitError`], as [`Client::wait`].
    pub async fn wait<M: Machine>(
        &self,
        target: impl Address<M>,
        timeout: Duration,
    ) -> Result<M::Output, WaitError> {
        self.shared.client.wait(target, timeout).await
    }

    /// Names an instance, to look at it and to act on it; see [`Client::instance`].
    pub fn instance<A: AnyId>(&self, address: A) -> InstanceHandle<A> {
        self.client().instance(address)
    }

    /// Names an instance by its plain number; see [`Client::instance_by_id`].
    pub fn instance_by_id(&self, id: i64) -> InstanceHandle<i64> {
        self.client().instance_by_id(id)
    }

    /// Names a queue, to pause it and to resume it; see [`Client::queue`].
    pub fn queue(&self, name: impl Into<String>) -> QueueHandle {
        self.client().queue(name)
    }

    /// Names a machine, to pause and to resume it or a step of it; see [`Client::machine`].
    pub fn machine<M: Machine>(&self) -> MachineHandle<M> {
        self.client().machine()
    }

    /// Chooses instances of a machine, to list and to count; see [`Client::instances`].
    pub fn instances<M: Machine>(&self) -> Instances<InstanceId<M>> {
        self.client().instances()
    }

    /// Chooses instances of all machines; see [`Client::all_instances`].
    pub fn all_instances(&self) -> Instances<i64> {
        self.client().all_instances()
    }

    /// Returns the worker's id, as instances carry it in `locked_by`.
    pub fn worker(&self) -> i64 {
        self.shared.lease.worker()
    }

    /// Returns the engine's load and counts.
    pub fn metrics(&self) -> Metrics {
        let queues = self.shared.queues.values();
        Metrics {
            claimed: queues.clone().map(|queue| queue.claimed()).sum(),
            steps: queues.map(|queue| queue.finished.load(Ordering::Relaxed)).sum(),
            lost_commits: self.shared.metrics.lost_commits.load(Ordering::Relaxed),
        }
    }

    /// Runs each maintenance service now, until it has nothing left to do. The services take
    /// instances from lost workers, report ends that are still owed, wake parks whose time is up,
    /// unblock stranded partition keys and prune old instances.
    ///
    /// # Errors
    ///
    /// [`DatabaseError`] if the database failed.
    pub async fn maintain(&self) -> Result<(), DatabaseError> {
        maintenance::run_once(&Database::of(&self.shared)).await
    }

    /// Stops gracefully. No further step starts, and steps under way may finish within the drain
    /// timeout. Then they are cut off. Instances whose step has not finished go back to their
    /// queues with no attempt spent.
    ///
    /// A shutdown takes up to ten seconds more than the drain timeout, for the last commits and to
    /// remove the worker. With the default drain timeout that is less than the 30 s that Kubernetes
    /// leaves a process. The future borrows nothing, and may be polled on any runtime. A second
    /// shutdown waits for the first, and does nothing.
    ///
    /// If the engine's runtime has ended, its steps were cut off with it. The shutdown then gives
    /// back the instances that they had claimed.
    ///
    /// # Errors
    ///
    /// [`Error::Database`] if the worker could not be removed; its lease then runs out by itself.
    pub fn shutdown(&self) -> impl Future<Output = Result<(), Error>> + Send + use<> {
        let shared = Arc::clone(&self.shared);
        // On the heap: the future is large, as it holds the statements of every part of the
        // shutdown.
        Box::pin(async move { shutdown::run(&shared).await })
    }
}

impl sealed::Sealed for &Engine {}
impl<'e> ExecuteOn<'e> for &'e Engine {
    fn into_target(self) -> Target<'e> {
        Target::Client(self.client())
    }
}

/// Cuts the steps off, unless there was a shutdown. Their rows are given back if the engine's
/// runtime goes on for long enough. Otherwise the reaper takes them.
impl Drop for Engine {
    fn drop(&mut self) {
        self.shared.begin_stop();
        self.shared.life.cut_off.open();
        self.shared.life.stopped.open();
    }
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine")
            .field("worker", &self.shared.lease.worker())
            .field("config", &self.shared.config)
            .finish_non_exhaustive()
    }
}

impl Shared {
    /// Notes that a run has ended without an outcome although its worker lives: its task panicked,
    /// or its outcome was given up. If the row is still this worker's, it is left to the reaper, as
    /// if its worker had been lost.
    fn lose_run(&self, id: i64) {
        self.tasks.lose(id);
        self.wake.suspect_lost_claims();
    }

    /// Takes an announcement in this process. Returns false if other processes should hear of it
    /// too.
    fn hear(&self, queue: &str) -> bool {
        let Some(queue) = self.queues.get(queue) else { return false };
        self.wake.claimer();
        // An engine whose runtime has ended claims nothing, but its client may still be used.
        queue.claimed() < queue.slots && self.life.claims()
    }

    /// Waits until nothing is claimed. The claimer and the births must end first: rows of a claim
    /// that is under way arrive after the stop has begun, and must be given back as well.
    async fn drained(&self) {
        self.life.claimer_ended.wait().await;
        self.births.end().await;
        self.tasks.none().await;
    }

    /// Begins the stop: no step starts from here on, and rows that have not begun are given back.
    fn begin_stop(self: &Arc<Self>) {
        if self.life.stopping.is_open() {
            return;
        }
        self.life.stopping.open();
        self.release_waiting();
    }

    /// Gives back the rows that wait for a slot and have not begun.
    fn release_waiting(self: &Arc<Self>) {
        for queue in self.queues.values() {
            for work in queue.take_waiting() {
                executor::release(self, queue, work);
            }
        }
    }
}
