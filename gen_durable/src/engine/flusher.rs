//! Committing outcomes in groups.
//!
//! Three lanes. Most outcomes touch their own rows alone; they never wait for anybody's lock, and two
//! batches may be under way at a time. While claims find all that they ask for, it is one: two small batches cost
//! more than one, and nobody waits. A second begins all the same if it is full, if the first takes long, or if steps
//! go on or keys become free after it. Outcomes that carry inserts and signals may have to wait (for
//! the lock of a target, for a unique key that is being inserted); they go one batch at a time, so
//! that two batches of one engine cannot wait for each other, and hold nobody else up. An outcome of the
//! first kind whose row is locked whenever it is tried waits for its turn in the third lane, alone: one is in
//! there, none is queued, and the others are tried in their own lanes meanwhile.
//!
//! Invariant: every outcome gets exactly one answer; one that was applied is never applied again.

#![expect(clippy::vec_box, reason = "an outcome changes hands several times, and is large")]

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};

use super::{Shared, freeing::free_again, outage::Outage};
use crate::{
    error::Cause,
    group::{Group, Item},
    storage::{self, Change, Commit, Ended, InboxRow, Verdict},
};

/// The most outcomes in one commit.
const BATCH_MAX: usize = 1000;
/// Commits of the plain lane under way at a time.
const TASKS_MAX: usize = 2;
/// The first and the longest pause before a row that somebody else has locked is tried again.
const LOCKED_PAUSE_MIN: Duration = Duration::from_millis(2);
const LOCKED_PAUSE_MAX: Duration = Duration::from_millis(100);
/// After so many tries that found its row locked, an outcome takes its place among those who wait for it. Twice
/// as many after it waited in vain, up to the most: at the longest pause, that is about a minute.
const LOCKED_TRIES_MIN: u32 = 5;
const LOCKED_TRIES_MAX: u32 = 640;

/// What became of an outcome.
#[derive(Debug)]
pub(crate) enum Answer {
    /// Durable, with the inbox for the next step.
    Durable(Box<Commit>, Vec<InboxRow>),
    /// Durable since an earlier try whose answer was lost.
    DurableBefore(Box<Commit>),
    /// The database refused it: a value or a constraint.
    Refused(sqlx::Error),
    /// The worker does not own the row any more.
    Lost,
}

/// An outcome that waits for its commit.
pub(crate) struct Job {
    commit: Box<Commit>,
    reply: Reply,
    /// Whether an earlier try may have been applied.
    uncertain: bool,
}

/// Where to answer, how often the row was found locked since the outcome last waited for it, at how many such
/// tries it may wait for it again, and how long to pause before the next one.
struct Reply {
    to: oneshot::Sender<Answer>,
    locked_tries: u32,
    locked_tries_max: u32,
    locked_pause: Duration,
}

impl Reply {
    fn new(to: oneshot::Sender<Answer>) -> Self {
        Self {
            to,
            locked_tries: 0,
            locked_tries_max: LOCKED_TRIES_MIN,
            locked_pause: LOCKED_PAUSE_MIN,
        }
    }

    /// Counts a try that found the row locked; whether the outcome may wait for it now.
    fn found_locked(&mut self) -> bool {
        self.locked_tries = self.locked_tries.saturating_add(1);
        self.locked_tries >= self.locked_tries_max
    }

    /// The outcome has waited in vain.
    fn waited(&mut self) {
        self.locked_tries = 0;
        self.locked_tries_max = (self.locked_tries_max * 2).min(LOCKED_TRIES_MAX);
    }
}

impl Item for Job {
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
    plain: Arc<Group<Job>>,
    sending: Arc<Group<Job>>,
    /// Whoever has the permit is the one that waits for its row.
    waiting: Arc<Semaphore>,
    /// Told when a batch of those that send has ended.
    sent: watch::Sender<()>,
}

impl Flusher {
    pub(crate) fn new(shared: &Weak<Shared>) -> Self {
        let lane = |tasks_max| {
            let shared = shared.clone();
            let run = move |jobs| {
                let shared = shared.clone();
                Box::pin(async move {
                    // An engine that is gone owns nothing; its jobs' replies are dropped.
                    if let Some(shared) = shared.upgrade() {
                        for jobs in one_of_each(jobs) {
                            commit_batch(&shared, jobs, false).await;
                        }
                    }
                }) as _
            };
            Group::new(BATCH_MAX, tasks_max, Box::new(run))
        };
        Self {
            plain: lane(TASKS_MAX),
            sending: lane(1),
            waiting: Arc::new(Semaphore::new(1)),
            sent: watch::Sender::new(()),
        }
    }

    /// Commits an outcome and waits until it is durable, refused or lost.
    pub(crate) async fn commit(&self, commit: Box<Commit>) -> Answer {
        let (to, answer) = oneshot::channel();
        self.submit(Job { commit, reply: Reply::new(to), uncertain: false });
        answer.await.unwrap_or(Answer::Lost)
    }

    /// Says whether more work waits than this process can claim at a time.
    pub(crate) fn set_backlog(&self, backlog: bool) {
        self.plain.set_patient(backlog);
    }

    fn submit(&self, job: Job) {
        if job.commit.sends() { self.sending.submit(job) } else { self.plain.submit(job) }
    }
}

/// Divides a batch so that no part has two outcomes of one instance.
///
/// There are two if the instance was taken from this worker and claimed by it again while the old run of
/// its step went on. What a commit consumes and what it answers goes by the instance's id: with both in
/// one, the old run's signals and inserts would go out with the new one's.
///
/// Each part is in the order of ids, in which the statement looks rows up: Postgres would take longer to sort them.
fn one_of_each(mut jobs: Vec<Job>) -> Vec<Vec<Job>> {
    // Of one instance, what came first stays first.
    jobs.sort_by_key(|job| job.commit.id);
    if jobs.is_sorted_by(|one, next| one.commit.id < next.commit.id) {
        return vec![jobs];
    }
    let mut last = None;
    let (first, again): (Vec<_>, Vec<_>) =
        jobs.into_iter().partition(|job| last.replace(job.commit.id) != Some(job.commit.id));
    let mut parts = vec![first];
    parts.extend(one_of_each(again));
    parts
}

/// Commits a batch, trying again while the lease holds. If it `waits`, then for the locks of its rows, for
/// as long as [`storage::commit`] does.
async fn commit_batch(shared: &Arc<Shared>, jobs: Vec<Job>, waits: bool) {
    let mut outage = Outage::new("commit outcomes");
    let mut uncertain = jobs.iter().any(|job| job.uncertain);
    let (commits, replies): (Vec<Box<Commit>>, Vec<_>) =
        jobs.into_iter().map(|job| (job.commit, job.reply)).unzip();
    loop {
        // Before the try: what ends while it is on its way may be what had the row locked.
        let sent = shared.flusher.sent.subscribe();
        let result = async {
            let mut connection = shared.connections.get().await.map_err(no_connection)?;
            let commit = storage::commit(&mut connection, &commits, uncertain, waits);
            let result = shared.connections.within(commit).await;
            // Postgres said that it rolled back, or nobody can say.
            uncertain |= matches!(&result, Err(error) if error.as_database_error().is_none());
            connection.done(result)
        };
        let error = match result.await {
            Ok(done) => {
                outage.over();
                return finish(shared, commits, replies, done, uncertain, &sent);
            }
            Err(error) => error,
        };
        // Looked at first: after a shutdown that did not wait, every try fails, and not for a reason that
        // `handle` should hear of.
        if !shared.lease.may_hold() || shared.stopped.is_open() {
            tracing::warn!(error = %Cause(&error), outcomes = commits.len(), "outcomes given up: the lease ran out first");
            for reply in replies {
                let _ = reply.to.send(Answer::Lost);
            }
            return;
        }
        if waits && storage::is_lock_timeout(&error) {
            for (commit, mut reply) in commits.into_iter().zip(replies) {
                reply.waited();
                retry_locked(shared, Job { commit, reply, uncertain }, sent.clone());
            }
            return;
        }
        if !storage::is_transient(&error) {
            return isolate(shared, commits, replies, error, uncertain).await;
        }
        tokio::time::sleep(outage.failed(&error)).await;
    }
}

/// Whatever the reason that there is no connection (a login that is refused, say, while a password is changed), it
/// is none of the outcomes', and may pass.
fn no_connection(error: sqlx::Error) -> sqlx::Error {
    match error {
        error if storage::is_transient(&error) => error,
        error => sqlx::Error::Protocol(format!("no connection: {}", Cause(&error))),
    }
}

/// Finds the outcome that Postgres refuses: halves the batch until it stands alone.
async fn isolate(
    shared: &Arc<Shared>,
    commits: Vec<Box<Commit>>,
    mut replies: Vec<Reply>,
    error: sqlx::Error,
    uncertain: bool,
) {
    if commits.len() == 1 {
        if let Some(reply) = replies.pop() {
            let _ = reply.to.send(Answer::Refused(error));
        }
        return;
    }
    let mut left: Vec<Job> = commits
        .into_iter()
        .zip(replies)
        .map(|(commit, reply)| Job { commit, reply, uncertain })
        .collect();
    let right = left.split_off(left.len() / 2);
    // A batch that waits for locks is one outcome.
    Box::pin(commit_batch(shared, left, false)).await;
    Box::pin(commit_batch(shared, right, false)).await;
}

/// Answers a batch that was committed.
fn finish(
    shared: &Arc<Shared>,
    commits: Vec<Box<Commit>>,
    replies: Vec<Reply>,
    done: storage::Committed,
    uncertain: bool,
    sent: &watch::Receiver<()>,
) {
    if commits.iter().any(|commit| commit.sends()) {
        shared.flusher.sent.send_replace(());
    }
    tracing::debug!(outcomes = commits.len(), "committed");
    for (target, name) in done.dropped_signals {
        if let Some(held_back) = shared.throttle.allows(&format!("signal {name}")) {
            tracing::warn!(target_instance = target, signal = %name, held_back, "an outcome's signal was dropped: its target has ended or does not exist");
        }
    }
    for (machine, key) in done.dropped_inserts {
        if let Some(held_back) = shared.throttle.allows(&format!("insert {machine}")) {
            tracing::warn!(machine, unique_key = %key, held_back, "an outcome's insert was dropped: an instance that has not ended holds its unique key");
        }
    }
    free_again(shared, done.locked_partitions);
    // Also of what was not inserted, which is rare and costs a look.
    let inserted = shared.announcer.news(commits.iter().flat_map(|commit| &commit.inserts));
    shared.announcer.announce(done.queues.iter().map(String::as_str).chain(inserted));
    for ((commit, reply), verdict) in commits.into_iter().zip(replies).zip(done.verdicts) {
        let answer = match verdict {
            Verdict::Durable { inbox } => {
                follow(shared, &commit);
                Answer::Durable(commit, inbox)
            }
            Verdict::DurableBefore => {
                follow(shared, &commit);
                Answer::DurableBefore(commit)
            }
            Verdict::Lost => Answer::Lost,
            Verdict::Locked => {
                retry_locked(shared, Job { commit, reply, uncertain }, sent.clone());
                continue;
            }
        };
        let _ = reply.to.send(answer);
    }
}

/// Tries a row that somebody else has locked again a little later, or as soon as a batch of this engine's
/// own signals has ended: if many go to one instance, they have it locked most of the time.
///
/// If others have it locked one after another, it may be so at every try. So after some of them the outcome waits
/// in Postgres's own queue for the row, behind whoever came before. It does so by itself and not
/// in its batch, and holds nothing meanwhile: it holds nobody up, and is in no deadlock.
///
/// One outcome waits at a time, for a second at most. The others are tried as before, so that they miss no moment
/// at which their row is free, and each asks at every further try whether it may wait now. Nobody starves. Whoever
/// waited in vain asks only after twice as many tries: in time, those whose rows are locked for long leave the place free
/// most of the time, some dozens of them as well, and one whose row quick transactions have locked in turn finds it
/// so at one of its next tries. If there are so many that it never stays free, all who ask have the same chance
/// each time that it changes hands. And it asks again however often it waited in vain.
fn retry_locked(shared: &Arc<Shared>, mut job: Job, sent: watch::Receiver<()>) {
    if job.reply.found_locked()
        && let Ok(place) = Arc::clone(&shared.flusher.waiting).try_acquire_owned()
    {
        tokio::spawn(wait_for_row(Arc::clone(shared), job, place));
        return;
    }
    let shared = Arc::clone(shared);
    let pause = job.reply.locked_pause;
    job.reply.locked_pause = (pause * 2).min(LOCKED_PAUSE_MAX);
    tokio::spawn(async move {
        perhaps_unlocked(sent, pause).await;
        shared.flusher.submit(job);
    });
}

/// The third lane.
async fn wait_for_row(shared: Arc<Shared>, job: Job, place: OwnedSemaphorePermit) {
    commit_batch(&shared, vec![job], true).await;
    drop(place);
}

/// Waits until something has been sent since `sent` was made, or the pause is over.
async fn perhaps_unlocked(mut sent: watch::Receiver<()>, pause: Duration) {
    let _ = tokio::time::timeout(pause, sent.changed()).await;
}

/// What follows in this process from an outcome that is durable.
fn follow(shared: &Shared, commit: &Commit) {
    match &commit.change {
        Change::Later { delay, .. } | Change::Repeat { delay, .. } | Change::Defer { delay } => {
            if delay.is_zero() {
                shared.wake_claimer();
            } else {
                shared.due_in(*delay);
            }
        }
        Change::Await { timeout: Some(timeout), .. } => shared.due_in(*timeout),
        Change::Done { .. } | Change::Failed => push(shared, commit),
        Change::Next { .. } | Change::Await { .. } | Change::Release => {}
    }
}

/// Answers those who wait in this process.
fn push(shared: &Shared, commit: &Commit) {
    let waiters = shared.client.waiters();
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

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail")]
mod tests {
    use super::*;

    /// The pause is longer than anybody's patience, so that only what was sent can end it.
    const PAUSE: Duration = Duration::from_hours(1);

    fn job(id: i64, revision: i64) -> Job {
        let commit = Commit {
            id,
            fsm: "m",
            worker: 1,
            revision,
            attempt: 0,
            failures: 0,
            change: Change::Release,
            state: None,
            upgraded: None,
            error: None,
            consumed: Vec::new(),
            inserts: Vec::new(),
            signals: Vec::new(),
            partition_key: None,
            listens: false,
        };
        Job { commit: Box::new(commit), reply: Reply::new(oneshot::channel().0), uncertain: false }
    }

    #[test]
    fn no_part_of_a_batch_has_two_outcomes_of_one_instance_and_each_is_sorted() {
        let parts = |jobs: &[(i64, i64)]| -> Vec<Vec<(i64, i64)>> {
            let jobs = jobs.iter().map(|(id, revision)| job(*id, *revision)).collect();
            let key = |job: &Job| (job.commit.id, job.commit.revision);
            one_of_each(jobs).iter().map(|part| part.iter().map(key).collect()).collect()
        };
        assert_eq!(parts(&[(3, 0), (1, 0), (2, 0)]), [vec![(1, 0), (2, 0), (3, 0)]]);
        // Of one instance in the order in which they came, whatever their revisions are.
        assert_eq!(
            parts(&[(2, 7), (1, 5), (2, 6), (3, 0), (2, 9), (1, 4)]),
            [vec![(1, 5), (2, 7), (3, 0)], vec![(1, 4), (2, 6)], vec![(2, 9)]]
        );
        assert_eq!(parts(&[]), [vec![]; 1]);
    }

    #[test]
    fn who_waited_in_vain_waits_again_but_ever_more_rarely() {
        let mut reply = Reply::new(oneshot::channel().0);
        let tries = [5, 10, 20, 40, 80, 160, 320, 640, 640, 640];
        for tries in tries {
            for _ in 1..tries {
                assert!(!reply.found_locked());
            }
            // At every further try as well, if somebody else is waiting.
            assert!(reply.found_locked());
            assert!(reply.found_locked());
            reply.waited();
        }
    }

    #[tokio::test]
    async fn what_is_sent_ends_the_pause_also_if_it_was_sent_before_it_began() {
        let sent = watch::Sender::new(());
        let (before, during) = (sent.subscribe(), sent.subscribe());
        let waits = tokio::spawn(perhaps_unlocked(during, PAUSE));
        tokio::task::yield_now().await;
        sent.send_replace(());
        let ends = async {
            waits.await.unwrap();
            perhaps_unlocked(before, PAUSE).await;
        };
        tokio::time::timeout(Duration::from_mins(1), ends).await.expect("it does not wait");
        let nothing_since = perhaps_unlocked(sent.subscribe(), PAUSE);
        tokio::select! {
            biased;
            () = nothing_since => panic!("what was sent before the try is none of its concern"),
            () = std::future::ready(()) => {}
        }
    }
}
