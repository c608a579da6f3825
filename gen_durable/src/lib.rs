//! Durable state machines on Postgres.
//!
//! An instance of a machine is a row. It moves from step to step. Each step's outcome is committed
//! before execution proceeds. A process may die at any instant: the instance goes on elsewhere from
//! its last committed step.
//!
//! There are two primitives. A durable step is an `async fn` that returns an [`Outcome`]. By a
//! durable await, a step parks its instance until a named signal arrives. The engine knows no
//! parents and children, no workflows and no histories: fan-out, sagas and timers are user code on
//! top of the two.
//!
//! # A first machine
//!
//! The enum lists the steps, and the impl block has their code. [`durable_fsm`] goes on both.
//!
//! ```no_run
//! use std::time::Duration;
//!
//! use gen_durable::prelude::*;
//!
//! /// Carried from step to step, and stored as a JSON object.
//! #[derive(Clone, Debug, DurableState)]
//! pub struct Greeting {
//!     pub name: String,
//!     #[serde(default)]
//!     pub text: Option<String>,
//! }
//!
//! #[durable_fsm(state = Greeting, output = String)]
//! pub enum Greet {
//!     Compose,
//!     Send,
//! }
//!
//! #[durable_fsm]
//! impl Greet {
//!     async fn compose(mut cx: Context<Self>) -> Outcome<Self> {
//!         cx.state.text = Some(format!("hello, {}", cx.state.name));
//!         cx.next(Greet::Send)
//!     }
//!
//!     async fn send(mut cx: Context<Self>) -> Outcome<Self> {
//!         let text = cx.state.text.take().unwrap_or_default();
//!         cx.done(text)
//!     }
//! }
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let pool = sqlx::PgPool::connect("postgres://localhost/app").await?;
//! gen_durable_migrate::up(&pool).await?;
//! let engine = Engine::builder(pool).machine::<Greet>().queue("default", 10).start().await?;
//!
//! let id = Greet::insert(Greeting { name: "Ada".to_owned(), text: None }).execute(&engine).await?;
//! let text = engine.wait(id, Duration::from_secs(10)).await?;
//! engine.shutdown().await?;
//! # Ok(())
//! # }
//! ```
//!
//! The options of the enum are listed at [`durable_fsm`], those of an instance at [`Insert`], and
//! those of an engine at [`EngineBuilder`].
//!
//! # Outcomes
//!
//! A step owns its [`Context`] and ends it with one of these outcomes. Each of them commits the
//! state as the step leaves it.
//!
//! | outcome | effect | attempt |
//! |---|---|---|
//! | [`cx.next(step)`] | goes to `step` at once | 0 |
//! | [`cx.next_in(step, delay)`] | goes to `step` after `delay` | 0 |
//! | [`cx.replay(delay)`] | runs the same step again after `delay` | +1 |
//! | [`cx.snooze(delay)`] | the same, at the same attempt: this is how a step polls | as it is |
//! | [`cx.await_signal::<S>()`] | parks until a signal `S` arrives | 0 |
//! | [`cx.await_signal_for::<S>(timeout)`] | the same, for `timeout` at most | 0 |
//! | [`cx.await_signal_until::<S>(deadline)`] | the same, until `deadline` at the latest | 0 |
//! | [`cx.await_any::<(S, T)>()`] | parks until a signal of any of these types arrives | 0 |
//! | [`cx.done(output)`] | ends with a result, and empties the inbox | |
//! | [`cx.stop(reason)`] | ends as failed, and keeps the inbox | |
//!
//! A parked instance wakes when a signal arrives that its step has not seen. The same step then
//! runs again. Each park begins a timeout anew, and no park moves a deadline. To await any of
//! several signals with a limit, use [`await_any_for`](Context::await_any_for) and
//! [`await_any_until`](Context::await_any_until). A `replay`, a `snooze` and a `stop` consume no
//! signal.
//!
//! After `next` the same task goes on with the next step as soon as the commit is durable, without
//! another claim.
//!
//! An outcome may carry inserts and signals for other instances. They are committed with it:
//! exactly once, or not at all.
//!
//! [`cx.next(step)`]: Context::next
//! [`cx.next_in(step, delay)`]: Context::next_in
//! [`cx.replay(delay)`]: Context::replay
//! [`cx.snooze(delay)`]: Context::snooze
//! [`cx.await_signal::<S>()`]: Context::await_signal
//! [`cx.await_signal_for::<S>(timeout)`]: Context::await_signal_for
//! [`cx.await_signal_until::<S>(deadline)`]: Context::await_signal_until
//! [`cx.await_any::<(S, T)>()`]: Context::await_any
//! [`cx.done(output)`]: Context::done
//! [`cx.stop(reason)`]: Context::stop
//!
//! ```
//! use gen_durable::prelude::*;
//!
//! #[durable_fsm(state = u32, output = u32)]
//! pub enum Child {
//!     Work,
//! }
//!
//! #[durable_fsm]
//! impl Child {
//!     async fn work(cx: Context<Self>) -> Outcome<Self> {
//!         let n = cx.state;
//!         cx.done(n * n)
//!     }
//! }
//!
//! #[durable_fsm(output = ())]
//! pub enum Parent {
//!     Split,
//! }
//!
//! #[durable_fsm]
//! impl Parent {
//!     async fn split(cx: Context<Self>) -> Outcome<Self> {
//!         cx.done(()).insert_many((1..=10).map(Child::insert))
//!     }
//! }
//! ```
//!
//! # Signals
//!
//! A signal is a row in the instance's inbox. It may arrive before, during or after the park. If no
//! step awaits it, it waits there. [`take_signal`](Context::take_signal) takes the oldest one, and
//! the commit of the outcome deletes it. [`peek_signal`](Context::peek_signal) only looks.
//! [`take_signals`](Context::take_signals) takes all of a type. [`gather`](Context::gather) takes
//! the number that it is given, or none. A step that awaits runs again from its beginning, so it
//! looks first, and parks if there is nothing:
//!
//! ```
//! use std::time::Duration;
//!
//! use gen_durable::prelude::*;
//!
//! #[derive(Debug, DurableSignal)]
//! pub struct Approved {
//!     pub by: String,
//! }
//!
//! #[durable_fsm(output = String, signals(Approved))]
//! pub enum Review {
//!     Wait,
//! }
//!
//! #[durable_fsm]
//! impl Review {
//!     async fn wait(mut cx: Context<Self>) -> StepResult<Self> {
//!         if let Some(approved) = cx.take_signal::<Approved>()? {
//!             return Ok(cx.done(approved.by));
//!         }
//!         if cx.timed_out() {
//!             return Ok(cx.stop("nobody approved within a week"));
//!         }
//!         Ok(cx.await_signal_for::<Approved>(Duration::from_hours(7 * 24)))
//!     }
//! }
//!
//! # async fn example(
//! #     client: Client,
//! #     id: InstanceId<Review>,
//! # ) -> Result<(), Box<dyn std::error::Error>> {
//! Review::signal_approved(id, Approved { by: "Ada".to_owned() })
//!     .dedup_key("approval 17") // a redelivery is a no-op
//!     .execute(&client)
//!     .await?;
//! # Ok(())
//! # }
//! ```
//!
//! # Errors and retries
//!
//! A step runs at least once. A crash before its commit runs it again, so effects outside of
//! Postgres must be idempotent. Three events run a step again:
//!
//! - An explicit `replay`.
//! - An error: the step returned `Err`, panicked, or ran past the machine's `timeout`. Then the
//!   machine's `handle` decides, with the state that the step began with, and may return any
//!   outcome. Without a `handle` the instance is tried again as the option `retry` says, or fails
//!   with the error as its reason.
//! - A lost worker: its lease ran out. The instance goes back to the queue with one more attempt,
//!   and `handle` is not called.
//!
//! ```
//! use std::time::Duration;
//!
//! use gen_durable::{StepErrorKind, prelude::*};
//!
//! #[durable_fsm(output = String, timeout = "30s")]
//! pub enum Fetch {
//!     Get,
//! }
//!
//! #[durable_fsm]
//! impl Fetch {
//!     async fn get(cx: Context<Self>) -> StepResult<Self> {
//!         let page = tokio::fs::read_to_string("/etc/hostname").await?;
//!         Ok(cx.done(page))
//!     }
//!
//!     async fn handle(cx: Context<Self>, error: StepError) -> Outcome<Self> {
//!         if error.kind() == StepErrorKind::Panicked || cx.attempt() >= 8 {
//!             return cx.stop(error);
//!         }
//!         let delay = Duration::from_secs(1 << cx.attempt());
//!         cx.replay(delay)
//!     }
//! }
//! ```
//!
//! For the usual case there is no `handle` to write. [`Retry`] explains the options:
//!
//! ```
//! # use gen_durable::prelude::*;
//! #[durable_fsm(
//!     output = String,
//!     timeout = "30s",
//!     retry(max_attempts = 8, backoff = "exponential", initial = "1s", max = "1m", jitter)
//! )]
//! pub enum Fetch {
//!     Get,
//!     Store,
//! }
//!
//! #[durable_fsm]
//! impl Fetch {
//!     async fn get(cx: Context<Self>) -> StepResult<Self> {
//!         tokio::fs::read_to_string("/etc/hostname").await?;
//!         Ok(cx.next(Fetch::Store))
//!     }
//!
//!     #[step(timeout = "5s", retry(max_attempts = 3, backoff = "constant", initial = "100ms"))]
//!     async fn store(cx: Context<Self>) -> StepResult<Self> {
//!         Ok(cx.done("stored".to_owned()))
//!     }
//! }
//! ```
//!
//! A stored state that no longer decodes does not reach `handle`. The instance fails with an error
//! that names the field, and the stored state stays as it was.
//!
//! # Resources
//!
//! A step may need more than its state: a client, a pool, configuration. It takes such values by
//! reference as further parameters, and so does `handle`. [`resource`](EngineBuilder::resource)
//! gives them to the engine, one of each type. The engine does not start without those that its
//! machines take.
//!
//! ```
//! # use gen_durable::prelude::*;
//! pub struct Mailer;
//!
//! impl Mailer {
//!     async fn send(&self, key: i64) -> std::io::Result<()> {
//!         # let _ = key;
//!         Ok(())
//!     }
//! }
//!
//! #[durable_fsm(output = ())]
//! pub enum Mail {
//!     Send,
//! }
//!
//! #[durable_fsm]
//! impl Mail {
//!     async fn send(cx: Context<Self>, mailer: &Mailer) -> StepResult<Self> {
//!         // The id is the same in each run: the receiver can tell a repetition by it.
//!         mailer.send(cx.id().get()).await?;
//!         Ok(cx.done(()))
//!     }
//! }
//! ```
//!
//! # Jobs
//!
//! A machine of one step can be written as a function. [`durable_job`] makes a machine of it, named
//! like the function in `CamelCase`. It is inserted, retried and waited for like any other, and an
//! `Err` fails it.
//!
//! ```
//! # use gen_durable::prelude::*;
//! #[derive(DurableState)]
//! pub struct Page {
//!     path: String,
//! }
//!
//! #[durable_job(queue = "pages", timeout = "30s", retry(max_attempts = 5))]
//! async fn count_lines(cx: JobContext<Page>) -> Result<u64, std::io::Error> {
//!     let text = tokio::fs::read_to_string(&cx.state.path).await?;
//!     Ok(text.lines().count() as u64)
//! }
//!
//! # async fn example(client: Client) -> Result<(), Box<dyn std::error::Error>> {
//! let id = CountLines::insert(Page { path: "/etc/hosts".to_owned() }).execute(&client).await?;
//! # Ok(())
//! # }
//! ```
//!
//! # In your own transaction
//!
//! Inserts and signals are executed on an [`Engine`], on a [`Client`], on a pool, or on a
//! connection of yours. A client is for a process that runs no steps. On a connection they commit
//! with its transaction:
//!
//! ```
//! # use gen_durable::prelude::*;
//! # #[durable_fsm(state = i64, output = ())]
//! # pub enum Invoice { Send }
//! # #[durable_fsm]
//! # impl Invoice { async fn send(cx: Context<Self>) -> Outcome<Self> { cx.done(()) } }
//! # async fn example(pool: sqlx::PgPool) -> Result<(), Box<dyn std::error::Error>> {
//! let mut tx = pool.begin().await?;
//! sqlx::query("insert into orders (number) values (7)").execute(&mut *tx).await?;
//! Invoice::insert(7).unique_key("order 7").execute(&mut *tx).await?;
//! tx.commit().await?;
//! # Ok(())
//! # }
//! ```
//!
//! A signal in a transaction locks its target's row until the transaction ends. Keep it short.
//!
//! # Deployment
//!
//! Any number of engines, in any number of processes, may run on one database. Each is a worker
//! with a lease. To change a machine, give it the next version. Keep the old one beside it, under
//! the same name, and it finishes its own instances:
//!
//! ```no_run
//! use gen_durable::prelude::*;
//!
//! mod v1 {
//!     use gen_durable::prelude::*;
//!
//!     #[durable_fsm(version = 1, output = String)]
//!     pub enum Report {
//!         Write,
//!     }
//!
//!     #[durable_fsm]
//!     impl Report {
//!         async fn write(cx: Context<Self>) -> Outcome<Self> { cx.done("short".to_owned()) }
//!     }
//! }
//!
//! #[durable_fsm(version = 2, output = String)]
//! pub enum Report {
//!     Gather,
//!     Write,
//! }
//!
//! #[durable_fsm]
//! impl Report {
//!     async fn gather(cx: Context<Self>) -> Outcome<Self> { cx.next(Report::Write) }
//!
//!     async fn write(cx: Context<Self>) -> Outcome<Self> { cx.done("long".to_owned()) }
//! }
//!
//! # async fn example(pool: sqlx::PgPool) -> Result<(), gen_durable::Error> {
//! Engine::builder(pool).machine::<v1::Report>().machine::<Report>().start().await?;
//! # Ok(())
//! # }
//! ```
//!
//! Or let the new version take over the old one's instances. `upgrades = v1::Report` and an
//! [`Upgrade`] say which step and state an old instance has in it. The engine then upgrades an
//! instance in memory, and stores it as the new version with its first commit. Until then a
//! deployment can be rolled back.
//!
//! Within a version, stored values must stay readable, also by the processes of the previous
//! deployment. A [`Golden`](testing::Golden) test notices a change that breaks this.
//!
//! An instance of a version that no running process knows waits. It spends no attempts and holds up
//! no other instance. [`guide::operation`] covers poolers, failover, roles, logs and alerts.
//!
//! # Where to look
//!
//! - [`guide`]: a page on each subject, from machines to the operation of a fleet.
//! - [`Machine`] and [`Steps`]: the contract. The macros implement it, and it can be written by
//!   hand.
//! - [`Context`]: everything that a step is given. [`Outcome`]: the decision that it returns.
//! - [`Engine`] and [`Client`]: inserting, signalling, waiting; [`Engine::metrics`],
//!   [`Client::find`] and [`Client::signal_by_name`] for tools.
//! - [`Steps::graph`]: the graph of a machine's steps, as data and as a diagram.
//! - [`error`]: every error, and what to do about it.
//!
//! The engine emits `tracing` events, and a span for each step, with targets in `gen_durable`. TLS
//! is a feature of sqlx. `anyhow` and `eyre`, on by default, let [`StepError::downcast_ref`] find
//! errors inside of theirs. The [`guide`] has pages for `schedules`, `metrics` and `testing`.

#[doc(hidden)]
pub mod __private;
mod backoff;
mod client;
mod connections;
mod engine;
pub mod error;
mod fault;
mod group;
pub mod graph {
    //! The graph of a machine: its steps, where they go, what they await and send, and how they
    //! end.

    #[doc(inline)]
    pub use crate::machine::graph::*;
}
pub mod guide;
mod history;
mod id;
mod isolation;
mod keys;
pub mod machine;
mod meters;
pub mod operate {
    //! Operating instances: what people and tools need to look at them and to act on them.

    #[doc(inline)]
    pub use crate::{
        client::{
            Action, Asked, Audit, AuditEntry, AuditPage, Bounds, Bucket, Bulk, Cancel, Cancelled,
            Count, Counts, Cursor, Delete, Depth, Details, Does, Entry, Finding, Fork,
            HistoryEntry, Illness, Inbox, InboxEntry, InsertByName, InstanceHandle, Instances,
            Kill, LimitAction, LimitEntry, LimitHandle, LimitOverride, LimitReset, Limited, List,
            MachineEntry, MachineHandle, Page, Pause, PauseEntry, PauseScope, QueueEntry,
            QueueHandle, ResetLimit, Resume, Resumed, Retried, Retry, RunEntry, RunNow, RunPage,
            ScheduleAction, ScheduleEntry, ScheduleHandle, SchedulePause, ScopeAction, SetLimit,
            Severity, StepCount, Tree, TreeNode, Waiting, Waits, WorkerEntry,
        },
        error::{InsertByNameError, OperateError},
    };
}
pub mod prelude;
mod status;
mod storage;
pub mod testing;
mod throttle;
pub mod trace;
mod value;

#[cfg(feature = "schedules")]
#[doc(inline)]
pub use crate::machine::schedule::{
    Date, LocalDateTime, Missed, Overlap, Schedule, Scheduled, Tick,
};
#[doc(inline)]
pub use crate::{
    client::{AnyId, Client, ExecuteOn, Snapshot, Target},
    engine::{Engine, EngineBuilder, Metrics},
    error::{
        DatabaseError, DecodeError, Duplicate, EncodeError, EndError, Error, FindError,
        InsertError, SignalError, StepError, StepErrorKind, UpgradeError, WaitError,
    },
    history::History,
    id::InstanceId,
    isolation::Isolation,
    machine::{
        Machine, Requirement, StepFuture, Steps,
        address::{Address, InstanceKey},
        cancel_flag::CancelFlag,
        context::Context,
        ended::Ended,
        graph::Graph,
        insert::{Insert, InsertMany, IntoInsert},
        insert_or_signal::InsertOrSignal,
        job::{Job, JobContext, JobOutcome},
        limit::{Limit, StepLimit},
        outcome::{Outcome, StepResult},
        resources::Resources,
        retry::Retry,
        signal::{Accepts, AnyOf, DurableSignal, Signal},
        state::DurableState,
        upgrade::{Upgrade, Upgrades},
    },
    status::{Delivery, Reached, Status, UnknownStatus},
};
/// A connection of sqlx: a step that takes a `&mut PgConnection` runs in a transaction.
pub use sqlx::PgConnection;

#[cfg(feature = "testing")]
#[doc = include_str!("testing/test.md")]
pub use gen_durable_macros::test;
pub use gen_durable_macros::{DurableSignal, DurableState, durable_fsm, durable_job};

/// The code blocks of the README, compiled as documentation tests.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
#[allow(missing_debug_implementations, reason = "a place for documentation tests, and no type")]
pub struct Readme;
