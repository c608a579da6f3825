//! The encoding of the databases that tests make.
//!
//! Invariant: UTF8, unless `GEN_DURABLE_TEST_ENCODING` says otherwise. The locale is C, which fits any.

use std::env;

/// The encoding's name, as Postgres knows it.
pub(crate) fn name() -> String {
    chosen().unwrap_or_else(|| "UTF8".to_owned())
}

/// The clause of `create database` for it. A server of somebody's own keeps its own encoding
/// otherwise.
pub(crate) fn clause() -> String {
    chosen().map_or_else(String::new, |name| {
        let name = name.replace('\'', "''");
        format!(" encoding '{name}' lc_collate 'C' lc_ctype 'C' template template0")
    })
}

fn chosen() -> Option<String> {
    env::var("GEN_DURABLE_TEST_ENCODING").ok().filter(|name| !name.is_empty())
}
