//! Limits, to look at, to set and to reset.
//!
//! Invariant: a call admits nothing, and holds up no engine. Engines go by the bounds in force.

use std::{
    fmt,
    time::{Duration, SystemTime},
};

use sqlx::PgConnection;

use super::{
    Client, Count, ExecuteOn,
    audited::{Audited, by_and_reason},
    operation::{Operation, operate},
};
use crate::{
    error::{DatabaseError, OperateError},
    keys::check_name,
    machine::limit::Limit,
    storage::{self, Bounds as Row, LimitAct, LimitRow, Locked},
};

/// The most limits that a statement reads, and the most buckets or waiting instances in a page.
const PAGE_MAX: i64 = 1_000;
/// The most waiting instances of a bucket that are counted.
const WAITING_MAX: i64 = 1_000;

/// A limit. [`Client::limit`] makes one.
#[derive(Clone, Debug)]
pub struct LimitHandle {
    client: Client,
    name: String,
}

impl Client {
    /// Names a limit, to look at it, to set other bounds than those of its declaration, and to
    /// reset them. Nothing is sent yet.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use gen_durable::{Limit, prelude::*};
    ///
    /// # async fn example(client: Client) -> Result<(), Box<dyn std::error::Error>> {
    /// let stripe = client.limit("stripe");
    /// let slower = Limit::new().at_once(2).per(10, Duration::from_secs(1));
    /// stripe.set(slower).by("ada").reason("they ask for less").execute(&client).await?;
    /// if let Some(limit) = stripe.get().await? {
    ///     println!("declared: {}, in force: {}", limit.declared, limit.in_force);
    /// }
    /// for bucket in stripe.buckets(None).await? {
    ///     println!("{:?}: {} run, {} wait", bucket.key, bucket.running, bucket.waiting);
    /// }
    /// stripe.reset().by("ada").execute(&client).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn limit(&self, name: impl Into<String>) -> LimitHandle {
        LimitHandle { client: self.clone(), name: name.into() }
    }

    /// Lists all limits that engines have declared, in the order of their names.
    ///
    /// ```
    /// # use gen_durable::prelude::*;
    /// # async fn example(client: Client) -> Result<(), Box<dyn std::error::Error>> {
    /// for limit in client.limits().await? {
    ///     match limit.set {
    ///         Some(set) => println!("{}: {}, set by {}", limit.name, set.bounds, set.by),
    ///         None => println!("{}: {}", limit.name, limit.in_force),
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`DatabaseError`]: the database failed. It needs the rights of an operator or a worker.
    pub async fn limits(&self) -> Result<Vec<LimitEntry>, DatabaseError> {
        let mut limits: Vec<LimitEntry> = Vec::new();
        loop {
            let after = limits.last().map_or("", |limit| &limit.name);
            let page = list(self, after, None).await?;
            let more = i64::try_from(page.len()).is_ok_and(|found| found >= PAGE_MAX);
            limits.extend(page);
            if !more {
                return Ok(limits);
            }
        }
    }
}

impl LimitHandle {
    /// Returns what is known of the limit. None if no engine has declared it.
    ///
    /// # Errors
    ///
    /// [`DatabaseError`]: the database failed. It needs the rights of an operator or a worker.
    pub async fn get(&self) -> Result<Option<LimitEntry>, DatabaseError> {
        Ok(list(&self.client, "", Some(&self.name)).await?.pop())
    }

    /// Sets other bounds than those that programs declare. They are in force in all processes, also
    /// after a deployment, until somebody resets them. They replace the declared ones as a whole: a
    /// bound that is not given bounds nothing.
    ///
    /// Runs that have begun go on, also if there are more of them than the new bounds allow.
    /// Nothing starts until there are fewer.
    pub fn set(&self, limit: Limit) -> LimitAction<SetLimit> {
        self.action(SetLimit(limit))
    }

    /// Ends what was set. The bounds that programs declare are in force again.
    pub fn reset(&self) -> LimitAction<ResetLimit> {
        self.action(ResetLimit(()))
    }

    fn action<D>(&self, deed: D) -> LimitAction<D> {
        LimitAction { name: self.name.clone(), deed, audited: Audited::default() }
    }

    /// Lists the buckets of the limit in the order of their keys, up to 1,000: those after the key
    /// `after`, or the first ones. The last key of a page is where the next one goes on. A limit
    /// has a bucket without a key, or one for each key, once an instance has come to it. Buckets
    /// that have been idle for long are removed.
    ///
    /// ```
    /// # use gen_durable::prelude::*;
    /// # async fn example(client: Client) -> Result<(), Box<dyn std::error::Error>> {
    /// let stripe = client.limit("stripe");
    /// let mut page = stripe.buckets(None).await?;
    /// while let Some(last) = page.last().and_then(|bucket| bucket.key.clone()) {
    ///     for bucket in page.iter().filter(|bucket| bucket.until.is_some()) {
    ///         println!("{:?} has used its rate up", bucket.key);
    ///     }
    ///     page = stripe.buckets(Some(&last)).await?;
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`DatabaseError`]: the database failed. It needs the rights of an operator or a worker.
    pub async fn buckets(&self, after: Option<&str>) -> Result<Vec<Bucket>, DatabaseError> {
        let after = after.map_or_else(String::new, |key| storage::bucket_of(&self.name, Some(key)));
        let connections = self.client.connections();
        let list = async {
            let mut connection = connections.get().await?;
            let list = storage::list_buckets(
                &mut connection,
                &self.name,
                &after,
                PAGE_MAX,
                WAITING_MAX + 1,
            );
            let result = connections.within(list).await;
            connection.done(result)
        };
        let found = list.await.map_err(DatabaseError::new("list buckets"));
        let found = found.inspect_err(|error| connections.tell(error))?;
        Ok(found.iter().map(Bucket::of).collect())
    }

    /// Lists the instances that wait for the limit, or for the bucket of a key, in the order in
    /// which they come in, up to 1,000. Those that something else holds back as well lie behind the
    /// others.
    ///
    /// ```
    /// # use gen_durable::prelude::*;
    /// # async fn example(client: Client) -> Result<(), Box<dyn std::error::Error>> {
    /// for waiting in client.limit("stripe").waiting(Some("ada")).await? {
    ///     println!("{} waits at {} until {:?}", waiting.id, waiting.step, waiting.until);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`DatabaseError`]: the database failed. It needs the rights of an operator or a worker.
    pub async fn waiting(&self, key: Option<&str>) -> Result<Vec<Waiting>, DatabaseError> {
        let bucket = storage::bucket_of(&self.name, key);
        let connections = self.client.connections();
        let list = async {
            let mut connection = connections.get().await?;
            let list = storage::list_waiting(&mut connection, &self.name, &bucket, PAGE_MAX);
            let result = connections.within(list).await;
            connection.done(result)
        };
        let found = list.await.map_err(DatabaseError::new("list waiting instances"));
        let found = found.inspect_err(|error| connections.tell(error))?;
        Ok((0..)
            .zip(found)
            .map(|(ahead, row)| Waiting {
                id: row.id,
                machine: row.fsm,
                step: row.step,
                priority: row.priority,
                due_at: row.due_at,
                blocked: row.blocked,
                until: row.rate.until(ahead),
            })
            .collect())
    }
}

/// An action on a limit. Nothing is done before `execute`.
#[must_use = "an action is done by `.execute(…)`"]
#[derive(Clone, Debug)]
pub struct LimitAction<D> {
    name: String,
    deed: D,
    audited: Audited,
}

/// The deed of [`LimitHandle::set`].
#[derive(Clone, Debug)]
pub struct SetLimit(Limit);

/// The deed of [`LimitHandle::reset`].
#[derive(Clone, Debug)]
pub struct ResetLimit(());

impl<D> LimitAction<D> {
    by_and_reason!();

    /// Sets the bounds, or resets them, and returns the deed as the statement names it.
    async fn act<'e>(
        self,
        bounds: Option<Row>,
        on: impl ExecuteOn<'e>,
    ) -> Result<String, OperateError> {
        let Audited { actor, reason } = self.audited.checked()?;
        check_name("the limit's name", &self.name)?;
        let what = format!("limit {}", self.name);
        let act = LimitAct { name: self.name, bounds, actor, reason };
        let deed = Box::pin(operate(on.into_target(), &act, &what)).await?;
        match &*deed {
            "unknown" => Err(OperateError::UnknownLimit { limit: act.name }),
            _ => Ok(deed),
        }
    }
}

impl LimitAction<SetLimit> {
    /// Does it: in a transaction of its own, or in the caller's (`&mut *tx`). Engines go by the new
    /// bounds from the commit on. A limit that is set already gets the new bounds, operator and
    /// reason.
    ///
    /// # Errors
    ///
    /// [`OperateError`]: the bounds make no limit; no engine has declared it; a text cannot be
    /// stored; the database failed.
    pub async fn execute<'e>(self, on: impl ExecuteOn<'e>) -> Result<(), OperateError> {
        let SetLimit(limit) = self.deed;
        if let Err(why) = limit.check() {
            return Err(OperateError::InvalidLimit { limit: self.name, why });
        }
        self.act(Some(limit.bounds()), on).await.map(drop)
    }
}

impl LimitAction<ResetLimit> {
    /// Does it: in a transaction of its own, or in the caller's (`&mut *tx`).
    ///
    /// # Errors
    ///
    /// [`OperateError`]: no engine has declared the limit; a text cannot be stored; the database
    /// failed.
    pub async fn execute<'e>(self, on: impl ExecuteOn<'e>) -> Result<LimitReset, OperateError> {
        let deed = self.act(None, on).await?;
        Ok(if deed == "reset" { LimitReset::Reset } else { LimitReset::NotSet })
    }
}

/// The answer to a reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LimitReset {
    /// The declared bounds are in force again.
    Reset,
    /// Nobody had set others, and nothing was changed.
    NotSet,
}

impl Operation for LimitAct {
    type Answer = String;

    const NAME: &'static str = "act on a limit";

    async fn run(
        &self,
        transaction: &mut PgConnection,
        locked: Locked,
    ) -> Result<String, sqlx::Error> {
        storage::act_on_limit(transaction, self, locked).await
    }
}

async fn list(
    client: &Client,
    after: &str,
    only: Option<&str>,
) -> Result<Vec<LimitEntry>, DatabaseError> {
    let connections = client.connections();
    let list = async {
        let mut connection = connections.get().await?;
        let list = storage::list_limits(&mut connection, after, PAGE_MAX, only);
        let result = connections.within(list).await;
        connection.done(result)
    };
    let found = list.await.map_err(DatabaseError::new("list limits"));
    let found = found.inspect_err(|error| connections.tell(error))?;
    Ok(found.into_iter().map(LimitEntry::of).collect())
}

/// A limit, as the database knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LimitEntry {
    /// Its name.
    pub name: String,
    /// The bounds of the declaration that is in force.
    pub declared: Bounds,
    /// The bounds that an operator has set in their place.
    pub set: Option<LimitOverride>,
    /// The bounds by which engines go.
    pub in_force: Bounds,
    /// The workers that declare it, by their ids, those of the declaration in force first. If there
    /// are none, no running program has the limit.
    pub declared_by: Vec<i64>,
}

/// The bounds that an operator has set.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LimitOverride {
    /// The bounds.
    pub bounds: Bounds,
    /// The operator.
    pub by: String,
    /// The reason.
    pub reason: Option<String>,
    /// The time at which they were set.
    pub set_at: SystemTime,
}

/// The bounds of a limit, as [`Limit`] sets them. They print as `10 at once, 100 per 1s, burst 20`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Bounds {
    /// The runs at once.
    pub at_once: Option<u32>,
    /// The starts in a period.
    pub per: Option<(u32, Duration)>,
    /// The starts at the same moment. None if nothing bounds the starts.
    pub burst: Option<u32>,
}

impl Bounds {
    fn of(row: Row) -> Self {
        let number = |number: i32| u32::try_from(number).unwrap_or(0);
        let period = |micros: i64| Duration::from_micros(u64::try_from(micros).unwrap_or(0));
        Self {
            at_once: row.at_once.map(number),
            per: row.starts.map(number).zip(row.period.map(period)),
            burst: row.burst.map(number),
        }
    }
}

impl fmt::Display for Bounds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let limit = Limit { at_once: self.at_once, per: self.per, burst: self.burst };
        if limit == Limit::new() { f.write_str("none") } else { limit.fmt(f) }
    }
}

impl LimitEntry {
    fn of(row: LimitRow) -> Self {
        let (bounds, reason) = (Bounds::of(row.set), row.set_reason);
        let by = row.set_by.unwrap_or_default();
        Self {
            name: row.name,
            declared: Bounds::of(row.declared),
            set: row.set_at.map(|set_at| LimitOverride { bounds, by, reason, set_at }),
            in_force: Bounds::of(row.in_force),
            declared_by: row.declared_by,
        }
    }
}

/// A bucket of a limit: the part that has the bounds for itself.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Bucket {
    /// Its key. None for the bucket of a limit without keys.
    pub key: Option<String>,
    /// The runs that living workers have now, by their weight.
    pub running: u64,
    /// The instances that wait, counted up to 1,000.
    pub waiting: Count,
    /// The time at which the rate lets the next of them in, if it weighs 1. None if none waits, or
    /// if the next one only waits for a run to end.
    pub until: Option<SystemTime>,
}

impl Bucket {
    fn of(row: &storage::BucketRow) -> Self {
        let waiting = u64::try_from(row.waiting.min(WAITING_MAX)).unwrap_or(0);
        Self {
            key: storage::limit_and_key(&row.bucket).1,
            running: u64::try_from(row.running).unwrap_or(0),
            waiting: if row.waiting > WAITING_MAX {
                Count::AtLeast(waiting)
            } else {
                Count::Exact(waiting)
            },
            until: if waiting > 0 { row.rate.until(0) } else { None },
        }
    }
}

/// An instance that waits for a limit.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Waiting {
    /// Its id.
    pub id: i64,
    /// The name of its machine.
    pub machine: String,
    /// The name of the step at which it waits.
    pub step: String,
    /// Its priority: lower comes in first.
    pub priority: i16,
    /// The time from which it might have run.
    pub due_at: Option<SystemTime>,
    /// True if something else holds it back as well: a pause, say.
    pub blocked: bool,
    /// The time until which it waits at least, as things stand; see
    /// [`Limited::until`](crate::operate::Limited::until).
    pub until: Option<SystemTime>,
}
