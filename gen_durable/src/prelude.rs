//! What a module with a machine in it needs: `use gen_durable::prelude::*;`.
//!
//! Invariant: names that a user writes, and nothing else.

pub use gen_durable_macros::{DurableSignal, DurableState, durable_fsm, durable_job};

pub use crate::{
    Client, Context, Engine, Insert, InstanceId, JobContext, Machine, Outcome, Resources, Signal,
    Status, StepError, StepResult, Steps, Upgrade, UpgradeError,
    signal::{Accepts, DurableSignal},
    state::DurableState,
};
