//! Tools for the tests of programs that use `gen_durable`.
//!
//! Invariant: the engine uses nothing of this. Only `database` needs a server.

#[cfg(feature = "testing")]
pub(crate) mod database;
mod golden;
mod recorded;
mod shape;

pub use self::golden::{Golden, GoldenMode};
/// A pool of sqlx: `#[gen_durable::test]` passes one to the test.
pub use sqlx::PgPool;
