//! The console shows the instances of `gen_durable` in a browser, and lets operators act on them.
//! It shows what waits, what has failed and why, and where each instance stands in its machine's
//! graph.
//!
//! [`Console`] is mounted in an axum server, which decides what each request may do. [`Server`]
//! serves a console by itself, on a loopback address: `gen-durable console`.
//!
//! The server writes the HTML. A small script keeps an open page fresh through server-sent events,
//! and everything else works without it. Nothing is loaded from elsewhere.
//!
//! The README lists the pages, and what keeps them safe and cheap.

mod access;
mod assets;
mod bulk;
mod console;
mod deed;
mod filter;
mod graph;
mod guard;
mod hub;
mod json;
mod layout;
mod live;
mod looks;
mod pages;
mod perform;
mod routes;
mod serve;
mod session;
mod time;
mod url;
mod used;
mod view;

pub use self::{
    access::Access,
    console::Console,
    serve::{Options, ServeError, Server},
};

/// The code blocks of the README, compiled as documentation tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
#[allow(missing_debug_implementations, reason = "a place for documentation tests, and no type")]
pub struct Readme;
