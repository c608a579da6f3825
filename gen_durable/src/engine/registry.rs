//! The translation between typed steps and rows.
//!
//! Invariant: outside of this module the engine knows no machine's types.

mod guard;
mod history;
mod inbox;
mod kinds;
mod polls;
mod runner;
mod spans;
mod upgrader;

use std::{
    any::TypeId,
    borrow::Cow,
    fmt::Write as _,
    future::Future,
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};

use sqlx::PgConnection;

use super::{latch::Latch, lease::Lease, limiter::Turn};
use crate::{
    error::{Error, StepError},
    history::History,
    isolation::Isolation,
    machine::{
        Requirement, cancel_flag::Fate, context::Instance, limit::StepLimit, resources::Resources,
        upgrade::Older,
    },
    meters::{MachineMeters, StepMeters},
    storage::{Change, Claimed, Commit, Inbox, NewMachine, Upgraded},
    trace::Trace,
};
pub(crate) use guard::Decoded;
use guard::Guarded;
#[cfg(feature = "schedules")]
pub(crate) use guard::catch;
pub(crate) use guard::{describe, quietly};
pub(crate) use inbox::Loaded;
pub(crate) use kinds::Registry;
pub(crate) use polls::Polls;
pub(crate) use runner::MachineRunner;
use upgrader::Upgrader;

/// A claimed instance on its way through its steps.
pub(crate) struct Work {
    /// The machine's code.
    pub(crate) runner: Arc<dyn Runner>,
    /// The machine's name.
    pub(crate) fsm: &'static str,
    /// The version of the stored step and state.
    fsm_version: i32,
    /// The newer version, and the step in it, while a run works on an older version's row.
    upgraded: Option<Upgraded>,
    pub(crate) instance: Arc<Instance>,
    pub(crate) worker: i64,
    pub(crate) revision: i64,
    /// The time at which the run under way began. Before the first one, the time since which the
    /// row has been due.
    pub(crate) began: Instant,
    /// The instance to which this one reports its end.
    report_to: Option<i64>,
    /// The state as it is stored.
    pub(crate) state: String,
    pub(crate) inbox: Box<Loaded>,
    /// The reason why the stored state was not loaded, if it was not.
    pub(crate) unloaded: Option<Arc<str>>,
    /// The decoded state, if the step before has left it, or the limit has asked for it.
    decoded: Option<Decoded>,
    /// The run's place in its step's limit.
    pub(crate) turn: Option<Box<Turn>>,
    /// The span that led to the instance's runs, and that of the run under way.
    pub(crate) trace: Trace,
    /// Opened when the run is to be dropped: the instance was cancelled.
    pub(crate) dropped: Arc<Latch>,
}

/// The result of a run.
pub(crate) struct Ran {
    pub(crate) commit: Box<Commit>,
    /// The state for the next step, read back from its text.
    pub(crate) next: Option<Decoded>,
}

impl From<Box<Commit>> for Ran {
    fn from(commit: Box<Commit>) -> Self {
        Self { commit, next: None }
    }
}

impl Work {
    /// Creates the work of a claimed row. `unloaded` says why its state was not loaded, if it was
    /// not.
    pub(crate) fn new(
        claimed: Claimed,
        runner: Arc<dyn Runner>,
        queue: Arc<str>,
        unloaded: Option<Arc<str>>,
        dropped: Arc<Latch>,
        lease: &Lease,
    ) -> Self {
        let received = Instant::now();
        Self {
            fsm: runner.name(),
            runner,
            fsm_version: claimed.kind.fsm_version,
            upgraded: None,
            instance: Arc::new(Instance {
                id: claimed.id,
                queue,
                partition_key: claimed.partition_key,
                step: claimed.step.into(),
                attempt: u32::try_from(claimed.attempt).unwrap_or(0),
                failures: u32::try_from(claimed.failures).unwrap_or(0),
                timed_out: claimed.timed_out,
                claimed_at: claimed.now,
                received,
                fate: Fate::new(Arc::clone(lease.until())),
            }),
            worker: claimed.worker,
            revision: claimed.revision,
            began: received.checked_sub(claimed.waited).unwrap_or(received),
            report_to: claimed.report_to,
            unloaded: unloaded.filter(|_| claimed.state.is_none()),
            state: claimed.state.unwrap_or_default(),
            inbox: Box::new(Loaded::new(claimed.inbox)),
            decoded: None,
            turn: None,
            trace: Trace::new(claimed.trace_context),
            dropped,
        }
    }

    /// Changes to what a fresh claim would show after this commit to the next step. `inbox` has the
    /// signals that have come since the last commit.
    pub(crate) fn advance(
        &mut self,
        step: &'static str,
        commit: Commit,
        inbox: Inbox,
        decoded: Option<Decoded>,
    ) {
        // The context of the step before has been dropped, as a rule, so nothing is copied.
        let instance = Arc::make_mut(&mut self.instance);
        instance.step = Cow::Borrowed(step);
        instance.fate.begin();
        if !commit.only_loads() {
            instance.attempt = 0;
            instance.failures = 0;
            instance.timed_out = false;
        }
        if let Some(upgraded) = commit.upgraded {
            self.fsm_version = upgraded.fsm_version;
        }
        self.upgraded = None;
        self.revision += 1;
        self.inbox.advance(&commit.consumed, inbox);
        if let Some(names) = &commit.awaits_loaded {
            self.inbox.want(names);
        }
        if let Some(state) = commit.state {
            self.state = state.0;
        }
        self.decoded = decoded;
    }

    /// Returns what is counted of the step at which the instance stands.
    pub(crate) fn meters(&self) -> &StepMeters {
        self.runner.meters().step(&self.instance.step)
    }

    /// Builds a commit of this change that carries nothing else.
    fn commit(&self, change: Change, listens: bool) -> Box<Commit> {
        Box::new(Commit {
            id: self.instance.id,
            fsm: self.fsm,
            worker: self.worker,
            revision: self.revision,
            attempt: i32::try_from(self.instance.attempt).unwrap_or(i32::MAX),
            failures: i32::try_from(self.instance.failures).unwrap_or(i32::MAX),
            change,
            state: None,
            upgraded: None,
            error: None,
            record: None,
            consumed: Vec::new(),
            known: self.inbox.known(),
            awaits_loaded: None,
            inserts: Vec::new(),
            signals: Vec::new(),
            partition_key: self.instance.partition_key.clone(),
            report_to: self.report_to,
            listens,
            trace_context: None,
        })
    }

    /// Builds the commit that gives the row back to its queue, as if it had not been claimed.
    pub(crate) fn release(&self) -> Box<Commit> {
        self.commit(Change::Release, false)
    }

    /// Builds the commit that fails the instance for a reason outside of the step. The stored state
    /// stays as it is.
    pub(crate) fn broken(&self, error: String) -> Box<Commit> {
        let mut commit = self.commit(Change::Failed, false);
        self.record(&mut commit, Some(&error));
        commit.error = Some(storable(error));
        commit
    }
}

/// The most bytes of an error's text that are recorded or logged: some pages.
const TEXT_MAX: usize = 16 * 1024;

/// Makes a text one that Postgres can store, and that a person can read.
pub(crate) fn storable(text: String) -> String {
    let text = shortened(text);
    if text.contains('\0') { text.replace('\0', "\u{fffd}") } else { text }
}

/// Cuts off the end of a text that is too long, and says how much is missing.
fn shortened(mut text: String) -> String {
    if text.len() > TEXT_MAX {
        let more = text.len() - TEXT_MAX;
        text.truncate(text.floor_char_boundary(TEXT_MAX));
        let _ = write!(text, " [and {more} more bytes]");
    }
    text
}

type Boxed<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A machine without its types.
pub(crate) trait Runner: Send + Sync {
    fn name(&self) -> &'static str;
    fn version(&self) -> u32;
    fn queue(&self) -> &'static str;
    /// Returns what is counted of the machine's steps.
    fn meters(&self) -> &MachineMeters;
    fn listens(&self) -> bool;
    fn history(&self) -> History;
    fn check(&self) -> Result<(), Error>;
    fn requirements(&self) -> Vec<Requirement>;
    /// Returns the steps that await a signal without a timeout and lead nowhere else.
    fn dead_ends(&self) -> Vec<&'static str>;
    fn machine(&self) -> TypeId;

    /// Returns the machine's registered row.
    fn registered(&self) -> NewMachine;

    /// Returns the older versions that the machine upgrades.
    fn older(&self) -> Vec<Older>;

    /// Returns the longest time that a run of this step may take, if there is one.
    fn timeout(&self, step: &str) -> Option<Duration>;

    /// Returns the steps that are limited, and their limits.
    fn limits(&self) -> Vec<(&'static str, StepLimit)>;

    /// Returns the bucket of the step that `work` stands at. None if the step has no limit, or
    /// cannot begin in any case.
    fn limit(&self, work: &mut Work) -> Option<Result<Limited, StepError>>;

    /// Returns the runner of the older versions' instances.
    fn upgrader(&self) -> Arc<dyn Runner>;

    /// Returns the isolation level of the transaction that this code takes, as far as it is known
    /// before the code is called.
    fn isolation(&self, work: &Work, call: &Call) -> Option<Isolation>;

    /// Runs the step that `work` stands at, or the machine's `handle`. If that code takes a
    /// transaction, it runs in `tx`.
    fn run<'a>(
        &'a self,
        work: &'a mut Work,
        call: &'a mut Call,
        resources: &'a Resources,
        tx: Option<&'a mut PgConnection>,
    ) -> Boxed<'a, Result<Run, StepError>>;
}

/// A limited step.
pub(crate) struct Limited {
    pub(crate) name: &'static str,
    pub(crate) weight: u32,
    /// The limit's name, and after the character 31 the key.
    pub(crate) bucket: Arc<str>,
}

/// The code of a machine that is called.
#[derive(Debug)]
pub(crate) enum Call {
    /// The step that the instance stands at.
    Step,
    /// `handle`, after an error. In a transaction it may be called again, and gets a copy of the
    /// error. Otherwise it takes the error. `text` is the error's.
    Handle { error: Option<StepError>, text: String },
}

impl Call {
    pub(crate) fn handle(error: StepError) -> Self {
        Self::Handle { text: describe(&error), error: Some(error) }
    }
}

/// An error is user code, and may panic when it is dropped.
impl Drop for Call {
    fn drop(&mut self) {
        if let Self::Handle { error, .. } = self {
            let error = error.take();
            quietly(|| drop(error));
        }
    }
}

/// The result of a call.
pub(crate) enum Run {
    Ran(Ran),
    /// The code takes a transaction of this level and was given none. It has not begun.
    TakesTransaction(Isolation),
}

/// The parts that each run needs besides its row.
pub(crate) struct Surroundings {
    pub(crate) resources: Resources,
    pub(crate) polls: Polls,
    /// Sees each run of a test kit's engine before its outcome is committed, and may hold it there.
    #[cfg(feature = "testing")]
    pub(crate) watch: Option<Watch>,
}

/// A function that sees a run: its row, the code that was called, and its result.
#[cfg(feature = "testing")]
pub(crate) type Watch =
    Box<dyn Fn(&Work, &Call, Result<&Commit, &StepError>) -> Boxed<'static, ()> + Send + Sync>;

/// Calls a machine's code, for at most the step's timeout. The outcome of `handle` records the
/// error, and each outcome what the history takes of the run.
pub(crate) async fn run(
    runner: &dyn Runner,
    work: &mut Work,
    call: &mut Call,
    around: &Surroundings,
    tx: Option<&mut PgConnection>,
) -> Result<Run, StepError> {
    let (limit, instance) = (limit(runner, work), Arc::clone(&work.instance));
    let run = Guarded::new(runner.run(work, call, &around.resources, tx));
    let mut run = around.polls.within(limit, runner.name(), instance, run).await;
    spans::end(work, &mut run);
    if let Ok(Run::Ran(ran)) = &mut run {
        let failed = match call {
            Call::Handle { text, .. } => Some(text.as_str()),
            Call::Step => None,
        };
        work.record(&mut ran.commit, failed);
        if let Some(text) = failed {
            ran.commit.error.get_or_insert_with(|| storable(text.to_owned()));
        }
    }
    #[cfg(feature = "testing")]
    if let Some(watch) = &around.watch {
        let seen = match &run {
            Ok(Run::Ran(ran)) => Some(watch(work, call, Ok(&ran.commit))),
            Err(error) => Some(watch(work, call, Err(error))),
            Ok(Run::TakesTransaction(_)) => None,
        };
        if let Some(seen) = seen {
            seen.await;
        }
    }
    run
}

/// True if the transaction of a run was rolled back to resolve a conflict.
pub(crate) fn is_conflict(error: &StepError) -> bool {
    guard::catch(|| error.is_conflict()).unwrap_or(false)
}

/// Returns the database error that a step returned, or that caused the returned one.
pub(crate) fn database_error(error: &StepError) -> Option<&sqlx::Error> {
    guard::catch(|| error.downcast_ref()).unwrap_or_default()
}

/// Logs the error of a step.
pub(crate) fn log(runner: &dyn Runner, work: &Work, error: &StepError) {
    tracing::warn!(
        machine = runner.name(),
        instance = work.instance.id,
        step = %work.instance.step,
        attempt = work.instance.attempt,
        kind = ?error.kind(),
        "step failed: {}",
        describe(error)
    );
}

/// Builds the commit that fails an instance whose `handle` failed.
pub(crate) fn failed_twice(work: &Work, call: &Call, second: StepError) -> Box<Commit> {
    let first = match call {
        Call::Handle { text, .. } => text,
        Call::Step => "",
    };
    let commit = work.broken(format!("{first}; then `handle` failed: {}", describe(&second)));
    quietly(|| drop(second));
    commit
}

/// Returns the step's timeout. In a machine that is written by hand the timeout is user code as
/// well, and may panic.
pub(crate) fn limit(runner: &dyn Runner, work: &Work) -> Option<Duration> {
    guard::catch(|| runner.timeout(&work.instance.step)).unwrap_or_default()
}
