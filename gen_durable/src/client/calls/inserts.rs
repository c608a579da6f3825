//! Inserts that share commits.
//!
//! Invariant: a batch waits a moment for a unique key that somebody else is inserting. The row that
//! needs the key is then tried by itself.

use std::{sync::Arc, time::Instant};

use tokio::sync::{Semaphore, oneshot};

use super::{BATCH_MAX, DEADLOCK_TRIES_MAX, TASKS_MAX, WAITING_MAX, held};
use crate::{
    announce::Announcer,
    connections::Connections,
    error::{DatabaseError, Duplicate},
    group::{Group, Item},
    storage::{self, Locked, NewInstance},
    tries::Tries,
};

const INSERT: &str = "insert instances";

type Answer = Result<Result<i64, Duplicate>, DatabaseError>;

/// An insert that waits for its batch.
pub(super) struct Job {
    row: NewInstance,
    reply: oneshot::Sender<Answer>,
    since: Instant,
}

impl Job {
    pub(super) fn new(row: NewInstance) -> (Self, oneshot::Receiver<Answer>) {
        let (reply, answer) = oneshot::channel();
        (Self { row, reply, since: Instant::now() }, answer)
    }
}

impl Item for Job {
    fn weight(&self) -> usize {
        self.row.state.0.len()
    }
}

/// What the inserts of a group share.
#[derive(Clone)]
struct Inserts {
    connections: Connections,
    announcer: Arc<Announcer>,
    waiting: Arc<Semaphore>,
}

pub(super) fn group(connections: &Connections, announcer: &Arc<Announcer>) -> Arc<Group<Job>> {
    let inserts = Inserts {
        connections: connections.clone(),
        announcer: Arc::clone(announcer),
        waiting: Arc::new(Semaphore::new(WAITING_MAX)),
    };
    let run = move |jobs: Vec<Job>| {
        let inserts = inserts.clone();
        Box::pin(async move { inserts.run(jobs).await }) as _
    };
    Group::new(BATCH_MAX, TASKS_MAX, Box::new(run))
}

impl Inserts {
    /// Inserts a batch. One that fails for a row's sake is halved, until the row is alone.
    async fn run(&self, jobs: Vec<Job>) {
        let mut batches = vec![jobs];
        while let Some(mut jobs) = batches.pop() {
            let (rows, replies): (Vec<_>, Vec<_>) =
                jobs.into_iter().map(|job| (job.row, (job.reply, job.since))).unzip();
            let inserted = insert_with(&self.connections, &rows, Locked::WaitAMoment).await;
            let error = match inserted {
                Ok(answers) => {
                    self.announcer.announce(self.announcer.news(&rows));
                    for ((reply, _), answer) in replies.into_iter().zip(answers) {
                        let _ = reply.send(Ok(answer));
                    }
                    continue;
                }
                Err(error) => error,
            };
            let again = rows.into_iter().zip(replies);
            jobs = again.map(|(row, (reply, since))| Job { row, reply, since }).collect();
            if jobs.len() > 1 && error.is_divisible() {
                let right = jobs.split_off(jobs.len() / 2);
                batches.extend([right, jobs]);
            } else if error.is_locked() {
                for job in jobs {
                    let inserts = self.clone();
                    tokio::spawn(async move { inserts.wait(job).await });
                }
            } else {
                self.connections.tell(&error);
                for job in jobs {
                    let _ = job.reply.send(Err(error.clone()));
                }
            }
        }
    }

    /// Tries a row by itself whose unique key somebody else is inserting.
    async fn wait(&self, job: Job) {
        let mut tries = Tries::new();
        let answer = loop {
            tokio::time::sleep(tries.pause()).await;
            let row = std::slice::from_ref(&job.row);
            // The semaphore is never closed, so `acquire` cannot fail.
            let place = self.waiting.acquire().await;
            let inserted = insert_with(&self.connections, row, Locked::WaitAMoment).await;
            drop(place);
            match inserted {
                Err(error) if error.is_locked() => {
                    let key = format!(
                        "unique key `{}`",
                        job.row.unique_key.as_deref().unwrap_or_default()
                    );
                    if let Some(error) = held(INSERT, &key, job.since, self.connections.patience())
                    {
                        break Err(error);
                    }
                }
                Err(error) => break Err(error),
                Ok(mut answers) => break Ok(answers.remove(0)),
            }
        };
        if answer.is_ok() {
            let rows = std::slice::from_ref(&job.row);
            self.announcer.announce(self.announcer.news(rows));
        }
        let _ = job.reply.send(answer);
    }
}

/// Inserts rows in a transaction of its own.
pub(in crate::client) async fn insert_with(
    connections: &Connections,
    rows: &[NewInstance],
    locked: Locked,
) -> Result<Vec<Result<i64, Duplicate>>, DatabaseError> {
    let mut tries = 0;
    loop {
        let mut connection = connections.get().await.map_err(DatabaseError::new(INSERT))?;
        let insert = storage::insert(&mut connection, rows, locked);
        // The caller knows how long very many rows take.
        let result =
            if rows.len() > BATCH_MAX { insert.await } else { connections.within(insert).await };
        match connection.done(result) {
            Err(error) if storage::is_rolled_back(&error) && tries < DEADLOCK_TRIES_MAX => {
                tries += 1;
            }
            result => return result.map_err(DatabaseError::new(INSERT)),
        }
    }
}
