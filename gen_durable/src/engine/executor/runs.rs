//! Runs a step, and `handle` if the step fails: without a transaction, or in one that also commits
//! the outcome.
//!
//! ```text
//!   BEGIN ──► step ──► outcome applied ──► COMMIT ──► answered
//!     ▲         │             │               │
//!     │         │             │               └── no answer: the row tells what became of it
//!     └─────────┴─ conflict ──┴── lost connection
//!               └── error, or an outcome that Postgres refuses ──► ROLLBACK ──► `handle`
//! ```
//!
//! Invariant: the step's own rows take effect with its outcome, once, or not at all. A run that
//! Postgres rolled back to resolve a conflict spends no attempt.

use std::time::{Duration, Instant};

use sqlx::PgConnection;

use super::{
    super::{
        Shared,
        flusher::Answer,
        limiter::{self, Entry},
        outage::{Outage, no_connection},
        registry::{self, Call, Decoded, Ran, Run, Runner, Work},
        transactions::{Open, Place},
    },
    yield_claim,
};
use crate::{
    error::{Stale, StepError, StepErrorKind},
    fault::{self, Fault},
    isolation::Isolation,
    storage::{self, Applied, Commit, Verdict},
};

/// The number of times that a step runs again at once after a conflict. Beyond that, the conflict
/// is the step's error.
const RERUNS_MAX: u32 = 10;

/// The end of a run.
pub(super) enum Ending {
    /// The outcome, which is to be committed.
    Ran(Ran),
    /// The answer to an outcome that was committed in the run's own transaction, and the state for
    /// the next step.
    Answered(Answer, Option<Decoded>),
    /// The engine is stopping, or the lease has run out. No code runs, and there is no outcome. One
    /// that was being committed may have taken effect.
    GivenUp,
}

/// The claim of an instance: it says when the instance lets others go first.
#[derive(Clone, Copy)]
pub(super) struct Claim {
    pub(super) began: Instant,
    /// Steps that have run on this claim.
    pub(super) steps: usize,
    /// The next step needs another claim in any case.
    pub(super) over: bool,
}

impl Claim {
    pub(super) fn begin() -> Self {
        Self { began: Instant::now(), steps: 0, over: false }
    }

    /// Gives the claim up with this outcome, if its time has come.
    ///
    /// A row yields its claim after many steps or a long time, so that other instances have the
    /// slot. It also yields if it has signalled itself: the commit reads the inbox for the next
    /// step before it sends the signals, while a new claim finds the signal.
    ///
    /// A row does not yield if its step awaits signals that are in the inbox and not loaded
    /// (`awaits_loaded`). They are loaded on this claim. A new claim would load only the oldest
    /// signals again, and the step would await the same signals again.
    pub(super) fn apply(&self, shared: &Shared, commit: &mut Commit) {
        let yields = self.steps + 1 >= shared.config.run_ahead_steps_max
            || self.began.elapsed() >= shared.config.run_ahead_time_max
            || commit.signals_itself();
        let stops = self.over || shared.life.stopping.is_open();
        if stops || yields && commit.awaits_loaded.is_none() {
            yield_claim(commit);
        }
    }
}

/// The ways in which a transaction ends without an answer. Nothing took effect.
enum Failed {
    /// No transaction began.
    Begin(sqlx::Error),
    /// The connection or the server failed, or another transaction has a lock that the outcome
    /// needs.
    Connection(StepError),
    /// The error of the run. After a conflict, it runs again.
    Error(StepError),
}

/// The end of a transaction.
enum Committed {
    /// COMMIT has ended the transaction, unless the step has left a nested one open.
    Ended(Box<Commit>, storage::Committed, Option<Decoded>),
    Answered(Answer),
}

/// Runs the step that `work` stands at, and `handle` if the step fails.
pub(super) async fn run(
    shared: &Shared,
    runner: &dyn Runner,
    work: &mut Work,
    claim: Claim,
) -> Ending {
    match call(shared, runner, work, &mut Call::Step, claim).await {
        Ok(ending) => ending,
        // Boxed, as the task of each instance is as large as the largest future that it may await.
        Err(error) => Box::pin(handle(shared, runner, work, error, claim)).await,
    }
}

/// Lets `handle` decide after a run that failed, or after an outcome that the database refused.
/// This is a run as well, with the step's timeout. If it fails, the instance fails.
pub(super) async fn handle(
    shared: &Shared,
    runner: &dyn Runner,
    work: &mut Work,
    error: StepError,
    claim: Claim,
) -> Ending {
    registry::log(runner, work, &error);
    work.meters().failed(error.kind() as usize);
    let mut handle = Call::handle(error);
    match call(shared, runner, work, &mut handle, claim).await {
        Ok(ending) => ending,
        Err(second) => {
            work.meters().failed(second.kind() as usize);
            Ending::Ran(registry::failed_twice(work, &handle, second).into())
        }
    }
}

/// Calls user code, in a transaction if it takes one.
async fn call(
    shared: &Shared,
    runner: &dyn Runner,
    work: &mut Work,
    call: &mut Call,
    claim: Claim,
) -> Result<Ending, StepError> {
    let isolation = match runner.isolation(work, call) {
        Some(isolation) => isolation,
        None => match registry::run(runner, work, call, &shared.surroundings, None).await? {
            Run::Ran(mut ran) => {
                claim.apply(shared, &mut ran.commit);
                return Ok(Ending::Ran(ran));
            }
            Run::TakesTransaction(isolation) => isolation,
        },
    };
    Box::pin(in_transaction(shared, runner, work, call, isolation, claim)).await
}

/// Calls user code in a transaction, again after each conflict, and commits its outcome.
async fn in_transaction(
    shared: &Shared,
    runner: &dyn Runner,
    work: &mut Work,
    call: &mut Call,
    isolation: Isolation,
    claim: Claim,
) -> Result<Ending, StepError> {
    let mut outage = Outage::new("run a step in its transaction");
    let mut reruns = 0;
    loop {
        let Some(mut place) = place(shared, &mut outage).await else {
            return Ok(Ending::GivenUp);
        };
        // The wait may have taken long.
        if matches!(call, Call::Step)
            && !matches!(limiter::refresh(shared, work).await, Entry::Admitted)
        {
            return Ok(Ending::GivenUp);
        }
        let paused = matches!(call, Call::Step) && shared.pauses.hold_work(work);
        if paused || !shared.lease.may_start(work.worker) {
            return Ok(Ending::GivenUp);
        }
        let error = match attempt(shared, runner, work, call, &mut place, isolation, claim).await {
            Ok(ending) => {
                outage.over();
                return Ok(ending);
            }
            Err(Failed::Error(error)) if !registry::is_conflict(&error) || reruns == RERUNS_MAX => {
                return Err(error);
            }
            Err(Failed::Error(error)) => error,
            Err(Failed::Begin(error)) => {
                drop(place);
                pause(shared, outage.failed(&error)).await;
                continue;
            }
            Err(Failed::Connection(error)) if reruns == RERUNS_MAX => return Err(error),
            Err(Failed::Connection(error)) => {
                drop(place);
                if let Some(cause) = registry::database_error(&error) {
                    pause(shared, outage.failed(cause)).await;
                }
                error
            }
        };
        reruns += 1;
        tracing::debug!(
            machine = runner.name(),
            instance = work.instance.id,
            error = registry::describe(&error),
            "a step was rolled back, and runs again"
        );
        registry::quietly(|| drop(error));
        // Every run of a step counts in its limit.
        if matches!(call, Call::Step)
            && work.turn.take().is_some()
            && !matches!(limiter::enter(shared, work).await, Entry::Admitted)
        {
            return Ok(Ending::GivenUp);
        }
    }
}

/// Returns a connection for a transaction, and tries again while the database cannot be reached.
/// None if the engine is stopping, or if the lease has run out.
async fn place(shared: &Shared, outage: &mut Outage) -> Option<Place> {
    while shared.lease.may_hold() {
        let place = tokio::select! {
            biased;
            () = shared.life.stopping.wait() => return None,
            place = shared.transactions.place() => place,
        };
        match place {
            Ok(place) => return Some(place),
            Err(error) => pause(shared, outage.failed(&no_connection(error))).await,
        }
    }
    None
}

/// Waits, but no longer than until the engine stops.
async fn pause(shared: &Shared, pause: Duration) {
    tokio::select! {
        () = tokio::time::sleep(pause) => {}
        () = shared.life.stopping.wait() => {}
    }
}

/// Calls user code in one transaction, and commits its outcome.
async fn attempt(
    shared: &Shared,
    runner: &dyn Runner,
    work: &mut Work,
    call: &mut Call,
    place: &mut Place,
    isolation: Isolation,
    claim: Claim,
) -> Result<Ending, Failed> {
    let limit = registry::limit(runner, work);
    let mut open = place.begin(isolation, limit).await.map_err(Failed::Begin)?;
    match registry::run(runner, work, call, &shared.surroundings, Some(&mut open)).await {
        Ok(Run::Ran(ran)) => match commit(shared, open, isolation, ran, claim).await? {
            Committed::Answered(answer) => Ok(Ending::Answered(answer, None)),
            Committed::Ended(..) if place.is_open() => {
                Err(Failed::Error(StepError::rejected(LeftNested)))
            }
            Committed::Ended(outcome, mut done, next) => {
                report(shared, isolation, &outcome);
                let goes_on = outcome.keeps_claim() && outcome.listens;
                if goes_on && !isolation.has_fresh_snapshots() {
                    done.verdicts = vec![new_signals(shared, &outcome).await];
                }
                Ok(Ending::Answered(shared.flusher.committed(outcome, done), next))
            }
        },
        Ok(Run::TakesTransaction(_)) => unreachable!("a transaction was given"),
        Err(error) => {
            let cause = registry::database_error(&error);
            let stale_plan = cause.is_some_and(fault::is_stale_plan);
            let broken = cause.is_some_and(|cause| Fault::of(cause) == Fault::Connection);
            if error.kind() == StepErrorKind::TimedOut {
                // The step was dropped in the middle. The drop of its place ends the server
                // process, and with it the statement that the step may have sent.
            } else if stale_plan {
                open.fail();
            } else if !open.roll_back().await && broken {
                return Err(Failed::Connection(error));
            }
            Err(Failed::Error(error))
        }
    }
}

/// Commits an outcome in the transaction of its step.
async fn commit(
    shared: &Shared,
    mut open: Open<'_>,
    isolation: Isolation,
    ran: Ran,
    claim: Claim,
) -> Result<Committed, Failed> {
    let Ran { commit: mut outcome, next } = ran;
    claim.apply(shared, &mut outcome);
    let done = match apply(shared, &mut open, isolation, &outcome).await {
        Ok(Applied::Ready(done)) => done,
        Ok(Applied::Lost) => {
            open.roll_back().await;
            let fate = Box::pin(fate(shared, &outcome)).await;
            return Ok(Committed::Answered(lost(fate.as_ref())));
        }
        Ok(Applied::Stale) => {
            open.roll_back().await;
            return Err(Failed::Error(Stale.into()));
        }
        Ok(Applied::Ended) => {
            open.fail();
            return Err(Failed::Error(StepError::rejected(EndedByHand)));
        }
        Ok(Applied::OtherLevel) => {
            open.roll_back().await;
            return Err(Failed::Error(StepError::rejected(OtherLevel)));
        }
        Err(error) if fault::is_stale_plan(&error) => {
            open.fail();
            return Err(Failed::Connection(error.into()));
        }
        Err(error) => {
            if error.as_database_error().is_some() || Fault::of(&error) == Fault::Data {
                open.roll_back().await;
            }
            return Err(failed(error));
        }
    };
    let pid = open.pid();
    match open.commit(shared.connections.answer_timeout()).await {
        Ok(()) => Ok(Committed::Ended(outcome, done, next)),
        Err(error) if fault::is_uncertain(&error) => {
            // Without an answer, the server process may never notice that its client is gone.
            if Fault::of(&error) == Fault::Size {
                shared.transactions.end(pid).await;
            }
            let fate = Box::pin(fate(shared, &outcome)).await;
            if !matches!(fate, Some(Verdict::Locked)) {
                report(shared, isolation, &outcome);
            }
            match fate {
                Some(Verdict::Locked) => Err(Failed::Connection(error.into())),
                Some(Verdict::DurableBefore) => {
                    Ok(Committed::Answered(shared.flusher.committed_before(outcome, done)))
                }
                // It may have been committed too, if it leaves the worker.
                _ => {
                    shared.flusher.may_be_committed(&outcome, done);
                    Ok(Committed::Answered(lost(fate.as_ref())))
                }
            }
        }
        Err(error) => Err(failed(error)),
    }
}

/// Applies an outcome in its step's transaction. If the transaction's snapshot is older than the
/// row's lock, the looks are taken on another connection.
async fn apply(
    shared: &Shared,
    open: &mut PgConnection,
    isolation: Isolation,
    outcome: &Commit,
) -> Result<Applied, sqlx::Error> {
    if isolation.has_fresh_snapshots() {
        return shared
            .connections
            .within(storage::commit_step(open, outcome, isolation, None))
            .await;
    }
    let mut look = shared.connections.get().await.map_err(no_connection)?;
    let apply = storage::commit_step(open, outcome, isolation, Some(&mut look));
    let applied = shared.connections.within(apply).await;
    match applied {
        Ok(applied) => look.done(Ok(applied)),
        // The error may be that of either connection.
        Err(error) => {
            look.discard();
            Err(error)
        }
    }
}

/// Has the end of an instance reported whose own transaction could not, if it was committed.
fn report(shared: &Shared, isolation: Isolation, outcome: &Commit) {
    if !isolation.has_fresh_snapshots() && outcome.reports_to().is_some() {
        shared.owed.submit(outcome.id);
    }
}

/// Reads the new signals for the next step. If that fails, the row is given back, as after a commit
/// whose answer was lost.
async fn new_signals(shared: &Shared, outcome: &Commit) -> Verdict {
    let read = async {
        let mut connection = shared.connections.get().await.map_err(no_connection)?;
        let read = storage::new_signals(&mut connection, outcome);
        let result = shared.connections.within(read).await;
        connection.done(result)
    };
    match read.await {
        Ok(inbox) => Verdict::Durable { inbox },
        Err(_) => Verdict::DurableBefore,
    }
}

/// Sorts an error of the outcome's commit. Postgres has rolled the transaction back, or does so
/// when it notices that the connection is gone.
fn failed(error: sqlx::Error) -> Failed {
    let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
    match code.as_deref() {
        Some("25P02") => Failed::Error(StepError::rejected(Aborted)),
        Some("25006") => Failed::Error(StepError::rejected(ReadOnly)),
        _ if fault::is_rolled_back(&error) => Failed::Error(error.into()),
        _ => match Fault::of(&error) {
            Fault::Connection | Fault::Locked | Fault::Size => Failed::Connection(error.into()),
            Fault::Data | Fault::Database | Fault::Unclear => {
                Failed::Error(StepError::rejected(fault::reason(error)))
            }
        },
    }
}

/// Finds out what became of an outcome whose COMMIT got no answer. None if the lease runs out
/// first.
async fn fate(shared: &Shared, outcome: &Commit) -> Option<Verdict> {
    let mut outage = Outage::new("find out what became of an outcome");
    while shared.lease.may_hold() && !shared.life.stopped.is_open() {
        let look = async {
            let mut connection = shared.connections.get().await.map_err(no_connection)?;
            let look = storage::fate_of_step(&mut connection, outcome);
            let result = shared.connections.within(look).await;
            connection.done(result)
        };
        match look.await {
            Ok(verdict) => {
                outage.over();
                return Some(verdict);
            }
            Err(error) => tokio::time::sleep(outage.failed(&error)).await,
        }
    }
    None
}

/// Returns the answer to an outcome that did not take effect.
fn lost(fate: Option<&Verdict>) -> Answer {
    match fate {
        Some(Verdict::Cancelled) => Answer::Cancelled,
        _ => Answer::Lost,
    }
}

/// The step went on after a statement that failed.
#[derive(Debug, thiserror::Error)]
#[error(
    "a statement of the step failed, and the step went on: Postgres has aborted its transaction; return the error, or run the statement in a nested transaction (`tx.begin()`)"
)]
struct Aborted;

/// The step sent `commit` or `rollback`, or reset the setting by which the transaction is known.
#[derive(Debug, thiserror::Error)]
#[error(
    "the step ended its own transaction: it sent `commit`, `rollback` or `reset all`; leave these to the engine, and undo a part with a nested transaction (`tx.begin()`)"
)]
struct EndedByHand;

/// The outcome cannot be written. Outside of the engine's transaction, the session is read-only.
#[derive(Debug, thiserror::Error)]
#[error(
    "the step ended its own transaction, or made it read-only; leave its beginning and its end to the engine, and undo a part with a nested transaction (`tx.begin()`)"
)]
struct ReadOnly;

/// The step sent `set transaction isolation level`.
#[derive(Debug, thiserror::Error)]
#[error(
    "the step changed the isolation level of its transaction; write it as `#[step(isolation = ...)]` instead"
)]
struct OtherLevel;

/// The step leaked the guard of a nested transaction, and COMMIT ended that one alone.
#[derive(Debug, thiserror::Error)]
#[error("the step left a nested transaction open: commit it, or drop its guard")]
struct LeftNested;
