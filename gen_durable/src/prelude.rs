//! What a module with a machine in it needs: `use gen_durable::prelude::*;`.
//!
//! Invariant: names that a user writes, and nothing else. `Error`, of the engine's start, is not
//! here: a module that takes this in beside an error of its own would find the name ambiguous.

pub use gen_durable_macros::{DurableSignal, DurableState, durable_fsm, durable_job};

pub use crate::{
    Client, Context, DatabaseError, DecodeError, Delivery, Duplicate, EncodeError, Engine,
    FindError, Insert, InsertError, InstanceId, JobContext, JobOutcome, Machine, Outcome,
    Resources, Retry, Signal, SignalError, Status, StepError, StepErrorKind, StepResult, Steps,
    Upgrade, UpgradeError, WaitError,
    machine::{
        signal::{Accepts, DurableSignal},
        state::DurableState,
    },
};
