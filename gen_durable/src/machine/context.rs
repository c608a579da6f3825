//! The context of a step: its state, its inbox, and the outcomes that it can choose from.
//!
//! Invariant: exactly one outcome consumes a context. It takes along the state and the signals that
//! the step took.

mod inbox;

use std::{
    borrow::Cow,
    collections::HashMap,
    fmt,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use super::{
    Machine,
    cancel_flag::{CancelFlag, Fate},
    outcome::{Outcome, Transition},
    signal::{Accepts, AnyOf, DurableSignal},
};
use crate::id::InstanceId;

/// Everything that a step is given. The step owns it while it runs, and every outcome consumes it.
///
/// ```
/// use gen_durable::prelude::*;
///
/// #[derive(Clone, Debug, Default, DurableState)]
/// pub struct Count {
///     n: u32,
/// }
///
/// #[durable_fsm(state = Count, output = u32)]
/// pub enum Counter {
///     Tick,
/// }
///
/// #[durable_fsm]
/// impl Counter {
///     async fn tick(mut cx: Context<Self>) -> Outcome<Self> {
///         cx.state.n += 1;
///         let n = cx.state.n;
///         if n < 10 { cx.next(Counter::Tick) } else { cx.done(n) }
///     }
/// }
/// ```
pub struct Context<M: Machine> {
    /// The state, as the last commit left it. The step may change it: the state that it leaves here
    /// is committed with the outcome.
    pub state: M::State,
    instance: Arc<Instance>,
    inbox: Vec<Received>,
    /// The signals of the inbox that are not loaded. None if all are loaded.
    beyond: Option<Arc<Beyond>>,
}

/// The row of an instance, as its context knows it.
#[derive(Clone, Debug)]
pub(crate) struct Instance {
    pub(crate) id: i64,
    pub(crate) queue: Arc<str>,
    pub(crate) partition_key: Option<String>,
    pub(crate) step: Cow<'static, str>,
    pub(crate) attempt: u32,
    pub(crate) failures: u32,
    pub(crate) timed_out: bool,
    /// The database's time at the claim, and this process's when the claim's answer came.
    pub(crate) claimed_at: SystemTime,
    pub(crate) received: Instant,
    /// The fate of the run that is under way.
    pub(crate) fate: Fate,
}

/// A signal in the inbox.
#[derive(Clone)]
pub(crate) struct Received {
    pub(crate) id: i64,
    pub(crate) name: Arc<str>,
    pub(crate) payload: Arc<str>,
    /// The context of the sender's span.
    pub(crate) trace_context: Option<Arc<str>>,
    pub(crate) consumption: Consumption,
}

/// The number of signals that are in an inbox and not loaded, by name.
pub(crate) type Beyond = HashMap<Arc<str>, usize>;

/// The fate of a signal at the commit of the outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Consumption {
    /// It stays in the inbox.
    Kept,
    /// An outcome that consumes signals deletes it.
    Taken,
    /// Any outcome deletes it.
    Discarded,
}

impl<M: Machine> Context<M> {
    pub(crate) fn new(
        state: M::State,
        instance: Arc<Instance>,
        inbox: Vec<Received>,
        beyond: Option<Arc<Beyond>>,
    ) -> Self {
        Self { state, instance, inbox, beyond }
    }

    /// Returns the parts of which a job's context is made.
    pub(crate) fn into_parts(self) -> (M::State, Arc<Instance>, Vec<Received>) {
        (self.state, self.instance, self.inbox)
    }

    /// Returns the instance's id. A child that is given it can signal back.
    pub fn id(&self) -> InstanceId<M> {
        InstanceId::from_raw(self.instance.id)
    }

    /// Returns the number of runs of this step before this one. It is 0 after `next` and after a
    /// wake-up. Each `replay` and each lost worker adds one, and a `snooze` adds none.
    pub fn attempt(&self) -> u32 {
        self.instance.attempt
    }

    /// Returns the number of runs of this step that failed in a row, just before this one. A run
    /// fails if it returns `Err`, panics or exceeds its timeout. A [`Retry`](crate::Retry) policy
    /// counts these alone.
    ///
    /// Any outcome of the step itself begins the count anew: also a `replay`, a `snooze` or an
    /// await. A lost worker changes nothing. In `handle`, the run that has just failed is not
    /// counted yet.
    pub fn failures(&self) -> u32 {
        self.instance.failures
    }

    /// Returns the step that runs; in `handle`, the one that failed.
    ///
    /// # Panics
    ///
    /// If a [`Machine::from_name`] that is written by hand does not find a step that it found
    /// before.
    pub fn step(&self) -> M {
        M::from_name(&self.instance.step).expect("the step that runs was found by its name")
    }

    /// Returns the name of the step that runs, as stored.
    pub fn step_name(&self) -> &str {
        &self.instance.step
    }

    /// Returns the queue that the instance runs in.
    pub fn queue(&self) -> &str {
        &self.instance.queue
    }

    /// Returns the partition key that the instance was inserted with.
    pub fn partition_key(&self) -> Option<&str> {
        self.instance.partition_key.as_deref()
    }

    /// True if the timeout of its await woke this run, and not a signal.
    pub fn timed_out(&self) -> bool {
        self.instance.timed_out
    }

    /// Returns the database's time at the claim of this instance. All clocks of a fleet differ, and
    /// this one decides when delays and timeouts are over.
    ///
    /// Steps that run on one claim, one after the other, see the same time.
    pub fn now(&self) -> SystemTime {
        self.instance.claimed_at
    }

    /// Returns a flag that is set when the engine gives this run up, for code that does not await.
    /// A run that awaits needs none: it is dropped at its next await point.
    ///
    /// ```
    /// use gen_durable::prelude::*;
    ///
    /// #[durable_fsm(state = u64, output = u64)]
    /// pub enum Search {
    ///     Prime,
    /// }
    ///
    /// #[durable_fsm]
    /// impl Search {
    ///     async fn prime(cx: Context<Self>) -> StepResult<Self> {
    ///         let (flag, from) = (cx.cancelled(), cx.state);
    ///         let search = move || {
    ///             let is_prime = |n: &u64| !flag.is_set() && (2..*n).all(|d| n % d != 0);
    ///             (from..).take_while(|_| !flag.is_set()).find(is_prime)
    ///         };
    ///         let found = tokio::task::spawn_blocking(search).await?;
    ///         Ok(cx.done(found.ok_or("given up")?))
    ///     }
    /// }
    /// ```
    pub fn cancelled(&self) -> CancelFlag {
        self.instance.fate.flag()
    }

    /// Goes to `step` at once.
    #[expect(clippy::needless_pass_by_value, reason = "a step is named by value: `Checkout::Ship`")]
    pub fn next(self, step: M) -> Outcome<M> {
        self.outcome(Transition::Next { step: step.name(), delay: None })
    }

    /// Goes to `step` after `delay`: this is how a step sets a timer. Meanwhile the instance waits
    /// as a row and costs nothing else, for a second or for a year.
    #[expect(clippy::needless_pass_by_value, reason = "a step is named by value: `Checkout::Ship`")]
    pub fn next_in(self, step: M, delay: Duration) -> Outcome<M> {
        self.outcome(Transition::Next { step: step.name(), delay: Some(delay) })
    }

    /// Runs the same step again after `delay`, with one more attempt. No signal is consumed.
    pub fn replay(self, delay: Duration) -> Outcome<M> {
        self.keeping_signals(Transition::Replay { delay })
    }

    /// Runs the same step again after `delay`, at the same attempt. No signal is consumed.
    ///
    /// This is how a step polls: it looks, and comes back later. The count of failures begins anew,
    /// so one error now and then never uses up a retry policy.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use gen_durable::prelude::*;
    /// # pub struct Bank;
    /// # impl Bank { async fn is_settled(&self, _: i64) -> std::io::Result<bool> { Ok(true) } }
    ///
    /// #[durable_fsm(state = i64, output = (), retry(max_attempts = 5))]
    /// pub enum Settle {
    ///     Poll,
    /// }
    ///
    /// #[durable_fsm]
    /// impl Settle {
    ///     async fn poll(cx: Context<Self>, bank: &Bank) -> StepResult<Self> {
    ///         if bank.is_settled(cx.state).await? {
    ///             return Ok(cx.done(()));
    ///         }
    ///         Ok(cx.snooze(Duration::from_mins(1)))
    ///     }
    /// }
    /// ```
    pub fn snooze(self, delay: Duration) -> Outcome<M> {
        self.keeping_signals(Transition::Snooze { delay })
    }

    /// Parks the instance until a signal of this type arrives that this step has not seen. Then the
    /// same step runs again, at attempt 0.
    pub fn await_signal<S: DurableSignal>(self) -> Outcome<M>
    where
        M: Accepts<S>,
    {
        self.outcome(Transition::Await { names: vec![S::NAME], count: None, timeout: None })
    }

    /// Parks like [`await_signal`](Self::await_signal), but wakes after `timeout` at the latest.
    /// The step can tell by [`timed_out`](Self::timed_out).
    pub fn await_signal_for<S: DurableSignal>(self, timeout: Duration) -> Outcome<M>
    where
        M: Accepts<S>,
    {
        let (names, timeout) = (vec![S::NAME], Some(timeout));
        self.outcome(Transition::Await { names, count: None, timeout })
    }

    /// Parks like [`await_signal_for`](Self::await_signal_for), but wakes at `deadline` at the
    /// latest, by the database's clock.
    ///
    /// Each park begins a timeout anew. A deadline that the state carries stays the same, however
    /// often the step wakes. After the deadline the step wakes at once, and
    /// [`timed_out`](Self::timed_out) tells why.
    ///
    /// ```
    /// use std::time::{Duration, SystemTime};
    ///
    /// use gen_durable::prelude::*;
    ///
    /// #[derive(DurableSignal)]
    /// pub struct Bid {
    ///     amount: u64,
    /// }
    ///
    /// #[derive(Default, DurableState)]
    /// pub struct Auction {
    ///     highest: u64,
    ///     ends_at: Option<SystemTime>,
    /// }
    ///
    /// #[durable_fsm(state = Auction, output = u64, signals(Bid))]
    /// pub enum Sale {
    ///     Collect,
    /// }
    ///
    /// #[durable_fsm]
    /// impl Sale {
    ///     async fn collect(mut cx: Context<Self>) -> StepResult<Self> {
    ///         let now = cx.now();
    ///         let ends_at = *cx.state.ends_at.get_or_insert(now + Duration::from_mins(15));
    ///         for bid in cx.take_signals::<Bid>()? {
    ///             cx.state.highest = cx.state.highest.max(bid.amount);
    ///         }
    ///         // Bids that are not loaded come when the step awaits them, also after the deadline.
    ///         if cx.timed_out() && cx.count_signals::<Bid>() == 0 {
    ///             let highest = cx.state.highest;
    ///             return Ok(cx.done(highest));
    ///         }
    ///         Ok(cx.await_signal_until::<Bid>(ends_at))
    ///     }
    /// }
    /// ```
    pub fn await_signal_until<S: DurableSignal>(self, deadline: SystemTime) -> Outcome<M>
    where
        M: Accepts<S>,
    {
        let timeout = self.time_until(deadline);
        self.await_signal_for::<S>(timeout)
    }

    /// Parks like [`await_any_for`](Self::await_any_for), but wakes at `deadline` at the latest;
    /// see [`await_signal_until`](Self::await_signal_until).
    pub fn await_any_until<S: AnyOf<M>>(self, deadline: SystemTime) -> Outcome<M> {
        let timeout = self.time_until(deadline);
        self.await_any_for::<S>(timeout)
    }

    /// Returns the time until the deadline, by the database's clock.
    fn time_until(&self, deadline: SystemTime) -> Duration {
        let left = deadline.duration_since(self.instance.claimed_at).unwrap_or_default();
        left.saturating_sub(self.instance.received.elapsed())
    }

    /// Parks the instance until a signal of any of these types arrives that this step has not seen.
    /// Then the same step runs again, at attempt 0, and looks for the signal that came.
    ///
    /// ```
    /// use gen_durable::prelude::*;
    ///
    /// #[derive(DurableSignal)]
    /// pub struct Paid {
    ///     amount: i64,
    /// }
    ///
    /// #[derive(DurableSignal)]
    /// pub struct Cancelled;
    ///
    /// #[durable_fsm(output = i64, signals(Paid, Cancelled))]
    /// pub enum Order {
    ///     AwaitPay,
    /// }
    ///
    /// #[durable_fsm]
    /// impl Order {
    ///     async fn await_pay(mut cx: Context<Self>) -> StepResult<Self> {
    ///         if cx.take_signal::<Cancelled>()?.is_some() {
    ///             return Ok(cx.stop("cancelled"));
    ///         }
    ///         if let Some(paid) = cx.take_signal::<Paid>()? {
    ///             return Ok(cx.done(paid.amount));
    ///         }
    ///         Ok(cx.await_any::<(Paid, Cancelled)>())
    ///     }
    /// }
    /// ```
    pub fn await_any<S: AnyOf<M>>(self) -> Outcome<M> {
        self.outcome(Transition::Await { names: S::NAMES.to_vec(), count: None, timeout: None })
    }

    /// Parks like [`await_any`](Self::await_any), but wakes after `timeout` at the latest. The step
    /// can tell by [`timed_out`](Self::timed_out).
    pub fn await_any_for<S: AnyOf<M>>(self, timeout: Duration) -> Outcome<M> {
        let (names, timeout) = (S::NAMES.to_vec(), Some(timeout));
        self.outcome(Transition::Await { names, count: None, timeout })
    }

    /// Parks the instance until `count` signals of this type are in its inbox, and wakes it once.
    /// Then the same step runs again, at attempt 0.
    ///
    /// All signals that the step has not taken count, seen or not. If enough are there when the
    /// outcome is committed, the instance wakes at once. This is how a step waits for all of its
    /// children, or for two votes of three:
    ///
    /// ```
    /// use gen_durable::prelude::*;
    ///
    /// #[derive(DurableSignal)]
    /// pub struct Vote {
    ///     yes: bool,
    /// }
    ///
    /// #[durable_fsm(output = bool, signals(Vote))]
    /// pub enum Ballot {
    ///     Count,
    /// }
    ///
    /// #[durable_fsm]
    /// impl Ballot {
    ///     async fn count(mut cx: Context<Self>) -> StepResult<Self> {
    ///         let Some(votes) = cx.gather::<Vote>(2)? else {
    ///             return Ok(cx.await_count::<Vote>(2));
    ///         };
    ///         Ok(cx.done(votes.iter().all(|vote| vote.yes)))
    ///     }
    /// }
    /// ```
    ///
    /// If the step has already seen `count` of them, the instance would never sleep. The run then
    /// fails with [`Rejected`](crate::StepErrorKind::Rejected), and `handle` decides.
    pub fn await_count<S: DurableSignal>(self, count: usize) -> Outcome<M>
    where
        M: Accepts<S>,
    {
        let (names, count) = (vec![S::NAME], Some(count));
        self.outcome(Transition::Await { names, count, timeout: None })
    }

    /// Parks like [`await_count`](Self::await_count), but wakes after `timeout` at the latest. The
    /// step can tell by [`timed_out`](Self::timed_out).
    pub fn await_count_for<S: DurableSignal>(self, count: usize, timeout: Duration) -> Outcome<M>
    where
        M: Accepts<S>,
    {
        let (names, count) = (vec![S::NAME], Some(count));
        self.outcome(Transition::Await { names, count, timeout: Some(timeout) })
    }

    /// Ends the instance with its result, and empties the inbox.
    pub fn done(self, output: M::Output) -> Outcome<M> {
        self.outcome(Transition::Done(output))
    }

    /// Ends the instance as failed. No signal is consumed: the inbox stays until the instance is
    /// deleted.
    pub fn stop(self, reason: impl fmt::Display) -> Outcome<M> {
        let reason = reason.to_string();
        self.keeping_signals(Transition::Stop(reason))
    }

    /// Makes an outcome that consumes no signal.
    fn keeping_signals(mut self, transition: Transition<M>) -> Outcome<M> {
        for signal in
            self.inbox.iter_mut().filter(|signal| signal.consumption == Consumption::Taken)
        {
            signal.consumption = Consumption::Kept;
        }
        self.outcome(transition)
    }

    fn outcome(self, transition: Transition<M>) -> Outcome<M> {
        Outcome::new(transition, Some(self.state), self.inbox)
    }
}

/// Prints no state and no payload, as they may be confidential.
impl<M: Machine> fmt::Debug for Context<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context")
            .field("machine", &M::NAME)
            .field("instance", &self.instance)
            .field("inbox", &self.inbox.len())
            .finish_non_exhaustive()
    }
}
