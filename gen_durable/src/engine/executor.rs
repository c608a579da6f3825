//! The executor: runs an instance step by step, on one claim.
//!
//! ```text
//!   slot ──► step ──► slot given back ──► commit ──► durable, next ──► slot …
//!                                            │
//!                                            ├── durable, anything else ──► end
//!                                            ├── refused by the database ──► `handle` ──► commit
//!                                            └── lost ──► end, nothing took effect
//! ```
//!
//! Invariant: a step begins only after the outcome of the step before is durable. It begins only
//! while more than a tenth of the lease is left ([`super::lease`]).

mod runs;

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use self::runs::{Claim, Ending};
use super::{
    Shared, cancels,
    flusher::Answer,
    latch::Latch,
    limiter::{self, Entry},
    outage::{Outage, no_connection},
    pauses,
    registry::{Ran, Runner, Work},
    slots::Queue,
};
use crate::{
    error::{Cause, StepError},
    fault::{self, Fault},
    meters::{RunEnd, StepMeters},
    storage::{self, Change, Commit, Missing},
};

/// The number of failed loads of an inbox after which its instance fails, if they took at least an
/// answer timeout. For an engine that is a lease, or a second if the lease is shorter.
const FAILED_LOADS_MAX: u32 = 8;
/// The pause before an instance is given back, if the database refused each outcome of its run.
const REFUSED_PAUSE: Duration = Duration::from_secs(1);

/// The pause before a limited step is given back that got no answer when it asked for its turn.
const LEFT_PAUSE: Duration = Duration::from_millis(100);

/// Runs an instance that has a slot, in a task of its own.
pub(crate) fn spawn(shared: &Arc<Shared>, queue: &Arc<Queue>, work: Work) {
    let (shared, queue) = (Arc::clone(shared), Arc::clone(queue));
    let runtime = shared.runtime.clone();
    runtime.spawn(async move { run(&shared, &queue, work).await });
}

/// The same in the caller's task.
pub(super) async fn run(shared: &Arc<Shared>, queue: &Arc<Queue>, work: Work) {
    let _end = End { shared, queue, id: work.instance.id };
    let mut slot = Slot { shared, queue, held: true };
    drive(shared, &mut slot, work).await;
}

/// A guard that counts the instance out when its task ends, in whatever way.
struct End<'a> {
    shared: &'a Shared,
    queue: &'a Queue,
    id: i64,
}

impl Drop for End<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.shared.lose_run(self.id);
        }
        // The count is lowered before `slot_freed` reads the flag `saturated`. The claimer sets the
        // flag before it reads the count. All four are in one order, so the claimer sees the free
        // slot, or this task sees the flag and wakes the claimer.
        self.queue.claimed.fetch_sub(1, Ordering::SeqCst);
        self.shared.tasks.end(self.id);
        cancels::task_ended(self.shared);
        self.shared.wake.slot_freed();
    }
}

/// A slot of the queue. It is given back when this is dropped.
struct Slot<'a> {
    shared: &'a Arc<Shared>,
    queue: &'a Arc<Queue>,
    held: bool,
}

impl Slot<'_> {
    /// Waits for a slot, unless one is held, or until the run is to be dropped.
    async fn take(&mut self, dropped: &Latch) {
        if self.held {
            return;
        }
        let Some(mut slot_given) = self.queue.reenter() else {
            self.held = true;
            return;
        };
        tokio::select! {
            biased;
            _ = &mut slot_given => self.held = true,
            () = dropped.wait() => {
                // The slot may have come at the same moment.
                slot_given.close();
                self.held = slot_given.try_recv().is_ok();
            }
        }
    }

    /// Gives the slot back. A row that waited for it begins to run.
    fn give(&mut self) {
        if std::mem::take(&mut self.held)
            && let Some(work) = self.queue.leave()
        {
            spawn(self.shared, self.queue, work);
        }
    }
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        self.give();
    }
}

/// Runs step after step until the instance leaves the worker.
async fn drive(shared: &Arc<Shared>, slot: &mut Slot<'_>, mut work: Work) {
    let runner = Arc::clone(&work.runner);
    let runner = &*runner;
    let mut claim = Claim::begin();
    let due_since = std::mem::replace(&mut work.began, claim.began);
    loop {
        if let Some(why) = &work.unloaded {
            let commit = work.broken(format!("the stored state cannot be loaded: {why}; store large data elsewhere and keep a reference"));
            Box::pin(flush(shared, slot, runner, &mut work, Ending::Ran(commit.into()), claim))
                .await;
            return;
        }
        // It is rare that an instance fails here, or that its inbox is loaded. Therefore these
        // futures are boxed: the task of each instance is as large as the largest future that it
        // may await.
        if work.inbox.missing().is_some() {
            slot.give();
            match Box::pin(load_inbox(shared, &mut work)).await {
                Loading::Done => {}
                Loading::GivenUp => {
                    give_back(shared, work.release()).await;
                    return;
                }
                Loading::Failed(error) => {
                    let commit = work.broken(format!("its inbox cannot be loaded: {error}"));
                    Box::pin(flush(
                        shared,
                        slot,
                        runner,
                        &mut work,
                        Ending::Ran(commit.into()),
                        claim,
                    ))
                    .await;
                    return;
                }
            }
        }
        if !shared.pauses.hold_work(&work) {
            slot.take(&work.dropped).await;
        }
        let mut wrong = None;
        if shared.limiter.asks() && !shared.pauses.hold_work(&work) && !work.dropped.is_open() {
            match Box::pin(limiter::enter(shared, &mut work)).await {
                Entry::Admitted => {}
                Entry::Wrong(error) => wrong = Some(error),
                Entry::HeldBack { gone: true } => return,
                Entry::HeldBack { gone: false } => {
                    slot.give();
                    give_back(shared, work.release()).await;
                    return;
                }
                Entry::Left => {
                    slot.give();
                    tokio::time::sleep(LEFT_PAUSE).await;
                    give_back(shared, work.release()).await;
                    return;
                }
            }
        }
        // It may have been paused while it waited for the slot.
        if shared.pauses.hold_work(&work) {
            shared.pauses.forget(work.instance.id);
            slot.give();
            give_back(shared, work.release()).await;
            pauses::gave_back(shared, &work);
            return;
        }
        if !shared.lease.may_start(work.worker) {
            // A tenth of the lease or less is left, or the engine has a new worker. While the lease
            // holds, the row is given back. Once it has run out, another worker may have the row.
            // If the lease is renewed after all, the row is a lost claim. The outcomes of the steps
            // before are durable and the next step has not begun, so the claimer gives the row
            // back.
            if shared.lease.may_hold() && work.worker == shared.lease.worker() {
                give_back(shared, work.release()).await;
            } else {
                shared.wake.suspect_lost_claims();
            }
            return;
        }
        let step_began = Instant::now();
        work.began = step_began;
        if claim.steps == 0 {
            slot.queue.meters.waited(step_began.saturating_duration_since(due_since));
        }
        let ending = run_step(shared, runner, &mut work, wrong, claim).await;
        if matches!(ending, Ending::GivenUp) {
            slot.give();
            // A step may have been cut off while its transaction was committed. The row is then at
            // its next step, perhaps on this claim.
            if matches!(give_back(shared, work.release()).await, Answer::Lost) {
                shared.wake.suspect_lost_claims();
            }
            pauses::gave_back(shared, &work);
            return;
        }
        slot.give();
        let took = step_began.elapsed();
        work.meters().took(took);
        let held = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        slot.queue.held.fetch_add(held, Ordering::Relaxed);
        slot.queue.finished.fetch_add(1, Ordering::Relaxed);
        claim.steps += 1;
        if !flush(shared, slot, runner, &mut work, ending, claim).await {
            return;
        }
        work.turn = None;
    }
}

/// The result of loading more of an inbox.
enum Loading {
    Done,
    /// The engine is stopping, or the lease has run out.
    GivenUp,
    /// Postgres does not load this inbox, though it can load others. The text says why.
    Failed(String),
}

/// Loads the signals that the next step needs of an inbox that is too long to come with the claim.
async fn load_inbox(shared: &Shared, work: &mut Work) -> Loading {
    let mut outage = Outage::new("load an inbox");
    let (began, mut refusals) = (Instant::now(), 0);
    while let Some(missing) = work.inbox.missing() {
        let load = async {
            let mut connection = shared.connections.get().await.map_err(no_connection)?;
            let load = storage::load_inbox(&mut connection, work.instance.id, &missing);
            let result = shared.connections.within(load).await;
            connection.done(result)
        };
        match load.await {
            Ok(portion) => {
                outage.over();
                if work.inbox.extend(portion) {
                    break;
                }
            }
            Err(_) if shared.life.stopping.is_open() || !shared.lease.may_hold() => {
                return Loading::GivenUp;
            }
            Err(error) => {
                // These errors may be the fault of this inbox. All others are an outage.
                let own = matches!(Fault::of(&error), Fault::Data | Fault::Size | Fault::Unclear);
                refusals += u32::from(own);
                let long = refusals >= FAILED_LOADS_MAX
                    && began.elapsed() >= shared.connections.answer_timeout();
                if long && can_load(shared, &missing).await {
                    return Loading::Failed(Cause(&error).to_string());
                }
                tokio::time::sleep(outage.failed(&error)).await;
            }
        }
    }
    Loading::Done
}

/// True if Postgres can load the inbox of an instance that does not exist. The database then has
/// all that a load needs, so an error of another load is the fault of its inbox.
async fn can_load(shared: &Shared, missing: &Missing) -> bool {
    let Ok(mut connection) = shared.connections.get().await else { return false };
    let load = storage::load_inbox(&mut connection, 0, missing);
    let result = shared.connections.within(load).await;
    connection.done(result).is_ok()
}

/// Runs one step. It is given up if it was cut off or its instance was cancelled, or did not start
/// because the engine is stopping. If its limit's key is `wrong`, `handle` runs instead.
async fn run_step(
    shared: &Shared,
    runner: &dyn Runner,
    work: &mut Work,
    wrong: Option<StepError>,
    claim: Claim,
) -> Ending {
    let dropped = Arc::clone(&work.dropped);
    let (limited, worker) = (work.turn.is_some(), work.worker);
    let step = Arc::clone(&work.instance);
    let meters = runner.meters().step(&step.step);
    if shared.life.stopping.is_open() || dropped.is_open() {
        return Ending::GivenUp;
    }
    let run = async {
        match wrong {
            None => runs::run(shared, runner, work, claim).await,
            Some(error) => Box::pin(runs::handle(shared, runner, work, error, claim)).await,
        }
    };
    tokio::select! {
        biased;
        ending = run => ending,
        () = shared.life.cut_off.wait() => given_up(meters, RunEnd::CutOff),
        () = dropped.wait() => given_up(meters, RunEnd::Cancelled),
        // Others get the place of a limited run when the lease runs out.
        () = shared.lease.ends(worker), if limited => given_up(meters, RunEnd::Lost),
    }
}

/// Counts a run that was dropped.
fn given_up(meters: &StepMeters, end: RunEnd) -> Ending {
    meters.ended(end);
    Ending::GivenUp
}

/// Lets other instances go first: the row goes back to its queue, and its next step needs a claim.
fn yield_claim(commit: &mut Commit) {
    if let Change::Next { step } = commit.change {
        commit.change = Change::Later { step, delay: Duration::ZERO };
    }
}

/// Commits the outcome of a run, unless its own transaction has. True if the worker keeps the
/// instance, which then stands at its next step.
async fn flush(
    shared: &Shared,
    slot: &mut Slot<'_>,
    runner: &dyn Runner,
    work: &mut Work,
    mut ending: Ending,
    claim: Claim,
) -> bool {
    let mut refusals = 0;
    let attempt = i32::try_from(work.instance.attempt).unwrap_or(i32::MAX);
    let ended = |work: &Work, commit: &Commit| {
        if let Some(end) = commit.run_end(attempt) {
            // An upgrade has moved the instance to another step.
            let step = commit.upgraded.map_or(&*work.instance.step, |upgraded| upgraded.step);
            runner.meters().step(step).ended(end);
        }
    };
    loop {
        let (answer, next) = match ending {
            Ending::Ran(Ran { commit, next }) => (shared.flusher.commit(commit).await, next),
            Ending::Answered(answer, next) => (answer, next),
            Ending::GivenUp => {
                give_back(shared, work.release()).await;
                return false;
            }
        };
        match answer {
            Answer::Durable(commit, inbox) => {
                ended(work, &commit);
                let Change::Next { step } = commit.change else { return false };
                work.advance(step, *commit, inbox, next);
                return true;
            }
            Answer::DurableBefore(done) => {
                ended(work, &done);
                // An earlier try was applied, and its answer lost. If the outcome keeps the claim,
                // the row stands at the next step and is still this worker's. The inbox for that
                // step was lost with the answer. Therefore the row is given back, and comes with
                // its inbox at the next claim. The revision is one higher, because the try that was
                // applied has raised it.
                if done.keeps_claim() {
                    let mut release = work.release();
                    release.revision += 1;
                    give_back(shared, release).await;
                }
                return false;
            }
            // The cancel is answered as soon as this task has ended.
            Answer::Cancelled => {
                work.meters().ended(RunEnd::Cancelled);
                cancels::note(shared, work.instance.id);
                return false;
            }
            Answer::Lost => {
                work.meters().ended(RunEnd::Lost);
                shared.metrics.lost_commits.fetch_add(1, Ordering::Relaxed);
                // There are two cases, and the log line names the first. Either the worker does not
                // own the row any more, or the flusher gave the outcome up because the lease ran
                // out or the engine stopped. In the second case the row may still be this worker's,
                // if the lease is renewed. Its run has ended without an outcome, so the row is then
                // left to the reaper.
                shared.lose_run(work.instance.id);
                tracing::warn!(
                    machine = runner.name(),
                    instance = work.instance.id,
                    step = %work.instance.step,
                    "outcome dropped: the worker had lost the instance, which was killed or runs elsewhere"
                );
                return false;
            }
            // The database refused the outcome, that of `handle` and the failure of the instance,
            // so there is nothing left to commit. The row is a lost claim. It is not left to the
            // reaper (`lose_run`): the claimer gives it back, and its step runs again after the
            // pause.
            Answer::Refused(error) if refusals == 2 => {
                tracing::error!(machine = runner.name(), instance = work.instance.id, error = %Cause(&error), "the database refuses whatever is committed");
                tokio::time::sleep(REFUSED_PAUSE).await;
                shared.wake.suspect_lost_claims();
                return false;
            }
            Answer::Refused(error) if refusals == 1 => {
                refusals += 1;
                let text = format!("the database refused the outcome twice: {}", Cause(&error));
                ending = Ending::Ran(work.broken(text).into());
            }
            Answer::Refused(error) => {
                refusals += 1;
                let dropped = Arc::clone(&work.dropped);
                slot.take(&dropped).await;
                let error = StepError::rejected(fault::reason(error));
                // The next step must not run on this claim: the run that was refused has left its
                // state.
                let claim = Claim { over: true, ..claim };
                let (limited, worker) = (work.turn.is_some(), work.worker);
                ending = tokio::select! {
                    biased;
                    () = dropped.wait() => Ending::GivenUp,
                    () = shared.lease.ends(worker), if limited => Ending::GivenUp,
                    ending = Box::pin(runs::handle(shared, runner, work, error, claim)) => ending,
                };
                slot.give();
            }
        }
    }
}

/// Gives back a row on which no run has begun.
pub(crate) fn release(shared: &Arc<Shared>, queue: &Arc<Queue>, work: Work) {
    let (shared, queue) = (Arc::clone(shared), Arc::clone(queue));
    // The task runs on the engine's runtime, because an engine may be dropped on a thread without
    // one. If the engine's runtime has ended, the task does not run, and the reaper takes the row.
    let runtime = shared.runtime.clone();
    runtime.spawn(async move { release_now(&shared, &queue, work).await });
}

/// The same in the caller's task.
pub(super) async fn release_now(shared: &Arc<Shared>, queue: &Arc<Queue>, work: Work) {
    let _end = End { shared, queue, id: work.instance.id };
    give_back(shared, work.release()).await;
    pauses::gave_back(shared, &work);
}

/// Gives a row back to its queue.
async fn give_back(shared: &Shared, release: Box<Commit>) -> Answer {
    let id = release.id;
    let answer = shared.flusher.commit(release).await;
    if matches!(answer, Answer::Cancelled) {
        cancels::note(shared, id);
    }
    answer
}
