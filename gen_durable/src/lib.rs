//! Durable state machines on Postgres.
//!
//! An instance of a machine is a row. It moves from step to step, and each step's outcome is
//! committed before execution proceeds: a process may die at any instant, and the instance goes on
//! elsewhere from its last committed step.

#[doc(hidden)]
pub mod __private;
mod announce;
mod client;
mod config;
mod connections;
mod context;
mod engine;
pub mod error;
mod group;
mod id;
mod insert;
pub mod machine;
mod maintenance;
mod outcome;
pub mod prelude;
mod registry;
mod resources;
mod signal;
mod state;
mod storage;
mod waiters;

#[doc(inline)]
pub use crate::{
    client::{Client, Executor, Snapshot, Target},
    context::Context,
    engine::{Engine, EngineBuilder, Metrics},
    error::{
        DatabaseError, DecodeError, Duplicate, EncodeError, Error, InsertError, SignalError,
        StepError, StepErrorKind, StepResult, WaitError,
    },
    id::InstanceId,
    insert::{Insert, InsertMany, IntoInsert, Status},
    machine::{Machine, Requirement, StepFuture, Steps},
    outcome::Outcome,
    resources::Resources,
    signal::{Accepts, Delivery, DurableSignal, Signal},
    state::DurableState,
};
pub use gen_durable_macros::{DurableSignal, DurableState, durable_fsm};
