//! The properties of gen_durable, on a real Postgres.
//!
//! Tests called `pNN_…` show the numbered properties of the design.

#![allow(missing_debug_implementations, missing_docs, unreachable_pub, reason = "a test is no API")]
#![allow(clippy::needless_pass_by_value, clippy::unused_async, reason = "tests write what a user would")]

mod failures;
mod inserts;
//mod maintenance;
//mod migrations;
//mod outages;
mod outcomes;
//mod ownership;
mod partitions;
//mod shutdown;
mod signals;
//mod start;
//mod statements;
mod support;
//mod unknown;
mod values;
mod waiting;
