//! The tests of the program `gen-durable`: they run it, on a database of their own.
//!
//! Invariant: ids count from one in each database, and times are replaced before a comparison.

#![allow(missing_debug_implementations, missing_docs, unreachable_pub, reason = "a test is no API")]
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod acts;
mod connections;
mod fleet;
mod help;
mod looks;
mod migrations;
mod produce;
mod support;
mod terminal;
