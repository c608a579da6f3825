//! A fork: an instance that goes on from an entry of another one's history.
//!
//! Invariant: a fork has the step and the state that the entry recorded, and changes nothing of the
//! instance that it comes from.

use std::fmt;

use sqlx::PgConnection;

use super::{
    AnyId, ExecuteOn, HistoryEntry, InstanceHandle,
    audited::{Audited, by_and_reason},
    operation::{Operation, operate},
};
use crate::{
    error::OperateError,
    storage::{self, Forked, Locked},
};

impl<A: AnyId + Clone> InstanceHandle<A> {
    /// Forks the instance: a new one goes on from the step and the state that an entry of its
    /// [`history`](Self::history) recorded. Its machine must record states
    /// (`history = "states"`).
    ///
    /// The new instance has the queue, the priority and the partition key of this one, and no
    /// unique key, no inbox and no receiver of a report. This one is left as it is.
    ///
    /// ```
    /// use gen_durable::prelude::*;
    /// # #[durable_fsm(state = i64, output = (), history = "states")]
    /// # pub enum Invoice { Send }
    /// # #[durable_fsm]
    /// # impl Invoice {
    /// #     async fn send(cx: Context<Self>) -> Outcome<Self> { cx.done(()) }
    /// # }
    ///
    /// # async fn example(
    /// #     client: Client,
    /// #     id: InstanceId<Invoice>,
    /// # ) -> Result<(), Box<dyn std::error::Error>> {
    /// let invoice = client.instance(id);
    /// let entries = invoice.history().await?;
    /// if let Some(entry) = entries.iter().rev().find(|entry| entry.next_step.is_some()) {
    ///     let again = invoice.fork_from(entry).by("ada").execute(&client).await?;
    ///     println!("{again} goes on from {} s ago", entry.ended_at.elapsed()?.as_secs());
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn fork_from(&self, entry: &HistoryEntry<A::Id>) -> Fork<A> {
        let id = self.address.clone().into_raw().unwrap_or(entry.raw);
        Fork { address: self.address.clone(), id, entry: entry.id, audited: Audited::default() }
    }
}

/// A fork. Nothing is done before [`execute`](Self::execute).
#[must_use = "a fork is done by `.execute(…)`"]
#[derive(Clone)]
pub struct Fork<A> {
    address: A,
    id: i64,
    entry: i64,
    audited: Audited,
}

impl<A: AnyId> Fork<A> {
    by_and_reason!();

    /// Does it: in a transaction of its own, or in the caller's (`&mut *tx`). Returns the new
    /// instance.
    ///
    /// # Errors
    ///
    /// [`OperateError`]: the history does not have the entry any more, or no state for it; the
    /// instance ended with it; it is of another machine; a name cannot be stored; the database
    /// failed.
    pub async fn execute<'e>(self, on: impl ExecuteOn<'e>) -> Result<A::Id, OperateError> {
        let Audited { actor, reason } = self.audited.checked()?;
        let (id, entry) = (self.id, self.entry);
        let forking = Forking { id, entry, fsm: A::machine(), actor, reason };
        let what = format!("instance {id}");
        let forked = Box::pin(operate(on.into_target(), &forking, &what)).await?;
        match (&*forked.deed, forked.id) {
            ("forked", Some(new)) => Ok(A::id(new)),
            ("foreign", _) => Err(OperateError::WrongMachine {
                id,
                expected: A::machine().unwrap_or_default().to_owned(),
                found: forked.fsm.unwrap_or_default(),
            }),
            ("ended", _) => Err(OperateError::EndedThere { id, entry }),
            ("stateless", _) => Err(OperateError::NoState { id, entry }),
            _ => Err(OperateError::NoEntry { id, entry }),
        }
    }
}

impl<A: fmt::Debug> fmt::Debug for Fork<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fork")
            .field("of", &self.address)
            .field("entry", &self.entry)
            .finish_non_exhaustive()
    }
}

struct Forking {
    id: i64,
    entry: i64,
    fsm: Option<&'static str>,
    actor: Option<String>,
    reason: Option<String>,
}

impl Operation for Forking {
    type Answer = Forked;

    const NAME: &'static str = "fork an instance";

    async fn run(&self, transaction: &mut PgConnection, _: Locked) -> Result<Forked, sqlx::Error> {
        let (actor, reason) = (self.actor.as_deref(), self.reason.as_deref());
        storage::fork(transaction, self.id, self.entry, self.fsm, actor, reason).await
    }
}
