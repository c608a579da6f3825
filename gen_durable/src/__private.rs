//! The only path that generated code uses. Not public API: it may change in any release.
//!
//! Invariant: nothing here has behaviour of its own beyond compile-time checks and conversions.

pub use std::{
    boxed::Box,
    option::Option::{self, None, Some},
    primitive::{bool, str, u32},
    result::Result::{self, Err, Ok},
    string::String,
    time::Duration,
    vec::Vec,
};

pub use serde;
pub use serde_json::Value;

pub use crate::{
    context::Context,
    error::{StepError, StepResult},
    id::InstanceId,
    insert::{Insert, InsertMany, IntoInsert},
    machine::{Machine, Requirement, StepFuture, Steps},
    outcome::Outcome,
    resources::Resources,
    signal::{Accepts, DurableSignal, Signal},
    state::DurableState,
};

/// The names of the step functions that an impl block has, for the check against the variants.
#[diagnostic::on_unimplemented(
    message = "the machine `{Self}` has no steps",
    label = "no `#[durable_fsm] impl {Self}` block was found",
    note = "write `#[durable_fsm] impl {Self} {{ … }}` with one `async fn` per variant"
)]
pub trait StepFunctions {
    /// In the order of the impl block.
    const NAMES: &'static [&'static str];
}

/// What a step may return.
#[diagnostic::on_unimplemented(
    message = "a step cannot return `{Self}`",
    label = "not an outcome",
    note = "a step returns `Outcome<Self>`, `StepResult<Self>` or `Result<Outcome<Self>, E>` with an error type `E`"
)]
pub trait IntoStepResult<M: Machine> {
    /// As the engine takes it.
    fn into_step_result(self) -> StepResult<M>;
}

impl<M: Machine> IntoStepResult<M> for Outcome<M> {
    fn into_step_result(self) -> StepResult<M> {
        Ok(self)
    }
}

impl<M: Machine, E> IntoStepResult<M> for Result<Outcome<M>, E>
where
    E: Into<std::boxed::Box<dyn std::error::Error + Send + Sync>>,
{
    fn into_step_result(self) -> StepResult<M> {
        self.map_err(StepError::from_boxed)
    }
}

/// Whether `names` has `name`; for checks at compile time.
pub const fn contains(names: &[&str], name: &str) -> bool {
    let mut index = 0;
    while index < names.len() {
        if same(names[index], name) {
            return true;
        }
        index += 1;
    }
    false
}

/// Whether no name stands twice; for checks at compile time.
pub const fn all_different(names: &[&str]) -> bool {
    let mut index = 0;
    while index < names.len() {
        let mut other = index + 1;
        while other < names.len() {
            if same(names[index], names[other]) {
                return false;
            }
            other += 1;
        }
        index += 1;
    }
    true
}

const fn same(left: &str, right: &str) -> bool {
    let (left, right) = (left.as_bytes(), right.as_bytes());
    if left.len() != right.len() {
        return false;
    }
    let mut index = 0;
    while index < left.len() {
        if left[index] != right[index] {
            return false;
        }
        index += 1;
    }
    true
}
