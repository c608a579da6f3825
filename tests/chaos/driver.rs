//! The driver: it inserts instances and sends signals throughout the run, from outside of the
//! workers.
//!
//! Invariant: the driver sends each signal that an instance needs in order to end, until it is
//! acknowledged. It remembers each acknowledged insert, and the instance must be there in the end.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use gen_durable::{Delivery, SignalError, operate::OperateError, prelude::*};
use gen_durable_tests::{
    booker::{Booker, BookerState},
    machines::{
        Chain, ChainState, Collector, CollectorState, EXTERNAL, Keyed, KeyedState, Once, Ping,
        Stopper,
    },
    parcels::{Order, OrderState},
    random::Random,
    trips::{Trip, TripState},
    wild::{Wild, WildState},
};
use sqlx::PgPool;
use tokio::task::{JoinHandle, JoinSet};

use crate::{Error, schedule::Fault};

/// The longest time of a call; then the driver gives it up. It is longer than most faults last.
pub(crate) const CALL_MAX: Duration = Duration::from_secs(15);

/// The statuses for a unique key that an instance holds for ever, also after its end.
pub(crate) const FOR_EVER: [Status; 6] = [
    Status::Runnable,
    Status::Executing,
    Status::AwaitingSignal,
    Status::Done,
    Status::Failed,
    Status::Cancelled,
];

pub(crate) struct Driver {
    shared: Arc<Shared>,
    bursts: JoinSet<()>,
    random: Random,
    inserting: JoinHandle<()>,
    signalling: JoinHandle<()>,
}

pub(crate) struct Shared {
    pool: PgPool,
    client: Client,
    /// The client for bursts, which would hold up the steady calls of the other one.
    busy: Client,
    stopping: AtomicBool,
    /// The driver inserts nothing any more, so no further signal will be owed.
    all_inserted: AtomicBool,
    acknowledged: AtomicU64,
    failed: AtomicU64,
    /// The ids of acknowledged inserts.
    inserted: Mutex<Vec<i64>>,
    /// External signals that were not acknowledged yet: the collector and the number.
    owed: Mutex<Vec<(InstanceId<Collector>, u32)>>,
    /// Trips that may be cancelled, and whether each has a partition key.
    trips: Mutex<Vec<(InstanceId<Trip>, bool)>>,
    problems: Mutex<Vec<String>>,
}

impl Driver {
    pub(crate) fn start(pool: PgPool, seed: u64) -> Self {
        let shared = Arc::new(Shared {
            client: Client::new(pool.clone()),
            busy: Client::new(pool.clone()),
            pool,
            stopping: AtomicBool::new(false),
            all_inserted: AtomicBool::new(false),
            acknowledged: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            inserted: Mutex::default(),
            owed: Mutex::default(),
            trips: Mutex::default(),
            problems: Mutex::default(),
        });
        let (inserter, signaller) = (Arc::clone(&shared), Arc::clone(&shared));
        Self {
            shared,
            bursts: JoinSet::new(),
            random: Random::new(seed ^ 5),
            inserting: tokio::spawn(async move { inserter.insert(Random::new(seed ^ 1)).await }),
            signalling: tokio::spawn(async move { signaller.signal(Random::new(seed ^ 2)).await }),
        }
    }

    /// Does the driver's part of a fault, beside its steady calls.
    pub(crate) fn suffer(&mut self, fault: Fault) {
        let random = Random::new(self.random.number());
        self.bursts.spawn(Arc::clone(&self.shared).suffer(fault, random));
    }

    pub(crate) fn acknowledged(&self) -> u64 {
        self.shared.acknowledged.load(Ordering::Relaxed)
    }

    pub(crate) fn failed(&self) -> u64 {
        self.shared.failed.load(Ordering::Relaxed)
    }

    /// Stops inserting, and waits until every signal that is owed is acknowledged. Returns what
    /// went wrong.
    pub(crate) async fn finish(&mut self) -> Vec<String> {
        self.shared.stopping.store(true, Ordering::Relaxed);
        let all = async {
            let mut failed = Vec::new();
            while let Some(burst) = self.bursts.join_next().await {
                failed.extend(burst.err());
            }
            failed.extend((&mut self.inserting).await.err());
            self.shared.resume_all().await;
            self.shared.all_inserted.store(true, Ordering::Release);
            failed.extend((&mut self.signalling).await.err());
            failed
        };
        if let Ok(failed) = tokio::time::timeout(Duration::from_mins(1), all).await {
            for error in failed {
                self.shared.wrong(format!("the driver failed: {error}"));
            }
        } else {
            let owed = self.shared.owed().len();
            self.shared.wrong(format!("the driver's calls do not end; {owed} signals are owed"));
        }
        std::mem::take(&mut *self.shared.problems.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Returns a problem for each acknowledged insert that is not in the database.
    pub(crate) async fn missing(&self, pool: &PgPool) -> Result<Vec<String>, Error> {
        let inserted = self.shared.inserted.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let missing: Vec<i64> = sqlx::query_scalar(
            "select a.id from unnest($1::bigint[]) as a (id)
             where not exists (select from gen_durable.instances i where i.id = a.id)",
        )
        .bind(inserted)
        .fetch_all(pool)
        .await?;
        Ok(missing.iter().map(|id| format!("instance {id} was acknowledged and is gone")).collect())
    }
}

impl Shared {
    async fn insert(&self, mut random: Random) {
        while !self.stopping.load(Ordering::Relaxed) {
            match random.below(17) {
                0..3 => {
                    let seed = u32::try_from(random.below(1 << 30)).unwrap_or(0);
                    let hops = u32::try_from(random.between(1, 30)).unwrap_or(1);
                    let chain = ChainState { hops, seed, ..ChainState::default() };
                    self.keep(Chain::insert(chain)).await;
                }
                3..5 => self.insert_collector(&mut random).await,
                5..8 => {
                    // These few keys are always busy.
                    let rows = (0..random.between(1, 6)).map(|_| {
                        let key = format!("key {}", random.below(5));
                        Keyed::insert(KeyedState::default()).partition_key(key)
                    });
                    let rows: Vec<_> = rows.collect();
                    let call = Keyed::insert_many(rows).execute(&self.client);
                    if let Some(Ok(ids)) = self.call(call).await {
                        ids.into_iter().flatten().for_each(|id| self.remember(id.get()));
                    }
                }
                8 => {
                    self.keep(Stopper::insert(KeyedState::default())).await;
                }
                9..11 => self.insert_wild(&mut random).await,
                11 | 12 => {
                    let seed = u32::try_from(random.below(1 << 30)).unwrap_or(0);
                    let entries = u32::try_from(random.between(1, 12)).unwrap_or(1);
                    self.keep(Booker::insert(BookerState { n: 0, entries, seed })).await;
                }
                13 => {
                    let seed = u32::try_from(random.below(1 << 30)).unwrap_or(0);
                    let parcels = u32::try_from(random.between(0, 40)).unwrap_or(1);
                    self.keep(Order::insert(OrderState { n: 0, parcels, seed })).await;
                }
                14 | 15 => self.travel(&mut random).await,
                _ => {
                    // The same keys come again and again, so an insert that failed is tried again.
                    let key = format!("once {}", random.below(200));
                    let insert = Once::insert(KeyedState::default());
                    self.keep(insert.unique_key(key).unique_while(FOR_EVER)).await;
                }
            }
            tokio::time::sleep(Duration::from_millis(random.between(1, 30))).await;
        }
    }

    /// Begins a trip, and cancels or kills others. A trip with a partition key is only cancelled: a
    /// killed run may overlap with the next one of its key.
    async fn travel(&self, random: &mut Random) {
        let seed = u32::try_from(random.below(1 << 30)).unwrap_or(0);
        let legs = u32::try_from(random.between(1, 12)).unwrap_or(1);
        let insert = Trip::insert(TripState { n: 0, legs, seed });
        let keyed = random.below(2) == 0;
        let insert =
            if keyed { insert.partition_key(format!("trip {}", random.below(4))) } else { insert };
        if let Some(id) = self.keep(insert).await {
            self.trips.lock().unwrap_or_else(PoisonError::into_inner).push((id, keyed));
        }
        let trip = {
            let mut trips = self.trips.lock().unwrap_or_else(PoisonError::into_inner);
            let place = usize::try_from(random.below(trips.len().max(1) as u64)).unwrap_or(0);
            (trips.len() > 3).then(|| trips.swap_remove(place))
        };
        let Some((id, keyed)) = trip else { return };
        let on = self.client.instance(id);
        // An action whose answer was lost may have been done. The audit tells.
        let machine = self.client.machine::<Trip>();
        // Each pause ends soon, by whatever clock, or in `resume_all`.
        let soon = SystemTime::now() + Duration::from_millis(random.between(100, 2_000));
        match random.below(14) {
            8 => drop(self.call(on.pause().until(soon).execute(&self.client)).await),
            9 => drop(self.call(on.resume().execute(&self.client)).await),
            10 => {
                let pause = machine.pause_step(Trip::Rest).until(soon);
                drop(self.call(pause.execute(&self.client)).await);
            }
            11 => drop(self.call(machine.pause().until(soon).execute(&self.client)).await),
            12 => drop(self.call(machine.resume().execute(&self.client)).await),
            0 | 6 if !keyed => {
                drop(self.call(on.kill("chaos").execute(&self.client)).await);
                self.go_on(id, random).await;
            }
            0..5 => drop(self.call(on.cancel("chaos").by("driver").execute(&self.client)).await),
            5 => drop(self.call(on.run_now().execute(&self.client)).await),
            _ => {}
        }
    }

    /// Ends all pauses, until that is acknowledged.
    async fn resume_all(&self) {
        let machine = self.client.machine::<Trip>();
        loop {
            let done = [
                self.call(machine.resume().execute(&self.client)).await.is_some_and(|a| a.is_ok()),
                self.call(machine.resume_step(Trip::Rest).execute(&self.client))
                    .await
                    .is_some_and(|answer| answer.is_ok()),
                self.call(self.client.instances::<Trip>().resume().execute(&self.client))
                    .await
                    .is_some_and(|answer| answer.is_ok_and(|counts| counts.locked == 0)),
            ];
            if done.into_iter().all(|done| done) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Retries or deletes a trip that was killed, unless the kill was not done.
    async fn go_on(&self, id: InstanceId<Trip>, random: &mut Random) {
        let on = self.client.instance(id);
        match random.below(3) {
            0 => drop(self.call(on.retry().execute(&self.client)).await),
            1 => {
                self.forget(id.get());
                // An engine may have to free something first.
                for _ in 0..20 {
                    match self.call(on.delete().execute(&self.client)).await {
                        Some(Err(OperateError::Unsettled { .. })) => {
                            tokio::time::sleep(Duration::from_millis(100)).await;
                        }
                        _ => break,
                    }
                }
            }
            _ => {}
        }
    }

    async fn insert_collector(&self, random: &mut Random) {
        let external = u32::try_from(random.below(4)).unwrap_or(0);
        let leaves = u32::try_from(random.below(8)).unwrap_or(0);
        let key = format!("collector {}", random.number());
        let state = CollectorState {
            leaves,
            external,
            key: Some(key.clone()),
            ..CollectorState::default()
        };
        let insert = || Collector::insert(state.clone());
        // A collector that is started with its first signal is owed that signal all the same: it
        // must be a duplicate.
        let id = if external > 0 && random.below(2) == 0 {
            self.start_surely(|| insert().unique_key(&*key)).await
        } else {
            self.insert_surely(&self.client, &key, insert).await
        };
        (0..external).for_each(|n| self.owe(id, EXTERNAL + n));
    }

    /// Starts a collector with its first external signal, or finds that an earlier try has.
    async fn start_surely(
        &self,
        insert: impl Fn() -> gen_durable::Insert<Collector>,
    ) -> InstanceId<Collector> {
        loop {
            let start = insert().unique_while(FOR_EVER).with_signal(Ping { n: EXTERNAL });
            let start = start.dedup_key(format!("external {EXTERNAL}"));
            let id = match self.call(start.execute(&self.client)).await {
                Some(Ok(reached)) => reached.id(),
                Some(Err(SignalError::Terminal { id, .. })) => InstanceId::from_raw(id),
                _ => {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            };
            self.remember(id.get());
            return id;
        }
    }

    async fn insert_wild(&self, random: &mut Random) {
        let seed = u32::try_from(random.below(1 << 30)).unwrap_or(0);
        let insert = Wild::insert(WildState { seed, ..WildState::default() });
        // With this delay, the signal below arrives before the instance runs or while it runs.
        let insert = insert.schedule_in(Duration::from_millis(random.below(20)));
        let Some(id) = self.keep(insert).await else { return };
        let bad = serde_json::json!({ "n": "not a number" });
        let _ = self.call(self.client.signal_by_name(id.get(), "ping", &bad, None)).await;
    }

    pub(crate) async fn keep<M: Machine>(
        &self,
        insert: gen_durable::Insert<M>,
    ) -> Option<InstanceId<M>> {
        let id = self.call(insert.execute(&self.client)).await?.ok()?;
        self.remember(id.get());
        Some(id)
    }

    /// Sends the signals that are owed, in any order and often a second time.
    async fn signal(&self, mut random: Random) {
        loop {
            let owed = {
                let mut owed = self.owed();
                let count = owed.len() as u64;
                (count > 0)
                    .then(|| owed.swap_remove(usize::try_from(random.below(count)).unwrap_or(0)))
            };
            let Some((id, n)) = owed else {
                if self.all_inserted.load(Ordering::Acquire) && self.owed().is_empty() {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
                continue;
            };
            match self.send(id, n).await {
                Some(Ok(Delivery::Delivered | Delivery::Duplicate)) => {
                    if random.below(3) == 0 {
                        // The second signal must have no effect. It may fail only if the collector
                        // has ended, as it then has all that it needs.
                        match self.send(id, n).await {
                            Some(Ok(Delivery::Delivered)) => {
                                self.wrong(format!("signal {n} to {id} was delivered twice"));
                            }
                            Some(Err(SignalError::Unknown { .. })) => {
                                self.wrong(format!("collector {id} is gone"));
                            }
                            _ => {}
                        }
                    }
                }
                // An earlier try, whose answer was lost, delivered the signal. Then the collector
                // got all others and ended.
                Some(Err(SignalError::Terminal { .. })) => {}
                Some(Err(SignalError::Unknown { .. } | SignalError::WrongMachine { .. })) => {
                    self.wrong(format!("collector {id} is gone, or another machine"));
                }
                _ => {
                    self.owed().push((id, n));
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
        }
    }

    pub(crate) async fn send(
        &self,
        id: InstanceId<Collector>,
        n: u32,
    ) -> Option<Result<Delivery, SignalError>> {
        let signal = Collector::signal_ping(id, Ping { n }).dedup_key(format!("external {n}"));
        self.call(signal.execute(&self.client)).await
    }

    /// Makes a call and counts it as acknowledged or failed. Returns none if the call did not
    /// return in time.
    pub(crate) async fn call<T, E>(
        &self,
        call: impl Future<Output = Result<T, E>>,
    ) -> Option<Result<T, E>> {
        let result = tokio::time::timeout(CALL_MAX, call).await.ok();
        let count = if let Some(Ok(_)) = result { &self.acknowledged } else { &self.failed };
        count.fetch_add(1, Ordering::Relaxed);
        result
    }

    /// The client for bursts.
    pub(crate) fn busy(&self) -> &Client {
        &self.busy
    }

    pub(crate) fn pool(&self) -> &PgPool {
        &self.pool
    }

    /// Remembers an acknowledged insert.
    pub(crate) fn remember(&self, id: i64) {
        self.inserted.lock().unwrap_or_else(PoisonError::into_inner).push(id);
    }

    /// Forgets an instance that may be deleted from now on.
    fn forget(&self, id: i64) {
        self.inserted.lock().unwrap_or_else(PoisonError::into_inner).retain(|known| *known != id);
    }

    pub(crate) fn owe(&self, id: InstanceId<Collector>, n: u32) {
        self.owed().push((id, n));
    }

    fn owed(&self) -> std::sync::MutexGuard<'_, Vec<(InstanceId<Collector>, u32)>> {
        self.owed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn wrong(&self, problem: String) {
        self.problems.lock().unwrap_or_else(PoisonError::into_inner).push(problem);
    }
}
