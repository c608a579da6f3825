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
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use super::{Answer, Failed, Flusher, Outage, PendingCommit, give_up, given_up, try_batch};
use crate::{
    fault::Fault,
    storage::{self, Change, Commit, Locked},
};

/// After so many parts in a row that failed it is likely to be the database: the others wait.
const FAILED_MAX: usize = 4;
/// An outcome that is tried by itself has so many times the time of a batch.
const SLOW_TIMEOUTS: u32 = 4;
/// After so many tries by itself an outcome may be refused.
const TRIES_MIN: u32 = 3;

/// The number of [deeds].
pub(super) const DEEDS: usize = 5;

/// What an outcome does, and other outcomes may not: each needs statements, and rights, of its own.
fn deeds(commit: &Commit) -> [bool; DEEDS] {
    [
        true,
        !commit.inserts.is_empty(),
        !commit.signals.is_empty(),
        !commit.consumed.is_empty()
            || commit.listens && matches!(commit.change, Change::Done { .. }),
        matches!(commit.change, Change::Await { .. }),
    ]
}

/// Counts what an outcome did that was committed.
pub(super) fn count(counts: &[AtomicU64; DEEDS], commit: &Commit) {
    for (count, _) in counts.iter().zip(deeds(commit)).filter(|(_, does)| *does) {
        count.fetch_add(1, Ordering::Relaxed);
    }
}

/// What is known of an outcome that is tried by itself, also while its row is locked: the backend of a try
/// that was given up may have it for a while.
pub(super) struct Alone {
    began: Instant,
    /// What had been committed before the last try.
    deeds: [u64; DEEDS],
    /// Tries that may be the outcome's own fault.
    tries: u32,
    pub(super) slow: bool,
}

impl Alone {
    fn new(flusher: &Flusher) -> Self {
        Self { began: Instant::now(), deeds: Self::committed(flusher), tries: 0, slow: false }
    }

    fn committed(flusher: &Flusher) -> [u64; DEEDS] {
        std::array::from_fn(|deed| flusher.deeds[deed].load(Ordering::Relaxed))
    }

    /// A try failed by itself. What may be the database's fault counts only if others that do the same were
    /// committed since the try before.
    fn failed(&mut self, flusher: &Flusher, fault: Fault, deeds: [bool; DEEDS]) {
        let now = Self::committed(flusher);
        let others_can = (0..DEEDS).all(|deed| !deeds[deed] || now[deed] > self.deeds[deed]);
        self.tries += u32::from(match fault {
            Fault::Data | Fault::Size => true,
            Fault::Database | Fault::Unclear => others_can,
            Fault::Connection | Fault::Locked => false,
        });
        self.deeds = now;
        self.slow |= fault == Fault::Size;
    }
}

/// Notes that a try failed.
fn note<'a>(flusher: &Flusher, pending: &'a mut PendingCommit, fault: Fault) -> &'a Alone {
    let deeds = deeds(&pending.commit);
    let known = pending.reply.alone.get_or_insert_with(|| Box::new(Alone::new(flusher)));
    known.failed(flusher, fault, deeds);
    known
}

/// Whether Postgres takes an outcome of nothing: the locks and the time that the statement needs in any case.
async fn takes_nothing(flusher: &Flusher) -> bool {
    let Ok(mut connection) = flusher.connections.get().await else { return false };
    let mut committing = false;
    let commit = storage::commit(&mut connection, &[], false, Locked::Skip, &mut committing);
    let result = flusher.connections.within(commit).await;
    connection.done(result).is_ok()
}

/// Outcomes, and why they were not committed together, if that was tried.
struct Part {
    commits: Vec<PendingCommit>,
    error: Option<sqlx::Error>,
}

/// Commits the outcomes of a batch that failed, part by part.
pub(super) async fn divide(flusher: &Arc<Flusher>, failed: Failed) {
    let mut outage = Outage::new("commit outcomes");
    let mut parts = VecDeque::from([Part { commits: failed.commits, error: Some(failed.error) }]);
    while !parts.is_empty() {
        let (mut committed, mut failures) = (false, Vec::new());
        while let Some(Part { mut commits, error }) = parts.pop_front() {
            match error {
                Some(error) if commits.len() == 1 => {
                    match Fault::of(&error) {
                        Fault::Data => refuse(Failed { commits, error }),
                        _ => {
                            for mut pending in commits {
                                note(flusher, &mut pending, Fault::of(&error));
                                tokio::spawn(alone(Arc::clone(flusher), pending));
                            }
                        }
                    }
                    continue;
                }
                Some(error) if Fault::of(&error) != Fault::Connection => {
                    let right = commits.split_off(commits.len() / 2);
                    for commits in [right, commits] {
                        parts.push_front(Part { commits, error: None });
                    }
                    continue;
                }
                _ => {}
            }
            match try_batch(flusher, commits, false, flusher.connections.answer_timeout()).await {
                Ok(()) => committed = true,
                Err(failed) if given_up(flusher, &failed.error) => give_up(failed),
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
        parts
            .extend(failures.map(|Failed { commits, error }| Part { commits, error: Some(error) }));
    }
    outage.over();
}

/// Refuses an outcome.
fn refuse(Failed { mut commits, error }: Failed) {
    if let Some(pending) = commits.pop() {
        let _ = pending.reply.to.send(Answer::Refused(error));
    }
}

/// Tries an outcome by itself that failed by itself, until it is committed, refused or given up; or until
/// its row is found locked, after which it comes back here.
pub(super) async fn alone(flusher: Arc<Flusher>, mut pending: PendingCommit) {
    let mut outage = Outage::new("commit an outcome");
    let answer_timeout = flusher.connections.answer_timeout();
    loop {
        let slow = pending.reply.alone.as_ref().is_some_and(|known| known.slow);
        let (places, times) =
            if slow { (&flusher.slow, SLOW_TIMEOUTS) } else { (&flusher.alone, 1) };
        // No semaphore is ever closed, so `acquire` cannot fail.
        let place = places.acquire().await;
        let done =
            try_batch(&flusher, vec![pending], false, answer_timeout.saturating_mul(times)).await;
        drop(place);
        let mut failed = match done {
            Ok(()) => return outage.over(),
            Err(failed) if given_up(&flusher, &failed.error) => return give_up(failed),
            Err(failed) => failed,
        };
        let Some(again) = failed.commits.pop() else { return };
        pending = again;
        let fault = Fault::of(&failed.error);
        let uncertain = pending.uncertain;
        let known = note(&flusher, &mut pending, fault);
        // The lease was renewed meanwhile: the database works.
        let long = known.tries >= TRIES_MIN && known.began.elapsed() >= answer_timeout;
        let refused = match fault {
            Fault::Data => true,
            // Without an answer it may have been committed: the next try tells, if it is let. If it has been,
            // the outcome of `handle` takes no effect: both have one revision.
            Fault::Size => {
                long && (!uncertain || known.tries >= 2 * TRIES_MIN)
                    && takes_nothing(&flusher).await
            }
            Fault::Database | Fault::Unclear => long,
            Fault::Connection | Fault::Locked => false,
        };
        if refused {
            let _ = pending.reply.to.send(Answer::Refused(failed.error));
            return;
        }
        tokio::time::sleep(outage.failed(&failed.error)).await;
    }
}
