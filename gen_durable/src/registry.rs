//! The translation between typed steps and rows.
//!
//! Invariant: beyond this module the engine knows no machine's types.

mod kinds;
mod upgrader;

use std::{
    any::TypeId,
    borrow::Cow,
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::Arc,
    task::Poll,
};

use tracing::Instrument;

use crate::{
    context::{Context, Instance, Received},
    error::{EncodeError, Error, StepError, StepErrorKind, StepResult},
    machine::{Requirement, Steps},
    outcome::{Outcome, Transition},
    resources::Resources,
    state,
    storage::{Change, Claimed, Commit, InboxRow, Upgraded},
    upgrade::Older,
};
pub(crate) use kinds::Registry;
use upgrader::Upgrader;

/// A claimed instance on its way through its steps.
pub(crate) struct Work {
    /// The machine's name.
    pub(crate) fsm: &'static str,
    /// The version of the stored step and state.
    fsm_version: i32,
    /// Set while a step runs on what an older version has become.
    upgraded: Option<Upgraded>,
    pub(crate) instance: Arc<Instance>,
    pub(crate) worker: i64,
    pub(crate) revision: i64,
    /// The state as it is stored.
    pub(crate) state: String,
    pub(crate) inbox: Vec<Received>,
}

impl Work {
    pub(crate) fn new(claimed: Claimed, fsm: &'static str, queue: Arc<str>) -> Self {
        Self {
            fsm,
            fsm_version: claimed.kind.fsm_version,
            upgraded: None,
            instance: Arc::new(Instance {
                id: claimed.id,
                queue,
                partition_key: claimed.partition_key,
                step: claimed.step.into(),
                attempt: u32::try_from(claimed.attempt).unwrap_or(0),
                timed_out: claimed.timed_out,
            }),
            worker: claimed.worker,
            revision: claimed.revision,
            state: claimed.state,
            inbox: received(claimed.inbox),
        }
    }

    /// Becomes what a fresh claim would show after this commit to the next step.
    pub(crate) fn advance(&mut self, step: &'static str, commit: Commit, inbox: Vec<InboxRow>) {
        // Whoever had the context of the step before has dropped it, as a rule.
        let instance = Arc::make_mut(&mut self.instance);
        instance.step = Cow::Borrowed(step);
        instance.attempt = 0;
        instance.timed_out = false;
        if let Some(upgraded) = commit.upgraded {
            self.fsm_version = upgraded.fsm_version;
        }
        self.upgraded = None;
        self.revision += 1;
        if let Some(state) = commit.state {
            self.state = state.0;
        }
        self.inbox = received(inbox);
    }

    fn commit(&self, change: Change, listens: bool) -> Box<Commit> {
        Box::new(Commit {
            id: self.instance.id,
            fsm: self.fsm,
            worker: self.worker,
            revision: self.revision,
            attempt: i32::try_from(self.instance.attempt).unwrap_or(i32::MAX),
            change,
            state: None,
            upgraded: None,
            error: None,
            consumed: Vec::new(),
            inserts: Vec::new(),
            signals: Vec::new(),
            partition_key: self.instance.partition_key.clone(),
            listens,
        })
    }

    /// Back to the queue as if it had not been claimed.
    pub(crate) fn release(&self) -> Box<Commit> {
        self.commit(Change::Release, false)
    }

    /// Fails for a reason that lies outside the step; what is stored stays as it is.
    pub(crate) fn broken(&self, error: String) -> Box<Commit> {
        let mut commit = self.commit(Change::Failed { keep_inbox: true }, true);
        commit.error = Some(storable(error));
        commit
    }
}

fn received(inbox: Vec<InboxRow>) -> Vec<Received> {
    inbox
        .into_iter()
        .map(|InboxRow(id, name, payload)| Received {
            id,
            name: name.into(),
            payload: Box::<str>::from(payload).into(),
            taken: false,
        })
        .collect()
}

/// A text that Postgres can store.
fn storable(text: String) -> String {
    if text.contains('\0') { text.replace('\0', "\u{fffd}") } else { text }
}

type Boxed<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A machine without its types.
pub(crate) trait Runner: Send + Sync {
    fn name(&self) -> &'static str;
    fn version(&self) -> u32;
    fn queue(&self) -> &'static str;
    fn listens(&self) -> bool;
    fn check(&self) -> Result<(), Error>;
    fn requirements(&self) -> Vec<Requirement>;
    fn machine(&self) -> TypeId;

    /// The older versions that it upgrades.
    fn older(&self) -> Vec<Older>;

    /// Runs their instances.
    fn upgrader(&self) -> Arc<dyn Runner>;

    /// Runs the step that `work` stands at, and its `handle` if it fails.
    fn run<'a>(&'a self, work: &'a Work, resources: &'a Resources) -> Boxed<'a, Box<Commit>>;

    /// Lets `handle` decide after a commit that the database refused.
    fn recover<'a>(
        &'a self,
        work: &'a Work,
        error: StepError,
        resources: &'a Resources,
    ) -> Boxed<'a, Box<Commit>>;
}

/// The runner of the machine `M`.
pub(crate) struct MachineRunner<M> {
    value_max: usize,
    machine: std::marker::PhantomData<fn() -> M>,
}

impl<M: Steps> MachineRunner<M> {
    pub(crate) fn new(value_max: usize) -> Self {
        Self { value_max, machine: std::marker::PhantomData }
    }

    async fn step(&self, work: &Work, resources: &Resources) -> Box<Commit> {
        let Some(step) = M::from_name(&work.instance.step) else {
            return work.broken(format!(
                "machine `{}` version {} has no step `{}`; it has {}",
                M::NAME,
                M::VERSION,
                work.instance.step,
                M::STEPS.join(", ")
            ));
        };
        let cx = match Self::context(work) {
            Ok(cx) => cx,
            Err(error) => return work.broken(error),
        };
        let span = tracing::debug_span!(
            "step",
            machine = M::NAME,
            instance = work.instance.id,
            step = %work.instance.step,
            attempt = work.instance.attempt
        );
        let timeout = step.timeout();
        let run = caught(|| step.run(cx, resources));
        let result = async {
            match timeout {
                None => run.await,
                Some(limit) => tokio::time::timeout(limit, run)
                    .await
                    .unwrap_or_else(|_elapsed| Err(StepError::timed_out(limit))),
            }
        };
        match result.instrument(span).await.and_then(|outcome| self.lower(work, outcome)) {
            Ok(commit) => commit,
            Err(error) => self.handle(work, error, resources).await,
        }
    }

    async fn handle(&self, work: &Work, error: StepError, resources: &Resources) -> Box<Commit> {
        let text = error.to_string();
        tracing::warn!(
            machine = M::NAME,
            instance = work.instance.id,
            step = %work.instance.step,
            attempt = work.instance.attempt,
            kind = ?error.kind(),
            "step failed: {text}"
        );
        if error.kind() == StepErrorKind::Undecodable {
            return work.broken(text);
        }
        // The step may have changed the state that it was given: decode it again.
        let cx = match Self::context(work) {
            Ok(cx) => cx,
            Err(error) => return work.broken(error),
        };
        let handled = caught(|| M::handle(cx, error, resources)).await;
        match handled.and_then(|outcome| self.lower(work, outcome)) {
            Ok(mut commit) => {
                commit.error.get_or_insert_with(|| storable(text));
                commit
            }
            Err(second) => Self::failed(work, format!("{text}; then `handle` failed: {second}")),
        }
    }

    fn failed(work: &Work, error: String) -> Box<Commit> {
        let listens = !M::SIGNALS.is_empty();
        let mut commit = work.commit(Change::Failed { keep_inbox: false }, listens);
        commit.error = Some(storable(error));
        commit
    }

    fn context(work: &Work) -> Result<Context<M>, String> {
        let state = state::decode("state", M::NAME, M::VERSION, &work.state)
            .map_err(|error| error.to_string())?;
        Ok(Context::new(state, Arc::clone(&work.instance), work.inbox.clone()))
    }

    /// Translates an outcome into the row's change.
    fn lower(&self, work: &Work, outcome: Outcome<M>) -> Result<Box<Commit>, StepError> {
        let Outcome { transition, state, inbox, inserts, signals } = outcome;
        let encode = |error: EncodeError| StepError::rejected(error);
        let likely = work.state.len();
        let state = state.map(|state| state::encode_about("state", &state, self.value_max, likely));
        let state = state.transpose().map_err(encode)?;
        let mut error = None;
        let mut attempt = 0;
        let change = match transition {
            Transition::Next { step, delay: None } => Change::Next { step },
            Transition::Next { step, delay: Some(delay) } => Change::Later { step, delay },
            Transition::Replay { delay } => {
                attempt =
                    i32::try_from(work.instance.attempt).unwrap_or(i32::MAX).saturating_add(1);
                Change::Replay { delay }
            }
            Transition::Await { names, timeout } => {
                let seen = inbox.iter().filter(|signal| !signal.taken).map(|signal| signal.id);
                Change::Await { names, seen: seen.collect(), timeout }
            }
            Transition::Done(output) => {
                let result = state::encode("result", &output, self.value_max).map_err(encode)?;
                Change::Done { result }
            }
            Transition::Stop(reason) => {
                error = Some(storable(reason));
                Change::Failed { keep_inbox: false }
            }
        };
        if matches!(change, Change::Done { .. } | Change::Failed { .. }) {
            attempt = i32::try_from(work.instance.attempt).unwrap_or(i32::MAX);
        }
        let mut commit = work.commit(change, !M::SIGNALS.is_empty());
        commit.attempt = attempt;
        // What an upgrade made of the state is stored in any case.
        commit.state = state.or_else(|| work.upgraded.map(|_| state::Json(work.state.clone())));
        commit.upgraded = work.upgraded;
        commit.error = error;
        commit.consumed =
            inbox.iter().filter(|signal| signal.taken).map(|signal| signal.id).collect();
        commit.inserts = inserts.into_iter().collect::<Result<_, _>>().map_err(encode)?;
        commit.signals = signals.into_iter().collect::<Result<_, _>>().map_err(encode)?;
        self.check_sizes(&commit).map_err(encode)?;
        Ok(commit)
    }

    /// What an outcome carries was encoded without knowing the engine's limit.
    fn check_sizes(&self, commit: &Commit) -> Result<(), EncodeError> {
        let max = self.value_max;
        let states = commit.inserts.iter().map(|insert| ("state", insert.state.0.len()));
        let payloads =
            commit.signals.iter().map(|signal| ("signal payload", signal.payload.0.len()));
        match states.chain(payloads).find(|(_, bytes)| *bytes > max) {
            Some((what, bytes)) => Err(EncodeError::TooLarge { what, bytes, max }),
            None => Ok(()),
        }
    }
}

impl<M: Steps> Runner for MachineRunner<M> {
    fn name(&self) -> &'static str {
        M::NAME
    }

    fn version(&self) -> u32 {
        M::VERSION
    }

    fn queue(&self) -> &'static str {
        M::QUEUE
    }

    fn listens(&self) -> bool {
        !M::SIGNALS.is_empty()
    }

    fn check(&self) -> Result<(), Error> {
        let invalid = |reason: &str| Error::InvalidOption {
            option: format!("machine `{}`", M::NAME),
            reason: reason.to_owned(),
        };
        if M::NAME.is_empty() || M::NAME.contains('\0') {
            return Err(invalid("a machine needs a name without NUL characters"));
        }
        if M::VERSION == 0 || i32::try_from(M::VERSION).is_err() {
            return Err(invalid("a version is between 1 and 2,147,483,647"));
        }
        if M::SIGNALS.iter().any(|name| name.is_empty() || name.contains(char::is_control)) {
            return Err(invalid("a signal needs a name without control characters"));
        }
        Ok(())
    }

    fn requirements(&self) -> Vec<Requirement> {
        M::requirements()
    }

    fn machine(&self) -> TypeId {
        TypeId::of::<M>()
    }

    fn older(&self) -> Vec<Older> {
        M::UPGRADES.older()
    }

    fn upgrader(&self) -> Arc<dyn Runner> {
        Arc::new(Upgrader::<M>::new(self.value_max))
    }

    fn run<'a>(&'a self, work: &'a Work, resources: &'a Resources) -> Boxed<'a, Box<Commit>> {
        Box::pin(self.step(work, resources))
    }

    fn recover<'a>(
        &'a self,
        work: &'a Work,
        error: StepError,
        resources: &'a Resources,
    ) -> Boxed<'a, Box<Commit>> {
        Box::pin(self.handle(work, error, resources))
    }
}

/// Makes and runs a step's future; a panic in either becomes an error.
///
/// A step's state is dropped with it and its resources are shared references, so nothing that a
/// panic left half-done is looked at again, beyond what the resources themselves guard.
async fn caught<'a, M: Steps>(
    start: impl FnOnce() -> crate::machine::StepFuture<'a, M>,
) -> StepResult<M> {
    let panicked = |payload: Box<dyn std::any::Any + Send>| Err(StepError::panicked(&*payload));
    let mut step = match catch_unwind(AssertUnwindSafe(start)) {
        Ok(step) => step,
        Err(payload) => return panicked(payload),
    };
    let result = std::future::poll_fn(|cx| {
        match catch_unwind(AssertUnwindSafe(|| step.as_mut().poll(cx))) {
            Ok(Poll::Pending) => Poll::Pending,
            Ok(Poll::Ready(result)) => Poll::Ready(result),
            Err(payload) => Poll::Ready(panicked(payload)),
        }
    })
    .await;
    // Dropping what a panicking future left behind may panic again.
    let _ = catch_unwind(AssertUnwindSafe(|| drop(step)));
    result
}
