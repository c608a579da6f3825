//! The console, by plain HTTP and in a browser.
//!
//! Without a browser, the tests that need one print that they are skipped.

#![allow(missing_docs, reason = "tests have no readers of their documentation")]

mod acts;
mod browsed;
mod live;
mod million;
mod mounted;
mod names;
mod pictures;
mod refusals;
mod standalone;
mod support;
mod timeline;
