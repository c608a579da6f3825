//! Building and executing inserts: the options of a new instance.
//!
//! Invariant: nothing is sent before `execute`, and every option is checked before anything is.

use std::{
    fmt,
    time::{Duration, SystemTime},
};

use super::Machine;
use crate::{
    error::EncodeError,
    keys::{check_key, check_name},
    status::Status,
    storage::{Eligible, NewInstance},
    value,
};

/// A new instance that is about to be inserted; nothing happens before
/// [`execute`](Self::execute).
///
/// Generated on a machine as `insert`.
///
/// | option | meaning | default |
/// |---|---|---|
/// | `.partition_key(key)` | never at the same time as another of this key | none |
/// | `.unique_key(key)` | one instance of the machine holds this key | none |
/// | `.unique_while(statuses)` | the statuses in which it does | all live ones |
/// | `.queue(name)` | another queue | the machine's |
/// | `.priority(number)` | lower runs first | 0 |
/// | `.step(step)` | another step than the initial one | the machine's |
/// | `.schedule_in(duration)` | not before this has passed | at once |
/// | `.schedule_at(time)` | not before this time | at once |
/// | `.silent()` | no engine is told: it runs at the next poll | engines are told |
/// | `.execute(on)` | on `&engine`, `&client`, `&pool`, or `&mut *tx` | |
///
/// A key or a queue's name that is empty is an error: everybody who left it empty by mistake would
/// share it.
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
}

impl<M: Machine> Insert<M> {
    /// A new instance with this state, at the machine's initial step and in its queue.
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
        }
    }

    /// Instances that share a partition key never execute at the same time, on any worker. At most
    /// 1,024 bytes.
    ///
    /// Whenever the key is free, the next of them is taken in the order of priority, time and id,
    /// among the machines that the process knows. An instance that is parked, or that waits for its
    /// delay, does not hold the key.
    pub fn partition_key(mut self, key: impl Into<String>) -> Self {
        self.partition_key = Some(key.into());
        self
    }

    /// At most one instance of the machine, in whatever version, holds this key at a time; an
    /// insert that finds it taken is [`InsertError::Duplicate`]. At most 1,024 bytes.
    pub fn unique_key(mut self, key: impl Into<String>) -> Self {
        self.unique_key = Some(key.into());
        self
    }

    /// The statuses in which the instance holds its unique key: from its insert until it first
    /// leaves them. They must include [`Status::Runnable`], in which it begins. The default is
    /// every live status.
    ///
    /// Who tries an insert again whose answer was lost adds [`Status::Done`] and [`Status::Failed`]: the
    /// first one may have ended meanwhile, and so have given the key back.
    pub fn unique_while(mut self, statuses: impl IntoIterator<Item = Status>) -> Self {
        self.unique_scope = statuses.into_iter().collect();
        self
    }

    /// Another queue than the machine's.
    pub fn queue(mut self, queue: impl Into<String>) -> Self {
        self.queue = Some(queue.into());
        self
    }

    /// Lower runs first; the default is 0.
    ///
    /// A claim looks at each priority in use, so keep them to a handful.
    pub fn priority(mut self, priority: i16) -> Self {
        self.priority = priority;
        self
    }

    /// Another step than the initial one.
    #[expect(clippy::needless_pass_by_value, reason = "a step is named by value: `Checkout::Ship`")]
    pub fn step(mut self, step: M) -> Self {
        self.step = step.name();
        self
    }

    /// Tells no engine, whatever the insert is executed on: the instance runs at the next poll of
    /// an engine, at most its [`poll_interval`](crate::EngineBuilder::poll_interval) and a quarter
    /// later.
    ///
    /// Otherwise an insert in the caller's transaction carries a NOTIFY. Postgres prepares no such
    /// transaction (`PREPARE TRANSACTION`, two-phase commit), lets only one at a time commit, and
    /// refuses the commit when its notify queue is full, as a listener that stands still makes it.
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

    /// Not before `delay` has passed, by the database's clock.
    ///
    /// An instance that is due only after the next poll is not announced: the poll sees it in time.
    pub fn schedule_in(mut self, delay: Duration) -> Self {
        self.eligible = Eligible::In(delay);
        self
    }

    /// Not before this time, as the database's clock has it; a time that has passed is now.
    pub fn schedule_at(mut self, time: SystemTime) -> Self {
        self.eligible = Eligible::At(time);
        self
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
        })
    }
}

// Written by hand: a derive would ask it of `M`.
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
        }
    }
}

/// Prints no state: it may be confidential.
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

/// What `insert_many` takes: an [`Insert`], or a machine's state for one with no options.
pub trait IntoInsert<M: Machine> {
    /// The insert.
    fn into_insert(self) -> Insert<M>;
}

impl<M: Machine> IntoInsert<M> for Insert<M> {
    fn into_insert(self) -> Insert<M> {
        self
    }
}

/// Any number of new instances that are about to be inserted.
///
/// Generated on a machine as `insert_many`.
///
/// ```
/// use gen_durable::prelude::*;
/// # #[durable_fsm(state = i64, output = ())]
/// # pub enum Invoice { Send }
/// # #[durable_fsm]
/// # impl Invoice { async fn send(cx: Context<Self>) -> Outcome<Self> { cx.done(()) } }
///
/// # async fn example(client: Client) -> Result<(), Box<dyn std::error::Error>> {
/// let orders = (1..=1000).map(|order| Invoice::insert(order).unique_key(format!("order {order}")));
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
    /// New instances, from states or from inserts with options.
    pub fn new<I: IntoInsert<M>>(inserts: impl IntoIterator<Item = I>) -> Self {
        Self { inserts: inserts.into_iter().map(IntoInsert::into_insert).collect() }
    }

    /// Tells no engine of any of them, as [`Insert::silent`] says.
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

/// The single inserts, to be carried by an outcome.
impl<M: Machine> IntoIterator for InsertMany<M> {
    type Item = Insert<M>;
    type IntoIter = std::vec::IntoIter<Insert<M>>;

    fn into_iter(self) -> Self::IntoIter {
        self.inserts.into_iter()
    }
}
