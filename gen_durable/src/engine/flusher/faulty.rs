//! Batches that Postgres does not take: finds the outcome that is to blame, if one is.
//!
//! A value that Postgres refuses is its outcome's fault. Any other error may be the database's: a
//! missing right, a statement that takes too long. Therefore a batch that fails is divided again
//! and again until its parts work. An outcome that fails by itself is tried by itself from then on,
//! beside the lanes.
//!
//! Invariant: an outcome is refused for its own sake alone, and no other outcome waits for it. A
//! failure that meets all outcomes is waited out.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use super::{Answer, Failed, Flusher, Outage, PendingCommit, give_up, is_over, try_batch};
use crate::{
    fault::Fault,
    storage::{self, Change, Commit, Locked},
};

/// The number of failed parts, with none that worked, after which the database is likely to be to
/// blame: the other parts wait.
const FAILED_MAX: usize = 4;
/// An outcome that was too slow, and is tried by itself, has this many times the time of a batch.
const SLOW_TIMEOUTS: u32 = 4;
/// The least number of failed tries by itself before an outcome may be refused, unless a value of
/// it is to blame.
const TRIES_MIN: u32 = 3;

/// The number of kinds of [deeds].
pub(super) const DEEDS: usize = 7;

/// Says which deeds are an outcome's: to commit at all, to insert, to signal, to delete signals, to
/// park, to park until several signals have come, to report the instance's end. Each needs
/// statements and rights of its own, so one may fail where others work.
fn deeds(commit: &Commit) -> [bool; DEEDS] {
    [
        true,
        !commit.inserts.is_empty(),
        !commit.signals.is_empty(),
        !commit.consumed.is_empty()
            || commit.listens && matches!(commit.change, Change::Done { .. }),
        matches!(commit.change, Change::Await { .. }),
        commit.awaits_count().is_some(),
        commit.reports_to().is_some(),
    ]
}

/// Counts the deeds of an outcome that was committed.
pub(super) fn count(counts: &[AtomicU64; DEEDS], commit: &Commit) {
    for (count, _) in counts.iter().zip(deeds(commit)).filter(|(_, does)| *does) {
        count.fetch_add(1, Ordering::Relaxed);
    }
}

/// The history of an outcome that is tried by itself. It is kept while the row is locked: the
/// backend of a try that was given up may have locked it for a while.
pub(super) struct Alone {
    began: Instant,
    /// The counts of committed deeds at the last try.
    deeds: [u64; DEEDS],
    /// The failed tries that may be the outcome's own fault.
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

    /// Counts a try that failed by itself. A failure that may be the database's counts only if
    /// outcomes with the same deeds were committed since the try before.
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

/// Notes in an outcome's history that a try failed.
fn note<'a>(flusher: &Flusher, pending: &'a mut PendingCommit, fault: Fault) -> &'a Alone {
    let deeds = deeds(&pending.commit);
    let known = pending.reply.alone.get_or_insert_with(|| Box::new(Alone::new(flusher)));
    known.failed(flusher, fault, deeds);
    known
}

/// True if Postgres takes an empty batch: the locks and the time that every batch needs are there.
async fn can_commit(flusher: &Flusher) -> bool {
    let Ok(mut connection) = flusher.connections.get().await else { return false };
    let mut committing = false;
    let commit = storage::commit(&mut connection, &[], false, Locked::Skip, None, &mut committing);
    let result = flusher.connections.within(commit).await;
    connection.done(result).is_ok()
}

/// A part of a batch, and the error of its try, if it was tried as a whole.
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
                Err(failed) if is_over(flusher, &failed.error) => give_up(failed),
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
        // The failed parts go behind those that were not tried.
        let failures = failures.into_iter();
        parts
            .extend(failures.map(|Failed { commits, error }| Part { commits, error: Some(error) }));
    }
    outage.over();
}

/// Tells the outcome's run that the database refused it.
fn refuse(Failed { mut commits, error }: Failed) {
    if let Some(pending) = commits.pop() {
        let _ = pending.reply.to.send(Answer::Refused(error));
    }
}

/// Tries an outcome by itself that failed by itself, until it is committed, refused or given up. If
/// its row is found locked, this try ends, and the outcome comes back here later.
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
            Err(failed) if is_over(&flusher, &failed.error) => return give_up(failed),
            Err(failed) => failed,
        };
        let Some(again) = failed.commits.pop() else { return };
        pending = again;
        let fault = Fault::of(&failed.error);
        let uncertain = pending.uncertain;
        let known = note(&flusher, &mut pending, fault);
        // An answer timeout is at least a lease. The lease was renewed meanwhile, so the database
        // works.
        let long = known.tries >= TRIES_MIN && known.began.elapsed() >= answer_timeout;
        let refused = match fault {
            Fault::Data => true,
            // A try without an answer may have been committed. The next try tells, if it gets an
            // answer. If it was committed, the outcome of `handle` takes no effect, because both
            // have the same revision.
            Fault::Size => {
                long && (!uncertain || known.tries >= 2 * TRIES_MIN) && can_commit(&flusher).await
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
