//! The properties of `gen_durable`, on a real Postgres.
//!
//! Tests called `pNN_…` show the properties that have these numbers in docs/properties.md.

#![allow(missing_debug_implementations, missing_docs, unreachable_pub, reason = "a test is no API")]
#![allow(
    clippy::cast_possible_wrap,
    clippy::needless_pass_by_value,
    clippy::similar_names,
    clippy::struct_field_names,
    clippy::unused_async,
    clippy::unwrap_used,
    reason = "tests write what a user would, and a panic is how a test fails"
)]

mod announcements;
mod awaits;
mod barred;
mod births;
mod blocked;
mod blocking;
mod bulk;
mod by_key;
mod capacity;
mod claim_lock;
mod claims;
mod clauses;
mod clocks;
mod counts;
mod crashes;
mod credentials;
mod doctor;
mod ends;
mod errors;
mod failover;
mod failures;
mod faithful;
mod fleet;
mod foreign;
mod golden;
mod held;
mod history;
mod hostile;
mod inserts;
mod isolation;
mod jobs;
mod labs;
mod ledger;
mod limits;
mod listing;
mod locks;
mod maintenance;
mod migrations;
mod mixes;
mod networks;
mod operate;
mod options;
mod oracle;
mod outages;
mod outcomes;
mod ownership;
mod panics;
mod papercuts;
mod partitions;
mod pauses;
mod pedantic;
mod plans;
mod pooler;
mod producers;
mod random_machines;
mod registered;
mod repeats;
mod reports;
mod retries;
mod roles;
mod runtimes;
mod schedules;
mod secrets;
mod shutdown;
mod signals;
mod silence;
mod sizes;
mod start;
mod statements;
mod step_limits;
mod support;
mod test_databases;
mod transactions;
mod undecodable;
mod unknown;
mod values;
mod versions;
mod waiting;
mod wakes;
mod watermarks;
