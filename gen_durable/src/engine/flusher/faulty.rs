//! Batches that Postgres does not take: whether an outcome is to blame, and which.
//!
//! A value that Postgres refuses is its outcome's fault. Anything else (a right that is missing, a
//! statement that takes too long) may be the database's. So a batch is divided, again and again, until
//! its parts work. An outcome that fails by itself is tried by itself from then on, beside the lanes.
//!
//! Invariant: an outcome is refused for its own sake alone, and nobody else waits for it. What fails for
//! all waits until it works.

use std::{
    collections::VecDeque,
    sync::{Arc, atomic::Ordering},
    time::Instant,
};

use super::{Answer, Failed, Job, Outage, Shared, give_up, given_up, try_batch};
use crate::storage::{self, Fault};

/// After so many parts in a row that failed it is likely to be the database: the others wait.
const FAILED_MAX: usize = 4;
/// An outcome that is tried by itself has so many times the time of a batch.
const PATIENCE: u32 = 4;
/// After so many tries by itself an outcome may be refused.
const TRIES_MIN: u32 = 3;

/// Outcomes, and why they were not committed together, if that was tried.
struct Part {
    jobs: Vec<Job>,
    error: Option<sqlx::Error>,
}

/// Commits the outcomes of a batch that failed, part by part.
pub(super) async fn divide(shared: &Arc<Shared>, failed: Failed) {
    let mut outage = Outage::new("commit outcomes");
    let mut parts = VecDeque::from([Part { jobs: failed.jobs, error: Some(failed.error) }]);
    while !parts.is_empty() {
        let (mut committed, mut failures) = (false, Vec::new());
        while let Some(Part { mut jobs, error }) = parts.pop_front() {
            match error {
                Some(error) if jobs.len() == 1 => {
                    match Fault::of(&error) {
                        Fault::Data => refuse(Failed { jobs, error }),
                        _ => drop(tokio::spawn(alone(Arc::clone(shared), jobs))),
                    }
                    continue;
                }
                Some(error) if Fault::of(&error) != Fault::Connection => {
                    let right = jobs.split_off(jobs.len() / 2);
                    for jobs in [right, jobs] {
                        parts.push_front(Part { jobs, error: None });
                    }
                    continue;
                }
                _ => {}
            }
            match try_batch(shared, jobs, false, shared.connections.patience()).await {
                Ok(()) => committed = true,
                Err(failed) if given_up(shared, &failed.error) => give_up(failed),
                Err(failed) => failures.push(failed),
            }
            let unlocked = |failed: &&Failed| Fault::of(&failed.error) != Fault::Locked;
            if !committed && failures.iter().filter(unlocked).count() == FAILED_MAX {
                break;
            }
        }
        let unlocked = |failed: &&Failed| Fault::of(&failed.error) != Fault::Locked;
        if let (false, Some(failed)) = (committed, failures.iter().find(unlocked)) {
            tokio::time::sleep(outage.failed(&failed.error)).await;
        }
        // Behind those that were not tried.
        let failures = failures.into_iter();
        parts.extend(failures.map(|Failed { jobs, error }| Part { jobs, error: Some(error) }));
    }
    outage.over();
}

/// Refuses an outcome.
fn refuse(Failed { mut jobs, error }: Failed) {
    if let Some(job) = jobs.pop() {
        let _ = job.reply.to.send(Answer::Refused(error));
    }
}

/// Tries an outcome by itself that failed by itself, until it is committed, refused or given up.
async fn alone(shared: Arc<Shared>, mut jobs: Vec<Job>) {
    let mut outage = Outage::new("commit an outcome");
    let (began, batches) = (Instant::now(), shared.flusher.batches.load(Ordering::Relaxed));
    let patience = shared.connections.patience();
    let (mut tries, mut slow) = (0, false);
    loop {
        let (places, times) =
            if slow { (&shared.flusher.slow, PATIENCE) } else { (&shared.flusher.alone, 1) };
        // No semaphore is ever closed, so `acquire` cannot fail.
        let place = places.acquire().await;
        let done = try_batch(&shared, jobs, false, patience.saturating_mul(times)).await;
        drop(place);
        let failed = match done {
            Ok(()) => return outage.over(),
            Err(failed) if given_up(&shared, &failed.error) => return give_up(failed),
            Err(failed) => failed,
        };
        tries += 1;
        let fault = Fault::of(&failed.error);
        slow = fault == Fault::Size;
        // The lease was renewed meanwhile: the database works.
        let long = tries >= TRIES_MIN && began.elapsed() >= patience;
        let others = shared.flusher.batches.load(Ordering::Relaxed) > batches;
        let refused = match fault {
            Fault::Data => true,
            // Without an answer it may have been committed: the next try tells.
            Fault::Size => long && !storage::is_uncertain(&failed.error),
            Fault::Unclear => long && others,
            Fault::Connection | Fault::Database | Fault::Locked => false,
        };
        if refused {
            return refuse(failed);
        }
        let pause = outage.failed(&failed.error);
        tokio::time::sleep(pause).await;
        jobs = failed.jobs;
    }
}
