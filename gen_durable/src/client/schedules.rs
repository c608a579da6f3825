//! Schedules, to look at, to pause, to resume and to run now.
//!
//! Invariant: a call fires nothing. An engine that declares the schedule does.

use std::time::SystemTime;

use sqlx::PgConnection;

use super::{
    Client, ExecuteOn, Pause, Resume, Resumed, RunNow,
    audited::{Audited, by_and_reason},
    operation::{Operation, operate},
};
use crate::{
    error::{DatabaseError, OperateError},
    keys::check_name,
    storage::{self, Locked, ScheduleAct, ScheduleDeed, ScheduleRow},
};

/// The most schedules in a page.
const PAGE_MAX: i64 = 1_000;

/// A schedule. [`Client::schedule`] makes one.
#[derive(Clone, Debug)]
pub struct ScheduleHandle {
    client: Client,
    name: String,
}

impl Client {
    /// Names a schedule, to look at it, to pause it, to resume it and to run it now. Nothing is
    /// sent yet.
    ///
    /// ```
    /// use gen_durable::prelude::*;
    ///
    /// # async fn example(client: Client) -> Result<(), Box<dyn std::error::Error>> {
    /// let nightly = client.schedule("nightly report");
    /// if let Some(schedule) = nightly.get().await? {
    ///     println!("{} is next due at {:?}", schedule.declaration, schedule.next);
    /// }
    /// nightly.pause().by("ada").reason("the disk is full").execute(&client).await?;
    /// nightly.run_now().by("ada").execute(&client).await?;
    /// nightly.resume().execute(&client).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn schedule(&self, name: impl Into<String>) -> ScheduleHandle {
        ScheduleHandle { client: self.clone(), name: name.into() }
    }

    /// Lists schedules in the order of their names, up to 1,000: those after the name `after`, or
    /// the first ones. The last name of a page is where the next one goes on.
    ///
    /// ```
    /// # use gen_durable::prelude::*;
    /// # async fn example(client: Client) -> Result<(), Box<dyn std::error::Error>> {
    /// let mut page = client.schedules(None).await?;
    /// while let Some(last) = page.last().map(|schedule| schedule.name.clone()) {
    ///     for schedule in page.iter().filter(|schedule| schedule.declared_by.is_empty()) {
    ///         println!("no running program declares {}", schedule.name);
    ///     }
    ///     page = client.schedules(Some(&last)).await?;
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`DatabaseError`]: the database failed. It needs the rights of an operator or a worker.
    pub async fn schedules(
        &self,
        after: Option<&str>,
    ) -> Result<Vec<ScheduleEntry>, DatabaseError> {
        list(self, after.unwrap_or_default(), None).await
    }
}

impl ScheduleHandle {
    /// Returns what is known of the schedule. None if no engine has declared it.
    ///
    /// # Errors
    ///
    /// [`DatabaseError`]: the database failed. It needs the rights of an operator or a worker.
    pub async fn get(&self) -> Result<Option<ScheduleEntry>, DatabaseError> {
        Ok(list(&self.client, "", Some(&self.name)).await?.pop())
    }

    /// Pauses the schedule: no tick fires until it is resumed. Ticks of that time count as missed.
    pub fn pause(&self) -> ScheduleAction<Pause> {
        ScheduleAction::new(&self.name, Pause::default())
    }

    /// Resumes the schedule.
    pub fn resume(&self) -> ScheduleAction<Resume> {
        ScheduleAction::new(&self.name, Resume(()))
    }

    /// Has an engine insert an instance now, also if the schedule is paused or its last instance
    /// runs. The ticks stay as they are. Several requests that no engine has met yet are one.
    pub fn run_now(&self) -> ScheduleAction<RunNow> {
        ScheduleAction::new(&self.name, RunNow(()))
    }
}

/// An action on a schedule. Nothing is done before `execute`.
#[must_use = "an action is done by `.execute(…)`"]
#[derive(Clone, Debug)]
pub struct ScheduleAction<D> {
    name: String,
    deed: D,
    audited: Audited,
}

impl<D> ScheduleAction<D> {
    fn new(name: &str, deed: D) -> Self {
        Self { name: name.to_owned(), deed, audited: Audited::default() }
    }

    by_and_reason!();

    /// Does it, and returns the deed as the statement names it.
    async fn act<'e>(
        self,
        deed: ScheduleDeed,
        on: impl ExecuteOn<'e>,
    ) -> Result<String, OperateError> {
        let Audited { actor, reason } = self.audited.checked()?;
        check_name("the schedule's name", &self.name)?;
        let what = format!("schedule {}", self.name);
        let act = ScheduleAct { name: self.name, deed, actor, reason };
        let deed = Box::pin(operate(on.into_target(), &act, &what)).await?;
        match &*deed {
            "unknown" => Err(OperateError::UnknownSchedule { schedule: act.name }),
            "past" => Err(OperateError::PastEnd),
            _ => Ok(deed),
        }
    }
}

impl ScheduleAction<Pause> {
    /// Ends the pause at this time, by the database's clock. Without it the pause lasts until
    /// somebody ends it.
    pub fn until(mut self, time: SystemTime) -> Self {
        self.deed.until = Some(time);
        self
    }

    /// Does it: in a transaction of its own, or in the caller's (`&mut *tx`). A schedule that is
    /// paused already gets the new end, operator and reason.
    ///
    /// # Errors
    ///
    /// [`OperateError`]: no engine has declared the schedule; the end lies in the past; a text
    /// cannot be stored; the database failed.
    pub async fn execute<'e>(self, on: impl ExecuteOn<'e>) -> Result<(), OperateError> {
        let deed = ScheduleDeed::Pause { until: self.deed.until };
        self.act(deed, on).await.map(drop)
    }
}

impl ScheduleAction<Resume> {
    /// Does it: in a transaction of its own, or in the caller's (`&mut *tx`). Ticks that were
    /// missed fire as the schedule says.
    ///
    /// # Errors
    ///
    /// [`OperateError`]: no engine has declared the schedule; a text cannot be stored; the database
    /// failed.
    pub async fn execute<'e>(self, on: impl ExecuteOn<'e>) -> Result<Resumed, OperateError> {
        let deed = self.act(ScheduleDeed::Resume, on).await?;
        Ok(if deed == "resumed" { Resumed::Resumed } else { Resumed::NotPaused })
    }
}

impl ScheduleAction<RunNow> {
    /// Does it: in a transaction of its own, or in the caller's (`&mut *tx`). An engine that
    /// declares the schedule inserts the instance, within a second if it listens.
    ///
    /// # Errors
    ///
    /// [`OperateError`]: no engine has declared the schedule; a text cannot be stored; the database
    /// failed.
    pub async fn execute<'e>(self, on: impl ExecuteOn<'e>) -> Result<Asked, OperateError> {
        let deed = self.act(ScheduleDeed::RunNow, on).await?;
        Ok(if deed == "asked" { Asked::Asked } else { Asked::Undeclared })
    }
}

/// The answer to a request for a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Asked {
    /// An engine inserts the instance.
    Asked,
    /// No running program declares the schedule. The instance is inserted once one does.
    Undeclared,
}

impl Operation for ScheduleAct {
    type Answer = String;

    const NAME: &'static str = "act on a schedule";

    async fn run(
        &self,
        transaction: &mut PgConnection,
        locked: Locked,
    ) -> Result<String, sqlx::Error> {
        storage::act_on_schedule(transaction, self, locked).await
    }
}

async fn list(
    client: &Client,
    after: &str,
    only: Option<&str>,
) -> Result<Vec<ScheduleEntry>, DatabaseError> {
    let connections = client.connections();
    let list = async {
        let mut connection = connections.get().await?;
        let list = storage::list_schedules(&mut connection, after, PAGE_MAX, only);
        let result = connections.within(list).await;
        connection.done(result)
    };
    let found = list.await.map_err(DatabaseError::new("list schedules"));
    let found = found.inspect_err(|error| connections.tell(error))?;
    Ok(found.into_iter().map(ScheduleEntry::of).collect())
}

/// A schedule, as the database knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ScheduleEntry {
    /// Its name.
    pub name: String,
    /// The machine of its instances.
    pub machine: String,
    /// The declaration that is in force: `cron 0 3 * * *, zone UTC, missed once, overlap skip`.
    pub declaration: String,
    /// The workers that declare it, by their ids, those of the declaration in force first. If there
    /// are none, no running program has the schedule, and nothing fires.
    pub declared_by: Vec<i64>,
    /// The next tick.
    pub next: Option<SystemTime>,
    /// The tick that fired last.
    pub last: Option<SystemTime>,
    /// The instance that it inserted. It may have been deleted.
    pub last_instance: Option<i64>,
    /// The tick that waits until the last instance has ended.
    pub waiting: Option<SystemTime>,
    /// The time at which an operator asked for a run that has not begun.
    pub asked: Option<SystemTime>,
    /// The reason why a tick could not insert its instance, for the last one that could not.
    pub last_error: Option<String>,
    /// The time of that.
    pub failed_at: Option<SystemTime>,
    /// The pause, if it is paused.
    pub paused: Option<SchedulePause>,
}

/// The pause of a schedule.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SchedulePause {
    /// The operator.
    pub by: String,
    /// The reason.
    pub reason: Option<String>,
    /// The time at which it ends by itself.
    pub until: Option<SystemTime>,
    /// The time at which it was paused, or given its present end.
    pub paused_at: SystemTime,
}

impl ScheduleEntry {
    pub(super) fn of(row: ScheduleRow) -> Self {
        let (reason, until) = (row.pause_reason, row.paused_until);
        Self {
            name: row.name,
            machine: row.fsm,
            declaration: row.body,
            declared_by: row.declared_by,
            next: row.next_at,
            last: row.last_at,
            last_instance: row.last_id,
            waiting: row.waiting_at,
            asked: row.asked_at,
            last_error: row.last_error,
            failed_at: row.failed_at,
            paused: row.paused_at.map(|paused_at| SchedulePause {
                by: row.paused_by.unwrap_or_default(),
                reason,
                until,
                paused_at,
            }),
        }
    }
}
