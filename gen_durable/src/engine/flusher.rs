//! Committing outcomes in groups.
//!
//! Three lanes. Most outcomes touch their own rows alone; they never wait for anybody's lock, and two
//! batches may be under way at a time. While claims find all that they ask for, it is one: two small batches cost
//! more than one, and nobody waits. A second begins all the same if it is full, if the first takes long, or if steps
//! go on or keys become free after it. Outcomes that carry inserts and signals may have to wait (for
//! the lock of a target, for a unique key that is being inserted); they go one batch at a time, so
//! that two batches of one engine cannot wait for each other, and hold nobody else up. An outcome of the
//! first kind whose row is locked whenever it is tried waits for its turn in the third lane, alone: one is in
//! there, none is queued, and the others are tried in their own lanes meanwhile. So is one of the second kind if
//! somebody else's transaction has the row of a target. Outcomes that are very large are committed one by one.
//!
//! Invariant: every outcome gets exactly one answer; one that was applied is never applied again.

#![expect(clippy::vec_box, reason = "an outcome changes hands several times, and is large")]

mod faulty;
mod locked;
mod parts;

use std::{
    sync::{Arc, Mutex, PoisonError, Weak, atomic::AtomicU64},
    time::{Duration, Instant},
};

use tokio::sync::{Semaphore, oneshot, watch};

use self::{
    faulty::{Alone, DEEDS},
    locked::retry_locked,
    parts::{few_keys, one_of_each},
};
use super::{
    lease::Lease,
    life::Life,
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
    storage::{self, Change, Commit, Ended, Inbox, Locked, Verdict},
    throttle::Throttle,
};

/// The most outcomes in one commit.
const BATCH_MAX: usize = 1000;
/// Commits of the plain lane under way at a time.
const TASKS_MAX: usize = 2;
/// An outcome with more rows to send, or of more bytes, is committed by itself: others must not wait for
/// as long as it takes.
const SENT_MAX: usize = 1000;
const LARGE: usize = 4 * WEIGHT_MAX;
/// For so long a lane that found rows locked leaves them out, instead of waiting for a moment.
const SKIPS_FOR: Duration = Duration::from_secs(1);

/// What became of an outcome.
#[derive(Debug)]
pub(crate) enum Answer {
    /// Durable, with the signals that have come since the last commit.
    Durable(Box<Commit>, Inbox),
    /// Durable since an earlier try whose answer was lost.
    DurableBefore(Box<Commit>),
    /// The database refused it: a value or a constraint.
    Refused(sqlx::Error),
    /// The worker does not own the row any more.
    Lost,
}

/// An outcome that waits for its commit.
pub(crate) struct PendingCommit {
    commit: Box<Commit>,
    reply: Reply,
    /// Whether an earlier try may have been applied.
    uncertain: bool,
}

/// Where to answer, and what became of earlier tries.
struct Reply {
    to: oneshot::Sender<Answer>,
    /// How often the row was found locked.
    locked: Tries,
    /// It failed by itself, and is tried by itself.
    alone: Option<Box<Alone>>,
}

impl Reply {
    fn new(to: oneshot::Sender<Answer>) -> Self {
        Self { to, locked: Tries::new(), alone: None }
    }
}

impl Item for PendingCommit {
    /// The instance's next step begins when it is durable, or its partition key is free.
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

/// Takes outcomes and answers when they are durable.
#[derive(Debug)]
pub(crate) struct Flusher {
    connections: Connections,
    notifier: Arc<Notifier>,
    waiters: Arc<Waiters>,
    lease: Arc<Lease>,
    wake: Arc<Wake>,
    life: Arc<Life>,
    throttle: Throttle,
    plain: Arc<Group<PendingCommit>>,
    sending: Arc<Group<PendingCommit>>,
    large: Arc<Group<PendingCommit>>,
    /// Whoever has the permit is the one that waits for its row.
    waiting: Arc<Semaphore>,
    /// Told when a batch of those that send has ended.
    sent: watch::Sender<()>,
    /// Until when rows that are locked are left out at once.
    skips: Mutex<Option<Instant>>,
    /// Whoever has a permit is tried by itself, as its batch failed.
    alone: Arc<Semaphore>,
    /// The same for those that were too slow.
    slow: Arc<Semaphore>,
    /// Whoever has a permit divides a batch that was too slow.
    dividing: Semaphore,
    /// What was committed, by what it did.
    deeds: [AtomicU64; DEEDS],
}

impl Flusher {
    /// A flusher that commits on these connections while the lease holds.
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
            skips: Mutex::default(),
            alone: Arc::new(Semaphore::new(2)),
            slow: Arc::new(Semaphore::new(1)),
            dividing: Semaphore::new(2),
            deeds: Default::default(),
        })
    }

    fn lane(flusher: &Weak<Self>, batch_max: usize, tasks_max: usize) -> Arc<Group<PendingCommit>> {
        let flusher = flusher.clone();
        let run = move |commits| {
            let flusher = flusher.clone();
            Box::pin(async move {
                // An engine that is gone owns nothing; its commits' replies are dropped.
                if let Some(flusher) = flusher.upgrade() {
                    for commits in one_of_each(commits).into_iter().flat_map(few_keys) {
                        commit_batch(&flusher, commits, false).await;
                    }
                }
            }) as _
        };
        Group::new(batch_max, tasks_max, Box::new(run))
    }

    /// Commits an outcome and waits until it is durable, refused or lost.
    pub(crate) async fn commit(&self, commit: Box<Commit>) -> Answer {
        let (to, answer) = oneshot::channel();
        self.submit(PendingCommit { commit, reply: Reply::new(to), uncertain: false });
        answer.await.unwrap_or(Answer::Lost)
    }

    /// Says whether more work waits than this process can claim at a time.
    pub(crate) fn set_backlog(&self, backlog: bool) {
        self.plain.set_gathering(backlog);
    }

    /// Takes an outcome up again whose row was locked.
    fn resubmit(flusher: &Arc<Flusher>, pending: PendingCommit) {
        if pending.reply.alone.is_some() {
            tokio::spawn(faulty::alone(Arc::clone(flusher), pending));
        } else {
            flusher.submit(pending);
        }
    }

    fn submit(&self, pending: PendingCommit) {
        let sent = pending.commit.inserts.len() + pending.commit.signals.len();
        if sent > SENT_MAX || pending.weight() > LARGE {
            self.large.submit(pending);
        } else if sent > 0 {
            self.sending.submit(pending);
        } else {
            self.plain.submit(pending);
        }
    }

    /// What to do about rows that somebody else has locked: most are free in a moment. If one was not,
    /// further ones that need it may come, and others must not wait for them.
    fn locked(&self) -> Locked {
        let skips = *self.skips.lock().unwrap_or_else(PoisonError::into_inner);
        match skips {
            Some(until) if Instant::now() < until => Locked::Skip,
            _ => Locked::WaitAMoment,
        }
    }

    fn skip_locked(&self) {
        let until = Instant::now() + SKIPS_FOR;
        *self.skips.lock().unwrap_or_else(PoisonError::into_inner) = Some(until);
    }
}

/// Why a try of a batch failed, and the batch.
struct Failed {
    commits: Vec<PendingCommit>,
    error: sqlx::Error,
}

/// Commits a batch, trying again while the lease holds. If it `waits`, then for the locks of its rows, for
/// as long as [`storage::commit`] does.
async fn commit_batch(flusher: &Arc<Flusher>, mut commits: Vec<PendingCommit>, waits: bool) {
    let mut outage = Outage::new("commit outcomes");
    loop {
        // Before the try: what ends while it is on its way may be what had the row locked.
        let sent = flusher.sent.subscribe();
        let failed =
            match try_batch(flusher, commits, waits, flusher.connections.answer_timeout()).await {
                Ok(()) => return outage.over(),
                Err(failed) => failed,
            };
        if given_up(flusher, &failed.error) {
            return give_up(failed);
        }
        match Fault::of(&failed.error) {
            // The row's lock was waited for, perhaps for longer than a statement may take. Without an answer
            // it was not the lock.
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
            // Each part may take long: others must not wait for all of them.
            fault @ (Fault::Locked | Fault::Size) => {
                let flusher = Arc::clone(flusher);
                tokio::spawn(async move {
                    // Slow ones keep a connection each.
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

/// Whether there is nobody left to commit for. After a shutdown that did not wait every try fails, and not
/// for a reason that `handle` should hear of.
fn given_up(flusher: &Flusher, error: &sqlx::Error) -> bool {
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

/// Commits a batch and answers it, or says why not.
async fn try_batch(
    flusher: &Arc<Flusher>,
    commits: Vec<PendingCommit>,
    waits: bool,
    answer_timeout: Duration,
) -> Result<(), Failed> {
    let sent = flusher.sent.subscribe();
    let mut uncertain = commits.iter().any(|pending| pending.uncertain);
    let (commits, replies): (Vec<Box<Commit>>, Vec<_>) =
        commits.into_iter().map(|pending| (pending.commit, pending.reply)).unzip();
    let mut locked = if waits { Locked::WaitBriefly } else { flusher.locked() };
    loop {
        let result = async {
            let mut connection = flusher.connections.get().await.map_err(no_connection)?;
            let mut committing = false;
            let commit =
                storage::commit(&mut connection, &commits, uncertain, locked, &mut committing);
            let result = within(answer_timeout, commit).await;
            // Postgres said that it rolled back, or nobody can say.
            uncertain |= committing && matches!(&result, Err(error) if fault::is_uncertain(error));
            connection.done(result)
        };
        match result.await {
            Ok(done) => {
                finish(flusher, commits, replies, done, uncertain, &sent);
                return Ok(());
            }
            Err(error) if locked == Locked::WaitAMoment && fault::is_lock_timeout(&error) => {
                flusher.skip_locked();
                locked = Locked::Skip;
            }
            Err(error) => {
                let commits = commits.into_iter().zip(replies);
                let commits =
                    commits.map(|(commit, reply)| PendingCommit { commit, reply, uncertain });
                return Err(Failed { commits: commits.collect(), error });
            }
        }
    }
}

/// Answers a batch that was committed.
fn finish(
    flusher: &Arc<Flusher>,
    commits: Vec<Box<Commit>>,
    replies: Vec<Reply>,
    done: storage::Committed,
    uncertain: bool,
    sent: &watch::Receiver<()>,
) {
    let durable = |verdict: &Verdict| matches!(verdict, Verdict::Durable { .. });
    let sent_some = commits
        .iter()
        .zip(&done.verdicts)
        .any(|(commit, verdict)| commit.sends() && durable(verdict));
    for (commit, _) in commits.iter().zip(&done.verdicts).filter(|(_, verdict)| durable(verdict)) {
        faulty::count(&flusher.deeds, commit);
    }
    if sent_some {
        flusher.sent.send_replace(());
    }
    tracing::debug!(outcomes = commits.len(), "committed");
    for (target, name) in done.dropped_signals {
        if let Some(held_back) = flusher.throttle.allows(&format!("signal {name}")) {
            tracing::warn!(target_instance = target, signal = %name, held_back, "an outcome's signal was dropped: its target has ended or does not exist");
        }
    }
    for (machine, key) in done.dropped_inserts {
        if let Some(held_back) = flusher.throttle.allows(&format!("insert {machine}")) {
            tracing::warn!(machine, unique_key = %key, held_back, "an outcome's insert was dropped: an instance that has not ended holds its unique key");
        }
    }
    unblock_again(&flusher.connections, &flusher.notifier, &flusher.life, done.locked_partitions);
    // Also of what was not inserted, which is rare and costs a look.
    let inserted = flusher.notifier.news(commits.iter().flat_map(|commit| &commit.inserts));
    flusher.notifier.announce(done.queues.iter().map(String::as_str).chain(inserted));
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
            Verdict::Locked => {
                flusher.skip_locked();
                retry_locked(flusher, PendingCommit { commit, reply, uncertain }, sent.clone());
                continue;
            }
        };
        let _ = reply.to.send(answer);
    }
}

/// What follows in this process from an outcome that is durable.
fn follow(flusher: &Flusher, commit: &Commit) {
    match &commit.change {
        Change::Later { delay, .. } | Change::Repeat { delay, .. } | Change::Defer { delay } => {
            if delay.is_zero() {
                flusher.wake.claimer();
            } else {
                flusher.wake.in_time(*delay);
            }
        }
        Change::Await { timeout: Some(timeout), .. } => flusher.wake.in_time(*timeout),
        Change::Done { .. } | Change::Failed => push(flusher, commit),
        Change::Next { .. } | Change::Await { .. } | Change::Release => {}
    }
}

/// Answers those who wait in this process.
fn push(flusher: &Flusher, commit: &Commit) {
    let waiters = &flusher.waiters;
    if !waiters.expects(commit.id) {
        return;
    }
    let (status, result) = match &commit.change {
        Change::Done { result } => ("done", Some(result.0.clone())),
        _ => ("failed", None),
    };
    waiters.push(&Ended {
        id: commit.id,
        fsm: commit.fsm.to_owned(),
        status: status.to_owned(),
        // A waiting call asks for neither.
        step: String::new(),
        attempt: commit.attempt,
        failures: commit.failures,
        result,
        reason: commit.error.clone(),
    });
}
