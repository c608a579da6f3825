//! Actions on all instances of a choice, batch by batch.
//!
//! ```text
//!   find a batch ──► lock, look again, act ──► commit ──► tell, rest ──► the next batch
//! ```
//!
//! Invariant: a batch acts only on rows that still fit the choice when they are locked. Each batch
//! commits by itself, and holds its locks only until then.

use std::{
    fmt,
    ops::ControlFlow,
    time::{Duration, Instant, SystemTime},
};

use sqlx::PgConnection;

use super::{
    AnyId, Cancel, Client, Delete, Does, Instances, Kill, Pause, Resume, Retry, RunNow, Target,
    actions::deeds::DeedOf,
    audited::{Audited, by_and_reason},
    operation::{Operation, operate},
};
use crate::{
    error::{DatabaseError, FindError, OperateError},
    id::InstanceId,
    machine::Machine,
    storage::{self, Act, Acted, Filter, Locked, Whom},
};

/// The most instances in a batch.
const BATCH_MAX: usize = 500;
/// The rest after a batch, in multiples of the time that it took: others have the database
/// meanwhile.
const REST: u32 = 4;
/// The tries of instances that other transactions have locked, once all others are done, and the
/// pause before each.
const TRIES_OF_LOCKED: u32 = 3;
const PAUSE: Duration = Duration::from_millis(300);

impl<I: AnyId<Id = I>> Instances<I> {
    /// Cancels them; see [`InstanceHandle::cancel`](crate::operate::InstanceHandle::cancel).
    pub fn cancel(&self, reason: impl Into<String>) -> Bulk<I, Cancel> {
        self.bulk(Cancel(())).reason(reason)
    }

    /// Kills them; see [`InstanceHandle::kill`](crate::operate::InstanceHandle::kill).
    pub fn kill(&self, reason: impl Into<String>) -> Bulk<I, Kill> {
        self.bulk(Kill(())).reason(reason)
    }

    /// Makes the delayed ones due now; see
    /// [`InstanceHandle::run_now`](crate::operate::InstanceHandle::run_now).
    pub fn run_now(&self) -> Bulk<I, RunNow> {
        self.bulk(RunNow(()))
    }

    /// Returns the failed and cancelled ones to the steps where they stand; see
    /// [`InstanceHandle::retry`](crate::operate::InstanceHandle::retry).
    ///
    /// ```
    /// use std::ops::ControlFlow;
    ///
    /// use gen_durable::prelude::*;
    /// # #[durable_fsm(output = ())]
    /// # pub enum Order { Ship }
    /// # #[durable_fsm]
    /// # impl Order { async fn ship(cx: Context<Self>) -> Outcome<Self> { cx.done(()) } }
    ///
    /// # async fn example(client: Client) -> Result<(), Box<dyn std::error::Error>> {
    /// let failed = client.instances::<Order>().status(Status::Failed).step(Order::Ship);
    /// let retry = failed.retry().by("ada").reason("the carrier is back");
    /// let tell = |counts: &gen_durable::operate::Counts| {
    ///     println!("{} retried", counts.done);
    ///     ControlFlow::Continue(())
    /// };
    /// let counts = retry.progress(tell).execute(&client).await?;
    /// println!("{} retried, {} left alone", counts.done, counts.left_alone);
    /// # Ok(())
    /// # }
    /// ```
    pub fn retry(&self) -> Bulk<I, Retry> {
        self.bulk(Retry::default())
    }

    /// Deletes the ended ones; see
    /// [`InstanceHandle::delete`](crate::operate::InstanceHandle::delete).
    pub fn delete(&self) -> Bulk<I, Delete> {
        self.bulk(Delete(()))
    }

    /// Pauses those that have not ended, each by itself; see
    /// [`InstanceHandle::pause`](crate::operate::InstanceHandle::pause). A queue, a machine or a
    /// step is paused at once, and without a change of its instances: [`Client::queue`],
    /// [`Client::machine`].
    ///
    /// Instances that are paused already get the new end, operator and reason.
    pub fn pause(&self) -> Bulk<I, Pause> {
        self.bulk(Pause::default())
    }

    /// Ends their own pauses; see
    /// [`InstanceHandle::resume`](crate::operate::InstanceHandle::resume).
    pub fn resume(&self) -> Bulk<I, Resume> {
        self.bulk(Resume(()))
    }

    fn bulk<D>(&self, deed: D) -> Bulk<I, D> {
        Bulk { instances: self.clone(), deed, audited: Audited::default(), progress: None }
    }
}

/// The function that hears of the progress, and may stop the action.
type Progress = Box<dyn FnMut(&Counts) -> ControlFlow<()> + Send>;

/// An action on all instances of a choice. Nothing is done before [`execute`](Self::execute).
///
/// It goes from the newest instance to the oldest, and leaves those alone that are inserted
/// meanwhile. Each instance has a row in the audit. The same call goes on with an action that was
/// stopped, or whose process has ended. Instances that are done then no longer fit or are left
/// alone, except that a pause is set anew.
#[must_use = "an action is done by `.execute(…)`"]
pub struct Bulk<I, D> {
    instances: Instances<I>,
    deed: D,
    audited: Audited,
    progress: Option<Progress>,
}

/// The progress of an action on many instances.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counts {
    /// The instances on which it was done.
    pub done: u64,
    /// Those on which it could not be done, or that it would not have changed: they had ended or
    /// changed meanwhile, or another instance holds their unique key, say.
    pub left_alone: u64,
    /// Those whose rows another transaction had locked for long.
    pub locked: u64,
    /// True if the progress function has stopped the action.
    pub stopped: bool,
}

impl<I: AnyId<Id = I>, D: Does> Bulk<I, D> {
    by_and_reason!();

    /// Calls this function after each batch. The action stops if it returns
    /// [`ControlFlow::Break`].
    pub fn progress(
        mut self,
        progress: impl FnMut(&Counts) -> ControlFlow<()> + Send + 'static,
    ) -> Self {
        self.progress = Some(Box::new(progress));
        self
    }

    /// Does it in batches of up to 500 instances, each in a transaction of its own. After each it
    /// rests four times as long, so that others have the database.
    ///
    /// # Errors
    ///
    /// [`OperateError`]: a name of the choice, or a value, cannot be stored; a pause would end in
    /// the past; the database failed. The batches before that are done.
    pub async fn execute(mut self, client: &Client) -> Result<Counts, OperateError> {
        let Audited { actor, reason } = self.audited.checked()?;
        self.instances.check()?;
        self.instances.client = client.clone();
        let filter = self.instances.filter.clone();
        let DeedOf(deed) = self.deed.into_deed(client.inner.value_max)?;
        let act = Act {
            whom: Whom::Ids(Vec::new()),
            fsm: I::machine().map(str::to_owned),
            actor,
            reason,
            deed,
        };
        let mut batch = Batch { act, filter };
        let (mut counts, mut locked) = (Counts::default(), Vec::new());
        let mut before = i64::MAX;
        loop {
            let began = Instant::now();
            let found = Box::pin(self.instances.find(before, BATCH_MAX)).await.map_err(of_find)?;
            locked.extend(Box::pin(batch.act_on(client, found.ids, &mut counts)).await?);
            if let Some(progress) = &mut self.progress
                && progress(&counts).is_break()
            {
                counts.stopped = true;
                return Ok(counts);
            }
            match found.next {
                Some(next) => before = next,
                None => break,
            }
            tokio::time::sleep(began.elapsed() * REST).await;
        }
        for _ in 0..TRIES_OF_LOCKED {
            if locked.is_empty() {
                break;
            }
            tokio::time::sleep(PAUSE).await;
            let again = std::mem::take(&mut locked);
            for ids in again.chunks(BATCH_MAX) {
                let acted = Box::pin(batch.act_on(client, ids.to_vec(), &mut counts));
                locked.extend(acted.await?);
            }
        }
        counts.locked = locked.len() as u64;
        Ok(counts)
    }
}

impl<I> Bulk<I, Pause> {
    /// Ends the pauses at this time, by the database's clock. Without it they last until somebody
    /// ends them.
    pub fn until(mut self, time: SystemTime) -> Self {
        self.deed.until = Some(time);
        self
    }
}

impl<M: Machine> Bulk<InstanceId<M>, Retry> {
    /// Sends the instances to this step instead of those where they stand. Instances of other
    /// versions are left alone.
    #[expect(clippy::needless_pass_by_value, reason = "a step is named by value: `Checkout::Ship`")]
    pub fn at(mut self, step: M) -> Self {
        self.deed.at::<M>(step.name());
        self
    }
}

impl<I> Bulk<I, Retry> {
    /// Forgets the deduplication keys that the instances have accepted, so that a signal which is
    /// sent again is accepted again.
    pub fn forget_dedup_keys(mut self) -> Self {
        self.deed.forgets_dedup_keys = true;
        self
    }
}

impl<I, D: fmt::Debug> fmt::Debug for Bulk<I, D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bulk")
            .field("instances", &self.instances)
            .field("deed", &self.deed)
            .field("audited", &self.audited)
            .finish_non_exhaustive()
    }
}

fn of_find(error: FindError) -> OperateError {
    match error {
        FindError::Encode(error) => error.into(),
        FindError::Database(error) => error.into(),
        // A search names no instance.
        error => {
            DatabaseError::new("list instances")(sqlx::Error::Protocol(error.to_string())).into()
        }
    }
}

/// The action on a batch.
struct Batch {
    act: Act,
    filter: Filter,
}

impl Batch {
    /// Acts on the batch, and counts. Returns the instances that other transactions have locked.
    async fn act_on(
        &mut self,
        client: &Client,
        ids: Vec<i64>,
        counts: &mut Counts,
    ) -> Result<Vec<i64>, OperateError> {
        if ids.is_empty() {
            return Ok(ids);
        }
        let found = ids.len() as u64;
        self.act.whom = Whom::Ids(ids);
        let target = Target::Client(client);
        let (acted, locked) = match operate(target, self, "a batch of instances").await {
            Ok(answer) => answer,
            Err(error) => return Err(error.into()),
        };
        if acted.iter().any(|acted| acted.deed == "past") {
            return Err(OperateError::PastEnd);
        }
        let done = acted.iter().filter(|acted| acted.is_done()).count() as u64;
        counts.done += done;
        counts.left_alone += found - done - locked.len() as u64;
        Ok(locked)
    }
}

impl Operation for Batch {
    /// The instances that were acted on, and those that other transactions have locked.
    type Answer = (Vec<Acted>, Vec<i64>);

    const NAME: &'static str = "act on instances";

    async fn run(
        &self,
        transaction: &mut PgConnection,
        _: Locked,
    ) -> Result<Self::Answer, sqlx::Error> {
        storage::act_on_fitting(transaction, &self.act, &self.filter).await
    }
}
