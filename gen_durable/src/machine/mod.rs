//! The contract between a machine and the engine.
//!
//! `#[durable_fsm]` on the enum of steps implements [`Machine`], and on the impl block [`Steps`].
//! The two expansions know nothing else of each other. Both traits can also be written by hand.
//!
//! Invariant: the engine reaches a machine through these two traits alone.

pub(crate) mod address;
pub(crate) mod cancel_flag;
pub(crate) mod context;
pub(crate) mod ended;
pub(crate) mod graph;
pub(crate) mod insert;
pub(crate) mod insert_or_signal;
pub(crate) mod job;
pub(crate) mod limit;
pub(crate) mod outcome;
pub(crate) mod registered;
pub(crate) mod resources;
pub(crate) mod retry;
#[cfg(feature = "schedules")]
pub(crate) mod schedule;
pub(crate) mod signal;
pub(crate) mod state;
pub(crate) mod upgrade;

use std::{any::TypeId, future::Future, pin::Pin, time::Duration};

use sqlx::PgConnection;

use self::{
    context::Context, graph::Graph, limit::StepLimit, outcome::StepResult, resources::Resources,
    retry::Retry, state::DurableState, upgrade::Upgrades,
};
use crate::{error::StepError, history::History, isolation::Isolation};

/// The specification of a machine: an enum whose variants are its steps.
///
/// ```
/// use gen_durable::{machine::Machine, prelude::*};
///
/// pub enum Hello {
///     Greet,
/// }
///
/// impl Machine for Hello {
///     type State = ();
///     type Output = String;
///     const NAME: &'static str = "hello";
///     const VERSION: u32 = 1;
///     const INITIAL: Self = Hello::Greet;
///     const STEPS: &'static [&'static str] = &["greet"];
///
///     fn name(&self) -> &'static str {
///         match self {
///             Hello::Greet => "greet",
///         }
///     }
///
///     fn from_name(name: &str) -> Option<Self> {
///         match name {
///             "greet" => Some(Hello::Greet),
///             _ => None,
///         }
///     }
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a machine",
    label = "not a machine",
    note = "put `#[durable_fsm(…)]` on `enum {Self}`"
)]
pub trait Machine: Sized + Send + Sync + 'static {
    /// The data that is carried from step to step.
    type State: DurableState;
    /// The result of an instance that is done.
    type Output: DurableState;

    /// The machine's name in the database.
    const NAME: &'static str;
    /// The version of its steps and its state, at least 1.
    const VERSION: u32;
    /// The queue of its instances, unless an insert names another one.
    const QUEUE: &'static str = "default";
    /// The longest time that a step may run, if there is a limit. A run that takes longer is
    /// dropped, and its timeout reaches `handle`.
    const TIMEOUT: Option<Duration> = None;
    /// The policy by which a failed step is tried again. It applies if the machine has no `handle`
    /// of its own, and the step no policy of its own. Without any policy an error stops the
    /// instance.
    const RETRY: Option<Retry> = None;
    /// The step that a new instance begins with.
    const INITIAL: Self;
    /// The step to which a cancel sends an instance. None, the default, if a cancel ends it.
    const ON_CANCEL: Option<Self> = None;
    /// The level of the history of its instances.
    const HISTORY: History = History::Failures;
    /// The names of all steps.
    const STEPS: &'static [&'static str];
    /// The names of the variants of these steps, in the same order. [`Steps::graph`] shows them,
    /// and nothing else needs them.
    const VARIANTS: &'static [&'static str] = &[];
    /// The names of the signals that the machine accepts.
    const SIGNALS: &'static [&'static str] = &[];
    /// The older versions whose instances this one takes over; see [`Upgrade`](crate::Upgrade).
    const UPGRADES: Upgrades<Self> = Upgrades::none();

    /// Returns the name of this step, as stored.
    fn name(&self) -> &'static str;

    /// Returns the step of this name, or none if the machine has no such step.
    fn from_name(name: &str) -> Option<Self>;
}

/// The future of a step that runs.
pub type StepFuture<'a, M> = Pin<Box<dyn Future<Output = StepResult<M>> + Send + 'a>>;

/// The behaviour of a machine: the code of its steps.
#[diagnostic::on_unimplemented(
    message = "the machine `{Self}` has no steps",
    label = "no `#[durable_fsm] impl {Self}` block was found",
    note = "write `#[durable_fsm] impl {Self} {{ … }}` with one `async fn` per variant"
)]
pub trait Steps: Machine {
    /// Runs this step.
    fn run(self, cx: Context<Self>, resources: &Resources) -> StepFuture<'_, Self>;

    /// Returns the longest time that this step may run. It is the machine's
    /// [`TIMEOUT`](Machine::TIMEOUT), unless the step has one of its own.
    fn timeout(&self) -> Option<Duration> {
        Self::TIMEOUT
    }

    /// Returns the policy by which the default `handle` tries this step again after an error. It is
    /// the machine's [`RETRY`](Machine::RETRY), unless the step has one of its own.
    fn retry(&self) -> Option<Retry> {
        Self::RETRY
    }

    /// Decides what follows a run that failed, panicked or ran out of time. `cx` holds the state
    /// that the step began with. The default tries the step again as [`retry`](Self::retry) says,
    /// or stops the instance.
    fn handle(cx: Context<Self>, error: StepError, resources: &Resources) -> StepFuture<'_, Self> {
        let _ = resources;
        let retry = cx.step().retry().unwrap_or(Retry::never());
        Box::pin(async move { Ok(retry.decide(cx, error)) })
    }

    /// Returns the isolation level of the transaction that this step runs in. None, the default, if
    /// it takes no transaction. The engine then calls [`run`](Self::run), and otherwise
    /// [`run_in`](Self::run_in).
    fn transaction(&self) -> Option<Isolation> {
        None
    }

    /// Runs this step in a transaction, which commits with the step's outcome.
    fn run_in<'a>(
        self,
        cx: Context<Self>,
        resources: &'a Resources,
        tx: &'a mut PgConnection,
    ) -> StepFuture<'a, Self> {
        let _ = tx;
        self.run(cx, resources)
    }

    /// Returns the isolation level of the transaction that `handle` runs in. None, the default, if
    /// it takes no transaction.
    fn handle_transaction() -> Option<Isolation> {
        None
    }

    /// Decides like [`handle`](Self::handle), in a transaction of its own.
    fn handle_in<'a>(
        cx: Context<Self>,
        error: StepError,
        resources: &'a Resources,
        tx: &'a mut PgConnection,
    ) -> StepFuture<'a, Self> {
        let _ = tx;
        Self::handle(cx, error, resources)
    }

    /// Returns the limit that bounds the runs of this step. None, the default, if none does.
    fn limit(&self) -> Option<StepLimit> {
        None
    }

    /// Returns the key of a run in this step's limit: 1 to 1,024 bytes of text. The engine asks for
    /// it if [`limit`](Self::limit) is [keyed](StepLimit::keyed), and does not start a run without
    /// one.
    fn limit_key(&self, state: &Self::State) -> Option<String> {
        let _ = state;
        None
    }

    /// Returns the graph of the steps. `#[durable_fsm]` reads it from their code. A machine that is
    /// written by hand may state it. By default only the names of the steps are known.
    fn graph() -> Graph {
        Graph::opaque::<Self>()
    }

    /// Returns the machine's own schedule. `#[durable_job(cron = …)]` states one.
    #[cfg(feature = "schedules")]
    fn schedule() -> Option<schedule::Scheduled<Self>> {
        None
    }

    /// Returns the resources that the steps take. The engine does not start without them.
    fn requirements() -> Vec<Requirement> {
        Vec::new()
    }
}

/// A resource that a step takes by reference.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Requirement {
    /// The name of the step.
    pub step: &'static str,
    /// The type of the resource.
    pub type_id: TypeId,
    /// The name of this type, for messages.
    pub type_name: &'static str,
}

impl Requirement {
    /// States that the step `step` takes a `&T`.
    pub fn of<T: Send + Sync + 'static>(step: &'static str) -> Self {
        Self { step, type_id: TypeId::of::<T>(), type_name: std::any::type_name::<T>() }
    }
}
