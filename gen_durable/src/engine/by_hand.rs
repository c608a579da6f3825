//! An engine without tasks, for the test kit: each part works when a lab calls it.
//!
//! ```text
//!   claim ──► run ──► outcome committed
//!              │
//!              └── dropped: a crash ──► the row is left to the reaper, which returns it
//! ```
//!
//! Invariant: the parts are those of any engine, and only their caller differs. Each step needs a
//! claim of its own, as with `run_ahead(1, …)`.

mod step;

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

pub(crate) use self::step::run_step;
pub(crate) use super::registry::{Call, Watch, Work, describe};
use super::{
    EngineBuilder, Shared, cancels, claimer, executor,
    lease::Lease,
    limiter, lost_claims,
    maintenance::{self, Database},
    pauses, register,
    transactions::Transactions,
};
use crate::{
    client::Client,
    connections::Connections,
    error::{DatabaseError, Error},
    group::WEIGHT_MAX,
    storage::{self, ClaimRequest},
};

/// The lease of a lab's worker, by the database's clock and by this process's. The lab renews it
/// whenever it moves the database's clock.
const LEASE: Duration = Duration::from_hours(7 * 24);

/// An engine whose parts a lab calls.
pub(crate) struct ByHand {
    shared: Arc<Shared>,
}

impl EngineBuilder {
    /// Makes the parts of an engine of the test kit. It has no tasks: a lab calls them. It serves
    /// the queues of all machines, and each step needs a claim of its own.
    ///
    /// It borrows its connections, so that it has none between two calls of the lab.
    async fn by_hand(mut self, watch: Watch) -> Result<Arc<Shared>, Error> {
        let registry = self.check()?;
        for runner in registry.runners() {
            self.config.queues.entry(runner.queue().to_owned()).or_insert(1);
        }
        self.watch = Some(watch);
        self.config.poll_only = true;
        self.config.lease_ttl = LEASE;
        self.config.run_ahead_steps_max = 1;
        // A lab causes as many losses as the test wants.
        self.config.crashes_max = u32::MAX;
        let connections = Connections::borrowed(self.pool.clone());
        let asked = Instant::now();
        let declared = std::mem::take(&mut self.declared);
        let worker = register::register(&connections, &self.config, &registry, &declared).await?;
        let lease = Lease::new(worker, asked, self.config.lease_ttl);
        let steps = Connections::borrowed(self.pool.clone());
        let max = self.config.max_transactions;
        let transactions = Transactions::new(steps, &connections, max, true);
        Ok(self.share(connections, transactions, registry, (lease, declared)))
    }
}

/// A claimed row, until it is run.
pub(crate) struct Held(Work);

impl Held {
    pub(crate) fn id(&self) -> i64 {
        self.0.instance.id
    }
}

impl ByHand {
    /// Checks everything, and registers the worker.
    pub(crate) async fn start(builder: EngineBuilder, watch: Watch) -> Result<Self, Error> {
        let shared = builder.by_hand(watch).await?;
        #[cfg(feature = "schedules")]
        super::schedules::look(&shared).await.map_err(DatabaseError::new("declare schedules"))?;
        Ok(Self { shared })
    }

    /// Returns the engine's client.
    pub(crate) fn client(&self) -> &Client {
        &self.shared.client
    }

    fn worker(&self) -> i64 {
        self.shared.lease.worker()
    }

    /// Notes which runs have ended, and lets in rows that wait for limits.
    async fn look_at_limits(&self) -> Result<Option<Duration>, DatabaseError> {
        let looked = limiter::run_once(&self.shared).await;
        looked.map_err(DatabaseError::new("let in what limits hold back"))
    }

    /// Claims due rows, up to `rows` of each queue. Rows of paused scopes are given back.
    pub(crate) async fn claim(&self, rows: i64) -> Result<Vec<Held>, DatabaseError> {
        let shared = &self.shared;
        let failed = || DatabaseError::new("claim work");
        self.look_at_limits().await?;
        let queues = shared.config.queue_names();
        let request = ClaimRequest {
            worker: shared.lease.worker(),
            wanted: vec![rows; queues.len()],
            beyond: vec![0; queues.len()],
            without_lock: queues.clone(),
            queues,
            kinds: Arc::clone(&shared.kinds),
            known: Vec::new(),
            settled: false,
            bytes_max: i64::try_from(WEIGHT_MAX).unwrap_or(i64::MAX),
            light: None,
        };
        loop {
            let claim = claimer::claim(shared, &request).await.map_err(failed())?;
            if let Some(error) = claim.failed {
                return Err(failed()(error));
            }
            let mut claimed: Vec<_> = claim.rows.into_iter().map(|row| (row, true)).collect();
            pauses::hold_claimed(shared, &mut claimed).await;
            let paused = claimed.iter().any(|(_, runs)| !runs);
            let mut held = Vec::new();
            for (row, runs) in claimed {
                let Some((queue, work)) = claimer::begin(shared, &request, row) else { continue };
                if runs {
                    held.push(Held(work));
                } else {
                    executor::release_now(shared, queue, work).await;
                }
            }
            // Rows that were moved out of the claim's index may have hidden others.
            if !held.is_empty() || !(paused || claim.cleared) {
                return Ok(held);
            }
            // A step may have ended the pause meanwhile.
            self.look_at_pauses().await?;
        }
    }

    /// Runs a row until it leaves the worker: one step.
    pub(crate) async fn run(&self, Held(work): Held) {
        // The claim has found the queue.
        let Some(queue) = self.shared.queues.get(&*work.instance.queue) else { return };
        if let Some(work) = queue.enter(work) {
            executor::run(&self.shared, queue, work).await;
        }
        self.transactions_ended().await;
        cancels::answer(&self.shared).await;
    }

    /// Waits until the transactions of runs that were dropped have ended.
    pub(crate) async fn transactions_ended(&self) {
        self.shared.transactions.none().await;
    }

    /// Takes a row from its run, as the reaper does from a lost worker.
    pub(crate) async fn lose(&self, id: i64) -> Result<(), DatabaseError> {
        let (shared, worker) = (&self.shared, self.worker());
        let loss = async {
            let mut connection = shared.connections.get().await?;
            let abandoned = storage::abandon(&mut connection, worker, &[id]).await;
            connection.done(abandoned)?;
            maintenance::reap(&Database::of(shared)).await
        };
        loss.await.map_err(DatabaseError::new("take a row from a lost worker"))
    }

    /// Gives back all rows that a call left claimed which failed or was dropped.
    pub(crate) async fn give_all_back(&self) -> Result<(), DatabaseError> {
        self.transactions_ended().await;
        let given = lost_claims::give_all_back(&self.shared).await;
        given.map_err(DatabaseError::new("give back what was claimed"))
    }

    /// Forgets a row that was not run, as a process does that dies.
    pub(crate) fn forget(&self, Held(work): Held) {
        if let Some(queue) = self.shared.queues.get(&*work.instance.queue) {
            queue.claimed.fetch_sub(1, Ordering::SeqCst);
        }
        self.shared.tasks.end(work.instance.id);
    }

    /// Learns what is paused.
    pub(crate) async fn look_at_pauses(&self) -> Result<(), DatabaseError> {
        let looked = pauses::look(&self.shared).await;
        looked.map(drop).map_err(DatabaseError::new("ask what is paused"))
    }

    /// Runs each maintenance service until it is idle.
    pub(crate) async fn maintain(&self) -> Result<(), DatabaseError> {
        self.shared.pauses.tell();
        self.fire_schedules().await?;
        maintenance::run_once(&Database::of(&self.shared)).await?;
        cancels::answer(&self.shared).await;
        // The database has refused whatever a run committed.
        if self.shared.wake.suspects_lost_claims() {
            self.shared.wake.clear_suspicion();
            self.give_all_back().await?;
        }
        Ok(())
    }

    /// Fires the schedules that are due. Returns the time until the next one is.
    #[cfg(feature = "schedules")]
    async fn fire_schedules(&self) -> Result<Option<Duration>, DatabaseError> {
        loop {
            let looked = super::schedules::look(&self.shared).await;
            let next = looked.map_err(DatabaseError::new("fire schedules"))?;
            if next != Some(Duration::ZERO) {
                return Ok(next);
            }
        }
    }

    #[cfg(not(feature = "schedules"))]
    #[expect(clippy::unused_async, reason = "as with the feature")]
    async fn fire_schedules(&self) -> Result<Option<Duration>, DatabaseError> {
        Ok(None)
    }

    /// Renews the lease after the database's clock was moved.
    pub(crate) async fn renew(&self) -> Result<(), DatabaseError> {
        let (shared, worker, asked) = (&self.shared, self.worker(), Instant::now());
        let renewal = async {
            let mut connection = shared.connections.get().await?;
            let renewed = storage::renew_lease(&mut connection, worker, LEASE).await;
            connection.done(renewed)
        };
        renewal.await.map_err(DatabaseError::new("renew the lab's lease"))?;
        shared.lease.granted(worker, asked);
        Ok(())
    }

    /// Returns the time until the next row or schedule is due, until the next park times out, or
    /// until the next pause ends, whichever is first.
    pub(crate) async fn next_due(&self) -> Result<Option<Duration>, DatabaseError> {
        let shared = &self.shared;
        let failed = || DatabaseError::new("ask when work is due");
        let look = async {
            let mut connection = shared.connections.get().await?;
            let queues = shared.config.queue_names();
            let due =
                storage::next_due(&mut connection, &queues, &shared.kinds, Duration::ZERO).await;
            connection.done(due)
        };
        let due = look.await.map_err(failed())?;
        let (pause_ends, _) = pauses::look(shared).await.map_err(failed())?;
        let schedule = self.fire_schedules().await?;
        let limit = self.look_at_limits().await?;
        // A row that is due now and did not run waits for another transaction.
        let later = |due: &Duration| !due.is_zero();
        Ok([due.eligible, due.wake, pause_ends, schedule, limit]
            .into_iter()
            .flatten()
            .filter(later)
            .min())
    }
}
