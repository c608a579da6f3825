//! The encoding of the databases that tests make.
//!
//! Invariant: it is UTF8, unless `GEN_DURABLE_TEST_ENCODING` names another one. The locale is C,
//! which fits any encoding.

use std::env;

/// Returns the encoding's name, as Postgres knows it.
pub(crate) fn name() -> String {
    chosen().unwrap_or_else(|| "UTF8".to_owned())
}

/// Returns the clause of `create database` for a chosen encoding. If none was chosen, a user's own
/// server keeps its own.
pub(crate) fn clause() -> String {
    chosen().map_or_else(String::new, |name| {
        let name = name.replace('\'', "''");
        format!(" encoding '{name}' lc_collate 'C' lc_ctype 'C' template template0")
    })
}

fn chosen() -> Option<String> {
    env::var("GEN_DURABLE_TEST_ENCODING").ok().filter(|name| !name.is_empty())
}
