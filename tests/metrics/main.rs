//! The metrics, as Prometheus gets them: engines on a real Postgres, scraped over HTTP.
//!
//! Each [`program::Program`] of a test has a recorder, an exporter and a runtime of its own, on one
//! thread, so that several engines can be told apart. This is a binary of its own, as one test
//! installs the recorder of the whole process.

#![allow(missing_debug_implementations, missing_docs, unreachable_pub, reason = "a test is no API")]
#![allow(
    clippy::float_cmp,
    clippy::unwrap_used,
    reason = "counts are whole numbers, and a panic is how a test fails"
)]

mod bounded;
mod documents;
#[path = "../../gen_durable/src/meters/names.rs"]
#[allow(dead_code, reason = "the tests need some of them by name")]
mod names;
mod observer;
mod program;
mod promql;
mod scrape;
mod values;
