//! The actions of operators on one instance: cancel, kill, run now, retry, delete.
//!
//! Invariant: an action is done as a whole with its audit row, or not at all. In the caller's
//! transaction it commits with that.

pub(super) mod deeds;

use std::{fmt, time::SystemTime};

use serde::Serialize;

use self::deeds::{ActedOn, DeedOf};
pub use self::deeds::{
    Cancel, Cancelled, Delete, Does, Kill, Pause, Resume, Resumed, Retried, Retry, RunNow,
};
use super::{
    AnyId, ExecuteOn, InstanceHandle, Target,
    audited::{Audited, by_and_reason},
    operation::operate,
};
use crate::{
    error::OperateError,
    id::InstanceId,
    keys::check_key,
    machine::Machine,
    status::Status,
    storage::{self, Act, Acted, Deed, Whom},
    value,
};

/// The error code of a unique key that another transaction has taken.
const TAKEN: &str = "23505";

impl<A: AnyId> InstanceHandle<A> {
    /// Cancels the instance. A machine with `#[durable_fsm(on_cancel = Refund)]` answers with the
    /// step `Refund`. Any other instance ends with the status [`Cancelled`](Status::Cancelled).
    ///
    /// A run that is under way is dropped at its next await point, without `handle`, and its
    /// outcome has no effect. After a cancel, a `stop` or an error ends the instance as cancelled,
    /// and a `done` as done.
    ///
    /// ```
    /// use gen_durable::{operate::{Cancelled, OperateError}, prelude::*};
    /// # #[durable_fsm(output = ())]
    /// # pub enum Order { Ship }
    /// # #[durable_fsm]
    /// # impl Order { async fn ship(cx: Context<Self>) -> Outcome<Self> { cx.done(()) } }
    ///
    /// # async fn example(
    /// #     client: Client,
    /// #     id: InstanceId<Order>,
    /// # ) -> Result<(), Box<dyn std::error::Error>> {
    /// match client.instance(id).cancel("changed his mind").by("ada").execute(&client).await {
    ///     Ok(Cancelled::Ended) => println!("it is cancelled"),
    ///     Ok(_) => println!("its machine answers"),
    ///     Err(OperateError::Ended { status, .. }) => println!("too late: it is {status}"),
    ///     Err(error) => return Err(error.into()),
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn cancel(&self, reason: impl Into<String>) -> Action<A, Cancel>
    where
        A: Clone,
    {
        self.action(Cancel(())).reason(reason)
    }

    /// Kills the instance: it ends at once with the status [`Cancelled`](Status::Cancelled), and
    /// its machine is not asked. A run that is under way is not waited for, and may overlap with
    /// the next run of its partition key. Its outcome has no effect. An engine that listens drops
    /// it at its next await point; with `poll_only` it keeps its slot until it ends.
    pub fn kill(&self, reason: impl Into<String>) -> Action<A, Kill>
    where
        A: Clone,
    {
        self.action(Kill(())).reason(reason)
    }

    /// Makes a delayed instance due now: one that is runnable, and waits for the delay of its
    /// insert, of an outcome or of a retry policy. If it is due already, nothing is done. A pause,
    /// a limit or another instance of its partition key still holds it back.
    pub fn run_now(&self) -> Action<A, RunNow>
    where
        A: Clone,
    {
        self.action(RunNow(()))
    }

    /// Returns a failed or cancelled instance to the step where it stands, with its state and its
    /// inbox, at attempt 0. It takes its unique key again, and keeps the deduplication keys that it
    /// has accepted.
    ///
    /// If it reports its end to another instance, and that one has not seen the report of this end,
    /// the report is withdrawn. Otherwise the next end sends none ([`Retried::heard`]).
    pub fn retry(&self) -> Action<A, Retry>
    where
        A: Clone,
    {
        self.action(Retry::default())
    }

    /// Deletes an ended instance with its inbox and its history. Its audit rows stay.
    pub fn delete(&self) -> Action<A, Delete>
    where
        A: Clone,
    {
        self.action(Delete(()))
    }

    /// Pauses the instance: no step of it begins until it is resumed. A step that is under way
    /// finishes. A paused instance keeps its place: later ones of its partition key wait.
    ///
    /// Signals, timeouts and actions reach it as before, and it runs on when it is resumed. If it
    /// ends, and is retried, it is still paused.
    pub fn pause(&self) -> Action<A, Pause>
    where
        A: Clone,
    {
        self.action(Pause::default())
    }

    /// Ends the instance's own pause. A pause of its queue, machine or step stays.
    pub fn resume(&self) -> Action<A, Resume>
    where
        A: Clone,
    {
        self.action(Resume(()))
    }

    fn action<D>(&self, deed: D) -> Action<A, D>
    where
        A: Clone,
    {
        Action { address: self.address.clone(), deed, audited: Audited::default() }
    }
}

/// An action on an instance. Nothing is done before [`execute`](Self::execute).
#[must_use = "an action is done by `.execute(…)`"]
#[derive(Clone)]
pub struct Action<A, D> {
    address: A,
    deed: D,
    audited: Audited,
}

impl<A: AnyId, D: Does> Action<A, D> {
    by_and_reason! {
        /// The reason of a cancel or a kill that ends the instance is also its last error.
    }

    /// Does it: in a transaction of its own, or in the caller's (`&mut *tx`).
    ///
    /// In the caller's transaction it takes no advisory lock. An engine frees the partition key of
    /// an instance that it has ended within a second of the commit, and reports the end.
    ///
    /// # Errors
    ///
    /// [`OperateError`]: the instance does not exist, is of another machine, or is not in a status
    /// in which this can be done; a name or a value cannot be stored; the database failed.
    pub async fn execute<'e>(self, on: impl ExecuteOn<'e>) -> Result<D::Answer, OperateError> {
        let Audited { actor, reason } = self.audited.checked()?;
        let (target, fsm) = (on.into_target(), A::machine());
        let whom = match self.address.into_raw() {
            Ok(id) => Whom::Ids(vec![id]),
            Err(key) => {
                check_key("unique_key", Some(&key))?;
                Whom::Key(key)
            }
        };
        let DeedOf(deed) = self.deed.into_deed(target.value_max())?;
        let fsm = fsm.map(str::to_owned);
        let act = Act { whom, fsm, actor, reason, deed };
        // The future is large, and it is part of the caller's.
        let acted = Box::pin(act_on(target, &act)).await?;
        judge(acted, &act).map(|acted| D::answer(&ActedOn(acted)))
    }
}

impl<A: fmt::Debug, D: fmt::Debug> fmt::Debug for Action<A, D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Action")
            .field("address", &self.address)
            .field("deed", &self.deed)
            .field("audited", &self.audited)
            .finish()
    }
}

impl<M: Machine, A: AnyId<Id = InstanceId<M>>> Action<A, Retry> {
    /// Sends the instance to this step instead of the one where it stands.
    #[expect(clippy::needless_pass_by_value, reason = "a step is named by value: `Checkout::Ship`")]
    pub fn at(mut self, step: M) -> Self {
        self.deed.at::<M>(step.name());
        self
    }

    /// Gives the instance this state instead of its own.
    #[expect(clippy::needless_pass_by_value, reason = "an insert takes a state by value too")]
    pub fn with_state(mut self, state: M::State) -> Self {
        self.deed.with_state::<M>(&state);
        self
    }
}

impl<A: AnyId> Action<A, Pause> {
    /// Ends the pause at this time, by the database's clock. Without it the pause lasts until
    /// somebody ends it.
    pub fn until(mut self, time: SystemTime) -> Self {
        self.deed.until = Some(time);
        self
    }
}

impl Action<i64, Retry> {
    /// Sends the instance to the step of this name, which its registered version must have.
    pub fn at_step(mut self, step: impl Into<String>) -> Self {
        self.deed.step = Some(step.into());
        self
    }

    /// Gives the instance this state instead of its own: a [`serde_json::Value`], say, or JSON text
    /// as a [`RawValue`](serde_json::value::RawValue). Nobody checks it before the next run reads
    /// it.
    pub fn with_json(mut self, state: &(impl Serialize + ?Sized)) -> Self {
        self.deed.state = Some(value::encode_untyped("state", state, usize::MAX));
        self
    }
}

impl<A: AnyId> Action<A, Retry> {
    /// Forgets the deduplication keys that the instance has accepted, so that a signal which is
    /// sent again is accepted again.
    pub fn forget_dedup_keys(mut self) -> Self {
        self.deed.forgets_dedup_keys = true;
        self
    }
}

/// Does it, and returns the answer for the one instance.
async fn act_on(target: Target<'_>, act: &Act) -> Result<Acted, OperateError> {
    let what = match &act.whom {
        Whom::Ids(ids) => format!("instance {}", id(ids)),
        Whom::Key(key) => format!("the instance that holds the unique key `{key}`"),
    };
    let acted = operate(target, act, &what).await.map_err(|error| match &act.whom {
        Whom::Ids(ids) if error.sqlstate() == Some(TAKEN) => {
            OperateError::Taken { id: id(ids), holder: None, key: None }
        }
        _ => error.into(),
    })?;
    found(acted, act)
}

/// Returns the only one of these ids.
fn id(ids: &[i64]) -> i64 {
    ids.first().copied().unwrap_or_default()
}

fn found(acted: Vec<Acted>, act: &Act) -> Result<Acted, OperateError> {
    acted.into_iter().next().ok_or_else(|| match &act.whom {
        Whom::Ids(ids) => OperateError::Unknown { id: id(ids) },
        Whom::Key(key) => OperateError::NoHolder {
            machine: act.fsm.clone().unwrap_or_default(),
            key: key.clone(),
        },
    })
}

/// Returns the error of an action that was refused.
fn judge(acted: Acted, act: &Act) -> Result<Acted, OperateError> {
    let id = acted.id;
    // The table's check allows no other status.
    let status = acted.status.parse().unwrap_or(Status::Failed);
    let retry = acted.retry.as_deref();
    let (step, given) = match &act.deed {
        Deed::Retry { step, version, .. } => (step.clone(), *version),
        _ => (None, None),
    };
    Err(match &*acted.deed {
        "foreign" => OperateError::WrongMachine {
            id,
            expected: act.fsm.clone().unwrap_or_default(),
            found: acted.fsm,
        },
        "ended" | "done" => OperateError::Ended { id, status, reason: acted.reason },
        "past" => OperateError::PastEnd,
        "live" => OperateError::Live { id, status },
        "other" => OperateError::NotDelayed { id, status },
        "owes" => OperateError::Unsettled { id },
        "taken" => OperateError::Taken {
            id,
            holder: retry.and_then(|retry| retry.holder),
            key: retry.and_then(|retry| retry.unique_key.clone()),
        },
        "version" => OperateError::WrongVersion {
            id,
            found: version(retry),
            given: given.unwrap_or_default(),
        },
        "step" => OperateError::UnknownStep {
            version: Some(version(retry)),
            steps: retry.map(|retry| retry.steps.join(", ")).unwrap_or_default(),
            machine: acted.fsm,
            step: step.unwrap_or_default(),
        },
        _ => return Ok(acted),
    })
}

fn version(retry: Option<&storage::Retried>) -> u32 {
    retry.and_then(|retry| u32::try_from(retry.version).ok()).unwrap_or_default()
}
