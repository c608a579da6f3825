//! Inserts and signals that share commits.
//!
//! Invariant: a call gets exactly one answer. A row that Postgres refuses fails its own call alone.

use std::sync::Arc;

use tokio::sync::oneshot;

use crate::{
    announce::Announcer,
    connections::Connections,
    error::{DatabaseError, Duplicate, SignalError},
    group::{Group, Item},
    per_runtime::Idle,
    signal::Delivery,
    storage::{self, NewInstance, NewSignal},
};

/// The most rows in one shared commit.
const BATCH_MAX: usize = 500;
/// Shared commits under way at a time.
const TASKS_MAX: usize = 2;
/// Tries of a batch that Postgres rolled back to resolve a deadlock, after the first.
const DEADLOCK_TRIES_MAX: usize = 10;

/// The calls of one runtime.
#[derive(Debug)]
pub(super) struct Calls {
    inserts: Arc<Group<InsertJob>>,
    signals: Arc<Group<SignalJob>>,
}

impl Calls {
    pub(super) fn new(connections: &Connections, announcer: &Arc<Announcer>) -> Self {
        Self {
            inserts: insert_group(connections.clone(), Arc::clone(announcer)),
            signals: signal_group(connections.clone(), Arc::clone(announcer)),
        }
    }

    pub(super) async fn insert(
        &self,
        row: NewInstance,
    ) -> Result<Result<i64, Duplicate>, DatabaseError> {
        let (reply, answer) = oneshot::channel();
        self.inserts.submit(InsertJob { row, reply });
        answer.await.unwrap_or_else(|_| Err(stopped("insert an instance")))
    }

    pub(super) async fn signal(&self, signal: NewSignal) -> Result<Delivery, SignalError> {
        let (reply, answer) = oneshot::channel();
        self.signals.submit(SignalJob { signal, reply });
        answer.await.unwrap_or_else(|_| Err(stopped("deliver a signal").into()))
    }
}

impl Idle for Calls {
    fn is_idle(&self) -> bool {
        self.inserts.is_idle() && self.signals.is_idle()
    }
}

/// The task that carried the call was dropped with its runtime, or panicked.
fn stopped(operation: &'static str) -> DatabaseError {
    DatabaseError::new(operation)(sqlx::Error::WorkerCrashed)
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
                Err(error) if rows.len() > 1 && !error.is_transient() => {
                    let mut answers = Vec::with_capacity(rows.len());
                    for row in &rows {
                        let one = insert_with(&connections, std::slice::from_ref(row)).await;
                        answers.push(one.map(|mut one| one.remove(0)));
                    }
                    answers
                }
                Err(error) => {
                    connections.tell(&error);
                    vec![Err(error); rows.len()]
                }
            };
            announcer.announce(announcer.news(&rows));
            for (reply, answer) in replies.into_iter().zip(answers) {
                let _ = reply.send(answer);
            }
        }) as _
    };
    Group::new(BATCH_MAX, TASKS_MAX, Box::new(run))
}

pub(super) async fn insert_with(
    connections: &Connections,
    rows: &[NewInstance],
) -> Result<Vec<Result<i64, Duplicate>>, DatabaseError> {
    let failed = "insert instances";
    let mut tries = 0;
    loop {
        let mut connection = connections.get().await.map_err(DatabaseError::new(failed))?;
        let insert = storage::insert(&mut connection, rows);
        // The caller knows how long very many rows take.
        let result =
            if rows.len() > BATCH_MAX { insert.await } else { connections.within(insert).await };
        match connection.done(result) {
            Err(error) if storage::is_rolled_back(&error) && tries < DEADLOCK_TRIES_MAX => {
                tries += 1;
            }
            result => return result.map_err(DatabaseError::new(failed)),
        }
    }
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
                Err(error) if refs.len() > 1 && !error.is_transient() => {
                    let mut answers = Vec::with_capacity(refs.len());
                    for signal in &refs {
                        let one = deliver(&[*signal]).await;
                        answers.push(
                            one.map_or_else(|error| Err(error.into()), |mut one| one.remove(0)),
                        );
                    }
                    answers
                }
                Err(error) => {
                    connections.tell(&error);
                    refs.iter().map(|_| Err(error.clone().into())).collect()
                }
            };
            for (reply, answer) in replies.into_iter().zip(answers) {
                let _ = reply.send(answer);
            }
        }) as _
    };
    Group::new(BATCH_MAX, TASKS_MAX, Box::new(run))
}

pub(super) async fn deliver_with(
    connections: &Connections,
    signals: &[&NewSignal],
) -> Result<storage::Sent, DatabaseError> {
    let failed = "deliver a signal";
    let mut tries = 0;
    loop {
        let mut connection = connections.get().await.map_err(DatabaseError::new(failed))?;
        let result = connections.within(storage::deliver(&mut connection, signals)).await;
        match connection.done(result) {
            Err(error) if storage::is_rolled_back(&error) && tries < DEADLOCK_TRIES_MAX => {
                tries += 1;
            }
            result => return result.map_err(DatabaseError::new(failed)),
        }
    }
}
