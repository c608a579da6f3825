//! Outcomes: the decision of a step, with the state, the signals and the messages that are
//! committed together with it.
//!
//! Invariant: only a [`Context`](crate::Context) makes an outcome, or the part of one that a job's
//! step keeps. Making an outcome consumes it.

use std::{fmt, time::Duration};

use super::{
    Machine,
    context::Received,
    ended::Ended,
    insert::Insert,
    signal::{Accepts, Signal},
};
use crate::{
    error::{EncodeError, StepError},
    storage::{NewInstance, NewSignal},
};

/// The return type of a step that can fail.
pub type StepResult<M> = Result<Outcome<M>, StepError>;

/// The decision of a step. A method of its context makes it, and the step returns it.
///
/// It may carry inserts and signals for other instances, which are committed with it.
///
/// ```
/// use gen_durable::prelude::*;
///
/// #[derive(DurableSignal)]
/// pub struct Counted {
///     words: usize,
/// }
///
/// #[derive(DurableState)]
/// pub struct Line {
///     parent: InstanceId<Count>,
///     text: String,
/// }
///
/// #[durable_fsm(state = Line, output = ())]
/// pub enum CountLine {
///     Run,
/// }
///
/// #[durable_fsm]
/// impl CountLine {
///     async fn run(cx: Context<Self>) -> Outcome<Self> {
///         let words = cx.state.text.split_whitespace().count();
///         let counted = Count::signal_counted(cx.state.parent, Counted { words });
///         cx.done(()).signal(counted)
///     }
/// }
/// #
/// # #[durable_fsm(output = (), signals(Counted))]
/// # pub enum Count { Run }
/// # #[durable_fsm]
/// # impl Count { async fn run(cx: Context<Self>) -> Outcome<Self> { cx.done(()) } }
/// ```
#[must_use = "an outcome takes effect only if the step returns it"]
pub struct Outcome<M: Machine> {
    pub(crate) transition: Transition<M>,
    /// None if the stored state stays as it is.
    pub(crate) state: Option<M::State>,
    pub(crate) inbox: Vec<Received>,
    pub(crate) inserts: Vec<Result<NewInstance, EncodeError>>,
    pub(crate) signals: Vec<Result<NewSignal, EncodeError>>,
    /// Some of the inserts report to this instance.
    pub(crate) spawns: bool,
}

/// The move that an instance makes from here.
pub(crate) enum Transition<M: Machine> {
    Next {
        step: &'static str,
        delay: Option<Duration>,
    },
    Replay {
        delay: Duration,
    },
    Snooze {
        delay: Duration,
    },
    /// The instance wakes with the first signal that the step has not seen. With a `count`, it
    /// wakes when as many are in the inbox, seen or not.
    Await {
        names: Vec<&'static str>,
        count: Option<usize>,
        timeout: Option<Duration>,
    },
    Done(M::Output),
    Stop(String),
}

impl<M: Machine> Outcome<M> {
    pub(crate) fn new(
        transition: Transition<M>,
        state: Option<M::State>,
        inbox: Vec<Received>,
    ) -> Self {
        Self { transition, state, inbox, inserts: Vec::new(), signals: Vec::new(), spawns: false }
    }

    /// Returns the step that the outcome goes to, if it goes to one.
    pub(crate) fn target(&self) -> Option<&'static str> {
        match &self.transition {
            Transition::Next { step, .. } => Some(step),
            _ => None,
        }
    }

    /// Inserts another instance in the same commit: exactly once, or not at all.
    ///
    /// An insert whose unique key is taken does nothing: the instance that holds the key does the
    /// work. An insert that cannot be stored fails the run: nothing of the outcome takes effect,
    /// and `handle` decides.
    pub fn insert<N: Machine>(mut self, insert: Insert<N>) -> Self {
        self.inserts.push(insert.into_row(usize::MAX));
        self
    }

    /// Inserts any number of instances in the same commit, each like [`insert`](Self::insert). It
    /// takes inserts with options, or those that a machine's own `insert_many` makes of states.
    pub fn insert_many<N: Machine>(mut self, inserts: impl IntoIterator<Item = Insert<N>>) -> Self {
        self.inserts.extend(inserts.into_iter().map(|insert| insert.into_row(usize::MAX)));
        self
    }

    /// Inserts children in the same commit, each like [`insert`](Self::insert). Each reports its
    /// end to this instance, which declares `signals(Ended<N>)`; see [`Ended`](crate::Ended).
    ///
    /// Only an outcome that goes on to a next step, or that awaits, can spawn. An instance that
    /// ends would not hear of its children, and a step that is repeated would spawn them again.
    /// Such a run fails with [`Rejected`](crate::StepErrorKind::Rejected).
    ///
    /// If the unique key of a child is taken, this instance is told at once, by a report whose
    /// [`result`](crate::Ended::result) names the holder. With
    /// [`refuse_if_taken`](Insert::refuse_if_taken) the run fails instead.
    pub fn spawn<N: Machine>(mut self, children: impl IntoIterator<Item = Insert<N>>) -> Self
    where
        M: Accepts<Ended<N>>,
    {
        self.inserts.extend(children.into_iter().map(Insert::into_child));
        self.spawns = true;
        self
    }

    /// Sends a signal to another instance in the same commit: exactly once, or not at all.
    ///
    /// A signal to an instance that is gone or terminal by then is dropped, and logged: the step
    /// has ended and cannot be told.
    pub fn signal<N: Machine>(mut self, signal: Signal<N>) -> Self {
        self.signals.push(signal.into_row(usize::MAX));
        self
    }
}

/// Prints no state and no result, as they may be confidential.
impl<M: Machine> fmt::Debug for Outcome<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let transition = match &self.transition {
            Transition::Next { step, .. } => format!("next({step})"),
            Transition::Replay { delay } => format!("replay({delay:?})"),
            Transition::Snooze { delay } => format!("snooze({delay:?})"),
            Transition::Await { names, .. } => format!("await({})", names.join(", ")),
            Transition::Done(_) => "done".to_owned(),
            Transition::Stop(_) => "stop".to_owned(),
        };
        f.debug_struct("Outcome")
            .field("machine", &M::NAME)
            .field("transition", &transition)
            .field("inserts", &self.inserts.len())
            .field("signals", &self.signals.len())
            .finish_non_exhaustive()
    }
}
