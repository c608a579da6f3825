//! A lab: instances run on a test's database, one step at a time, at a time that the test moves.
//!
//! ```text
//!   run_until_idle:  claim ──► step ──► commit ──► claim … nothing ──► maintenance ──► claim
//!   advance:         clock to the next due moment ──► run_until_idle ──► … ──► clock to the end
//! ```
//!
//! Invariant: the lab runs an engine's parts and an engine's statements. It has no task and no
//! connection between two calls.

mod asserts;
mod database;
mod director;
mod error;

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use sqlx::PgPool;
use tokio::sync::mpsc;

use self::{
    database::Database,
    director::{Director, Event},
};
pub use self::{director::Tally, error::LabError};
use super::explore;
use crate::{
    client::{
        Client,
        target::{ExecuteOn, Target, sealed},
    },
    engine::{
        Engine, EngineBuilder,
        by_hand::{ByHand, Held},
    },
    machine::{Machine, Steps},
};

/// The runs after which a call of a lab gives up, unless its builder says otherwise.
const STEPS_MAX: u64 = 10_000;
/// The rows of a queue that one claim takes. Each of them runs one step before any is claimed
/// again, so that none waits for ever behind one that goes on without a pause.
const ROWS: i64 = 1000;

/// Runs instances in a test, on the test's own database.
///
/// A lab runs what an engine runs, with the engine's own statements. Nothing happens between its
/// calls: [`run_until_idle`](Self::run_until_idle) runs step after step until nothing is due. The
/// time of the schema `gen_durable` stands still until [`advance`](Self::advance) moves it. Delays,
/// retries, timeouts of awaits, pauses and retention follow that time, on all connections: the lab
/// replaces the functions `gen_durable.now()` and `gen_durable.clock()`, by which the schema tells
/// the time. Postgres's own `now()` and the clocks of the process go on, and so does a step's
/// `timeout`.
///
/// A database has one lab at a time. [`close`](Self::close) frees it for another one, and a drop
/// does not. Its time stays where it is after both, so start no engine on it afterwards.
///
/// All due instances run one step before any of them runs its next one, in the order of a claim.
/// The transaction of a step runs on a connection of the test's pool. A setting that a step makes
/// for its session stays in force on that connection.
///
/// ```
/// use std::time::Duration;
///
/// use gen_durable::{prelude::*, testing::Lab};
///
/// #[derive(Clone, Debug, DurableSignal)]
/// pub struct Paid;
///
/// #[durable_fsm(output = bool, signals(Paid))]
/// pub enum Invoice {
///     Await,
/// }
///
/// #[durable_fsm]
/// impl Invoice {
///     async fn r#await(mut cx: Context<Self>) -> StepResult<Self> {
///         Ok(match cx.take_signal::<Paid>()? {
///             Some(Paid) => cx.done(true),
///             None if cx.timed_out() => cx.done(false),
///             None => cx.await_signal_for::<Paid>(Duration::from_mins(15)),
///         })
///     }
/// }
///
/// # async fn shown(pool: sqlx::PgPool) -> Result<(), Box<dyn std::error::Error>> {
/// let mut lab = Lab::new(&pool).machine::<Invoice>().start().await?;
/// let id = Invoice::insert(()).execute(&lab).await?;
/// lab.run_until_idle().await?;
/// lab.assert_parked(id, Invoice::Await).await?;
/// lab.advance(Duration::from_mins(15)).await?;
/// lab.assert_done(id, &false).await?;
/// # Ok(())
/// # }
/// ```
///
/// # Faults
///
/// [`run_each_step_twice`](Self::run_each_step_twice) finds steps that are not idempotent.
/// [`crash_before_commit`](Self::crash_before_commit) and [`lose_lease`](Self::lose_lease) cause a
/// single fault. [`explore`](Self::explore) looks for orders and faults in which a test fails.
pub struct Lab {
    database: Database,
    engine: ByHand,
    client: Client,
    director: Arc<Director>,
    events: mpsc::UnboundedReceiver<Event>,
    /// Rows that are claimed and not run. There are none between two calls.
    held: Vec<Held>,
    /// True while a call is under way. One that failed or was dropped may have left rows claimed.
    busy: bool,
    steps_max: u64,
    began: i64,
}

/// Options of a [`Lab`] that has not started.
#[must_use = "a lab runs after `.start().await`"]
pub struct LabBuilder {
    pool: PgPool,
    engine: EngineBuilder,
    steps_max: u64,
    at: Option<SystemTime>,
}

impl LabBuilder {
    /// Runs instances of this machine, and serves its queue.
    pub fn machine<M: Steps>(mut self) -> Self {
        self.engine = self.engine.machine::<M>();
        self
    }

    /// Gives the steps a resource, as [`EngineBuilder::resource`] does.
    pub fn resource<T: Send + Sync + 'static>(mut self, resource: T) -> Self {
        self.engine = self.engine.resource(resource);
        self
    }

    /// Serves a queue that no machine has by default.
    pub fn queue(mut self, name: impl Into<String>) -> Self {
        self.engine = self.engine.queue(name, 1);
        self
    }

    /// Declares a limit, as [`EngineBuilder::limit`] does. Its times are those of the lab.
    pub fn limit(mut self, name: impl Into<String>, limit: crate::Limit) -> Self {
        self.engine = self.engine.limit(name, limit);
        self
    }

    /// Inserts instances at the times of a schedule, as [`EngineBuilder::schedule`] does.
    /// [`advance`](Lab::advance) stops at each of its ticks.
    #[cfg(feature = "schedules")]
    pub fn schedule<M: Machine>(
        mut self,
        name: impl Into<String>,
        schedule: crate::Schedule,
        insert: impl Fn(crate::Tick) -> crate::Insert<M> + Send + Sync + 'static,
    ) -> Self {
        self.engine = self.engine.schedule(name, schedule, insert);
        self
    }

    /// Sets options of the engine. A function of the application that adds its machines and
    /// resources to an [`EngineBuilder`] fits here. Machines, resources, queues, retention and
    /// `value_max` have an effect. A lab has a lease, a run-ahead, a limit of crashes and
    /// connections of its own.
    pub fn engine(mut self, options: impl FnOnce(EngineBuilder) -> EngineBuilder) -> Self {
        self.engine = options(self.engine);
        self
    }

    /// Sets the number of runs after which a call of the lab fails: an instance may wake itself for
    /// ever. The default is 10,000.
    pub fn max_steps(mut self, steps: u64) -> Self {
        self.steps_max = steps;
        self
    }

    /// Sets the time at which the lab begins. The default is the database's.
    pub fn starts_at(mut self, time: SystemTime) -> Self {
        self.at = Some(time);
        self
    }

    /// Migrates the database, takes over its time, and checks the machines.
    ///
    /// # Errors
    ///
    /// [`LabError`] if another lab has the database, if its login does not own the schema, if the
    /// pool allows fewer than 3 connections, if the migration fails, or if an engine would not
    /// start.
    pub async fn start(self) -> Result<Lab, LabError> {
        let connections = self.pool.options().get_max_connections();
        if connections < error::POOL_MIN {
            return Err(LabError::small_pool(connections));
        }
        gen_durable_migrate::up(&self.pool).await?;
        let course = explore::course();
        let at = self.at.or_else(|| course.as_ref()?.began());
        let database = Database::take(self.pool.clone(), at).await?;
        let (director, events) = Director::new(course.clone());
        if let Some(course) = course {
            let director = Arc::clone(&director);
            course.begin(database.now(), Box::new(move || director.trace(None)));
        }
        let engine = match ByHand::start(self.engine, director.watch()).await {
            Ok(engine) => engine,
            Err(error) => {
                database.leave().await?;
                return Err(error.into());
            }
        };
        Ok(Lab {
            client: engine.client().clone(),
            began: database.micros(),
            steps_max: self.steps_max,
            held: Vec::new(),
            database,
            engine,
            director,
            events,
            busy: false,
        })
    }
}

impl Lab {
    /// Begins to build a lab on a test's database. The pool must allow at least 3 connections. Its
    /// login must own the schema `gen_durable`, or be allowed to make it.
    // The name is that of the contract, and the lab is what the builder makes.
    #[allow(clippy::new_ret_no_self, reason = "a lab needs its machines first")]
    pub fn new(pool: &PgPool) -> LabBuilder {
        LabBuilder {
            pool: pool.clone(),
            engine: Engine::builder(pool.clone()),
            steps_max: STEPS_MAX,
            at: None,
        }
    }

    /// Returns a client, for code under test that takes one. Nothing runs while that code waits for
    /// a result: call [`run_until_idle`](Self::run_until_idle) before it does.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Returns the lab's time.
    pub fn now(&self) -> SystemTime {
        self.database.now()
    }

    /// Returns what the instances have done since the lab began.
    pub fn tally(&self) -> Tally {
        self.director.state().tally
    }

    /// Runs each step that is due, one by one, until nothing is due any more. Returns what was
    /// done.
    ///
    /// # Errors
    ///
    /// [`LabError`] if there were more runs than [`max_steps`](LabBuilder::max_steps), if
    /// [a second run](Self::run_each_step_twice) differed, or if the database failed.
    pub async fn run_until_idle(&mut self) -> Result<Tally, LabError> {
        let before = self.tally();
        self.director.state().runs_left = self.steps_max;
        self.run_all().await?;
        Ok(self.tally() - before)
    }

    /// Moves the time, and runs what becomes due at its moment: first what is due now, and then
    /// moment by moment. Returns what was done.
    ///
    /// # Errors
    ///
    /// As [`run_until_idle`](Self::run_until_idle). The number of runs counts for the whole call.
    pub async fn advance(&mut self, by: Duration) -> Result<Tally, LabError> {
        let before = self.tally();
        self.director.state().runs_left = self.steps_max;
        let by = i64::try_from(by.as_micros()).unwrap_or(i64::MAX);
        let end = self.database.micros().saturating_add(by);
        self.run_all().await?;
        while let Some(due) = self.engine.next_due().await? {
            let due = i64::try_from(due.as_micros()).unwrap_or(i64::MAX);
            let due = self.database.micros().saturating_add(due);
            // A row that is due and did not run waits for another transaction's lock, say.
            if due >= end || due <= self.database.micros() {
                break;
            }
            self.move_to(due).await?;
            self.run_all().await?;
        }
        self.move_to(end).await?;
        self.run_all().await?;
        Ok(self.tally() - before)
    }

    /// Runs each step twice from here on. The first run is dropped before its commit, with its
    /// transaction, as by a crash. A call of the lab fails if the second run has another outcome,
    /// state, insert or signal. The lab does not see what a step does elsewhere: check that in the
    /// test, say that the bank was charged once.
    ///
    /// Delays of a repetition do not count. A `HashSet` in a state does: its order differs each
    /// time, so use a `BTreeSet`, or [`exempt`](Self::exempt) the step.
    pub fn run_each_step_twice(&mut self) -> &mut Self {
        self.director.state().twice = true;
        self
    }

    /// Lets the second run of this step differ from the first.
    #[expect(clippy::needless_pass_by_value, reason = "a step is written in place")]
    pub fn exempt<M: Machine>(&mut self, step: M) -> &mut Self {
        self.director.state().exempt.insert((M::NAME, step.name().to_owned()));
        self
    }

    /// Lets the process crash once, after the next run of this step and before its commit. The row
    /// is taken from the lost worker, and the step runs again.
    #[expect(clippy::needless_pass_by_value, reason = "a step is written in place")]
    pub fn crash_before_commit<M: Machine>(&mut self, step: M) -> &mut Self {
        self.director.state().crash_before.push((M::NAME, step.name().to_owned()));
        self
    }

    /// Lets the worker lose a row once, as by a lease that ran out: during the next run, of
    /// whichever instance. The run's outcome is dropped, and the step runs again.
    pub fn lose_lease(&mut self) -> &mut Self {
        self.director.state().lose_lease += 1;
        self
    }

    /// Leaves the database to another lab. The time stays where it is.
    ///
    /// # Errors
    ///
    /// [`LabError`] if the database failed.
    pub async fn close(self) -> Result<(), LabError> {
        self.database.leave().await
    }

    async fn move_to(&mut self, micros: i64) -> Result<(), LabError> {
        self.database.set_clock(micros).await?;
        let time = u64::try_from(micros - self.began).unwrap_or(0);
        self.director.state().time = Duration::from_micros(time);
        Ok(self.engine.renew().await?)
    }

    async fn run_all(&mut self) -> Result<(), LabError> {
        if std::mem::replace(&mut self.busy, true) {
            for row in self.held.drain(..) {
                self.engine.forget(row);
            }
            self.engine.give_all_back().await?;
            self.director.forget_first_runs();
        }
        self.engine.look_at_pauses().await?;
        loop {
            // A row that runs twice is claimed again at once, beside those that are held.
            if self.held.is_empty() || self.director.repeats() {
                self.held.extend(self.engine.claim(ROWS).await?);
            }
            if self.held.is_empty() {
                self.engine.maintain().await?;
                self.held = self.engine.claim(ROWS).await?;
                if self.held.is_empty() {
                    break;
                }
            }
            self.run_one().await?;
            let failure = self.director.state().failure.take();
            if let Some(failure) = failure {
                return Err(LabError::failed(failure, self.director.trace(None)));
            }
        }
        self.busy = false;
        Ok(())
    }

    /// Runs one of the rows that are held.
    async fn run_one(&mut self) -> Result<(), LabError> {
        let ids: Vec<i64> = self.held.iter().map(Held::id).collect();
        let row = self.held.remove(self.director.pick(&ids));
        let id = row.id();
        let mut run = Box::pin(self.engine.run(row));
        let (mut lost, mut crashed) = (false, false);
        loop {
            tokio::select! {
                biased;
                event = self.events.recv() => match event {
                    Some(Event::LoseLease(go_on)) => {
                        self.engine.lose(id).await?;
                        lost = true;
                        let _ = go_on.send(());
                    }
                    Some(Event::Crash) | None => {
                        crashed = true;
                        break;
                    }
                },
                () = &mut run => break,
            }
        }
        drop(run);
        if crashed {
            self.engine.transactions_ended().await;
            self.engine.lose(id).await?;
            lost = true;
        }
        if lost {
            self.database.recall(id).await?;
        }
        Ok(())
    }
}

impl sealed::Sealed for &Lab {}
impl<'e> ExecuteOn<'e> for &'e Lab {
    fn into_target(self) -> Target<'e> {
        Target::Client(&self.client)
    }
}

impl std::fmt::Debug for Lab {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lab").field("database", &self.database).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for LabBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LabBuilder").field("engine", &self.engine).finish_non_exhaustive()
    }
}
