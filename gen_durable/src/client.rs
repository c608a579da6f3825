//! Inserting, signalling and waiting without running anything: what an engine and a plain client
//! have in common.
//!
//! Invariant: concurrent calls share commits; a call that returned is durable.

use std::{fmt, sync::Arc, time::Duration};

use sqlx::{PgConnection, PgPool};
use tokio::sync::{Semaphore, oneshot};

use crate::{
    announce::Announcer,
    connections::Connections,
    error::{DatabaseError, Duplicate, InsertError, SignalError, WaitError},
    group::{Group, Item},
    id::InstanceId,
    insert::Status,
    machine::Machine,
    signal::Delivery,
    state,
    storage::{self, NewInstance, NewSignal},
    waiters::Waiters,
};

/// The most rows in one shared commit.
const BATCH_MAX: usize = 500;
/// `insert_many` calls under way at a time.
const LARGE_MAX: usize = 2;
/// Shared commits under way at a time.
const TASKS_MAX: usize = 2;
/// How often a batch that Postgres rolled back to resolve a deadlock is tried again.
const DEADLOCK_TRIES_MAX: usize = 10;

/// Inserts, signals and waits, in a process that runs no steps.
///
/// Cheap to clone. An [`Engine`](crate::Engine) can do the same by itself.
///
/// ```no_run
/// # use gen_durable::prelude::*;
/// # async fn example<M: Machine<State = ()>>(pool: sqlx::PgPool) -> Result<(), Box<dyn std::error::Error>> {
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
    inserts: Arc<Group<InsertJob>>,
    signals: Arc<Group<SignalJob>>,
    announcer: Arc<Announcer>,
    waiters: Arc<Waiters>,
    value_max: usize,
    /// For `insert_many`: an engine's other work must not wait for all its connections.
    large: Semaphore,
}

/// What is known of an instance, for tools.
#[derive(Clone)]
#[non_exhaustive]
pub struct Snapshot {
    /// Its id.
    pub id: i64,
    /// The name of its machine.
    pub machine: String,
    /// Its status.
    pub status: Status,
    /// The name of the step that it stands at.
    pub step: String,
    /// Runs of that step before the one that is under way or due.
    pub attempt: u32,
    /// Runs of that step that failed in a row, just before that one.
    pub failures: u32,
    /// Its result, if it is done.
    pub result: Option<serde_json::Value>,
    /// Its last error, if it failed.
    pub reason: Option<String>,
}

/// Prints no result: it may be confidential.
impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Snapshot")
            .field("id", &self.id)
            .field("machine", &self.machine)
            .field("status", &self.status)
            .field("step", &self.step)
            .field("attempt", &self.attempt)
            .field("failures", &self.failures)
            .field("reason", &self.reason)
            .finish_non_exhaustive()
    }
}

impl Client {
    /// A client on this pool, from which it borrows a connection or two at a time.
    pub fn new(pool: PgPool) -> Self {
        let connections = Connections::borrowed(pool);
        let announcer = Announcer::remote(connections.clone());
        Self::with(connections, announcer, state::VALUE_MAX)
    }

    pub(crate) fn with(
        connections: Connections,
        announcer: Arc<Announcer>,
        value_max: usize,
    ) -> Self {
        let waiters = Waiters::new(connections.clone());
        let inserts = insert_group(connections.clone(), Arc::clone(&announcer));
        let signals = signal_group(connections.clone(), Arc::clone(&announcer));
        Self {
            inner: Arc::new(Inner {
                connections,
                inserts,
                signals,
                announcer,
                waiters,
                value_max,
                large: Semaphore::new(LARGE_MAX),
            }),
        }
    }

    /// Waits until the instance has ended, for its result.
    ///
    /// In the process that runs the instance the result is pushed; elsewhere one query looks for
    /// all waiting calls together.
    ///
    /// # Errors
    ///
    /// [`WaitError`]: the instance failed, does not exist, is of another machine, did not end
    /// within `timeout`, or its result does not fit the machine's output type. While the database
    /// cannot be reached, waiting goes on.
    pub async fn wait<M: Machine>(
        &self,
        id: InstanceId<M>,
        timeout: Duration,
    ) -> Result<M::Output, WaitError> {
        let id = id.get();
        let ended = match tokio::time::timeout(timeout, self.inner.waiters.wait(id)).await {
            Err(_elapsed) => return Err(WaitError::TimedOut { id, timeout }),
            Ok(None) => return Err(WaitError::Unknown { id }),
            Ok(Some(ended)) => ended,
        };
        if ended.fsm != M::NAME {
            return Err(WaitError::WrongMachine { id, expected: M::NAME, found: ended.fsm });
        }
        match ended.result {
            Some(result) => Ok(state::decode("result", M::NAME, M::VERSION, &result)?),
            None => Err(WaitError::Failed { id, reason: ended.reason.unwrap_or_default() }),
        }
    }

    /// What an instance has come to, by its plain id; none if it does not exist.
    ///
    /// # Errors
    ///
    /// [`DatabaseError`] if the database failed.
    pub async fn find(&self, id: i64) -> Result<Option<Snapshot>, DatabaseError> {
        let failed = "look an instance up";
        let mut connection =
            self.inner.connections.get().await.map_err(DatabaseError::new(failed))?;
        let ids = [id];
        let look = storage::ended(&mut connection, &ids);
        let result = self.inner.connections.within(look).await;
        let found = connection.done(result).map_err(DatabaseError::new(failed))?;
        Ok(found.into_iter().next().and_then(|ended| {
            Some(Snapshot {
                id: ended.id,
                machine: ended.fsm,
                status: Status::from_name(&ended.status)?,
                step: ended.step,
                attempt: u32::try_from(ended.attempt).unwrap_or(0),
                failures: u32::try_from(ended.failures).unwrap_or(0),
                result: ended.result.and_then(|text| serde_json::from_str(&text).ok()),
                reason: ended.reason,
            })
        }))
    }

    /// Sends a signal by plain id and name, for tools that do not know the machine's types.
    ///
    /// # Errors
    ///
    /// [`SignalError`], as [`Signal::execute`](crate::Signal::execute).
    pub async fn signal_by_name(
        &self,
        id: i64,
        name: &str,
        payload: &serde_json::Value,
        dedup_key: Option<&str>,
    ) -> Result<Delivery, SignalError> {
        state::check_key("signal name", Some(name))?;
        state::check_key("dedup_key", dedup_key)?;
        self.signal(NewSignal {
            target: id,
            fsm: None,
            name: name.to_owned(),
            payload: state::encode("signal payload", payload, self.inner.value_max)?,
            dedup_key: dedup_key.map(str::to_owned),
        })
        .await
    }

    pub(crate) async fn insert(
        &self,
        row: NewInstance,
    ) -> Result<Result<i64, Duplicate>, InsertError> {
        let (reply, answer) = oneshot::channel();
        self.inner.inserts.submit(InsertJob { row, reply });
        Ok(answer.await.unwrap_or_else(|_| Err(stopped("insert an instance")))?)
    }

    pub(crate) async fn insert_many(
        &self,
        rows: Vec<NewInstance>,
    ) -> Result<Vec<Result<i64, Duplicate>>, InsertError> {
        // Closed it is never: an error cannot be.
        let _turn = self.inner.large.acquire().await;
        let answers = insert_with(&self.inner.connections, &rows).await?;
        self.inner.announcer.announce(rows.iter().map(|row| row.queue.as_str()));
        Ok(answers)
    }

    pub(crate) async fn signal(&self, signal: NewSignal) -> Result<Delivery, SignalError> {
        let (reply, answer) = oneshot::channel();
        self.inner.signals.submit(SignalJob { signal, reply });
        answer.await.unwrap_or_else(|_| Err(stopped("deliver a signal").into()))
    }

    /// The largest value that it sends, in bytes.
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

fn stopped(operation: &'static str) -> DatabaseError {
    DatabaseError { operation, source: Arc::new(sqlx::Error::WorkerCrashed) }
}

/// An insert that waits for its batch.
struct InsertJob {
    row: NewInstance,
    reply: oneshot::Sender<Result<Result<i64, Duplicate>, DatabaseError>>,
}

impl Item for InsertJob {
    fn weight(&self) -> usize {
        self.row.state.0.len()
    }
}

fn insert_group(connections: Connections, announcer: Arc<Announcer>) -> Arc<Group<InsertJob>> {
    let run = move |jobs: Vec<InsertJob>| {
        let (connections, announcer) = (connections.clone(), Arc::clone(&announcer));
        Box::pin(async move {
            let (rows, replies): (Vec<_>, Vec<_>) =
                jobs.into_iter().map(|job| (job.row, job.reply)).unzip();
            let answers = match insert_with(&connections, &rows).await {
                Ok(answers) => answers.into_iter().map(Ok).collect(),
                // One row that Postgres refuses must not fail the others.
                Err(error) if rows.len() > 1 && !storage::is_transient(&error.source) => {
                    let mut answers = Vec::with_capacity(rows.len());
                    for row in &rows {
                        let one = insert_with(&connections, std::slice::from_ref(row)).await;
                        answers.push(one.map(|mut one| one.remove(0)));
                    }
                    answers
                }
                Err(error) => vec![Err(error); rows.len()],
            };
            announcer.announce(rows.iter().map(|row| row.queue.as_str()));
            for (reply, answer) in replies.into_iter().zip(answers) {
                let _ = reply.send(answer);
            }
        }) as _
    };
    Group::new(BATCH_MAX, TASKS_MAX, Box::new(run))
}

async fn insert_with(
    connections: &Connections,
    rows: &[NewInstance],
) -> Result<Vec<Result<i64, Duplicate>>, DatabaseError> {
    let failed = "insert instances";
    let mut tries = 0;
    loop {
        let mut connection = connections.get().await.map_err(DatabaseError::new(failed))?;
        let insert = storage::insert(&mut connection, rows);
        // How long very many rows take is the caller's to know.
        let result =
            if rows.len() > BATCH_MAX { insert.await } else { connections.within(insert).await };
        match connection.done(result) {
            Err(error) if is_rolled_back(&error) && tries < DEADLOCK_TRIES_MAX => tries += 1,
            result => return result.map_err(DatabaseError::new(failed)),
        }
    }
}

/// Whether Postgres rolled the transaction back to resolve a conflict: it is safe to try again.
fn is_rolled_back(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
    code.is_some_and(|code| code == "40P01" || code == "40001")
}

/// A signal that waits for its batch.
struct SignalJob {
    signal: NewSignal,
    reply: oneshot::Sender<Result<Delivery, SignalError>>,
}

impl Item for SignalJob {
    fn weight(&self) -> usize {
        self.signal.payload.0.len()
    }
}

fn signal_group(connections: Connections, announcer: Arc<Announcer>) -> Arc<Group<SignalJob>> {
    let run = move |jobs: Vec<SignalJob>| {
        let (connections, announcer) = (connections.clone(), Arc::clone(&announcer));
        Box::pin(async move {
            let (signals, replies): (Vec<_>, Vec<_>) =
                jobs.into_iter().map(|job| (job.signal, job.reply)).unzip();
            let refs: Vec<&NewSignal> = signals.iter().collect();
            let deliver = async |signals: &[&NewSignal]| {
                let sent = deliver_with(&connections, signals).await?;
                announcer.announce(sent.queues.iter().map(String::as_str));
                Ok::<_, DatabaseError>(sent.deliveries)
            };
            let answers = match deliver(&refs).await {
                Ok(answers) => answers,
                Err(error) if refs.len() > 1 && !storage::is_transient(&error.source) => {
                    let mut answers = Vec::with_capacity(refs.len());
                    for signal in &refs {
                        let one = deliver(&[*signal]).await;
                        answers.push(
                            one.map_or_else(|error| Err(error.into()), |mut one| one.remove(0)),
                        );
                    }
                    answers
                }
                Err(error) => refs.iter().map(|_| Err(error.clone().into())).collect(),
            };
            for (reply, answer) in replies.into_iter().zip(answers) {
                let _ = reply.send(answer);
            }
        }) as _
    };
    Group::new(BATCH_MAX, TASKS_MAX, Box::new(run))
}

async fn deliver_with(
    connections: &Connections,
    signals: &[&NewSignal],
) -> Result<storage::Sent, DatabaseError> {
    let failed = "deliver a signal";
    let mut tries = 0;
    loop {
        let mut connection = connections.get().await.map_err(DatabaseError::new(failed))?;
        let result = connections.within(storage::deliver(&mut connection, signals)).await;
        match connection.done(result) {
            Err(error) if is_rolled_back(&error) && tries < DEADLOCK_TRIES_MAX => tries += 1,
            result => return result.map_err(DatabaseError::new(failed)),
        }
    }
}

pub(crate) async fn insert_on_pool(
    pool: &PgPool,
    rows: Vec<NewInstance>,
) -> Result<Vec<Result<i64, Duplicate>>, InsertError> {
    let connections = Connections::borrowed(pool.clone());
    let answers = insert_with(&connections, &rows).await?;
    // After the commit, so that no inserter waits for another's: Postgres lets one transaction
    // with a notification commit at a time. If it fails, the engines' poll finds the rows.
    announce_on_pool(&connections, rows.iter().map(|row| row.queue.clone())).await;
    Ok(answers)
}

pub(crate) async fn signal_on_pool(
    pool: &PgPool,
    signal: NewSignal,
) -> Result<Delivery, SignalError> {
    let connections = Connections::borrowed(pool.clone());
    let mut sent = deliver_with(&connections, &[&signal]).await?;
    announce_on_pool(&connections, sent.queues.into_iter()).await;
    sent.deliveries.remove(0)
}

async fn announce_on_pool(connections: &Connections, queues: impl Iterator<Item = String>) {
    let queues = distinct(queues);
    if queues.is_empty() {
        return;
    }
    if let Ok(mut connection) = connections.get().await
        && let Err(error) = storage::announce(&mut connection, &queues).await
    {
        tracing::debug!(%error, "could not announce work; the engines' poll will find it");
    }
}

pub(crate) async fn insert_in_transaction(
    connection: &mut PgConnection,
    rows: Vec<NewInstance>,
) -> Result<Vec<Result<i64, Duplicate>>, InsertError> {
    let failed = DatabaseError::new("insert instances");
    let answers = storage::insert(connection, &rows).await.map_err(failed)?;
    notify_in_transaction(connection, rows.into_iter().map(|row| row.queue)).await?;
    Ok(answers)
}

pub(crate) async fn signal_in_transaction(
    connection: &mut PgConnection,
    signal: NewSignal,
) -> Result<Delivery, SignalError> {
    let failed = DatabaseError::new("deliver a signal");
    let mut sent = storage::deliver(connection, &[&signal]).await.map_err(failed)?;
    notify_in_transaction(connection, sent.queues.into_iter()).await?;
    sent.deliveries.remove(0)
}

/// Announces work with the caller's transaction: nobody else knows when it commits.
async fn notify_in_transaction(
    connection: &mut PgConnection,
    queues: impl Iterator<Item = String>,
) -> Result<(), DatabaseError> {
    let queues = distinct(queues);
    if queues.is_empty() {
        return Ok(());
    }
    storage::notify(connection, &queues).await.map_err(DatabaseError::new("announce work"))
}

fn distinct(queues: impl Iterator<Item = String>) -> Vec<String> {
    queues.collect::<std::collections::BTreeSet<_>>().into_iter().collect()
}
