//! The names that a module with a machine needs: `use gen_durable::prelude::*;`.
//!
//! Invariant: the prelude has names that a user writes, and no others. `Error`, of the engine's
//! start, is not among them: it would be ambiguous with an error type from another glob import.

pub use gen_durable_macros::{DurableSignal, DurableState, durable_fsm, durable_job};

pub use crate::{
    Client, Context, DatabaseError, DecodeError, Delivery, Duplicate, EncodeError, EndError, Ended,
    Engine, FindError, Insert, InsertError, InstanceId, JobContext, JobOutcome, Machine, Outcome,
    PgConnection, Reached, Resources, Retry, Signal, SignalError, Status, StepError, StepErrorKind,
    StepResult, Steps, Upgrade, UpgradeError, WaitError,
    machine::{
        signal::{Accepts, DurableSignal},
        state::DurableState,
    },
};
