//! Tools for the tests of programs that use `gen_durable`.
//!
//! Invariant: nothing here needs a database, and the engine uses none of it.

mod golden;
mod recorded;
mod shape;

pub use self::golden::{Golden, GoldenMode};
