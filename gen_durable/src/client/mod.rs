//! Inserting, signalling and waiting, as an engine and a plain client do it. A client runs no
//! steps.
//!
//! Invariant: concurrent calls share commits, but for `insert_many` and inserts with a signal. A
//! call that returned is durable.

mod actions;
mod audited;
mod bulk;
mod by_name;
mod calls;
mod details;
mod direct;
mod doctor;
mod execute;
mod fork;
mod history;
mod instance;
mod limits;
mod listing;
pub(crate) mod local;
mod looks;
pub(crate) mod notifier;
mod operation;
pub(crate) mod per_runtime;
mod schedules;
mod scopes;
mod snapshot;
pub(crate) mod target;
pub(crate) mod waiters;

use std::{
    fmt, io,
    sync::Arc,
    time::{Duration, Instant},
};

use serde::Serialize;
use sqlx::PgPool;
use tokio::sync::Semaphore;

use self::target::find_receivers;
pub use self::{
    actions::{
        Action, Cancel, Cancelled, Delete, Does, Kill, Pause, Resume, Resumed, Retried, Retry,
        RunNow,
    },
    bulk::{Bulk, Counts},
    by_name::InsertByName,
    details::{Details, Limited},
    doctor::{Finding, Illness, Severity},
    fork::Fork,
    history::HistoryEntry,
    instance::InstanceHandle,
    limits::{
        Bounds, Bucket, LimitAction, LimitEntry, LimitHandle, LimitOverride, LimitReset,
        ResetLimit, SetLimit, Waiting,
    },
    listing::{Count, Cursor, Entry, Instances, List, Page},
    looks::{
        Audit, AuditEntry, AuditPage, Depth, Inbox, InboxEntry, MachineEntry, QueueEntry, RunEntry,
        RunPage, StepCount, Tree, TreeNode, Waits, WorkerEntry,
    },
    schedules::{Asked, ScheduleAction, ScheduleEntry, ScheduleHandle, SchedulePause},
    scopes::{MachineHandle, PauseEntry, PauseScope, QueueHandle, ScopeAction},
    snapshot::{AnyId, Snapshot},
    target::{ExecuteOn, Target},
};
use self::{
    calls::Calls,
    notifier::{Notifier, POLL_INTERVAL},
    per_runtime::PerRuntime,
    waiters::Waiters,
};
use crate::{
    backoff::Tries,
    connections::Connections,
    error::{
        DatabaseError, Duplicate, EncodeError, FindError, InsertError, SignalError, WaitError,
    },
    keys::{check_dedup_key, check_key, check_signal_name},
    machine::{Machine, address::Address},
    meters::SentMeters,
    status::{Delivery, Status},
    storage::{self, Addressee, Found, Locked, NewInstance, NewSignal, NoReceiver},
    trace, value,
};

/// The most `insert_many` calls of a client that are under way at a time, each on a connection.
const LARGE_MAX: usize = 2;
/// The most inserts with a signal that are under way at a time, each on a connection.
const SINGLE_MAX: usize = 2;

const HOLDER: &str = "look for the holder of a unique key";

/// Inserts, signals and waits, in a process that runs no steps.
///
/// It is cheap to clone. An [`Engine`](crate::Engine) can do the same by itself.
///
/// ```no_run
/// # use gen_durable::prelude::*;
/// # async fn example<M: Machine<State = ()>>(
/// #     pool: sqlx::PgPool,
/// # ) -> Result<(), Box<dyn std::error::Error>> {
/// let client = Client::new(pool);
/// let id = gen_durable::Insert::<M>::new(()).execute(&client).await?;
/// let result = client.wait(id, std::time::Duration::from_secs(10)).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

struct Inner {
    connections: Connections,
    /// One for each runtime: a runtime that ends must not take another one's calls with it.
    calls: PerRuntime<Calls>,
    notifier: Arc<Notifier>,
    waiters: Arc<Waiters>,
    value_max: usize,
    meters: SentMeters,
    /// Bounds `insert_many`: it must not take all connections, as an engine's other work needs
    /// some.
    large: Semaphore,
    /// Bounds the inserts with a signal, which share no commit.
    single: Semaphore,
    /// The same for those that have found a key or its holder locked.
    held: Semaphore,
}

impl Client {
    /// Makes a client on this pool, from which it borrows a connection or two at a time.
    pub fn new(pool: PgPool) -> Self {
        let connections = Connections::borrowed(pool);
        let notifier = Notifier::remote(connections.clone(), POLL_INTERVAL);
        Self::with(connections, notifier, value::VALUE_MAX)
    }

    pub(crate) fn with(
        connections: Connections,
        notifier: Arc<Notifier>,
        value_max: usize,
    ) -> Self {
        let waiters = Waiters::new(connections.clone());
        let calls = {
            let (connections, notifier) = (connections.clone(), Arc::clone(&notifier));
            PerRuntime::new(move || Calls::new(&connections, &notifier))
        };
        Self {
            inner: Arc::new(Inner {
                connections,
                calls,
                notifier,
                waiters,
                value_max,
                meters: SentMeters::of_calls(),
                large: Semaphore::new(LARGE_MAX),
                single: Semaphore::new(SINGLE_MAX),
                held: Semaphore::new(1),
            }),
        }
    }

    /// Waits until the instance has ended, and returns its result. A unique key (`M::by_key(…)`) is
    /// looked up once, at the beginning.
    ///
    /// In the process that runs the instance the result is pushed to the call. Elsewhere one query
    /// looks for all waiting calls together.
    ///
    /// # Errors
    ///
    /// [`WaitError`]: the instance failed or was cancelled, does not exist, or is of another
    /// machine; no instance holds the unique key; it did not end within `timeout`; or its result
    /// does not fit the machine's output type.
    ///
    /// The call fails at once if waiting cannot help. A schema or a right may be missing, a login
    /// refused, the pool closed, or the engine shut down. While the database cannot be reached, the
    /// call waits on. If `timeout` is over before it can, the error says what was in the way.
    pub async fn wait<M: Machine>(
        &self,
        target: impl Address<M>,
        timeout: Duration,
    ) -> Result<M::Output, WaitError> {
        let began = Instant::now();
        let id = match target.into_raw() {
            Ok(id) => id,
            Err(key) => self.holder::<M>(key, timeout).await?,
        };
        let waiters = &self.inner.waiters;
        let left = timeout.saturating_sub(began.elapsed());
        let ended = match tokio::time::timeout(left, waiters.wait(id)).await {
            Err(_elapsed) => {
                let obstacle = waiters.obstacle();
                return Err(WaitError::TimedOut { id, timeout, obstacle });
            }
            Ok(ended) => ended?.ok_or(WaitError::Unknown { id })?,
        };
        if ended.fsm != M::NAME {
            return Err(WaitError::WrongMachine { id, expected: M::NAME, found: ended.fsm });
        }
        let reason = ended.reason.unwrap_or_default();
        match ended.result {
            Some(result) => Ok(value::decode("result", M::NAME, M::VERSION, &result)?),
            None if ended.status == Status::Cancelled.as_str() => {
                Err(WaitError::Cancelled { id, reason })
            }
            None => Err(WaitError::Failed { id, reason }),
        }
    }

    /// Returns the instance that holds a unique key. While the database cannot be reached, it tries
    /// again until the time is over.
    async fn holder<M: Machine>(&self, key: String, timeout: Duration) -> Result<i64, WaitError> {
        check_key("unique_key", Some(&key))?;
        let (mut tries, mut obstacle) = (Tries::new(), None);
        let look = async {
            loop {
                match self.look_for_holder(M::NAME, &key).await {
                    Err(error) if !error.is_lasting() => obstacle = Some(error),
                    answer => return answer,
                }
                tokio::time::sleep(tries.pause()).await;
            }
        };
        let found = match tokio::time::timeout(timeout, look).await {
            Ok(found) => found?,
            Err(_elapsed) => {
                let text = format!("the database gave no answer within {timeout:?}");
                let late = || io::Error::new(io::ErrorKind::TimedOut, text);
                let late = || DatabaseError::new(HOLDER)(sqlx::Error::Io(late()));
                return Err(obstacle.unwrap_or_else(late).into());
            }
        };
        found.ok_or(WaitError::NoHolder { machine: M::NAME, key })
    }

    async fn find_receivers(
        &self,
        rows: &mut [&mut NewInstance],
    ) -> Result<Vec<Option<NoReceiver>>, sqlx::Error> {
        find_receivers(&self.inner.connections, rows).await
    }

    /// Returns the id of an instance, or the unique key if nobody holds it.
    async fn id_of<I: AnyId, E: From<EncodeError> + From<DatabaseError>>(
        &self,
        address: I,
    ) -> Result<Result<i64, String>, E> {
        let key = match address.into_raw() {
            Ok(id) => return Ok(Ok(id)),
            Err(key) => key,
        };
        check_key("unique_key", Some(&key))?;
        let holder = self.look_for_holder(I::machine().unwrap_or_default(), &key).await?;
        Ok(holder.ok_or(key))
    }

    async fn look_for_holder(&self, fsm: &str, key: &str) -> Result<Option<i64>, DatabaseError> {
        let connections = &self.inner.connections;
        let look = async {
            let mut connection = connections.get().await?;
            let look = storage::unique_holders(&mut connection, [(fsm, key)]);
            let result = connections.within(look).await;
            connection.done(result)
        };
        let found = look.await.map_err(DatabaseError::new(HOLDER));
        Ok(found.inspect_err(|error| connections.tell(error))?.into_iter().flatten().next())
    }

    /// Looks an instance up; none if it does not exist, or if no instance holds the unique key.
    ///
    /// A typed id or a unique key is answered with the typed id and the machine's own types. Tools
    /// may pass a plain number, and are answered with that number.
    ///
    /// ```
    /// use gen_durable::prelude::*;
    /// # #[durable_fsm(state = i64, output = String)]
    /// # pub enum Invoice { Send }
    /// # #[durable_fsm]
    /// # impl Invoice {
    /// #     async fn send(cx: Context<Self>) -> Outcome<Self> { cx.done("sent".to_owned()) }
    /// # }
    ///
    /// # async fn example(
    /// #     client: Client,
    /// #     id: InstanceId<Invoice>,
    /// # ) -> Result<(), Box<dyn std::error::Error>> {
    /// if let Some(invoice) = client.find(id).await? {
    ///     let output: Option<String> = invoice.output()?;
    ///     println!("{} is {}: {output:?}", invoice.id, invoice.status);
    /// }
    /// if let Some(any) = client.find(id.get()).await? {
    ///     println!("{} is of machine {}", any.id, any.machine);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`FindError`]: the instance is of another machine than its typed id says; the text cannot be
    /// a unique key; the database failed.
    pub async fn find<I: AnyId>(&self, id: I) -> Result<Option<Snapshot<I::Id>>, FindError> {
        let connections = &self.inner.connections;
        let Ok(id) = self.id_of::<I, FindError>(id).await? else { return Ok(None) };
        let ids = [id];
        let look = async {
            let mut connection = connections.get().await?;
            let result = connections.within(storage::ended(&mut connection, &ids)).await;
            connection.done(result)
        };
        let found = look.await.map_err(DatabaseError::new("look an instance up"));
        let found = found.inspect_err(|error| connections.tell(error))?;
        Snapshot::of::<I>(id, found)
    }

    /// Sends a signal by plain id and name, for tools that do not know the machine's types. The
    /// payload is a [`serde_json::Value`], say, or JSON text as a
    /// [`RawValue`](serde_json::value::RawValue), which keeps all digits of its numbers. A `String`
    /// becomes a string of JSON. Nobody checks that the machine declares a signal of this name:
    /// one that it does not declare stays in the inbox.
    ///
    /// # Errors
    ///
    /// [`SignalError`], like [`Signal::execute`](crate::Signal::execute).
    pub async fn signal_by_name(
        &self,
        id: i64,
        name: &str,
        payload: &(impl Serialize + ?Sized),
        dedup_key: Option<&str>,
    ) -> Result<Delivery, SignalError> {
        check_signal_name(name)?;
        check_dedup_key(dedup_key)?;
        self.signal(NewSignal {
            target: Addressee::Id(id),
            fsm: None,
            name: name.to_owned(),
            payload: value::encode_untyped("signal payload", payload, self.inner.value_max)?,
            dedup_key: dedup_key.map(str::to_owned),
            silent: false,
            trace_context: trace::current(),
        })
        .await
    }

    pub(crate) async fn insert(
        &self,
        row: NewInstance,
    ) -> Result<Result<i64, Duplicate>, InsertError> {
        let answer = self.inner.calls.here().insert(row).await?;
        self.inner.meters.inserts(usize::from(answer.is_ok()), usize::from(answer.is_err()));
        Ok(answer)
    }

    pub(crate) async fn insert_many(
        &self,
        rows: Vec<NewInstance>,
    ) -> Result<Vec<Result<i64, Duplicate>>, InsertError> {
        let connections = &self.inner.connections;
        let mut wait = calls::Wait::new(connections, "insert instances", "a unique key");
        wait.locked = Locked::WaitAMoment;
        let mut tries = Tries::new();
        let answers = loop {
            // The semaphore is never closed, so `acquire` cannot fail.
            let permit = self.inner.large.acquire().await;
            let inserted = calls::insert_with(connections, &rows, wait.locked).await;
            // While another transaction holds a key, other calls must not wait for this permit.
            drop(permit);
            if let Some(answers) = wait.over(inserted) {
                break answers;
            }
            tokio::time::sleep(tries.pause()).await;
        };
        let answers = answers.inspect_err(|error| connections.tell(error))?;
        let inserted = answers.iter().filter(|answer| answer.is_ok()).count();
        self.inner.meters.inserts(inserted, answers.len() - inserted);
        let notifier = &self.inner.notifier;
        notifier.announce(notifier.to_announce(&rows));
        Ok(answers)
    }

    pub(crate) async fn insert_or_signal(
        &self,
        row: NewInstance,
        signal: NewSignal,
    ) -> Result<Found, DatabaseError> {
        let connections = &self.inner.connections;
        let _under_way = connections.under_way();
        let target = signal.target.to_string();
        let mut wait = calls::Wait::new(connections, direct::INSERT_OR_SIGNAL, &target);
        wait.locked = Locked::WaitAMoment;
        let mut tries = Tries::new();
        let mut places = &self.inner.single;
        let found = loop {
            // The semaphore is never closed, so `acquire` cannot fail.
            let permit = places.acquire().await;
            let answer =
                direct::insert_or_signal_with(connections, &row, &signal, wait.locked).await;
            drop(permit);
            if let Some(found) = wait.over(answer) {
                break found;
            }
            // Another transaction has the key or its holder locked. Further tries of this call must
            // not hold up calls with other keys.
            places = &self.inner.held;
            tokio::time::sleep(tries.pause()).await;
        };
        let found = found.inspect_err(|error| connections.tell(error))?;
        let meters = &self.inner.meters;
        match (found.started, found.status.is_terminal(), found.fresh) {
            (true, ..) => {
                meters.inserts(1, 0);
                meters.signals(1, 0, 0);
            }
            (false, true, _) => meters.signals(0, 0, 1),
            (false, false, true) => meters.signals(1, 0, 0),
            (false, false, false) => meters.signals(0, 1, 0),
        }
        let notifier = &self.inner.notifier;
        let new = notifier.to_announce(found.started.then_some(&row));
        notifier.announce(new.chain(found.woken(&signal)));
        Ok(found)
    }

    pub(crate) async fn signal(&self, signal: NewSignal) -> Result<Delivery, SignalError> {
        let answer = self.inner.calls.here().signal(signal).await;
        match &answer {
            Ok(Delivery::Delivered) => self.inner.meters.signals(1, 0, 0),
            Ok(Delivery::Duplicate) => self.inner.meters.signals(0, 1, 0),
            Err(SignalError::Database(_)) => {}
            Err(_) => self.inner.meters.signals(0, 0, 1),
        }
        answer
    }

    pub(super) fn connections(&self) -> &Connections {
        &self.inner.connections
    }

    /// Returns the size of the largest value that the client sends, in bytes.
    pub(crate) fn value_max(&self) -> usize {
        self.inner.value_max
    }

    pub(crate) fn waiters(&self) -> &Arc<Waiters> {
        &self.inner.waiters
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").finish_non_exhaustive()
    }
}
