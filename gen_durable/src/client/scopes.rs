//! Queues, machines and steps, to pause and to resume, and the list of what is paused.
//!
//! Invariant: a pause changes no instance. Engines hear of it, and hold the scope's instances back.

use std::{fmt, marker::PhantomData, time::SystemTime};

use sqlx::PgConnection;

use super::{
    AnyId, Client, ExecuteOn, InstanceHandle, Pause, Resume, Resumed,
    audited::{Audited, by_and_reason},
    operation::{Operation, operate},
};
use crate::{
    error::{DatabaseError, OperateError},
    keys::check_name,
    machine::Machine,
    storage::{self, Locked, PauseRow, Scope, ScopeAct},
};

/// The most pauses in a list.
const PAUSES_MAX: i64 = 1_000;

/// A queue, to pause and to resume. [`Client::queue`] makes one.
#[derive(Clone, Debug)]
pub struct QueueHandle {
    scope: Scope,
}

/// A machine, to pause and to resume it or one of its steps. [`Client::machine`] makes one, and
/// [`Client::machine_by_name`] one for tools.
pub struct MachineHandle<S> {
    fsm: String,
    step: PhantomData<fn() -> S>,
}

impl Client {
    /// Names a queue, to pause it and to resume it. Nothing is sent yet.
    ///
    /// A pause holds in all processes. Engines hear of it within a second, or at their next look if
    /// they only poll. They then begin no step of the scope, and give back what they have claimed
    /// of it. Steps that are under way finish. A paused instance keeps its place: later ones of its
    /// partition key wait.
    ///
    /// ```
    /// use std::time::{Duration, SystemTime};
    ///
    /// use gen_durable::prelude::*;
    /// # #[durable_fsm(output = ())]
    /// # pub enum Order { Charge, Ship }
    /// # #[durable_fsm]
    /// # impl Order {
    /// #     async fn charge(cx: Context<Self>) -> Outcome<Self> { cx.next(Order::Ship) }
    /// #     async fn ship(cx: Context<Self>) -> Outcome<Self> { cx.done(()) }
    /// # }
    ///
    /// # async fn example(client: Client) -> Result<(), Box<dyn std::error::Error>> {
    /// // The bank is down for an hour.
    /// let end = SystemTime::now() + Duration::from_hours(1);
    /// let charge = client.machine::<Order>().pause_step(Order::Charge);
    /// charge.until(end).by("ada").reason("the bank is down").execute(&client).await?;
    /// for pause in client.pauses().await? {
    ///     println!("{} is paused by {}", pause.scope, pause.by);
    /// }
    /// client.machine::<Order>().resume_step(Order::Charge).execute(&client).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn queue(&self, name: impl Into<String>) -> QueueHandle {
        QueueHandle { scope: Scope::Queue(name.into()) }
    }

    /// Names a machine, to pause and to resume it or one of its steps; see [`queue`](Self::queue).
    pub fn machine<M: Machine>(&self) -> MachineHandle<M> {
        MachineHandle { fsm: M::NAME.to_owned(), step: PhantomData }
    }

    /// Names a machine, for tools that do not know its type; see [`queue`](Self::queue).
    pub fn machine_by_name(&self, name: impl Into<String>) -> MachineHandle<String> {
        MachineHandle { fsm: name.into(), step: PhantomData }
    }

    /// Lists the queues, machines and steps that are paused, the oldest pause first, up to 1,000.
    /// Instances that are paused by themselves are not among them: see
    /// [`InstanceHandle::pauses`].
    ///
    /// # Errors
    ///
    /// [`DatabaseError`]: the database failed. It needs the rights of an operator or a worker.
    pub async fn pauses(&self) -> Result<Vec<PauseEntry>, DatabaseError> {
        list(self, None).await
    }
}

impl QueueHandle {
    /// Pauses the queue.
    pub fn pause(&self) -> ScopeAction<Pause> {
        ScopeAction::new(self.scope.clone(), Pause::default())
    }

    /// Resumes the queue.
    pub fn resume(&self) -> ScopeAction<Resume> {
        ScopeAction::new(self.scope.clone(), Resume(()))
    }
}

impl<S> MachineHandle<S> {
    /// Pauses the machine: all of its steps, in all versions.
    pub fn pause(&self) -> ScopeAction<Pause> {
        ScopeAction::new(Scope::Machine(self.fsm.clone()), Pause::default())
    }

    /// Resumes the machine. Steps that are paused by themselves stay paused.
    pub fn resume(&self) -> ScopeAction<Resume> {
        ScopeAction::new(Scope::Machine(self.fsm.clone()), Resume(()))
    }

    fn step(&self, step: &str) -> Scope {
        Scope::Step { fsm: self.fsm.clone(), step: step.to_owned() }
    }
}

impl<M: Machine> MachineHandle<M> {
    /// Pauses a step, in all versions that have a step of its name.
    #[expect(clippy::needless_pass_by_value, reason = "a step is named by value: `Checkout::Ship`")]
    pub fn pause_step(&self, step: M) -> ScopeAction<Pause> {
        ScopeAction::new(self.step(step.name()), Pause::default())
    }

    /// Resumes a step. It stays paused if its machine is.
    #[expect(clippy::needless_pass_by_value, reason = "a step is named by value: `Checkout::Ship`")]
    pub fn resume_step(&self, step: M) -> ScopeAction<Resume> {
        ScopeAction::new(self.step(step.name()), Resume(()))
    }
}

impl MachineHandle<String> {
    /// Pauses the step of this name, in all versions that have one.
    pub fn pause_step(&self, step: impl AsRef<str>) -> ScopeAction<Pause> {
        ScopeAction::new(self.step(step.as_ref()), Pause::default())
    }

    /// Resumes the step of this name. It stays paused if its machine is.
    pub fn resume_step(&self, step: impl AsRef<str>) -> ScopeAction<Resume> {
        ScopeAction::new(self.step(step.as_ref()), Resume(()))
    }
}

impl<S> fmt::Debug for MachineHandle<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MachineHandle").field("machine", &self.fsm).finish()
    }
}

/// A pause or a resume of a queue, a machine or a step. Nothing is done before
/// [`execute`](Self::execute).
#[must_use = "an action is done by `.execute(…)`"]
#[derive(Clone, Debug)]
pub struct ScopeAction<D> {
    scope: Scope,
    deed: D,
    audited: Audited,
}

impl<D> ScopeAction<D> {
    fn new(scope: Scope, deed: D) -> Self {
        Self { scope, deed, audited: Audited::default() }
    }

    by_and_reason!();

    /// Returns the deed, the action as it is stored, and the words that name its scope.
    fn check(self) -> Result<(D, ScopeAct, String), OperateError> {
        let Audited { actor, reason } = self.audited.checked()?;
        let what = PauseScope::of(&self.scope).to_string();
        match &self.scope {
            Scope::Queue(queue) => check_name("queue", queue)?,
            Scope::Machine(fsm) => check_name("the machine's name", fsm)?,
            Scope::Step { fsm, step } => {
                check_name("the machine's name", fsm)?;
                check_name("the name of a step", step)?;
            }
        }
        let act = ScopeAct { scope: self.scope, actor, reason };
        Ok((self.deed, act, what))
    }
}

impl ScopeAction<Pause> {
    /// Ends the pause at this time, by the database's clock. Without it the pause lasts until
    /// somebody ends it.
    pub fn until(mut self, time: SystemTime) -> Self {
        self.deed.until = Some(time);
        self
    }

    /// Does it: in a transaction of its own, or in the caller's (`&mut *tx`). A scope that is
    /// paused already gets the new end, operator and reason.
    ///
    /// # Errors
    ///
    /// [`OperateError`]: no engine has registered the queue, the machine or the step; the end lies
    /// in the past; a name cannot be stored; the database failed.
    pub async fn execute<'e>(self, on: impl ExecuteOn<'e>) -> Result<(), OperateError> {
        let (Pause { until }, act, what) = self.check()?;
        let pausing = Pausing { act, until };
        let (deed, names) = Box::pin(operate(on.into_target(), &pausing, &what)).await?;
        let known = names.join(", ");
        Err(match (&*deed, pausing.act.scope) {
            ("past", _) => OperateError::PastEnd,
            ("queue", Scope::Queue(queue)) => OperateError::UnknownQueue { queue, known },
            ("machine", Scope::Machine(machine) | Scope::Step { fsm: machine, .. }) => {
                OperateError::UnknownMachine { machine, known }
            }
            ("step", Scope::Step { fsm: machine, step }) => {
                OperateError::UnknownStep { machine, version: None, step, steps: known }
            }
            _ => return Ok(()),
        })
    }
}

impl ScopeAction<Resume> {
    /// Does it: in a transaction of its own, or in the caller's (`&mut *tx`). Engines begin steps
    /// of the scope within a second of the commit.
    ///
    /// # Errors
    ///
    /// [`OperateError`]: a name cannot be stored; the database failed.
    pub async fn execute<'e>(self, on: impl ExecuteOn<'e>) -> Result<Resumed, OperateError> {
        let (Resume(()), act, what) = self.check()?;
        let resuming = Resuming { act };
        let resumed = Box::pin(operate(on.into_target(), &resuming, &what)).await?;
        Ok(if resumed { Resumed::Resumed } else { Resumed::NotPaused })
    }
}

struct Pausing {
    act: ScopeAct,
    until: Option<SystemTime>,
}

impl Operation for Pausing {
    type Answer = (String, Vec<String>);

    const NAME: &'static str = "pause";

    async fn run(
        &self,
        transaction: &mut PgConnection,
        locked: Locked,
    ) -> Result<Self::Answer, sqlx::Error> {
        storage::pause_scope(transaction, &self.act, self.until, locked).await
    }
}

struct Resuming {
    act: ScopeAct,
}

impl Operation for Resuming {
    type Answer = bool;

    const NAME: &'static str = "resume";

    async fn run(
        &self,
        transaction: &mut PgConnection,
        locked: Locked,
    ) -> Result<bool, sqlx::Error> {
        storage::resume_scope(transaction, &self.act, locked).await
    }
}

impl<A: AnyId + Clone> InstanceHandle<A> {
    /// Lists the pauses that hold the instance back: its own, and those of its queue, its machine
    /// and its step.
    ///
    /// # Errors
    ///
    /// [`OperateError`]: no instance holds the unique key; the database failed.
    pub async fn pauses(&self) -> Result<Vec<PauseEntry>, OperateError> {
        let id = self.client.id_of::<A, OperateError>(self.address.clone()).await?;
        let machine = A::machine().unwrap_or_default().to_owned();
        let id = id.map_err(|key| OperateError::NoHolder { machine, key })?;
        Ok(list(&self.client, Some(id)).await?)
    }
}

async fn list(client: &Client, instance: Option<i64>) -> Result<Vec<PauseEntry>, DatabaseError> {
    let connections = client.connections();
    let list = async {
        let mut connection = connections.get().await?;
        let list = storage::list_pauses(&mut connection, instance, PAUSES_MAX);
        let result = connections.within(list).await;
        connection.done(result)
    };
    let found = list.await.map_err(DatabaseError::new("list pauses"));
    let found = found.inspect_err(|error| connections.tell(error))?;
    Ok(found.into_iter().filter_map(PauseEntry::of).collect())
}

/// A pause that is in force.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PauseEntry {
    /// The thing that is paused.
    pub scope: PauseScope,
    /// The operator.
    pub by: String,
    /// The reason.
    pub reason: Option<String>,
    /// The time at which it ends by itself.
    pub until: Option<SystemTime>,
    /// The time at which it was paused, or given its present end.
    pub paused_at: SystemTime,
}

/// The thing that is paused. It prints as `queue mail`, `machine order`, `order@charge` or
/// `instance 7`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PauseScope {
    /// A queue.
    Queue(String),
    /// A machine, with all of its steps.
    AllSteps(String),
    /// A step of a machine.
    Step {
        /// The machine.
        machine: String,
        /// The step.
        step: String,
    },
    /// An instance.
    Instance(i64),
}

impl PauseScope {
    fn of(scope: &Scope) -> Self {
        match scope {
            Scope::Queue(queue) => Self::Queue(queue.clone()),
            Scope::Machine(fsm) => Self::AllSteps(fsm.clone()),
            Scope::Step { fsm, step } => Self::Step { machine: fsm.clone(), step: step.clone() },
        }
    }
}

impl fmt::Display for PauseScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Queue(queue) => write!(f, "queue {queue}"),
            Self::AllSteps(machine) => write!(f, "machine {machine}"),
            Self::Step { machine, step } => write!(f, "{machine}@{step}"),
            Self::Instance(id) => write!(f, "instance {id}"),
        }
    }
}

impl PauseEntry {
    fn of(row: PauseRow) -> Option<Self> {
        // The table's check allows nothing else.
        let scope = match (row.queue, row.fsm, row.step, row.instance_id) {
            (Some(queue), ..) => PauseScope::Queue(queue),
            (None, Some(machine), Some(step), _) => PauseScope::Step { machine, step },
            (None, Some(machine), None, _) => PauseScope::AllSteps(machine),
            (None, None, _, Some(id)) => PauseScope::Instance(id),
            (None, None, _, None) => return None,
        };
        Some(Self {
            scope,
            by: row.actor,
            reason: row.reason,
            until: row.until,
            paused_at: row.paused_at,
        })
    }
}
