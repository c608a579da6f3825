//! Faults, and an oracle that finds the harm they do: worker processes that can be killed and
//! stopped, wrong clocks, a proxy and a pooler in front of Postgres, and the oracle inside the
//! database.
//!
//! The chaos run (`chaos`) uses them, and the tests that need a process or a broken connection.
//! Invariant: nothing here asks the engine what happened. The oracle reads rows and its own log.

#![allow(
    missing_debug_implementations,
    reason = "nobody prints a proxy or a process; machines are plain enums"
)]

pub mod beats;
pub mod booker;
pub mod clock;
pub mod giant;
pub mod machines;
pub mod oracle;
pub mod parcels;
pub mod pooler;
pub mod process;
pub mod proxy;
pub mod random;
pub mod runs;
pub mod trips;
pub mod turnstile;
pub mod wild;
pub mod worker;
