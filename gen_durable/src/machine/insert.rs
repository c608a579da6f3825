//! Inserts: the options of a new instance, and their checks.
//!
//! Invariant: nothing is sent before `execute`, and every option is checked before anything is
//! sent.

use std::{
    fmt,
    time::{Duration, SystemTime},
};

use super::{
    Machine,
    address::{Address, InstanceKey},
    ended::Ended,
    insert_or_signal::InsertOrSignal,
    signal::{Accepts, DurableSignal, Signal},
};
use crate::{
    error::EncodeError,
    keys::{check_key, check_name},
    status::Status,
    storage::{Eligible, NewInstance, Receiver},
    trace, value,
};

/// A new instance that is about to be inserted. Nothing happens before [`execute`](Self::execute).
///
/// The generated function `insert` of a machine makes one.
///
/// | option | meaning | default |
/// |---|---|---|
/// | `.partition_key(key)` | never runs at the same time as another instance of this key | none |
/// | `.unique_key(key)` | one instance of the machine holds this key | none |
/// | `.unique_while(statuses)` | the statuses in which it holds its unique key | all live ones |
/// | `.queue(name)` | another queue | the machine's |
/// | `.priority(number)` | lower runs first | 0 |
/// | `.step(step)` | another step than the initial one | the machine's |
/// | `.schedule_in(duration)` | runs only after this time has passed | at once |
/// | `.schedule_at(time)` | runs at this time or later | at once |
/// | `.report_to(receiver)` | the instance that hears of its end | none |
/// | `.refuse_if_taken()` | a taken unique key refuses the carrying outcome | it is dropped |
/// | `.with_signal(payload)` | a signal for it, or for the holder of the unique key | none |
/// | `.silent()` | no engine is told: it runs at the next poll | engines are told |
/// | `.execute(on)` | inserts it on `&engine`, `&client`, `&pool`, or `&mut *tx` | |
///
/// An empty key, or an empty name of a queue, is an error: all callers who left it empty by mistake
/// would share it.
///
/// ```
/// use std::time::Duration;
///
/// use gen_durable::prelude::*;
/// # #[durable_fsm(state = i64, output = ())]
/// # pub enum Invoice { Send }
/// # #[durable_fsm]
/// # impl Invoice { async fn send(cx: Context<Self>) -> Outcome<Self> { cx.done(()) } }
///
/// # async fn example(client: Client) -> Result<(), Box<dyn std::error::Error>> {
/// let id = Invoice::insert(42)
///     .unique_key("order 42")
///     .partition_key("customer 7")
///     .schedule_in(Duration::from_hours(1))
///     .execute(&client)
///     .await?;
/// # Ok(())
/// # }
/// ```
#[must_use = "an instance is inserted by `.execute(…)`, or with an outcome by `.insert(…)`"]
pub struct Insert<M: Machine> {
    state: M::State,
    step: &'static str,
    queue: Option<String>,
    priority: i16,
    eligible: Eligible,
    partition_key: Option<String>,
    unique_key: Option<String>,
    unique_scope: Vec<Status>,
    silent: bool,
    report_to: Option<Receiver>,
    refuses_taken: bool,
}

impl<M: Machine> Insert<M> {
    /// Makes a new instance with this state, at the machine's initial step and in its queue.
    pub fn new(state: M::State) -> Self {
        Self {
            state,
            step: M::INITIAL.name(),
            queue: None,
            priority: 0,
            eligible: Eligible::Now,
            partition_key: None,
            unique_key: None,
            unique_scope: Status::LIVE.to_vec(),
            silent: false,
            report_to: None,
            refuses_taken: false,
        }
    }

    /// Sets the partition key, of at most 1,024 bytes. Instances that share one never execute at
    /// the same time, on any worker.
    ///
    /// Whenever the key is free, a worker takes the next of them in the order of priority, time and
    /// id. It chooses among the machines that its process knows. An instance that is parked, or
    /// that waits for its delay, does not hold the key.
    pub fn partition_key(mut self, key: impl Into<String>) -> Self {
        self.partition_key = Some(key.into());
        self
    }

    /// Sets the unique key, of at most 1,024 bytes. At most one instance of the machine, in
    /// whatever version, holds it at a time. An insert that finds it taken is
    /// [`InsertError::Duplicate`](crate::InsertError::Duplicate).
    pub fn unique_key(mut self, key: impl Into<String>) -> Self {
        self.unique_key = Some(key.into());
        self
    }

    /// Sets the statuses in which the instance holds its unique key. It holds the key from its
    /// insert until it first leaves them. They must include [`Status::Runnable`], in which it
    /// begins. The default is every live status.
    ///
    /// Add [`Status::Done`] and [`Status::Failed`] if a caller tries the insert again after its
    /// answer was lost. Otherwise the first instance may have ended meanwhile, and have given the
    /// key back.
    pub fn unique_while(mut self, statuses: impl IntoIterator<Item = Status>) -> Self {
        self.unique_scope = statuses.into_iter().collect();
        self
    }

    /// Sets another queue than the machine's.
    pub fn queue(mut self, queue: impl Into<String>) -> Self {
        self.queue = Some(queue.into());
        self
    }

    /// Sets the priority: lower runs first, and the default is 0.
    ///
    /// A claim looks at each priority in use, so keep them to a handful.
    pub fn priority(mut self, priority: i16) -> Self {
        self.priority = priority;
        self
    }

    /// Begins at another step than the initial one.
    #[expect(clippy::needless_pass_by_value, reason = "a step is named by value: `Checkout::Ship`")]
    pub fn step(mut self, step: M) -> Self {
        self.step = step.name();
        self
    }

    /// Announces the instance to no engine, whatever the insert is executed on. It runs at the next
    /// poll of an engine, after at most 1.25 times its
    /// [`poll_interval`](crate::EngineBuilder::poll_interval).
    ///
    /// Otherwise an insert in the caller's transaction carries a NOTIFY. Postgres does not prepare
    /// such a transaction (`PREPARE TRANSACTION`, two-phase commit), and lets only one at a time
    /// commit. It also refuses the commit while its notify queue is full, as it becomes if a
    /// listener stands still.
    ///
    /// ```
    /// use gen_durable::prelude::*;
    /// # #[durable_fsm(state = i64, output = ())]
    /// # pub enum Invoice { Send }
    /// # #[durable_fsm]
    /// # impl Invoice { async fn send(cx: Context<Self>) -> Outcome<Self> { cx.done(()) } }
    ///
    /// # async fn example(pool: sqlx::PgPool) -> Result<(), Box<dyn std::error::Error>> {
    /// let mut connection = pool.acquire().await?;
    /// sqlx::query("begin").execute(&mut *connection).await?;
    /// Invoice::insert(42).silent().execute(&mut *connection).await?;
    /// sqlx::query("prepare transaction 'order 42'").execute(&mut *connection).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn silent(mut self) -> Self {
        self.silent = true;
        self
    }

    /// Lets the instance run only after `delay` has passed, by the database's clock.
    ///
    /// An instance that is due only after the next poll is not announced: the poll sees it in time.
    pub fn schedule_in(mut self, delay: Duration) -> Self {
        self.eligible = Eligible::In(delay);
        self
    }

    /// Lets the instance run at this time or later, by the database's clock. A time in the past is
    /// now.
    pub fn schedule_at(mut self, time: SystemTime) -> Self {
        self.eligible = Eligible::At(time);
        self
    }

    /// Names the instance that hears of this one's end: it gets the signal
    /// [`Ended<M>`](crate::Ended), which it declares. The end is reported once, whatever makes it;
    /// [`Ended`](crate::Ended) says when.
    ///
    /// A receiver that is named by its unique key is looked up when the insert is executed. A
    /// report to a receiver that has ended by then is dropped, and logged. An outcome that inserts
    /// children of its own instance names no receiver: it [spawns](crate::Outcome::spawn) them.
    ///
    /// ```
    /// use gen_durable::prelude::*;
    /// # #[durable_fsm(state = i64, output = ())]
    /// # pub enum Invoice { Send }
    /// # #[durable_fsm]
    /// # impl Invoice { async fn send(cx: Context<Self>) -> Outcome<Self> { cx.done(()) } }
    ///
    /// #[durable_fsm(output = (), signals(Ended<Invoice>))]
    /// pub enum Month {
    ///     Close,
    /// }
    ///
    /// #[durable_fsm]
    /// impl Month {
    ///     async fn close(mut cx: Context<Self>) -> StepResult<Self> {
    ///         match cx.take_signal::<Ended<Invoice>>()? {
    ///             Some(invoice) => Ok(cx.done(invoice.result()?)),
    ///             None => Ok(cx.await_signal::<Ended<Invoice>>()),
    ///         }
    ///     }
    /// }
    ///
    /// # async fn example(client: Client) -> Result<(), Box<dyn std::error::Error>> {
    /// Invoice::insert(42).report_to(Month::by_key("2026-11")).execute(&client).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn report_to<P>(mut self, receiver: impl Address<P>) -> Self
    where
        P: Accepts<Ended<M>>,
    {
        let by_key = |key| Receiver::Key { fsm: P::NAME, key };
        self.report_to = Some(receiver.into_raw().map_or_else(by_key, Receiver::Instance));
        self
    }

    /// Refuses an outcome that carries this insert if another instance holds the unique key: the
    /// run fails with a [`Duplicate`](crate::Duplicate), and `handle` decides.
    ///
    /// Otherwise the receiver of the instance's report hears at once that the key was taken
    /// ([`EndError::Taken`](crate::EndError::Taken)). Without a receiver the insert is dropped, and
    /// logged. An insert that is executed by itself is not affected: the caller is told.
    pub fn refuse_if_taken(mut self) -> Self {
        self.refuses_taken = true;
        self
    }

    /// Returns the row of a child of the instance whose outcome carries it.
    pub(crate) fn into_child(mut self) -> Result<NewInstance, EncodeError> {
        if self.report_to.is_some() {
            return Err(EncodeError::TwoReceivers);
        }
        self.report_to = Some(Receiver::Sender);
        self.into_row(usize::MAX)
    }

    /// Adds a signal that the instance finds in its inbox, and that goes to the holder of the
    /// unique key if the key is taken: start or signal. The insert needs a
    /// [`unique_key`](Self::unique_key).
    ///
    /// This is how a webhook is received that may be the first of its order, or a later one:
    ///
    /// ```
    /// use gen_durable::{Reached, prelude::*};
    /// # #[derive(DurableSignal)]
    /// # pub struct Paid { amount: i64 }
    /// # #[durable_fsm(state = i64, output = i64, signals(Paid))]
    /// # pub enum Order { Collect }
    /// # #[durable_fsm]
    /// # impl Order {
    /// #     async fn collect(mut cx: Context<Self>) -> StepResult<Self> {
    /// #         Ok(match cx.take_signal::<Paid>()? {
    /// #             Some(paid) => cx.done(paid.amount),
    /// #             None => cx.await_signal::<Paid>(),
    /// #         })
    /// #     }
    /// # }
    ///
    /// # async fn example(client: Client) -> Result<(), Box<dyn std::error::Error>> {
    /// let reached = Order::insert(42)
    ///     .unique_key("order 42")
    ///     .with_signal(Paid { amount: 100 })
    ///     .dedup_key("evt-7")
    ///     .execute(&client)
    ///     .await?;
    /// if let Reached::Started(id) = reached {
    ///     println!("instance {id} is new");
    /// }
    /// # Ok(())
    /// # }
    /// ```
    #[expect(clippy::needless_pass_by_value, reason = "as in the generated functions `signal_…`")]
    pub fn with_signal<S: DurableSignal>(self, payload: S) -> InsertOrSignal<M>
    where
        M: Accepts<S>,
    {
        let to = InstanceKey::new(self.unique_key.clone().unwrap_or_default());
        InsertOrSignal::new(self, Signal::new(to, &payload))
    }

    pub(crate) fn into_row(self, max: usize) -> Result<NewInstance, EncodeError> {
        let queue = self.queue.unwrap_or_else(|| M::QUEUE.to_owned());
        check_key("partition_key", self.partition_key.as_deref())?;
        check_key("unique_key", self.unique_key.as_deref())?;
        check_name("queue", &queue)?;
        check_name("the machine's name", M::NAME)?;
        check_name("step", self.step)?;
        if self.unique_key.is_some() && !self.unique_scope.contains(&Status::Runnable) {
            return Err(EncodeError::UniqueScope);
        }
        if let Some(Receiver::Key { fsm, key }) = &self.report_to {
            check_key("report_to", Some(key))?;
            if *fsm == M::NAME && self.unique_key.as_ref() == Some(key) {
                return Err(EncodeError::ReportsToItself);
            }
        }
        Ok(NewInstance {
            fsm: M::NAME,
            fsm_version: M::VERSION,
            step: self.step,
            state: value::encode("state", &self.state, max)?,
            queue,
            priority: self.priority,
            eligible: self.eligible,
            partition_key: self.partition_key,
            unique_key: self.unique_key,
            unique_scope: self.unique_scope,
            silent: self.silent,
            report_to: self.report_to,
            refuses_taken: self.refuses_taken,
            trace_context: trace::current(),
        })
    }
}

// Written by hand: a derive would require `M: Clone`.
impl<M: Machine<State: Clone>> Clone for Insert<M> {
    fn clone(&self) -> Self {
        Self {
            state: self.state.clone(),
            step: self.step,
            queue: self.queue.clone(),
            priority: self.priority,
            eligible: self.eligible,
            partition_key: self.partition_key.clone(),
            unique_key: self.unique_key.clone(),
            unique_scope: self.unique_scope.clone(),
            silent: self.silent,
            report_to: self.report_to.clone(),
            refuses_taken: self.refuses_taken,
        }
    }
}

/// Prints no state, as it may be confidential.
impl<M: Machine> fmt::Debug for Insert<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Insert")
            .field("machine", &M::NAME)
            .field("step", &self.step)
            .field("queue", &self.queue)
            .field("priority", &self.priority)
            .field("partition_key", &self.partition_key)
            .field("unique_key", &self.unique_key)
            .finish_non_exhaustive()
    }
}

/// The items of `insert_many`: an [`Insert`], or a machine's state for an insert without options.
pub trait IntoInsert<M: Machine> {
    /// Returns the insert.
    fn into_insert(self) -> Insert<M>;
}

impl<M: Machine> IntoInsert<M> for Insert<M> {
    fn into_insert(self) -> Insert<M> {
        self
    }
}

/// Any number of new instances that are about to be inserted.
///
/// The generated function `insert_many` of a machine makes one.
///
/// ```
/// use gen_durable::prelude::*;
/// # #[durable_fsm(state = i64, output = ())]
/// # pub enum Invoice { Send }
/// # #[durable_fsm]
/// # impl Invoice { async fn send(cx: Context<Self>) -> Outcome<Self> { cx.done(()) } }
///
/// # async fn example(client: Client) -> Result<(), Box<dyn std::error::Error>> {
/// let orders =
///     (1..=1000).map(|order| Invoice::insert(order).unique_key(format!("order {order}")));
/// for answer in Invoice::insert_many(orders).execute(&client).await? {
///     match answer {
///         Ok(id) => println!("instance {id}"),
///         Err(duplicate) => println!("instance {} does it already", duplicate.id),
///     }
/// }
/// # Ok(())
/// # }
/// ```
#[must_use = "instances are inserted by `.execute(…)`"]
pub struct InsertMany<M: Machine> {
    inserts: Vec<Insert<M>>,
}

impl<M: Machine> InsertMany<M> {
    /// Makes new instances from states, or from inserts with options.
    pub fn new<I: IntoInsert<M>>(inserts: impl IntoIterator<Item = I>) -> Self {
        Self { inserts: inserts.into_iter().map(IntoInsert::into_insert).collect() }
    }

    /// Announces none of them to any engine, as [`Insert::silent`] says.
    pub fn silent(mut self) -> Self {
        for insert in &mut self.inserts {
            insert.silent = true;
        }
        self
    }

    pub(crate) fn into_rows(self, max: usize) -> Result<Vec<NewInstance>, EncodeError> {
        self.inserts.into_iter().map(|insert| insert.into_row(max)).collect()
    }
}

impl<M: Machine<State: Clone>> Clone for InsertMany<M> {
    fn clone(&self) -> Self {
        Self { inserts: self.inserts.clone() }
    }
}

impl<M: Machine> fmt::Debug for InsertMany<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InsertMany").field("inserts", &self.inserts).finish()
    }
}

/// Yields the single inserts, for an outcome to carry.
impl<M: Machine> IntoIterator for InsertMany<M> {
    type Item = Insert<M>;
    type IntoIter = std::vec::IntoIter<Insert<M>>;

    fn into_iter(self) -> Self::IntoIter {
        self.inserts.into_iter()
    }
}
