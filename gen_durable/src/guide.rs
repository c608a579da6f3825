//! The guide: how to write machines, page by page.
//!
//! Invariant: every example is compiled. With the feature `testing`, hidden lines run the machines
//! of most examples: in step tests without a database, otherwise in labs. Every diagram is the text
//! that [`Graph::to_mermaid`](crate::Graph::to_mermaid) makes of the machine beside it.
//!
//! | page | subjects |
//! |---|---|
//! | [`machines`] | steps, state and outcomes; the graph; steps that declare where they go |
//! | [`signals`] | waiting for one signal, for any of several, for a number of a kind; timers |
//! | [`children`] | spawning instances, and hearing of their ends |
//! | [`transactions`] | a step's own SQL, in the commit of its outcome |
//! | [`errors_and_retries`] | what runs a step again; `retry`, `handle`, timeouts |
//! | [`versions`] | changing a machine while instances of it are on their way |
//! | [`jobs`] | machines of one step, written as a function |
//! | [`schedules`] | instances that are inserted at times of the day, or each quarter of an hour |
//! | [`limits`] | how many runs of a step there are at once, and how many start in a time |
//! | [`testing`] | tests without a database, and with one |
//! | [`producers`] | inserting and signalling without Rust: psql, an ORM, any driver |
//! | [`history`] | what is recorded of runs, reading it, how long it is kept |
//! | [`operating`] | looking at instances; cancel, kill, retry, run now, delete; the audit |
//! | [`looking`] | queues, workers, machines, trees; what a look costs; the doctor |
//! | [`tracing`] | the spans of steps, and traces across processes |
//! | [`metrics`] | what engines count and show; Prometheus, a dashboard, alerts |
//! | [`cli`] | the program `gen-durable`: lists, actions, the doctor, scripts |
//! | [`operation`] | processes, connections, roles, logs, alerts, deployments, backups |

#[doc = include_str!("guide/machines.md")]
pub mod machines {}

#[doc = include_str!("guide/signals.md")]
pub mod signals {}

#[doc = include_str!("guide/children.md")]
pub mod children {}

#[doc = include_str!("guide/transactions.md")]
pub mod transactions {}

#[doc = include_str!("guide/errors_and_retries.md")]
pub mod errors_and_retries {}

#[doc = include_str!("guide/versions.md")]
pub mod versions {}

#[doc = include_str!("guide/jobs.md")]
pub mod jobs {}

#[cfg_attr(feature = "schedules", doc = include_str!("guide/schedules.md"))]
#[cfg_attr(
    not(feature = "schedules"),
    doc = "Schedules: this page needs the cargo feature `schedules`."
)]
pub mod schedules {}

#[doc = include_str!("guide/limits.md")]
pub mod limits {}

#[cfg_attr(feature = "testing", doc = include_str!("guide/testing.md"))]
#[cfg_attr(not(feature = "testing"), doc = "Testing: this page needs the cargo feature `testing`.")]
pub mod testing {}

#[doc = include_str!("guide/producers.md")]
pub mod producers {}
#[doc = include_str!("guide/history.md")]
pub mod history {}

#[doc = include_str!("guide/operating.md")]
pub mod operating {}

#[doc = include_str!("guide/looking.md")]
pub mod looking {}

#[doc = include_str!("guide/tracing.md")]
pub mod tracing {}

#[cfg_attr(feature = "metrics", doc = include_str!("guide/metrics.md"))]
#[cfg_attr(not(feature = "metrics"), doc = "Metrics: this page needs the cargo feature `metrics`.")]
pub mod metrics {}

#[doc = include_str!("guide/cli.md")]
pub mod cli {}

#[doc = include_str!("guide/operation.md")]
pub mod operation {}
