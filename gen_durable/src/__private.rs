//! The only path that generated code uses. It is not public API: it may change in any release.
//!
//! Invariant: nothing here has behaviour of its own beyond checks and conversions.

mod checks;
mod nodes;
mod twin;

use std::fmt::Display;
pub use std::{
    boxed::Box,
    option::Option::{self, None, Some},
    primitive::{bool, str, u32},
    result::Result::{self, Err, Ok},
    string::String,
    time::Duration,
    vec::Vec,
};

pub use crate::remove_serdes_derives_or_write_durable_serde_external;
pub use serde;
pub use serde_json::Value;
pub use sqlx::PgConnection;

pub use self::checks::{
    Checks, Functions, HasState, Reached, StateOf, has_state, is_a_name, is_no_report, name_is_new,
    upgrades_an_older_version, upgrades_the_same_machine,
};
pub use self::nodes::{graph, node, with_limits};
pub use self::twin::SerdeFallback;
#[cfg(feature = "schedules")]
pub use crate::machine::schedule::{Missed, Overlap, Schedule, Scheduled, Tick};
#[cfg(feature = "testing")]
pub use crate::testing::database::{Setup, run_test};
pub use crate::{
    error::StepError,
    history::History,
    id::InstanceId,
    isolation::Isolation,
    machine::{
        Machine, Requirement, StepFuture, Steps,
        address::{Address, InstanceKey},
        context::Context,
        graph::Graph,
        insert::{Insert, InsertMany, IntoInsert},
        job::{JobEnd, job},
        limit::StepLimit,
        outcome::{Outcome, StepResult},
        resources::Resources,
        retry::Retry,
        signal::{Accepts, DurableSignal, Signal},
        state::DurableState,
        upgrade::Upgrades,
    },
};

/// The functions of an impl block, for the checks against the variants. Two blocks for one machine
/// implement this twice, and the compiler's error then shows the trait's name.
#[diagnostic::on_unimplemented(
    message = "the machine `{Self}` has no steps",
    label = "no `#[durable_fsm] impl {Self}` block was found",
    note = "write `#[durable_fsm] impl {Self} {{ … }}` with one `async fn` per variant"
)]
pub trait StepsInOneImplBlock {
    /// The functions, in the order of the impl block.
    const FUNCTIONS: Functions;
}

/// The arguments of a job that can be made of a tick.
#[cfg(feature = "schedules")]
#[diagnostic::on_unimplemented(
    message = "a scheduled job cannot be given `{Self}`: it is not made of a tick",
    label = "does not implement `From<Tick>`",
    note = "write `impl From<Tick> for {Self}`, or take `()` or a `Tick`"
)]
pub trait FromTick {
    /// Makes the arguments for a tick.
    fn from_tick(tick: Tick) -> Self;
}

#[cfg(feature = "schedules")]
#[diagnostic::do_not_recommend]
impl<T: From<Tick>> FromTick for T {
    fn from_tick(tick: Tick) -> Self {
        tick.into()
    }
}

/// The values that can be the key of a limit.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be the key of a limit: it has no text",
    label = "does not implement `Display`",
    note = "name a part of the state that has a text, such as `key = state.customer.id`, or make one: `key = format!(…)`"
)]
pub trait LimitKey {
    /// Returns the key's text.
    fn text(&self) -> String;
}

#[diagnostic::do_not_recommend]
impl<T: Display + ?Sized> LimitKey for T {
    fn text(&self) -> String {
        self.to_string()
    }
}

/// The types that a step may return.
#[diagnostic::on_unimplemented(
    message = "a step cannot return `{Self}`",
    label = "not an outcome",
    note = "a step returns `Outcome<Self>`, `StepResult<Self>` or `Result<Outcome<Self>, E>` with an error type `E`"
)]
pub trait IntoStepResult<M: Machine> {
    /// Converts the value to the result that the engine takes.
    fn into_step_result(self) -> StepResult<M>;
}

impl<M: Machine> IntoStepResult<M> for Outcome<M> {
    fn into_step_result(self) -> StepResult<M> {
        Ok(self)
    }
}

impl<M: Machine, E> IntoStepResult<M> for Result<Outcome<M>, E>
where
    StepError: From<E>,
{
    fn into_step_result(self) -> StepResult<M> {
        self.map_err(StepError::from)
    }
}

/// The types that a job may return, besides that of its result.
#[diagnostic::on_unimplemented(
    message = "a job cannot return `{Self}`",
    label = "not a result",
    note = "a job returns its result, or a `Result` of it with an error type that is a `std::error::Error`"
)]
pub trait IntoJobResult<T> {
    /// Returns the job's result, or the error with which it failed.
    ///
    /// # Errors
    ///
    /// The job failed.
    fn into_job_result(self) -> Result<T, StepError>;
}

impl<T, E> IntoJobResult<T> for Result<T, E>
where
    StepError: From<E>,
{
    fn into_job_result(self) -> Result<T, StepError> {
        self.map_err(StepError::from)
    }
}

/// Stands for a step that the machine does not have. The compiler has checked that there is none,
/// so this is never called.
#[cold]
pub fn no_such_step() -> ! {
    unreachable!("each variant has its step")
}

/// Stands for a step that was called without the transaction that it takes. The engine calls
/// [`Steps::run_in`] for such a step, and so must other code.
#[cold]
pub fn takes_a_transaction(step: &str) -> ! {
    panic!("the step `{step}` takes a transaction: call `Steps::run_in`")
}

/// Checks the step that an outcome goes to against those that its step declares. This happens at
/// run time, as the code of the step does not tell.
///
/// # Errors
///
/// The outcome goes to another step.
pub fn going_to<M: Machine>(result: StepResult<M>, declared: &[&str]) -> StepResult<M> {
    match result {
        Ok(outcome) => match outcome.target() {
            Some(step) if !declared.contains(&step) => {
                Err(StepError::rejected(UndeclaredTarget { step, declared: declared.join(", ") }))
            }
            _ => Ok(outcome),
        },
        Err(error) => Err(error),
    }
}

#[derive(Debug, thiserror::Error)]
#[error(
    "went to step `{step}`, which it does not declare; add it to `#[step(next(...))]`, which has [{declared}]"
)]
struct UndeclaredTarget {
    step: &'static str,
    declared: String,
}
