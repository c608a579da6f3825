//! Runs the steps of one machine.
//!
//! Invariant: a step and its `handle` run alike. Both get the stored state and inbox, and both end
//! in a [`Commit`] that has been checked.

use std::{any::TypeId, future::ready, sync::Arc, time::Duration};

use sqlx::PgConnection;
use tracing::Instrument;

use super::{
    Boxed, Call, Limited, Ran, Run, Runner, Upgrader, Work,
    guard::{Decoded, catch, describe},
    spans::{self, By},
    storable,
};
use crate::{
    error::{EncodeError, Error, StepError},
    history::History,
    isolation::Isolation,
    keys::check_name,
    machine::{
        Requirement, Steps,
        context::{Consumption, Context, Received},
        limit::StepLimit,
        outcome::{Outcome, Transition},
        registered::registered,
        resources::Resources,
        upgrade::Older,
    },
    meters::MachineMeters,
    storage::{Change, Commit, NewMachine, Receiver},
    value,
};

/// The most bytes of a key of a limit.
const LIMIT_KEY_MAX: usize = 1024;

/// The runner of the machine `M`.
pub(crate) struct MachineRunner<M> {
    value_max: usize,
    /// The steps that take a transaction, and its level.
    transactional: Vec<(&'static str, Isolation)>,
    handle_transaction: Option<Isolation>,
    /// The steps that are limited, and their limits.
    limited: Vec<(&'static str, StepLimit)>,
    meters: MachineMeters,
    machine: std::marker::PhantomData<fn() -> M>,
}

impl<M: Steps> MachineRunner<M> {
    pub(crate) fn new(value_max: usize) -> Self {
        let level = |name: &&'static str| Some((*name, M::from_name(name)?.transaction()?));
        Self {
            value_max,
            transactional: M::STEPS.iter().filter_map(level).collect(),
            handle_transaction: M::handle_transaction(),
            limited: M::STEPS
                .iter()
                .filter_map(|name| Some((*name, M::from_name(name)?.limit()?)))
                .collect(),
            meters: MachineMeters::new(M::NAME, M::STEPS),
            machine: std::marker::PhantomData,
        }
    }

    async fn step(
        &self,
        work: &mut Work,
        resources: &Resources,
        tx: Option<&mut PgConnection>,
    ) -> Result<Run, StepError> {
        let (step, cx) = match Self::begin(work) {
            Ok(begun) => begun,
            Err(reason) => return Ok(Run::Ran(work.broken(reason).into())),
        };
        let span = spans::begin(work, M::VERSION, By::Step);
        let run = async {
            match tx {
                Some(tx) => step.run_in(cx, resources, tx).await,
                None => step.run(cx, resources).await,
            }
        };
        let outcome = run.instrument(span).await?;
        Ok(Run::Ran(self.lower(work, outcome, By::Step)?))
    }

    async fn handle(
        &self,
        work: &mut Work,
        error: StepError,
        resources: &Resources,
        tx: Option<&mut PgConnection>,
    ) -> Result<Run, StepError> {
        let (_, cx) = match Self::begin(work) {
            Ok(begun) => begun,
            Err(reason) => return Ok(Run::Ran(work.broken(reason).into())),
        };
        let span = spans::begin(work, M::VERSION, By::Handle);
        let run = async {
            match tx {
                Some(tx) => M::handle_in(cx, error, resources, tx).await,
                None => M::handle(cx, error, resources).await,
            }
        };
        let outcome = run.instrument(span).await?;
        Ok(Run::Ran(self.lower(work, outcome, By::Handle)?))
    }

    /// Returns the step that the instance stands at and its context, or the reason why there is
    /// none.
    fn begin(work: &mut Work) -> Result<(M, Context<M>), String> {
        let step = M::from_name(&work.instance.step).ok_or_else(|| {
            format!(
                "machine `{}` version {} has no step `{}`; it has {}",
                M::NAME,
                M::VERSION,
                work.instance.step,
                M::STEPS.join(", ")
            )
        })?;
        let state = match work.decoded.take().and_then(Decoded::take) {
            Some(state) => state,
            None => catch(|| value::decode("state", M::NAME, M::VERSION, &work.state))
                .map_err(|panic| format!("the state does not decode: {}", describe(&panic)))?
                .map_err(|error| error.to_string())?,
        };
        let (signals, beyond) = (work.inbox.signals(), work.inbox.beyond());
        let cx = Context::new(state, Arc::clone(&work.instance), signals, beyond);
        Ok((step, cx))
    }

    /// Translates an outcome into the row's change.
    fn lower(&self, work: &Work, outcome: Outcome<M>, by: By) -> Result<Ran, StepError> {
        let encode = |error: EncodeError| StepError::rejected(error);
        let Outcome { transition, state, inbox, inserts, signals, spawns } = outcome;
        if spawns && !matches!(transition, Transition::Next { .. } | Transition::Await { .. }) {
            return Err(StepError::rejected(CannotSpawn));
        }
        let likely = work.state.len();
        let state = state
            .as_ref()
            .map(|state| value::encode_and_read("state", state, self.value_max, likely))
            .transpose()
            .map_err(encode)?;
        let (state, read) = state.map_or((None, None), |(json, read)| (Some(json), Some(read)));
        let instance = &work.instance;
        // Runs and failures of the step at which the row stands from here on.
        let (mut attempt, mut failures) = (instance.attempt, instance.failures);
        if by == By::Handle {
            failures = failures.saturating_add(1);
        } else {
            failures = 0;
        }
        let mut error = None;
        let mut next = None;
        let mut awaits_loaded = None;
        let change = match transition {
            Transition::Next { step, delay } => {
                (attempt, failures) = (0, 0);
                match delay {
                    None => {
                        next = read.map(Decoded::new);
                        Change::Next { step }
                    }
                    Some(delay) => Change::Later { step, delay },
                }
            }
            Transition::Replay { delay } => {
                attempt = attempt.saturating_add(1);
                Change::Repeat { delay, timed_out: instance.timed_out }
            }
            Transition::Snooze { delay } => Change::Repeat { delay, timed_out: instance.timed_out },
            // The step has not seen all signals of these names. The row wakes at once, on the same
            // claim, and they are loaded.
            Transition::Await { names, count, .. }
                if work.inbox.holds_back(&names)
                    && count.is_none_or(|count| count <= unconsumed(work, &inbox, &names)) =>
            {
                (attempt, failures) = (0, 0);
                next = read.map(Decoded::new);
                awaits_loaded = Some(names);
                Change::Next { step: Self::static_name(&instance.step) }
            }
            Transition::Await { names, count, timeout } => {
                attempt = 0;
                let seen: Vec<i64> = seen(&inbox, &names).map(|signal| signal.id).collect();
                let count = count.map(|count| awaited(count, &names, &seen)).transpose()?;
                Change::Await { seen, names, count, timeout }
            }
            Transition::Done(output) => {
                let result = value::encode("result", &output, self.value_max).map_err(encode)?;
                Change::Done { result }
            }
            Transition::Stop(reason) => {
                error = Some(storable(reason));
                Change::Failed
            }
        };
        let mut commit = work.commit(change, !M::SIGNALS.is_empty());
        commit.attempt = i32::try_from(attempt).unwrap_or(i32::MAX);
        commit.failures = i32::try_from(failures).unwrap_or(i32::MAX);
        // The state that an upgrade made is stored with the first outcome, even if the step left it
        // alone.
        commit.state = state.or_else(|| work.upgraded.map(|_| value::Json(work.state.clone())));
        commit.upgraded = work.upgraded;
        commit.error = error;
        commit.awaits_loaded = awaits_loaded;
        let consumed = inbox.iter().filter(|signal| signal.consumption != Consumption::Kept);
        commit.consumed = consumed.map(|signal| signal.id).collect();
        commit.inserts = inserts.into_iter().collect::<Result<_, _>>().map_err(encode)?;
        if spawns {
            let children = commit.inserts.iter_mut().filter_map(|insert| insert.report_to.as_mut());
            for receiver in children.filter(|receiver| **receiver == Receiver::Sender) {
                *receiver = Receiver::Instance(instance.id);
            }
        }
        commit.signals = signals.into_iter().collect::<Result<_, _>>().map_err(encode)?;
        self.check_sizes(&commit).map_err(encode)?;
        Ok(Ran { commit, next })
    }

    /// Returns the key of a run in the limit of its step. None if the state does not decode: then
    /// the step does not begin, and its run says why.
    fn key(work: &mut Work, step: &str) -> Option<Result<String, StepError>> {
        if work.decoded.as_ref().is_none_or(|decoded| decoded.get::<M::State>().is_none()) {
            let decoded = catch(|| value::decode("state", M::NAME, M::VERSION, &work.state));
            work.decoded = Some(Decoded::new::<M::State>(decoded.ok()?.ok()?));
        }
        let state = work.decoded.as_ref()?.get::<M::State>()?;
        let key = catch(|| M::from_name(step).and_then(|step| step.limit_key(state)));
        Some(key.and_then(|key| {
            let wrong = |reason| StepError::rejected(LimitKey { step: step.to_owned(), reason });
            let key = key.ok_or_else(|| wrong("there is none"))?;
            match key.len() {
                0 => Err(wrong("it is empty")),
                1..=LIMIT_KEY_MAX if key.contains('\0') => Err(wrong("it has a NUL")),
                1..=LIMIT_KEY_MAX => Ok(key),
                _ => Err(wrong("it is longer than 1,024 bytes")),
            }
        }))
    }

    /// Returns a step's name as the machine has it.
    fn static_name(step: &str) -> &'static str {
        M::STEPS.iter().find(|name| **name == step).copied().unwrap_or_default()
    }

    /// Checks the sizes of an outcome's inserts and signals, which were encoded without knowing the
    /// engine's limit.
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

/// Returns the signals of these names that the step has seen and not consumed.
fn seen<'a>(inbox: &'a [Received], names: &'a [&str]) -> impl Iterator<Item = &'a Received> {
    inbox.iter().filter(move |signal| {
        signal.consumption == Consumption::Kept && names.contains(&&*signal.name)
    })
}

/// Returns the number of signals of these names that the worker knows of and the step has not
/// consumed.
fn unconsumed(work: &Work, inbox: &[Received], names: &[&str]) -> usize {
    let beyond = work.inbox.beyond();
    let beyond = |name: &&str| beyond.as_ref().and_then(|beyond| beyond.get(*name).copied());
    seen(inbox, names).count() + names.iter().filter_map(beyond).sum::<usize>()
}

/// Checks the number of signals that a step awaits.
fn awaited(wanted: usize, names: &[&str], seen: &[i64]) -> Result<i64, StepError> {
    // Postgres stores the number in 32 bits.
    match i32::try_from(wanted) {
        Ok(count) if wanted > seen.len() => Ok(count.into()),
        _ => Err(StepError::rejected(AwaitsCount {
            name: names.join(", "),
            wanted,
            seen: seen.len(),
        })),
    }
}

/// An outcome spawns children and does not leave the instance in a step that can hear of them.
#[derive(Debug, thiserror::Error)]
#[error(
    "only `next` and the awaits can `spawn`: an instance that ends would not hear of its children, and a step that is repeated would spawn them again; use `insert_many` for instances that report to nobody"
)]
struct CannotSpawn;

/// The key of a limited step is no key.
#[derive(Debug, thiserror::Error)]
#[error("the limit of step `{step}` needs a key of 1 to 1,024 bytes without a NUL: {reason}")]
struct LimitKey {
    step: String,
    reason: &'static str,
}

/// A step awaits no more signals than it has seen, or more than can come.
#[derive(Debug, thiserror::Error)]
#[error(
    "`await_count` awaits {wanted} signals `{name}`, and the step has seen {seen}: await more than it has seen, and at most 2,147,483,647"
)]
struct AwaitsCount {
    name: String,
    wanted: usize,
    seen: usize,
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

    fn meters(&self) -> &MachineMeters {
        &self.meters
    }

    fn listens(&self) -> bool {
        !M::SIGNALS.is_empty()
    }

    fn history(&self) -> History {
        M::HISTORY
    }

    fn check(&self) -> Result<(), Error> {
        let invalid = |reason: &str| Error::InvalidOption {
            option: format!("machine `{}`", M::NAME),
            reason: reason.to_owned(),
        };
        check_name("its name", M::NAME).map_err(|error| invalid(&error.to_string()))?;
        check_name("its queue", M::QUEUE).map_err(|error| invalid(&error.to_string()))?;
        if M::VERSION == 0 || i32::try_from(M::VERSION).is_err() {
            return Err(invalid("a version is between 1 and 2,147,483,647"));
        }
        for name in M::STEPS {
            check_name("the name of a step", name).map_err(|error| invalid(&error.to_string()))?;
            if M::from_name(name).and_then(|step| step.timeout()) == Some(Duration::ZERO) {
                return Err(invalid(&format!(
                    "step `{name}` has a timeout of 0, which cuts every run off; give it time, or no timeout"
                )));
            }
        }
        for name in M::SIGNALS {
            check_name("the name of a signal", name)
                .map_err(|error| invalid(&error.to_string()))?;
            if name.contains(char::is_control) {
                return Err(invalid("a signal needs a name without control characters"));
            }
        }
        Ok(())
    }

    fn requirements(&self) -> Vec<Requirement> {
        M::requirements()
    }

    fn dead_ends(&self) -> Vec<&'static str> {
        M::graph().dead_ends()
    }

    fn machine(&self) -> TypeId {
        TypeId::of::<M>()
    }

    fn registered(&self) -> NewMachine {
        NewMachine { graph: Some(M::graph().to_json()), ..registered::<M>() }
    }

    fn older(&self) -> Vec<Older> {
        M::UPGRADES.older()
    }

    fn timeout(&self, step: &str) -> Option<Duration> {
        M::from_name(step)?.timeout()
    }

    fn limits(&self) -> Vec<(&'static str, StepLimit)> {
        self.limited.clone()
    }

    fn limit(&self, work: &mut Work) -> Option<Result<Limited, StepError>> {
        let mut limited = self.limited.iter();
        let (step, limit) = limited.find(|(name, _)| *name == work.instance.step)?;
        let bucket = if limit.keyed {
            match Self::key(work, step)? {
                Ok(key) => format!("{}\u{1f}{key}", limit.name).into(),
                Err(error) => return Some(Err(error)),
            }
        } else {
            limit.name.into()
        };
        Some(Ok(Limited { name: limit.name, weight: limit.weight, bucket }))
    }

    fn upgrader(&self) -> Arc<dyn Runner> {
        Arc::new(Upgrader::<M>::new(self.value_max))
    }

    fn isolation(&self, work: &Work, call: &Call) -> Option<Isolation> {
        match call {
            Call::Step => {
                let mut steps = self.transactional.iter();
                steps.find(|(name, _)| *name == work.instance.step).map(|(_, level)| *level)
            }
            Call::Handle { .. } => self.handle_transaction,
        }
    }

    fn run<'a>(
        &'a self,
        work: &'a mut Work,
        call: &'a mut Call,
        resources: &'a Resources,
        tx: Option<&'a mut PgConnection>,
    ) -> Boxed<'a, Result<Run, StepError>> {
        if tx.is_none()
            && let Some(isolation) = self.isolation(work, call)
        {
            return Box::pin(ready(Ok(Run::TakesTransaction(isolation))));
        }
        match call {
            Call::Step => Box::pin(self.step(work, resources, tx)),
            Call::Handle { error, .. } => {
                let error = match tx {
                    Some(_) => error.as_ref().map(StepError::again),
                    None => error.take(),
                };
                let Some(error) = error else { unreachable!("`handle` takes the error once") };
                Box::pin(self.handle(work, error, resources, tx))
            }
        }
    }
}
