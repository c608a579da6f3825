//! The contract between a machine and the engine.
//!
//! `#[durable_fsm]` implements it: on the enum of steps [`Machine`], on the impl block [`Steps`].
//! The two expansions know nothing else of each other, and both traits can be written by hand.

pub(crate) mod context;
pub mod graph;
pub(crate) mod insert;
pub(crate) mod job;
pub(crate) mod outcome;
pub(crate) mod resources;
pub(crate) mod retry;
pub(crate) mod signal;
pub(crate) mod state;
pub(crate) mod upgrade;

use std::{any::TypeId, future::Future, pin::Pin, time::Duration};

use self::{
    context::Context, graph::Graph, outcome::StepResult, resources::Resources, retry::Retry,
    state::DurableState, upgrade::Upgrades,
};
use crate::error::StepError;

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
    /// What is carried from step to step.
    type State: DurableState;
    /// The result of an instance that is done.
    type Output: DurableState;

    /// The machine's name in the database.
    const NAME: &'static str;
    /// The version of its steps and its state; at least 1.
    const VERSION: u32;
    /// The queue that its instances run in, unless an insert says otherwise.
    const QUEUE: &'static str = "default";
    /// How long a step may run before it is dropped and its timeout reaches `handle`.
    const TIMEOUT: Option<Duration> = None;
    /// When a step that failed is tried again, if the machine has no `handle` of its own and the
    /// step no policy of its own; without one an error stops the instance.
    const RETRY: Option<Retry> = None;
    /// The step that a new instance begins with.
    const INITIAL: Self;
    /// The names of all steps.
    const STEPS: &'static [&'static str];
    /// The names of their variants, in the same order; [`Steps::graph`] shows them, and nothing else needs them.
    const VARIANTS: &'static [&'static str] = &[];
    /// The names of the signals that the machine accepts.
    const SIGNALS: &'static [&'static str] = &[];
    /// The older versions whose instances it takes over; see [`Upgrade`](crate::Upgrade).
    const UPGRADES: Upgrades<Self> = Upgrades::none();

    /// The name of this step, as stored.
    fn name(&self) -> &'static str;

    /// The step of this name.
    fn from_name(name: &str) -> Option<Self>;
}

/// A step under way.
pub type StepFuture<'a, M> = Pin<Box<dyn Future<Output = StepResult<M>> + Send + 'a>>;

/// The behaviour of a machine: what each step does.
#[diagnostic::on_unimplemented(
    message = "the machine `{Self}` has no steps",
    label = "no `#[durable_fsm] impl {Self}` block was found",
    note = "write `#[durable_fsm] impl {Self} {{ … }}` with one `async fn` per variant"
)]
pub trait Steps: Machine {
    /// Runs one step.
    fn run(self, cx: Context<Self>, resources: &Resources) -> StepFuture<'_, Self>;

    /// How long this step may run: the machine's [`TIMEOUT`](Machine::TIMEOUT), unless the step has
    /// one of its own.
    fn timeout(&self) -> Option<Duration> {
        Self::TIMEOUT
    }

    /// When this step is tried again after an error, for the default `handle`: the machine's
    /// [`RETRY`](Machine::RETRY), unless the step has a policy of its own.
    fn retry(&self) -> Option<Retry> {
        Self::RETRY
    }

    /// Decides what follows a step that failed, panicked or ran out of time; `cx` holds the
    /// state that the step began with. The default tries again as [`retry`](Self::retry) says, or
    /// stops the instance.
    fn handle(cx: Context<Self>, error: StepError, resources: &Resources) -> StepFuture<'_, Self> {
        let _ = resources;
        let retry = cx.step().retry().unwrap_or(Retry::never());
        Box::pin(async move { Ok(retry.decide(cx, error)) })
    }

    /// Where the steps go. `#[durable_fsm]` reads it from their code; a machine written by hand may state it, and is
    /// otherwise one of which nothing is known.
    fn graph() -> Graph {
        Graph::opaque::<Self>()
    }

    /// The resources that the steps take; the engine refuses to start without them.
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
    /// The resource's type.
    pub type_id: TypeId,
    /// The resource's type, for messages.
    pub type_name: &'static str,
}

impl Requirement {
    /// The step `step` takes a `&T`.
    pub fn of<T: Send + Sync + 'static>(step: &'static str) -> Self {
        Self { step, type_id: TypeId::of::<T>(), type_name: std::any::type_name::<T>() }
    }
}
