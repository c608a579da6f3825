//! The flusher: commits outcomes in batches. Each of three lanes has batches of its own.
//!
//! - The *plain* lane has the outcomes that touch their own rows alone. They wait for no row's
//!   lock.
//! - The *sending* lane has the outcomes that carry inserts and signals, or report their end. They
//!   may have to wait, for the lock of a target or for a unique key that is being inserted. The
//!   instances that they insert may be born claimed ([`super::births`]).
//! - The *large* lane commits very large outcomes one by one.
//!
//! An outcome whose own row, or a target's row, is locked at several tries waits for that lock in a
//! batch of one, beside the lanes. One outcome waits like this at a time. Others with locked rows
//! are tried in their lanes meanwhile.
//!
//! Invariant: each outcome gets exactly one answer. One that was applied is never applied again.

#![expect(clippy::vec_box, reason = "an outcome changes hands several times, and is large")]

mod batch;
mod faulty;
mod locked;
mod parts;

use std::sync::{Arc, Weak, atomic::AtomicU64};

use tokio::sync::{Semaphore, oneshot, watch};

use self::{
    batch::try_batch,
    faulty::{Alone, DEEDS},
    locked::retry_locked,
    parts::{few_keys, one_of_each},
};
use super::{
    lease::Lease,
    life::Life,
    maintenance::debts::log_dropped,
    outage::{Outage, no_connection},
    unblock::unblock_again,
    wake::Wake,
};
use crate::{
    backoff::Tries,
    client::{notifier::Notifier, waiters::Waiters},
    connections::{Connections, within},
    error::Cause,
    fault::{self, Fault},
    group::{Group, Item, WEIGHT_MAX},
    meters::CommitMeters,
    status::Status,
    storage::{self, Change, Commit, Ended, Inbox, LockedRows, Verdict},
    throttle::Throttle,
};

/// The most outcomes in one commit.
const BATCH_MAX: usize = 1000;
/// The most batches of the plain lane under way at a time; see [`Flusher::set_backlog`].
const TASKS_MAX: usize = 2;
/// An outcome that sends more rows than this, or weighs more bytes, goes to the large lane: other
/// outcomes must not wait for as long as its commit takes.
const SENT_MAX: usize = 1000;
const LARGE: usize = 4 * WEIGHT_MAX;

/// The fate of an outcome.
#[derive(Debug)]
pub(crate) enum Answer {
    /// The outcome is durable. The signals are those that have come since the last commit.
    Durable(Box<Commit>, Inbox),
    /// An earlier try, whose answer was lost, had made the outcome durable.
    DurableBefore(Box<Commit>),
    /// The database refused the outcome through the outcome's own fault: for a value or a
    /// constraint of it, say.
    Refused(sqlx::Error),
    /// The instance was cancelled. Nothing took effect, and this worker has to answer the cancel.
    Cancelled,
    /// The worker does not own the row any more, or the flusher gave the outcome up.
    Lost,
}

/// An outcome that waits for its commit.
pub(crate) struct PendingCommit {
    commit: Box<Commit>,
    reply: Reply,
    /// An earlier try may have been applied, and its answer lost.
    uncertain: bool,
}

/// The sender of the answer to the outcome's task, and the history of earlier tries.
struct Reply {
    to: oneshot::Sender<Answer>,
    /// The tries that found the row locked.
    locked: Tries,
    /// The history of an outcome that failed in a batch of one. From then on it is tried in batches
    /// of one, beside the lanes.
    alone: Option<Box<Alone>>,
}

impl Reply {
    fn new(to: oneshot::Sender<Answer>) -> Self {
        Self { to, locked: Tries::new(), alone: None }
    }
}

impl Item for PendingCommit {
    /// True if other work begins when the outcome is durable: the next step of the instance, or the
    /// next instance of its partition key.
    fn is_awaited(&self) -> bool {
        matches!(self.commit.change, Change::Next { .. }) || self.commit.partition_key.is_some()
    }

    fn weight(&self) -> usize {
        let result = match &self.commit.change {
            Change::Done { result } => result.0.len(),
            _ => 0,
        };
        let inserts: usize = self.commit.inserts.iter().map(|insert| insert.state.0.len()).sum();
        let signals: usize = self.commit.signals.iter().map(|signal| signal.payload.0.len()).sum();
        self.commit.state.as_ref().map_or(0, |state| state.0.len()) + result + inserts + signals
    }
}

/// Takes outcomes, and answers each when it is durable.
#[derive(Debug)]
pub(crate) struct Flusher {
    connections: Connections,
    notifier: Arc<Notifier>,
    waiters: Arc<Waiters>,
    lease: Arc<Lease>,
    wake: Arc<Wake>,
    life: Arc<Life>,
    throttle: Throttle,
    /// The outcomes that touch their own rows alone.
    plain: Arc<Group<PendingCommit>>,
    /// The outcomes with inserts and signals. One batch is under way at a time, so that two batches
    /// of one engine cannot wait for each other's locks.
    sending: Arc<Group<PendingCommit>>,
    /// The outcomes that are very large, one by one.
    large: Arc<Group<PendingCommit>>,
    /// Bounds the outcomes that wait in Postgres for a locked row: to one, because each takes a
    /// connection. An outcome that finds no permit is tried again in its lane.
    waiting: Arc<Semaphore>,
    /// Changes when a batch that sent inserts or signals was committed: its locks are free.
    sent: watch::Sender<()>,
    /// Says if a batch waits for rows that other transactions have locked, or skips them.
    locked: LockedRows,
    /// Bounds the tries, each on a connection, of outcomes that failed in a batch of one.
    alone: Arc<Semaphore>,
    /// The same for outcomes that were too slow. A try of these may take four times as long, so the
    /// others must not wait behind it.
    slow: Arc<Semaphore>,
    /// Bounds the batches that are divided because they were too large or too slow. The parts of
    /// each may keep a connection for long.
    dividing: Semaphore,
    /// The number of committed outcomes, by what they did.
    deeds: [AtomicU64; DEEDS],
    meters: CommitMeters,
}

impl Flusher {
    /// Creates a flusher that commits on these connections while the lease holds.
    pub(super) fn new(
        connections: &Connections,
        notifier: &Arc<Notifier>,
        waiters: &Arc<Waiters>,
        lease: &Arc<Lease>,
        wake: &Arc<Wake>,
        life: &Arc<Life>,
    ) -> Arc<Self> {
        Arc::new_cyclic(|flusher| Self {
            connections: connections.clone(),
            notifier: Arc::clone(notifier),
            waiters: Arc::clone(waiters),
            lease: Arc::clone(lease),
            wake: Arc::clone(wake),
            life: Arc::clone(life),
            throttle: Throttle::default(),
            plain: Self::lane(flusher, BATCH_MAX, TASKS_MAX),
            sending: Self::lane(flusher, BATCH_MAX, 1),
            large: Self::lane(flusher, 1, 1),
            waiting: Arc::new(Semaphore::new(1)),
            sent: watch::Sender::new(()),
            locked: LockedRows::default(),
            alone: Arc::new(Semaphore::new(2)),
            slow: Arc::new(Semaphore::new(1)),
            dividing: Semaphore::new(2),
            deeds: Default::default(),
            meters: CommitMeters::new(),
        })
    }

    /// Creates a lane, with at most `batch_max` outcomes in a batch and `tasks_max` batches under
    /// way.
    fn lane(flusher: &Weak<Self>, batch_max: usize, tasks_max: usize) -> Arc<Group<PendingCommit>> {
        let flusher = flusher.clone();
        let run = move |commits| {
            let flusher = flusher.clone();
            Box::pin(async move {
                // An engine that is gone owns nothing. Its outcomes are dropped with their replies,
                // and each task hears `Lost`.
                if let Some(flusher) = flusher.upgrade() {
                    for commits in one_of_each(commits).into_iter().flat_map(few_keys) {
                        commit_batch(&flusher, commits, false).await;
                    }
                }
            }) as _
        };
        Group::new(batch_max, tasks_max, Box::new(run))
    }

    /// Commits an outcome, and waits until it is durable, refused or lost.
    pub(crate) async fn commit(&self, commit: Box<Commit>) -> Answer {
        let (to, answer) = oneshot::channel();
        self.submit(PendingCommit { commit, reply: Reply::new(to), uncertain: false });
        answer.await.unwrap_or(Answer::Lost)
    }

    /// Answers an outcome that was committed in its step's own transaction.
    pub(super) fn committed(&self, commit: Box<Commit>, mut done: storage::Committed) -> Answer {
        let commits = [commit];
        self.meters.step();
        spread(self, &commits, &mut done);
        let [commit] = commits;
        follow(self, &commit);
        match done.verdicts.pop() {
            Some(Verdict::Durable { inbox }) => Answer::Durable(commit, inbox),
            _ => Answer::DurableBefore(commit),
        }
    }

    /// Answers such an outcome if only its row tells that it was committed.
    pub(super) fn committed_before(&self, commit: Box<Commit>, done: storage::Committed) -> Answer {
        self.meters.step();
        self.may_be_committed(&commit, done);
        follow(self, &commit);
        Answer::DurableBefore(commit)
    }

    /// Tells of the rows that such an outcome has woken and freed, if it was committed.
    pub(super) fn may_be_committed(&self, commit: &Commit, mut done: storage::Committed) {
        done.queues.extend(commit.inserts.iter().map(|insert| insert.queue.clone()));
        spread(self, &[], &mut done);
    }

    /// Notes if there is a backlog: more rows wait than this process can claim at a time.
    ///
    /// During a backlog the plain lane commits one batch at a time. Outcomes that come meanwhile
    /// wait and form one larger batch, because two small batches cost more than one. No step waits
    /// for them. A second batch begins beside the first in three cases only:
    ///
    /// - The waiting outcomes fill a batch.
    /// - The first batch has taken 50 ms.
    /// - A waiting outcome is [awaited](Item::is_awaited): the next step of its instance, or the
    ///   next instance of its partition key, begins after it.
    pub(crate) fn set_backlog(&self, backlog: bool) {
        self.plain.set_gathering(backlog);
    }

    /// Submits an outcome again whose row was locked: to its lane, or in a batch of one if it has
    /// failed in one before.
    fn resubmit(flusher: &Arc<Flusher>, pending: PendingCommit) {
        if pending.reply.alone.is_some() {
            tokio::spawn(faulty::alone(Arc::clone(flusher), pending));
        } else {
            flusher.submit(pending);
        }
    }

    /// Puts an outcome into its lane.
    fn submit(&self, pending: PendingCommit) {
        let sent = pending.commit.inserts.len() + pending.commit.signals.len();
        if sent > SENT_MAX || pending.weight() > LARGE {
            self.large.submit(pending);
        } else if pending.commit.sends() {
            self.sending.submit(pending);
        } else {
            self.plain.submit(pending);
        }
    }
}

/// A batch whose try failed, and the error.
struct Failed {
    commits: Vec<PendingCommit>,
    error: sqlx::Error,
}

/// Commits a batch, and tries again while the lease holds. If it `waits`, each try waits up to a
/// second for the locks of its rows and their targets. Otherwise a batch that sends waits for 20 ms
/// at most ([`Flusher::locked`]), and a plain one leaves locked rows out.
async fn commit_batch(flusher: &Arc<Flusher>, mut commits: Vec<PendingCommit>, waits: bool) {
    let mut outage = Outage::new("commit outcomes");
    loop {
        // For the outcomes of a failed try, which go to `retry_locked` below. Subscribed before the
        // try: another batch that has the row locked may end during the try, and its end must not
        // be missed.
        let sent = flusher.sent.subscribe();
        let failed =
            match try_batch(flusher, commits, waits, flusher.connections.answer_timeout()).await {
                Ok(()) => return outage.over(),
                Err(failed) => failed,
            };
        if is_over(flusher, &failed.error) {
            return give_up(failed);
        }
        match Fault::of(&failed.error) {
            // The try waited in vain for the row's lock. `Size` is here because the wait may be
            // longer than the database's `statement_timeout`, whose error counts as `Size`. Without
            // any answer the lock was not the reason: a wait for a lock ends with an error.
            Fault::Locked | Fault::Size if waits && !fault::is_uncertain(&failed.error) => {
                for mut pending in failed.commits {
                    pending.reply.locked.waited();
                    retry_locked(flusher, pending, sent.clone());
                }
                return;
            }
            Fault::Connection => {
                tokio::time::sleep(outage.failed(&failed.error)).await;
                commits = failed.commits;
            }
            // The batch is divided in a task of its own. After these errors each part may take
            // long, and the lane's other outcomes must not wait for all parts. After other errors
            // the lane itself divides the batch.
            fault @ (Fault::Locked | Fault::Size) => {
                let flusher = Arc::clone(flusher);
                tokio::spawn(async move {
                    // Slow parts keep a connection for long, so few such batches are divided at
                    // once.
                    let _place = match fault {
                        Fault::Size => flusher.dividing.acquire().await.ok(),
                        _ => None,
                    };
                    faulty::divide(&flusher, failed).await;
                });
                return;
            }
            _ => return faulty::divide(flusher, failed).await,
        }
    }
}

/// True if the outcomes are given up: the lease has run out, or the engine has stopped. After a
/// shutdown that ended before the last commits, connections are closed and each try fails. `handle`
/// must not hear of such errors. The log line names the lease in both cases.
fn is_over(flusher: &Flusher, error: &sqlx::Error) -> bool {
    let over = !flusher.lease.may_hold() || flusher.life.stopped.is_open();
    if over {
        tracing::warn!(error = %Cause(error), "outcomes given up: the lease ran out first");
    }
    over
}

fn give_up(failed: Failed) {
    for pending in failed.commits {
        let _ = pending.reply.to.send(Answer::Lost);
    }
}

/// Answers the outcomes of a batch that was committed, and does what follows from it.
fn finish(
    flusher: &Arc<Flusher>,
    commits: Vec<Box<Commit>>,
    replies: Vec<Reply>,
    mut done: storage::Committed,
    uncertain: bool,
    sent: &watch::Receiver<()>,
) {
    spread(flusher, &commits, &mut done);
    for ((commit, reply), verdict) in commits.into_iter().zip(replies).zip(done.verdicts) {
        let answer = match verdict {
            Verdict::Durable { inbox } => {
                follow(flusher, &commit);
                Answer::Durable(commit, inbox)
            }
            Verdict::DurableBefore => {
                follow(flusher, &commit);
                Answer::DurableBefore(commit)
            }
            Verdict::Lost => Answer::Lost,
            Verdict::Cancelled => Answer::Cancelled,
            Verdict::Locked => {
                flusher.locked.found();
                retry_locked(flusher, PendingCommit { commit, reply, uncertain }, sent.clone());
                continue;
            }
        };
        let _ = reply.to.send(answer);
    }
}

/// Tells of the rows that a batch has sent, woken, freed and dropped.
fn spread(flusher: &Flusher, commits: &[Box<Commit>], done: &mut storage::Committed) {
    let durable = |verdict: &Verdict| matches!(verdict, Verdict::Durable { .. });
    let sent_some = commits
        .iter()
        .zip(&done.verdicts)
        .any(|(commit, verdict)| commit.sends() && durable(verdict));
    let (mut inserts, mut signals) = (0, 0);
    for (commit, _) in commits.iter().zip(&done.verdicts).filter(|(_, verdict)| durable(verdict)) {
        faulty::count(&flusher.deeds, commit);
        inserts += commit.inserts.len();
        signals += commit.signals.len();
    }
    if sent_some {
        flusher.sent.send_replace(());
        let (taken, refused) = (done.dropped_inserts.len(), done.dropped_signals.len());
        flusher.meters.sent.inserts(inserts.saturating_sub(taken), taken);
        flusher.meters.sent.signals(signals.saturating_sub(refused), 0, refused);
    }
    tracing::debug!(outcomes = commits.len(), "committed");
    for (target, name) in std::mem::take(&mut done.dropped_signals) {
        if let Some(held_back) = flusher.throttle.allows(&format!("signal {name}")) {
            tracing::warn!(target = %target, signal = %name, held_back, "an outcome's signal was dropped: its target has ended or does not exist");
        }
    }
    for (machine, key) in std::mem::take(&mut done.dropped_inserts) {
        if let Some(held_back) = flusher.throttle.allows(&format!("insert {machine}")) {
            tracing::warn!(machine, unique_key = %key, held_back, "an outcome's insert was dropped: an instance that has not ended holds its unique key");
        }
    }
    let locked = std::mem::take(&mut done.locked_partitions);
    unblock_again(&flusher.connections, &flusher.notifier, &flusher.life, locked);
    if !done.dropped_reports.is_empty() && flusher.throttle.allows("report").is_some() {
        log_dropped(&done.dropped_reports);
    }
    // Inserts that were dropped, because their unique key was taken, are announced too. That is
    // rare, and costs one look.
    let claimed = |place: usize| {
        let new = done.new.as_ref();
        new.is_some_and(|new| new.ids[place].is_some_and(|id| new.claimed.contains(&id)))
    };
    let inserts = commits.iter().flat_map(|commit| &commit.inserts).enumerate();
    let waiting = inserts.filter(|(place, _)| !claimed(*place)).map(|(_, insert)| insert);
    let inserted = flusher.notifier.to_announce(waiting);
    flusher.notifier.announce(done.queues.iter().map(String::as_str).chain(inserted));
}

/// Does what follows in this process from a durable outcome.
fn follow(flusher: &Flusher, commit: &Commit) {
    match &commit.change {
        Change::Later { delay, .. } | Change::Repeat { delay, .. } | Change::Defer { delay } => {
            if delay.is_zero() {
                flusher.wake.claimer();
            } else {
                flusher.wake.claimer_in(*delay);
            }
        }
        Change::Await { timeout: Some(timeout), .. } => flusher.wake.claimer_in(*timeout),
        Change::Done { .. } | Change::Failed => push(flusher, commit),
        Change::Next { .. } | Change::Await { .. } | Change::Release => {}
    }
}

/// Answers the calls of this process that wait for the instance's end.
fn push(flusher: &Flusher, commit: &Commit) {
    let waiters = &flusher.waiters;
    if !waiters.expects(commit.id) {
        return;
    }
    let Change::Done { result } = &commit.change else {
        // The row tells if the instance failed, or was cancelled before.
        return waiters.hasten(commit.id);
    };
    waiters.push(&Ended {
        id: commit.id,
        fsm: commit.fsm.to_owned(),
        status: Status::Done.as_str().to_owned(),
        // A waiting call does not ask for the step.
        step: String::new(),
        attempt: commit.attempt,
        failures: commit.failures,
        result: Some(result.0.clone()),
        reason: None,
    });
}
