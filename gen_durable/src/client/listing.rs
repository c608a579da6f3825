//! Lists and counts of instances.
//!
//! Invariant: a call examines a bounded number of rows, whatever the filter and however many
//! instances there are. It then says where to go on, or that it counted a part.

use std::{
    fmt,
    marker::PhantomData,
    time::{Duration, Instant, SystemTime},
};

use super::{AnyId, Client};
use crate::{
    error::{DatabaseError, EncodeError, FindError},
    id::InstanceId,
    keys::{check_key, check_name},
    machine::Machine,
    status::Status,
    storage::{self, Filter, Ids, Item},
};

/// The most instances in a page.
const PAGE_MAX: usize = 1_000;
const PAGE_DEFAULT: usize = 50;
/// The number up to which instances are counted.
const COUNT_MAX: usize = 10_000;
/// The time after which a call looks no further back. A look takes ten milliseconds, so a call
/// takes less than fifty.
const LOOK_MAX: Duration = Duration::from_millis(20);

/// A choice of instances, to list and to count.
///
/// [`Client::instances`] makes one for a machine. [`Client::all_instances`] makes one for tools,
/// which do not know the machines' types. Each option narrows the choice.
///
/// ```
/// use gen_durable::{operate::{Count, Page}, prelude::*};
/// # #[durable_fsm(state = i64, output = ())]
/// # pub enum Invoice { Send }
/// # #[durable_fsm]
/// # impl Invoice { async fn send(cx: Context<Self>) -> Outcome<Self> { cx.done(()) } }
///
/// # async fn example(client: Client) -> Result<(), Box<dyn std::error::Error>> {
/// let failed = client.instances::<Invoice>().status(Status::Failed).step(Invoice::Send);
/// if let Count::Exact(0) = failed.count().await? {
///     return Ok(());
/// }
/// let mut page = Page::first();
/// loop {
///     let list = failed.list(page).await?;
///     for invoice in &list.entries {
///         println!("{}: {:?}", invoice.id, invoice.last_error);
///     }
///     let Some(next) = list.next else { break };
///     page = Page::after(next);
/// }
/// # Ok(())
/// # }
/// ```
///
/// The instances come newest first, in the order of their ids. Failed and cancelled ones of a
/// machine, executing ones, and runnable ones while they are few are found at once, however many
/// others there are. For any other choice a call examines instances from the newest back, and stops
/// after some milliseconds. A page may then have few entries or none, though there are more:
/// [`Page::after`] the list's `next` goes on.
pub struct Instances<I> {
    pub(super) client: Client,
    pub(super) filter: Filter,
    id: PhantomData<fn() -> I>,
}

impl Client {
    /// Chooses the instances of a machine, in whatever version.
    pub fn instances<M: Machine>(&self) -> Instances<InstanceId<M>> {
        let filter = Filter { fsm: Some(M::NAME.to_owned()), ..Filter::default() };
        Instances { client: self.clone(), filter, id: PhantomData }
    }

    /// Chooses instances of all machines, for tools that do not know the machines' types.
    pub fn all_instances(&self) -> Instances<i64> {
        Instances { client: self.clone(), filter: Filter::default(), id: PhantomData }
    }
}

impl<M: Machine> Instances<InstanceId<M>> {
    /// Chooses those that stand at this step.
    #[must_use]
    #[expect(clippy::needless_pass_by_value, reason = "a step is named by value: `Checkout::Ship`")]
    pub fn step(mut self, step: M) -> Self {
        self.filter.step = Some(step.name().to_owned());
        self
    }
}

impl Instances<i64> {
    /// Chooses those of the machine of this name.
    #[must_use]
    pub fn machine(mut self, name: impl Into<String>) -> Self {
        self.filter.fsm = Some(name.into());
        self
    }

    /// Chooses those that stand at a step of this name.
    #[must_use]
    pub fn step(mut self, name: impl Into<String>) -> Self {
        self.filter.step = Some(name.into());
        self
    }
}

impl<I: AnyId<Id = I>> Instances<I> {
    /// Chooses those of this status.
    #[must_use]
    pub fn status(mut self, status: Status) -> Self {
        self.filter.status = Some(status);
        self
    }

    /// Chooses those of this queue.
    #[must_use]
    pub fn queue(mut self, queue: impl Into<String>) -> Self {
        self.filter.queue = Some(queue.into());
        self
    }

    /// Chooses those of this version of their machine.
    #[must_use]
    pub fn version(mut self, version: u32) -> Self {
        // No version is higher, so none is found.
        self.filter.fsm_version = Some(i32::try_from(version).unwrap_or(i32::MAX));
        self
    }

    /// Chooses those that have this partition key.
    #[must_use]
    pub fn partition_key(mut self, key: impl Into<String>) -> Self {
        self.filter.partition_key = Some(key.into());
        self
    }

    /// Chooses those that were inserted with this unique key, whether they still hold it or not.
    #[must_use]
    pub fn unique_key(mut self, key: impl Into<String>) -> Self {
        self.filter.unique_key = Some(key.into());
        self
    }

    /// Chooses those that were changed last at this time or after. An instance that has ended was
    /// changed last at its end, as a rule.
    #[must_use]
    pub fn changed_since(mut self, time: SystemTime) -> Self {
        self.filter.changed_since = Some(time);
        self
    }

    /// Chooses those that were changed last before this time: instances that have not moved since.
    #[must_use]
    pub fn changed_before(mut self, time: SystemTime) -> Self {
        self.filter.changed_before = Some(time);
        self
    }

    /// Lists a page of them, newest first.
    ///
    /// # Errors
    ///
    /// [`FindError`]: a name or a key of the choice cannot be one; the database failed. It needs
    /// the rights of an operator or a worker.
    pub async fn list(&self, page: Page) -> Result<List<I>, FindError> {
        let found = self.look(page.before, page.size).await?;
        let items = self.load(&found.ids).await?;
        // An instance may have changed since it was found.
        let items = items.into_iter().filter(|item| self.filter.fits(item));
        Ok(List { entries: items.filter_map(Entry::of).collect(), next: found.next.map(Cursor) })
    }

    /// Counts them, up to 10,000.
    ///
    /// # Errors
    ///
    /// [`FindError`], as [`list`](Self::list).
    pub async fn count(&self) -> Result<Count, FindError> {
        let found = self.look(i64::MAX, COUNT_MAX).await?;
        let count = found.ids.len() as u64;
        Ok(if found.next.is_none() { Count::Exact(count) } else { Count::AtLeast(count) })
    }

    /// Finds at most `max` instances before an id, unless that takes too long.
    async fn look(&self, mut before: i64, max: usize) -> Result<Ids, FindError> {
        self.check()?;
        let began = Instant::now();
        let mut all = Ids::default();
        loop {
            let left = max - all.ids.len();
            let found = self.find(before, left).await?;
            all.ids.extend(found.ids);
            all.next = found.next;
            match found.next {
                Some(next) if all.ids.len() < max && began.elapsed() < LOOK_MAX => before = next,
                _ => return Ok(all),
            }
        }
    }

    /// Checks the names and keys of the choice.
    pub(super) fn check(&self) -> Result<(), EncodeError> {
        let filter = &self.filter;
        for (what, name) in
            [("the machine's name", &filter.fsm), ("step", &filter.step), ("queue", &filter.queue)]
        {
            name.as_ref().map_or(Ok(()), |name| check_name(what, name))?;
        }
        check_key("partition_key", filter.partition_key.as_deref())?;
        check_key("unique_key", filter.unique_key.as_deref())?;
        Ok(())
    }

    pub(super) async fn find(&self, before: i64, max: usize) -> Result<Ids, FindError> {
        let connections = &self.client.inner.connections;
        let find = async {
            let mut connection = connections.get().await?;
            let find = storage::find(&mut connection, &self.filter, before, max);
            let result = connections.within(find).await;
            connection.done(result)
        };
        self.found(find.await)
    }

    async fn load(&self, ids: &[i64]) -> Result<Vec<Item>, FindError> {
        let connections = &self.client.inner.connections;
        let load = async {
            let mut connection = connections.get().await?;
            let load = storage::list_instances(&mut connection, ids);
            let result = connections.within(load).await;
            connection.done(result)
        };
        self.found(load.await)
    }

    fn found<T>(&self, result: Result<T, sqlx::Error>) -> Result<T, FindError> {
        let found = result.map_err(DatabaseError::new("list instances"));
        Ok(found.inspect_err(|error| self.client.inner.connections.tell(error))?)
    }
}

impl<I> Clone for Instances<I> {
    fn clone(&self) -> Self {
        Self { client: self.client.clone(), filter: self.filter.clone(), id: PhantomData }
    }
}

impl<I> fmt::Debug for Instances<I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Instances").field("filter", &self.filter).finish_non_exhaustive()
    }
}

/// A part of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Page {
    pub(super) before: i64,
    pub(super) size: usize,
}

impl Page {
    /// Begins with the newest entry of the list.
    pub const fn first() -> Self {
        Self { before: i64::MAX, size: PAGE_DEFAULT }
    }

    /// Goes on where a list ended.
    pub const fn after(cursor: Cursor) -> Self {
        Self { before: cursor.0, size: PAGE_DEFAULT }
    }

    /// Sets the most entries of the page: 50 by default, and at most 1,000. Other sizes are taken
    /// for the nearest of 1 and 1,000.
    #[must_use]
    pub fn size(self, size: usize) -> Self {
        Self { size: size.clamp(1, PAGE_MAX), ..self }
    }
}

/// A place in a list. It stays valid while instances come, change and go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor(i64);

impl Cursor {
    /// Makes a cursor from its number, for a tool that has it in a URL.
    pub const fn from_raw(raw: i64) -> Self {
        Self(raw)
    }

    /// Returns its number.
    pub const fn get(self) -> i64 {
        self.0
    }
}

/// A page of instances.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct List<I = i64> {
    /// The instances, newest first.
    pub entries: Vec<Entry<I>>,
    /// The place to go on. None if there are no others. There may be entries after it even if this
    /// page is not full.
    pub next: Option<Cursor>,
}

/// The number of instances that were chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Count {
    /// There are as many.
    Exact(u64),
    /// There are as many among those that the call examined, and there may be more.
    AtLeast(u64),
}

/// Prints `12`, and `10000+` for at least as many.
impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(count) => write!(f, "{count}"),
            Self::AtLeast(count) => write!(f, "{count}+"),
        }
    }
}

/// An instance in a list, as it was when the list was made.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Entry<I = i64> {
    /// Its id.
    pub id: I,
    /// The name of its machine.
    pub machine: String,
    /// The version of its machine.
    pub version: u32,
    /// Its status.
    pub status: Status,
    /// The name of the step that it stands at.
    pub step: String,
    /// The number of runs of that step before the one that is under way or due.
    pub attempt: u32,
    /// Its queue.
    pub queue: String,
    /// Its partition key.
    pub partition_key: Option<String>,
    /// Its unique key, whether it still holds that or not.
    pub unique_key: Option<String>,
    /// The beginning of its last error, which may be one that it has recovered from.
    pub last_error: Option<String>,
    /// The time from which a runnable instance may run, or at which a parked one wakes by itself.
    pub due_at: Option<SystemTime>,
    /// The time at which it was inserted.
    pub inserted_at: SystemTime,
    /// The time of its last change.
    pub updated_at: SystemTime,
    /// The time at which it ended.
    pub finished_at: Option<SystemTime>,
}

impl<I: AnyId<Id = I>> Entry<I> {
    pub(super) fn of(item: Item) -> Option<Self> {
        Some(Self {
            id: I::id(item.id),
            machine: item.fsm,
            version: u32::try_from(item.fsm_version).unwrap_or(0),
            // The table's check allows no other status.
            status: item.status.parse().ok()?,
            step: item.step,
            attempt: u32::try_from(item.attempt).unwrap_or(0),
            queue: item.queue,
            partition_key: item.partition_key,
            unique_key: item.unique_key,
            last_error: item.last_error,
            due_at: item.due_at,
            inserted_at: item.inserted_at,
            updated_at: item.updated_at,
            finished_at: item.finished_at,
        })
    }
}
