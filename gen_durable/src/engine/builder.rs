//! Builds an engine: its machines, queues, resources and options.
//!
//! Invariant: everything that can be wrong with them is an error of `start`, before anything runs.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::runtime;

use super::{
    Counters, Engine, Meters, Shared,
    births::{Births, Local},
    cancels::Cancels,
    config::Config,
    flusher::Flusher,
    keeper::{self, Heart},
    lease::Lease,
    life::Life,
    limiter::{self, Limiter},
    owed::Owed,
    pauses::Pauses,
    register,
    registry::{MachineRunner, Polls, Registry, Runner, Surroundings},
    services,
    slots::Queue,
    tasks::Tasks,
    transactions::Transactions,
    wake::Wake,
};
#[cfg(feature = "metrics")]
use crate::meters::view::View;
use crate::{
    client::{Client, notifier::Notifier},
    connections::{Connections, SetUp},
    error::Error,
    machine::{Machine, Steps, limit::Limit, resources::Resources},
    storage::{self, Declarations, Retention},
};
#[cfg(feature = "schedules")]
use {
    super::schedules::Schedules,
    crate::machine::{
        insert::Insert,
        schedule::{Declared, Schedule, Tick},
    },
};

/// Options of an engine that has not started.
///
/// | option | meaning | default |
/// |---|---|---|
/// | `.machine::<M>()` | runs instances of this machine | none |
/// | `.queue(name, slots)` | serves this queue, with `slots` steps at once | `default`, 10 slots |
/// | `.resource(value)` | given to steps by reference, one of each type | none |
/// | `.name(name)` | the worker's name in `gen_durable.workers` | `process <pid>` |
/// | `.lease_ttl(duration)` | a worker that is silent for this long counts as lost | 30 s |
/// | `.poll_interval(duration)` | the longest pause between two looks for work | 5 s |
/// | `.poll_only()` | neither LISTEN nor NOTIFY | off |
/// | `.drain_timeout(duration)` | the time that `shutdown` gives steps to finish | 18 s |
/// | `.limit(name, limit)` | bounds the steps that name this limit | none |
/// | `.schedule(name, schedule, insert)` | inserts instances at these times | none |
/// | `.retention(duration)` | the time for which ended instances are kept | 7 days |
/// | `.retention_of::<M>(duration)` | the same for one machine | as all |
/// | `.history_retention(duration)` | the time for which the history is kept | 7 days |
/// | `.value_max(bytes)` | the largest state, result or payload | 8 MiB |
/// | `.crashes_max(count)` | workers lost in a row before an instance fails | 20 |
/// | `.run_ahead(steps, duration)` | the most that an instance runs on a claim | 100 steps or 1 s |
/// | `.connections_max(count)` | the engine's own connections for statements | 10 |
/// | `.max_transactions(count)` | the steps that run in a transaction at once | 10 |
/// | `.maintenance(bool)` | runs the maintenance services | on |
/// | `.sample_interval(duration)` | the time between two samples for the metrics | 15 s |
/// | `.start()` | checks all options, registers the worker, begins | |
///
/// ```no_run
/// use std::time::Duration;
///
/// use gen_durable::prelude::*;
/// # pub struct Mailer;
/// # #[durable_fsm(queue = "mail", output = ())]
/// # pub enum Mail { Send }
/// # #[durable_fsm]
/// # impl Mail {
/// #     async fn send(cx: Context<Self>, _mailer: &Mailer) -> Outcome<Self> { cx.done(()) }
/// # }
///
/// # async fn example(pool: sqlx::PgPool) -> Result<(), gen_durable::Error> {
/// let engine = Engine::builder(pool)
///     .machine::<Mail>()
///     .queue("mail", 20)
///     .resource(Mailer)
///     .retention(Duration::from_hours(24))
///     .start()
///     .await?;
/// # Ok(())
/// # }
/// ```
#[must_use = "an engine runs after `.start().await`"]
pub struct EngineBuilder {
    pub(super) pool: sqlx::PgPool,
    pub(super) config: Config,
    resources: Resources,
    machines: Vec<fn(usize) -> Arc<dyn Runner>>,
    /// The limits and schedules, which `check` adds.
    pub(super) declared: Declarations,
    limits: Vec<(String, Limit)>,
    #[cfg(feature = "schedules")]
    schedules: Vec<Declared>,
    /// The same, once `check` has found them right.
    #[cfg(feature = "schedules")]
    checked: Schedules,
    #[cfg(feature = "testing")]
    pub(super) watch: Option<super::registry::Watch>,
}

impl EngineBuilder {
    pub(crate) fn new(pool: sqlx::PgPool) -> Self {
        Self {
            pool,
            config: Config::default(),
            resources: Resources::default(),
            machines: Vec::new(),
            declared: Declarations::default(),
            limits: Vec::new(),
            #[cfg(feature = "schedules")]
            schedules: Vec::new(),
            #[cfg(feature = "schedules")]
            checked: Schedules::default(),
            #[cfg(feature = "testing")]
            watch: None,
        }
    }

    /// Runs instances of this machine.
    pub fn machine<M: Steps>(mut self) -> Self {
        self.machines.push(|value_max| Arc::new(MachineRunner::<M>::new(value_max)));
        #[cfg(feature = "schedules")]
        if let Some(own) = M::schedule() {
            return self.schedule(M::NAME, own.schedule, own.insert);
        }
        self
    }

    /// Inserts instances at the times of a schedule. `insert` makes the insert for a tick. The name
    /// is the schedule's in the whole database.
    ///
    /// Any engine that declares the schedule fires it, each tick once. If programs with different
    /// declarations run, the one that appeared last is in force, until its last process ends.
    /// [`guide::schedules`](crate::guide::schedules) says more.
    #[cfg(feature = "schedules")]
    pub fn schedule<M: Machine>(
        mut self,
        name: impl Into<String>,
        schedule: Schedule,
        insert: impl Fn(Tick) -> Insert<M> + Send + Sync + 'static,
    ) -> Self {
        let name = name.into();
        self.schedules.push(Declared::new(name, schedule, insert));
        self
    }

    /// Declares a limit, which steps name: `#[step(limit = "stripe")]`. The name is the limit's in
    /// the whole database, and its bounds hold for all engines together.
    ///
    /// If programs with different bounds run, those that appeared last are in force, until their
    /// last process ends. An operator may set others ([`Client::limit`](crate::Client::limit)). A
    /// step whose limit is not declared is an error at start.
    /// [`guide::limits`](crate::guide::limits) says more.
    pub fn limit(mut self, name: impl Into<String>, limit: Limit) -> Self {
        self.limits.push((name.into(), limit));
        self
    }

    /// Serves this queue, with at most `slots` of its steps running user code at once in this
    /// process. An engine without any queue serves `default` with 10 slots. A second call for the
    /// same queue replaces the first.
    pub fn queue(mut self, name: impl Into<String>, slots: usize) -> Self {
        self.config.queues.insert(name.into(), slots);
        self
    }

    /// Gives the steps a resource, which they take by reference as a parameter. There is one
    /// resource of each type: a second one is an error at start.
    pub fn resource<T: Send + Sync + 'static>(mut self, resource: T) -> Self {
        self.resources.insert(resource);
        self
    }

    /// Sets the worker's name in the table of workers. The default names the process.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.config.name = name.into();
        self
    }

    /// Sets the time without a sign of life after which a worker counts as lost and its instances
    /// run elsewhere. It may be 100 ms to a week; the default is 30 s. The lease is renewed every
    /// third of it.
    pub fn lease_ttl(mut self, ttl: Duration) -> Self {
        self.config.lease_ttl = ttl;
        self
    }

    /// Sets the longest pause between two looks for work that was not announced. It must be at
    /// least 1 ms, and more than a week counts as a week; the default is 5 s. An engine that has
    /// just become idle looks sooner.
    ///
    /// Other processes take the interval for 5 s. They do not announce an instance that they
    /// schedule for more than 6.25 s from now. With a longer interval it may therefore be late by
    /// about as much.
    pub fn poll_interval(mut self, interval: Duration) -> Self {
        self.config.poll_interval = interval;
        self
    }

    /// Neither listens nor notifies. This is for a transaction pooler in front of Postgres, which
    /// cannot hold a LISTEN. The engine then finds work of other processes by its poll.
    pub fn poll_only(mut self) -> Self {
        self.config.poll_only = true;
        self
    }

    /// Sets the time that `shutdown` gives steps to finish before it cuts them off. The default is
    /// 18 s.
    ///
    /// The whole shutdown takes up to 10 s more. Both together must fit into the time that the
    /// process is left: Kubernetes kills it 30 s after it has asked it to end
    /// (`terminationGracePeriodSeconds`).
    pub fn drain_timeout(mut self, timeout: Duration) -> Self {
        self.config.drain_timeout = timeout;
        self
    }

    /// Sets the time for which ended instances are kept. The default is 7 days; `None` keeps them
    /// for ever.
    ///
    /// It applies to machines without a retention [of their own](Self::retention_of), including
    /// those that no process knows any more.
    pub fn retention(mut self, retention: impl Into<Option<Duration>>) -> Self {
        self.config.retention = retention.into();
        self
    }

    /// Sets the time for which ended instances of this machine are kept, whatever their version.
    /// `None` keeps them for ever.
    ///
    /// It is stored in the database, in `gen_durable.retention`, and therefore holds for every
    /// engine. An engine that does not know the machine must not delete what another one was told
    /// to keep. An engine that runs the machine and says nothing of it lets
    /// [`retention`](Self::retention) apply again. Engines that run the same machine should
    /// therefore say the same.
    ///
    /// ```no_run
    /// # use std::time::Duration;
    /// # use gen_durable::prelude::*;
    /// # #[durable_fsm(output = ())]
    /// # pub enum Ping { Send }
    /// # #[durable_fsm]
    /// # impl Ping { async fn send(cx: Context<Self>) -> Outcome<Self> { cx.done(()) } }
    /// # #[durable_fsm(output = ())]
    /// # pub enum Invoice { Send }
    /// # #[durable_fsm]
    /// # impl Invoice { async fn send(cx: Context<Self>) -> Outcome<Self> { cx.done(()) } }
    /// # async fn example(pool: sqlx::PgPool) -> Result<(), gen_durable::Error> {
    /// let engine = Engine::builder(pool)
    ///     .machine::<Ping>()
    ///     .machine::<Invoice>()
    ///     .retention_of::<Ping>(Duration::from_mins(10))
    ///     .retention_of::<Invoice>(None)
    ///     .start()
    ///     .await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn retention_of<M: Machine>(mut self, retention: impl Into<Option<Duration>>) -> Self {
        self.config.retentions.insert(M::NAME, Retention(retention.into()));
        self
    }

    /// Sets the time for which the history of instances is kept, whether they have ended or not.
    /// The default is 7 days; `None` keeps it for ever.
    ///
    /// The history of whole days is dropped, by UTC, so an entry may stay for a day longer. The
    /// history belongs to the database: if engines say different things, the shortest time counts.
    pub fn history_retention(mut self, retention: impl Into<Option<Duration>>) -> Self {
        self.config.history_retention = retention.into();
        self
    }

    /// Sets the largest state, result or payload, in bytes of JSON. It may be 64 bytes to 256 MiB;
    /// the default is 8 MiB.
    ///
    /// It applies to the engine's steps and to calls on the engine and its client. Calls on a pool,
    /// in a transaction or on a [`Client::new`] keep to 8 MiB.
    pub fn value_max(mut self, bytes: usize) -> Self {
        self.config.value_max = bytes;
        self
    }

    /// Sets the number of lost workers in a row, during one step, after which an instance fails. It
    /// must be at least 1; the default is 20. The setting of the engine that reaps the instance
    /// counts.
    pub fn crashes_max(mut self, crashes: u32) -> Self {
        self.config.crashes_max = crashes;
        self
    }

    /// Sets the number of steps, and the time, that an instance runs on one claim before others go
    /// first. The default is 100 steps or 1 s. With one step there is no run-ahead.
    pub fn run_ahead(mut self, steps_max: usize, time_max: Duration) -> Self {
        self.config.run_ahead_steps_max = steps_max;
        self.config.run_ahead_time_max = time_max;
        self
    }

    /// Sets the most connections that the engine opens for its statements. It may be 5 to 1,000;
    /// the default is 10. Two more connections keep the worker's lease and listen for work.
    ///
    /// They are made with the pool's options and hooks as they are at that moment. A password that
    /// is rotated reaches them by `PgPool::set_connect_options`. They keep to the pool's
    /// `max_lifetime`. They keep to its `acquire_timeout` up to a third of the lease, or a second
    /// if that is more. A connection that was idle for a minute is tested before it is used.
    pub fn connections_max(mut self, connections: u32) -> Self {
        self.config.connections_max = connections;
        self
    }

    /// Sets the most steps that run in a transaction at once. Each has a connection of its own,
    /// beside those of [`connections_max`](Self::connections_max). It may be 1 to 1,000; the
    /// default is 10. A step that finds none free waits for one, in its slot.
    ///
    /// These connections have the settings that the pool gives its own. A connection is opened when
    /// a step needs it.
    pub fn max_transactions(mut self, transactions: u32) -> Self {
        self.config.max_transactions = transactions;
        self
    }

    /// Runs the maintenance services, or not. An engine runs them by default. At least one engine
    /// on a database must.
    pub fn maintenance(mut self, maintenance: bool) -> Self {
        self.config.maintenance = maintenance;
        self
    }

    /// Sets the time between two samples of the database for the metrics, in the one engine that
    /// takes them: 100 ms to an hour. See [`guide::metrics`](crate::guide::metrics).
    #[cfg(feature = "metrics")]
    pub fn sample_interval(mut self, interval: Duration) -> Self {
        self.config.sample_interval = interval;
        self
    }

    /// Checks everything, registers the worker and starts to run instances.
    ///
    /// # Errors
    ///
    /// [`Error`]: an option or a machine is wrong, a resource is missing, the database's schema
    /// does not fit, or the database cannot be reached.
    pub async fn start(mut self) -> Result<Engine, Error> {
        let registry = self.check()?;
        for runner in registry.runners() {
            if !self.config.queues.contains_key(runner.queue()) {
                tracing::warn!(
                    machine = runner.name(),
                    queue = runner.queue(),
                    "this engine does not serve the machine's queue; add `.queue(\"{}\", …)` unless another process does",
                    runner.queue()
                );
            }
        }
        let (pool, config) = (self.pool.clone(), self.config.clone());
        let own = move |connections_max| {
            let session: Option<SetUp> =
                if config.poll_only { None } else { Some(storage::session) };
            Connections::own(&pool, connections_max, config.lease_ttl, session)
        };
        // A step's session has the settings that the application gives its own.
        let max = self.config.max_transactions;
        let session: Option<SetUp> =
            if self.config.poll_only { None } else { Some(storage::step_session) };
        let steps = Connections::own(&self.pool, max, self.config.lease_ttl, session);
        let connections = own(self.config.connections_max);
        let asked = Instant::now();
        let declared = std::mem::take(&mut self.declared);
        let worker = register::register(&connections, &self.config, &registry, &declared).await?;
        let lease = Lease::new(worker, asked, self.config.lease_ttl);
        let transactions = Transactions::new(steps, &connections, max, self.config.poll_only);
        let shared = self.share(connections, transactions, registry, (lease, declared));
        keeper::spawn(&shared, move || own(1)).map_err(Error::Thread)?;
        services::spawn(&shared);
        tracing::info!(worker, queues = ?shared.config.queues, "engine started");
        Ok(Engine { shared })
    }

    /// Checks the options, the machines and their resources.
    pub(super) fn check(&mut self) -> Result<Registry, Error> {
        self.config.check()?;
        if let Some(resource) = self.resources.replaced() {
            return Err(Error::DuplicateResource { resource });
        }
        #[cfg(feature = "schedules")]
        {
            let all = std::mem::take(&mut self.schedules);
            self.checked = Schedules::new(all, &mut self.declared)?;
        }
        let value_max = self.config.value_max;
        let runners = self.machines.iter().map(|make| make(value_max)).collect();
        let registry = Registry::new(runners, &self.resources)?;
        let limits = std::mem::take(&mut self.limits);
        limiter::declare(limits, &registry, &mut self.declared)?;
        for runner in registry.runners() {
            for step in runner.dead_ends() {
                tracing::warn!(
                    machine = runner.name(),
                    step,
                    "this step awaits a signal, with no timeout, and leads nowhere else: an instance that comes to it never ends; add a way out, or a timeout"
                );
            }
        }
        Ok(registry)
    }

    pub(super) fn share(
        self,
        connections: Connections,
        transactions: Arc<Transactions>,
        registry: Registry,
        (lease, declared): (Lease, Declarations),
    ) -> Arc<Shared> {
        let config = self.config;
        let notifier = if config.poll_only {
            Notifier::within(config.poll_interval)
        } else {
            Notifier::remote(connections.clone(), config.poll_interval)
        };
        let client = Client::with(connections.clone(), Arc::clone(&notifier), config.value_max);
        let queues = config
            .queues
            .iter()
            .map(|(name, slots)| (name.clone(), Arc::new(Queue::new(name, *slots))))
            .collect();
        let (lease, wake, life) = (Arc::new(lease), Arc::<Wake>::default(), Arc::new(Life::new()));
        let flusher = Flusher::new(&connections, &notifier, client.waiters(), &lease, &wake, &life);
        #[cfg(feature = "testing")]
        let by_hand = self.watch.is_some();
        #[cfg(not(feature = "testing"))]
        let by_hand = false;
        let limiter = Limiter::new(&connections, &lease, &declared, &registry, by_hand);
        let owed = Owed::new(&connections, &notifier);
        #[cfg(feature = "testing")]
        let owed = if by_hand { Owed::left() } else { owed };
        let shared = Arc::new(Shared {
            runtime: runtime::Handle::current(),
            config,
            connections,
            client,
            notifier,
            kinds: Arc::new(registry.kinds()),
            declared,
            #[cfg(feature = "schedules")]
            schedules: self.checked,
            registry,
            surroundings: Surroundings {
                resources: self.resources,
                polls: Polls::default(),
                #[cfg(feature = "testing")]
                watch: self.watch,
            },
            transactions,
            queues,
            lease,
            heart: Heart::new(),
            limiter,
            owed,
            flusher,
            tasks: Tasks::default(),
            cancels: Cancels::default(),
            births: Births::default(),
            pauses: Pauses::default(),
            metrics: Counters::default(),
            meters: Meters::new(),
            #[cfg(feature = "metrics")]
            view: View::new(),
            wake,
            life,
        });
        shared.notifier.set_local(Box::new(Local(Arc::downgrade(&shared))));
        shared
    }
}

impl std::fmt::Debug for EngineBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EngineBuilder")
            .field("config", &self.config)
            .field("resources", &self.resources)
            .finish_non_exhaustive()
    }
}
