//! Inserts that share commits.
//!
//! Invariant: a batch waits only a moment for a unique key that another transaction is inserting.
//! The row that needs the key is then tried by itself.

use std::{sync::Arc, time::Instant};

use tokio::sync::{Semaphore, oneshot};

use super::{BATCH_MAX, DEADLOCK_TRIES_MAX, TASKS_MAX, WAITING_MAX, held};
use crate::{
    backoff::Tries,
    client::notifier::Notifier,
    connections::Connections,
    error::{DatabaseError, Duplicate},
    fault,
    group::{Group, Item},
    storage::{self, Locked, NewInstance},
};

const INSERT: &str = "insert instances";

type Answer = Result<Result<i64, Duplicate>, DatabaseError>;

/// An insert that waits for its batch.
pub(super) struct PendingInsert {
    row: NewInstance,
    reply: oneshot::Sender<Answer>,
    since: Instant,
}

impl PendingInsert {
    pub(super) fn new(row: NewInstance) -> (Self, oneshot::Receiver<Answer>) {
        let (reply, answer) = oneshot::channel();
        (Self { row, reply, since: Instant::now() }, answer)
    }
}

impl Item for PendingInsert {
    fn weight(&self) -> usize {
        self.row.state.0.len()
    }
}

/// The parts that the inserts of a group share.
#[derive(Clone)]
struct Inserts {
    connections: Connections,
    notifier: Arc<Notifier>,
    waiting: Arc<Semaphore>,
}

pub(super) fn group(
    connections: &Connections,
    notifier: &Arc<Notifier>,
) -> Arc<Group<PendingInsert>> {
    let inserts = Inserts {
        connections: connections.clone(),
        notifier: Arc::clone(notifier),
        waiting: Arc::new(Semaphore::new(WAITING_MAX)),
    };
    let run = move |batch: Vec<PendingInsert>| {
        let inserts = inserts.clone();
        Box::pin(async move { inserts.run(batch).await }) as _
    };
    Group::new(BATCH_MAX, TASKS_MAX, Box::new(run))
}

impl Inserts {
    /// Inserts a batch. A batch that fails because of one row is halved, until that row is alone.
    async fn run(&self, batch: Vec<PendingInsert>) {
        let mut batches = vec![batch];
        while let Some(mut batch) = batches.pop() {
            let (rows, replies): (Vec<_>, Vec<_>) = batch
                .into_iter()
                .map(|pending| (pending.row, (pending.reply, pending.since)))
                .unzip();
            let inserted = insert_with(&self.connections, &rows, Locked::WaitAMoment).await;
            let error = match inserted {
                Ok(answers) => {
                    self.notifier.announce(self.notifier.to_announce(&rows));
                    for ((reply, _), answer) in replies.into_iter().zip(answers) {
                        let _ = reply.send(Ok(answer));
                    }
                    continue;
                }
                Err(error) => error,
            };
            let again = rows.into_iter().zip(replies);
            batch =
                again.map(|(row, (reply, since))| PendingInsert { row, reply, since }).collect();
            if batch.len() > 1 && error.is_divisible() {
                let right = batch.split_off(batch.len() / 2);
                batches.extend([right, batch]);
            } else if error.is_locked() {
                for pending in batch {
                    let inserts = self.clone();
                    tokio::spawn(async move { inserts.wait(pending).await });
                }
            } else {
                self.connections.tell(&error);
                for pending in batch {
                    let _ = pending.reply.send(Err(error.clone()));
                }
            }
        }
    }

    /// Tries a row by itself until it is answered: another transaction is inserting its unique key.
    async fn wait(&self, pending: PendingInsert) {
        let mut tries = Tries::new();
        let answer = loop {
            tokio::time::sleep(tries.pause()).await;
            let row = std::slice::from_ref(&pending.row);
            // The semaphore is never closed, so `acquire` cannot fail.
            let place = self.waiting.acquire().await;
            let inserted = insert_with(&self.connections, row, Locked::WaitAMoment).await;
            drop(place);
            match inserted {
                Err(error) if error.is_locked() => {
                    let key = format!(
                        "unique key `{}`",
                        pending.row.unique_key.as_deref().unwrap_or_default()
                    );
                    if let Some(error) =
                        held(INSERT, &key, pending.since, self.connections.answer_timeout())
                    {
                        break Err(error);
                    }
                }
                Err(error) => break Err(error),
                Ok(mut answers) => break Ok(answers.remove(0)),
            }
        };
        if answer.is_ok() {
            let rows = std::slice::from_ref(&pending.row);
            self.notifier.announce(self.notifier.to_announce(rows));
        }
        let _ = pending.reply.send(answer);
    }
}

/// Inserts rows in a transaction of their own.
pub(in crate::client) async fn insert_with(
    connections: &Connections,
    rows: &[NewInstance],
    locked: Locked,
) -> Result<Vec<Result<i64, Duplicate>>, DatabaseError> {
    let mut tries = 0;
    loop {
        let mut connection = connections.get().await.map_err(DatabaseError::new(INSERT))?;
        let insert = storage::insert(&mut connection, rows, locked);
        // Very many rows may take longer than the answer timeout, and only the caller knows how
        // long.
        let result =
            if rows.len() > BATCH_MAX { insert.await } else { connections.within(insert).await };
        match connection.done(result) {
            Err(error) if fault::is_rolled_back(&error) && tries < DEADLOCK_TRIES_MAX => {
                tries += 1;
            }
            result => return result.map_err(DatabaseError::new(INSERT)),
        }
    }
}
