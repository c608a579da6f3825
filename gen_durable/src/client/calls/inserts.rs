//! Inserts that share commits.
//!
//! Invariant: a batch waits only a moment for a unique key that another transaction is inserting.
//! The row that needs the key is then tried by itself.

use std::{collections::HashSet, sync::Arc, time::Instant};

use tokio::sync::{Semaphore, oneshot};

use super::{BATCH_MAX, DEADLOCK_TRIES_MAX, TASKS_MAX, WAITING_MAX, held};
use crate::{
    backoff::Tries,
    client::{local::LocalEngine, notifier::Notifier},
    connections::Connections,
    error::{DatabaseError, Duplicate},
    fault::{self, Fault},
    group::{Group, Item},
    storage::{self, Inserted, Locked, NewInstance},
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
            let error = match self.insert(&rows).await {
                Ok(answers) => {
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
            let inserted = self.insert(row).await;
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
        let _ = pending.reply.send(answer);
    }

    /// Inserts rows, and announces those that were not born claimed.
    async fn insert(
        &self,
        rows: &[NewInstance],
    ) -> Result<Vec<Result<i64, Duplicate>>, DatabaseError> {
        let local = self.notifier.local();
        let (answers, born) =
            insert_or_claim(&self.connections, rows, Locked::WaitAMoment, local).await?;
        let is_born =
            |answer: &Result<i64, Duplicate>| answer.as_ref().is_ok_and(|id| born.contains(id));
        let others = rows.iter().zip(&answers).filter(|(_, answer)| !is_born(answer));
        self.notifier.announce(self.notifier.to_announce(others.map(|(row, _)| row)));
        Ok(answers)
    }
}

/// Inserts rows in a transaction of their own.
pub(in crate::client) async fn insert_with(
    connections: &Connections,
    rows: &[NewInstance],
    locked: Locked,
) -> Result<Vec<Result<i64, Duplicate>>, DatabaseError> {
    Ok(insert_or_claim(connections, rows, locked, None).await?.0)
}

/// Inserts rows in a transaction of their own. The engine of this process may claim some of them in
/// it, and runs these. Returns their ids too.
async fn insert_or_claim(
    connections: &Connections,
    rows: &[NewInstance],
    locked: Locked,
    local: Option<&dyn LocalEngine>,
) -> Result<(Vec<Result<i64, Duplicate>>, HashSet<i64>), DatabaseError> {
    let (mut tries, mut local, mut refused) = (0, local, None);
    loop {
        let mut connection = connections.get().await.map_err(DatabaseError::new(INSERT))?;
        // Slots are reserved for as long as the statement takes, and not for the wait for a
        // connection.
        let all: Vec<&NewInstance> = rows.iter().collect();
        let reservation = local.and_then(|local| local.reserve(&all));
        let birth = reservation.as_ref().map(|reservation| reservation.birth());
        let insert = storage::insert(&mut connection, rows, locked, birth);
        // Very many rows may take longer than the answer timeout, and only the caller knows how
        // long.
        let result =
            if rows.len() > BATCH_MAX { insert.await } else { connections.within(insert).await };
        let error = match connection.done(result) {
            Ok(Inserted { answers, born }) => {
                let ids = born.claimed.iter().map(|row| row.id).collect();
                if let Some(reservation) = reservation {
                    let inserted: Vec<_> =
                        answers.iter().map(|answer| answer.as_ref().ok().copied()).collect();
                    reservation.run(&inserted, born);
                }
                refused.inspect(|local: &&dyn LocalEngine| local.refused());
                return Ok((answers, ids));
            }
            Err(error) => error,
        };
        let failed = |error| Err(DatabaseError::new(INSERT)(error));
        if let Some(reservation) = reservation {
            if fault::is_uncertain(&error) {
                return failed(error);
            }
            reservation.undo();
            // A unique key that another transaction is inserting keeps the rows from being inserted
            // without a claim too.
            let locked = Fault::of(&error) == Fault::Locked
                && rows.iter().any(|row| row.unique_key.is_some());
            if !locked {
                refused = local.take();
                continue;
            }
        }
        if !fault::is_rolled_back(&error) || tries >= DEADLOCK_TRIES_MAX {
            return failed(error);
        }
        tries += 1;
    }
}
