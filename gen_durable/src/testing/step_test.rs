//! Runs one step without a database, as an engine runs it: the state and the signals are decoded,
//! the step runs, `handle` decides after an error, and the outcome is checked and encoded.
//!
//! Invariant: what an engine would refuse to commit is refused here too, and reaches `handle`.

mod run;

use std::time::{Duration, SystemTime};

pub use self::run::{Inserted, Sent, StepRun};
use crate::{
    engine::by_hand::run_step,
    error::StepError,
    machine::{
        Steps,
        resources::Resources,
        signal::{Accepts, DurableSignal},
    },
    storage::{Claimed, Inbox, InboxRow, Kind},
    value,
};

/// Runs one step of a machine without a database, to look at its outcome.
///
/// ```
/// use gen_durable::{prelude::*, testing::StepTest};
///
/// #[derive(Clone, Debug, DurableSignal)]
/// pub struct Paid {
///     pub amount: i64,
/// }
///
/// #[derive(Clone, Debug, Default, DurableState)]
/// pub struct Order {
///     pub paid: i64,
/// }
///
/// #[durable_fsm(state = Order, output = (), signals(Paid))]
/// pub enum Checkout {
///     AwaitPay,
///     Ship,
/// }
///
/// #[durable_fsm]
/// impl Checkout {
///     async fn await_pay(mut cx: Context<Self>) -> StepResult<Self> {
///         let Some(paid) = cx.take_signal::<Paid>()? else {
///             return Ok(cx.await_signal::<Paid>());
///         };
///         cx.state.paid = paid.amount;
///         Ok(cx.next(Checkout::Ship))
///     }
///
///     async fn ship(cx: Context<Self>) -> Outcome<Self> {
///         cx.done(())
///     }
/// }
///
/// # async fn shown() {
/// let wait = || StepTest::at(Checkout::AwaitPay).state(Order::default());
/// let run = wait().signal(Paid { amount: 100 }).run().await;
/// run.assert_next(Checkout::Ship);
/// assert_eq!(run.state().paid, 100);
/// wait().run().await.assert_awaits::<Paid>();
/// # }
/// # let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
/// # runtime.block_on(shown());
/// ```
///
/// A step that takes a transaction needs a database, so it needs a [`Lab`](super::Lab).
#[must_use = "a step runs by `.run().await`"]
pub struct StepTest<M: Steps> {
    step: M,
    state: Option<M::State>,
    signals: Vec<(&'static str, value::Json)>,
    resources: Resources,
    error: Option<StepError>,
    claimed: Claimed,
}

impl<M: Steps> StepTest<M> {
    /// Begins at this step. Unless the test says otherwise, the inbox is empty, and the step has
    /// not run before. Without a [`state`](Self::state) the step begins with what the machine's
    /// state makes of an empty object, or of null.
    pub fn at(step: M) -> Self {
        let claimed = Claimed {
            id: 1,
            worker: 1,
            revision: 0,
            kind: Kind {
                fsm: M::NAME.to_owned(),
                fsm_version: i32::try_from(M::VERSION).unwrap_or(i32::MAX),
            },
            step: step.name().to_owned(),
            state: None,
            queue: M::QUEUE.to_owned(),
            partition_key: None,
            attempt: 0,
            failures: 0,
            timed_out: false,
            report_to: None,
            trace_context: None,
            now: SystemTime::now(),
            waited: std::time::Duration::ZERO,
            inbox: Inbox::default(),
        };
        Self {
            step,
            state: None,
            signals: Vec::new(),
            resources: Resources::default(),
            error: None,
            claimed,
        }
    }

    /// Sets the state that the step begins with.
    pub fn state(mut self, state: M::State) -> Self {
        self.state = Some(state);
        self
    }

    /// Puts a signal into the inbox, after those that are there.
    ///
    /// # Panics
    ///
    /// If the signal cannot be stored.
    #[expect(clippy::needless_pass_by_value, reason = "a signal is written in place")]
    #[track_caller]
    pub fn signal<S: DurableSignal>(mut self, signal: S) -> Self
    where
        M: Accepts<S>,
    {
        let payload = value::encode("signal payload", &signal, value::VALUE_MAX);
        let payload = payload.unwrap_or_else(|error| panic!("signal `{}`: {error}", S::NAME));
        self.signals.push((S::NAME, payload));
        self
    }

    /// Gives the step a resource.
    pub fn resource<T: Send + Sync + 'static>(mut self, resource: T) -> Self {
        self.resources.insert(resource);
        self
    }

    /// Sets the number of runs of the step before this one. A [`Retry`](crate::Retry) policy counts
    /// only those that failed: set them with [`failures`](Self::failures).
    pub fn attempt(mut self, attempt: u32) -> Self {
        self.claimed.attempt = i32::try_from(attempt).unwrap_or(i32::MAX);
        self
    }

    /// Sets the number of failed runs in a row before this one. A [`Retry`](crate::Retry) policy
    /// counts these. The [`attempt`](Self::attempt) becomes at least this number.
    pub fn failures(mut self, failures: u32) -> Self {
        self.claimed.failures = i32::try_from(failures).unwrap_or(i32::MAX);
        self.claimed.attempt = self.claimed.attempt.max(self.claimed.failures);
        self
    }

    /// Says that the timeout of the step's await woke it.
    pub fn timed_out(mut self) -> Self {
        self.claimed.timed_out = true;
        self
    }

    /// Lets the step fail with this error without being called, so that `handle` decides.
    pub fn failed_with(mut self, error: impl Into<StepError>) -> Self {
        self.error = Some(error.into());
        self
    }

    /// Sets the instance's id. The default is 1.
    pub fn id(mut self, id: i64) -> Self {
        self.claimed.id = id;
        self
    }

    /// Sets the database's time, as the step sees it. The default is this process's time.
    pub fn now(mut self, now: SystemTime) -> Self {
        self.claimed.now = now;
        self
    }

    /// Sets the instance's partition key.
    pub fn partition_key(mut self, key: impl Into<String>) -> Self {
        self.claimed.partition_key = Some(key.into());
        self
    }

    /// Runs the step, and `handle` if it fails.
    ///
    /// # Panics
    ///
    /// If no state is given and the machine's needs one; if the state cannot be stored; if a
    /// resource of the step is missing; if the step or its `handle` takes a transaction.
    pub async fn run(self) -> StepRun<M> {
        let Self { step, state, signals, resources, error, mut claimed } = self;
        let name = step.name();
        // After a given error the step is not called.
        let called = |step: &str| error.is_none() && step == name;
        for requirement in M::requirements() {
            assert!(
                !called(requirement.step) || resources.contains(requirement.type_id),
                "step `{name}` takes a resource of type `{}`: add it with `.resource(…)`",
                requirement.type_name
            );
        }
        let before = match state {
            Some(state) => {
                value::encode("state", &state, value::VALUE_MAX).unwrap_or_else(|error| {
                    panic!("the state that step `{name}` begins with: {error}")
                })
            }
            None => default_state::<M>(name),
        };
        claimed.state = Some(before.0.clone());
        let rows = (1..).zip(signals).map(|(id, (name, payload))| {
            let payload = serde_json::value::RawValue::from_string(payload.0);
            InboxRow(id, name.to_owned(), payload.expect("it was encoded as JSON"), None)
        });
        claimed.inbox = Inbox { signals: rows.collect(), more: false };
        let seen = claimed.inbox.signals.len();
        let Some(commit) = run_step::<M>(claimed, error, resources, value::VALUE_MAX).await else {
            panic!(
                "step `{name}` or its `handle` takes a transaction, which needs a database: test it with a `Lab`"
            );
        };
        StepRun::new(name, before, commit, seen)
    }
}

/// Returns the state of a test that gives none.
fn default_state<M: Steps>(step: &str) -> value::Json {
    let fits = |text: &&str| value::decode::<M::State>("state", M::NAME, M::VERSION, text).is_ok();
    match ["{}", "null"].into_iter().find(fits) {
        Some(text) => value::Json(text.to_owned()),
        None => {
            panic!("step `{step}` of `{}` needs a state: give it one with `.state(…)`", M::NAME)
        }
    }
}

impl<M: Steps> std::fmt::Debug for StepTest<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StepTest")
            .field("machine", &M::NAME)
            .field("step", &self.step.name())
            .field("resources", &self.resources)
            .finish_non_exhaustive()
    }
}

/// The shortest delay that two equal ones may differ by: Postgres keeps microseconds.
const MICROSECOND: Duration = Duration::from_micros(1);
