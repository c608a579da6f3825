//! The flusher: commits outcomes in batches. Each of three lanes has batches of its own.
//!
//! - The *plain* lane has the outcomes that touch their own rows alone. They wait for no lock.
//! - The *sending* lane has the outcomes that carry inserts and signals. They may have to wait, for
//!   the lock of a target or for a unique key that is being inserted.
//! - The *large* lane commits very large outcomes one by one.
//!
//! An outcome whose own row, or a target's row, is locked at every try waits for that lock by
//! itself, beside the lanes. One outcome waits at a time; the others are tried in their lanes
//! meanwhile.
//!
//! Invariant: each outcome gets exactly one answer. One that was applied is never applied again.

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
/// The most batches of the plain lane under way at a time; see [`Flusher::set_backlog`].
const TASKS_MAX: usize = 2;
/// An outcome that sends more rows, or weighs more bytes, is committed by itself: other outcomes
/// must not wait for as long as it takes.
const SENT_MAX: usize = 1000;
const LARGE: usize = 4 * WEIGHT_MAX;
/// After a batch found rows locked, batches leave locked rows out for this long, instead of waiting
/// for a moment.
const SKIPS_FOR: Duration = Duration::from_secs(1);

/// The fate of an outcome.
#[derive(Debug)]
pub(crate) enum Answer {
    /// The outcome is durable. The signals are those that have come since the last commit.
    Durable(Box<Commit>, Inbox),
    /// An earlier try, whose answer was lost, had made the outcome durable.
    DurableBefore(Box<Commit>),
    /// The database refused the outcome for its own sake: a value or a constraint of it, say.
    Refused(sqlx::Error),
    /// The worker does not own the row any more, or the outcome was given up.
    Lost,
}

/// An outcome that waits for its commit.
pub(crate) struct PendingCommit {
    commit: Box<Commit>,
    reply: Reply,
    /// An earlier try may have been applied.
    uncertain: bool,
}

/// The receiver of the answer, and what earlier tries came to.
struct Reply {
    to: oneshot::Sender<Answer>,
    /// The tries that found the row locked.
    locked: Tries,
    /// The history of an outcome that failed by itself, and is therefore tried by itself.
    alone: Option<Box<Alone>>,
}

impl Reply {
    fn new(to: oneshot::Sender<Answer>) -> Self {
        Self { to, locked: Tries::new(), alone: None }
    }
}

impl Item for PendingCommit {
    /// True if something else begins when the outcome is durable: the next step of the instance, or
    /// the next instance of its partition key.
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
    /// The outcomes with inserts and signals. They hold no other outcome up. They go one batch at a
    /// time, so that two batches of one engine cannot wait for each other.
    sending: Arc<Group<PendingCommit>>,
    /// The outcomes that are very large, one by one.
    large: Arc<Group<PendingCommit>>,
    /// The outcome that has the permit waits in Postgres for its row. No outcome queues for the
    /// permit.
    waiting: Arc<Semaphore>,
    /// Changes when a batch that sent inserts or signals has ended.
    sent: watch::Sender<()>,
    /// Until this time, batches leave locked rows out at once.
    skips: Mutex<Option<Instant>>,
    /// An outcome that has a permit is tried by itself, because its batch failed.
    alone: Arc<Semaphore>,
    /// The same for outcomes that were too slow.
    slow: Arc<Semaphore>,
    /// A batch that was too slow is divided with a permit.
    dividing: Semaphore,
    /// The number of committed outcomes, by what they did.
    deeds: [AtomicU64; DEEDS],
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
            skips: Mutex::default(),
            alone: Arc::new(Semaphore::new(2)),
            slow: Arc::new(Semaphore::new(1)),
            dividing: Semaphore::new(2),
            deeds: Default::default(),
        })
    }

    /// Creates a lane, with at most `batch_max` outcomes in a batch and `tasks_max` batches under
    /// way.
    fn lane(flusher: &Weak<Self>, batch_max: usize, tasks_max: usize) -> Arc<Group<PendingCommit>> {
        let flusher = flusher.clone();
        let run = move |commits| {
            let flusher = flusher.clone();
            Box::pin(async move {
                // An engine that is gone owns nothing. Its outcomes are dropped, and with them
                // their replies.
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

    /// Says whether more work waits than this process can claim at a time.
    ///
    /// While it does, the plain lane has one batch under way: two small batches cost more than one,
    /// and no step waits. A second one begins all the same if it is full or if the first takes
    /// long. It also begins if steps go on or partition keys become free after it.
    pub(crate) fn set_backlog(&self, backlog: bool) {
        self.plain.set_gathering(backlog);
    }

    /// Submits an outcome again whose row was locked.
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
        } else if sent > 0 {
            self.sending.submit(pending);
        } else {
            self.plain.submit(pending);
        }
    }

    /// Says what a batch does about rows that other transactions have locked. Most are free in a
    /// moment, so it waits for that. If one was not, further outcomes that need it may come, and
    /// the others must not wait for them.
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

/// A batch of which a try failed, and the error.
struct Failed {
    commits: Vec<PendingCommit>,
    error: sqlx::Error,
}

/// Commits a batch, and tries again while the lease holds. If it `waits`, it waits for the locks of
/// its rows, for as long as [`storage::commit`] does.
async fn commit_batch(flusher: &Arc<Flusher>, mut commits: Vec<PendingCommit>, waits: bool) {
    let mut outage = Outage::new("commit outcomes");
    loop {
        // Subscribed before the try: a batch that ends while this one is under way may be the one
        // that had the row locked, and must not be missed.
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
            // The try waited for the row's lock, perhaps for longer than a statement may take,
            // which looks like `Size`. If there was no answer at all, the lock was not the reason.
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
            // Each part may take long. It is divided in a task of its own, as other outcomes must
            // not wait for all of its parts.
            fault @ (Fault::Locked | Fault::Size) => {
                let flusher = Arc::clone(flusher);
                tokio::spawn(async move {
                    // Slow parts keep a connection each, so few such batches are divided at a time.
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
/// shutdown that did not wait, each try fails, and not for a reason that `handle` should hear of.
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

/// Commits a batch and answers its outcomes, or says why it failed.
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
            // It may have taken effect, unless Postgres said that it rolled back.
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

/// Answers the outcomes of a batch that was committed, and does what follows from it.
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
    // Rows that were not inserted, as their unique key was taken, are announced too. That is rare,
    // and costs one look.
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
    let (status, result) = match &commit.change {
        Change::Done { result } => ("done", Some(result.0.clone())),
        _ => ("failed", None),
    };
    waiters.push(&Ended {
        id: commit.id,
        fsm: commit.fsm.to_owned(),
        status: status.to_owned(),
        // A waiting call does not ask for the step.
        step: String::new(),
        attempt: commit.attempt,
        failures: commit.failures,
        result,
        reason: commit.error.clone(),
    });
}
