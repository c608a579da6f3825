//! Faults and what tells whether they did harm: worker processes that can be killed and stopped,
//! clocks that are wrong, a proxy in front of Postgres, an oracle inside the database.
//!
//! Shared by the chaos run (`chaos`) and by the tests that need a process or a broken connection.
//! Invariant: nothing here asks the engine what happened; the oracle reads rows and its own log.

#![allow(
    missing_debug_implementations,
    reason = "nobody prints a proxy or a process; machines are plain enums"
)]

pub mod clock;
pub mod giant;
pub mod machines;
pub mod oracle;
pub mod pooler;
pub mod process;
pub mod proxy;
pub mod random;
pub mod runs;
pub mod wild;
pub mod worker;
