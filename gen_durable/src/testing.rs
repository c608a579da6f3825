//! Tools for the tests of programs that use `gen_durable`.
//!
//! [`Golden`] checks that a machine still reads what it has stored. The others need the feature
//! `testing`: add `gen_durable = { …, features = ["testing"] }` to the `dev-dependencies`.
//!
//! - [`StepTest`] runs one step without a database.
//! - [`Lab`] runs instances on Postgres, with a clock that the test moves, and causes crashes.
//! - [`Lab::explore`] runs a test in many orders, with crashes, and looks for a short course in
//!   which it fails.
//! - [`#[gen_durable::test]`](macro@crate::test) gives each test a migrated database of its own.
//!
//! The [guide](crate::guide::testing) shows how a machine is tested with them.
//!
//! Invariant: what they run is what an engine runs. The engine uses none of it.
#![cfg_attr(
    not(feature = "testing"),
    allow(rustdoc::broken_intra_doc_links, reason = "these items need the feature")
)]

#[cfg(feature = "testing")]
pub(crate) mod database;
#[cfg(feature = "testing")]
mod effects;
#[cfg(feature = "testing")]
mod explore;
mod golden;
#[cfg(feature = "testing")]
mod lab;
mod recorded;
mod shape;
#[cfg(feature = "testing")]
mod step_test;

pub use self::golden::{Golden, GoldenMode};
#[cfg(feature = "testing")]
pub use self::{
    explore::{Explore, Explored, TestResult},
    lab::{Lab, LabBuilder, LabError, Tally},
    step_test::{Inserted, Sent, StepRun, StepTest},
};
/// A pool of sqlx: `#[gen_durable::test]` passes one to the test.
pub use sqlx::PgPool;
