//! The outcome of a step that ran without a database.

use std::{
    fmt::{Debug, Display},
    time::Duration,
};

use super::MICROSECOND;
use crate::{
    machine::{Machine, signal::DurableSignal},
    storage::{Addressee, Change, Commit, Eligible, NewInstance, NewSignal, Receiver},
    testing::effects::Effects,
    value,
};

/// The outcome of a step that a [`StepTest`](super::StepTest) ran, as an engine would commit it.
pub struct StepRun<M: Machine> {
    step: &'static str,
    commit: Box<Commit>,
    /// The state before the run.
    before: value::Json,
    state: M::State,
    /// The number of signals that were in the inbox.
    seen: usize,
}

/// An instance that an outcome inserts.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Inserted<S> {
    /// The name of the step that it begins with.
    pub step: &'static str,
    /// Its state.
    pub state: S,
    /// Its queue.
    pub queue: String,
    /// Its unique key.
    pub unique_key: Option<String>,
    /// Its partition key.
    pub partition_key: Option<String>,
    /// The time that passes before it runs. None if it runs at once, or at a given time.
    pub delay: Option<Duration>,
    /// True if it reports its end to the instance whose step ran.
    pub reports: bool,
}

/// A signal that an outcome sends.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Sent<S> {
    /// The payload.
    pub signal: S,
    /// The id of the target, if it is addressed by that.
    pub id: Option<i64>,
    /// The unique key of the target, if it is addressed by that.
    pub unique_key: Option<String>,
    /// The key that makes a redelivery harmless.
    pub dedup_key: Option<String>,
}

impl<M: Machine> StepRun<M> {
    pub(super) fn new(
        step: &'static str,
        before: value::Json,
        commit: Box<Commit>,
        seen: usize,
    ) -> Self {
        let state = commit.state.as_ref().unwrap_or(&before);
        let state = value::decode("state", M::NAME, M::VERSION, &state.0);
        // A state that does not decode has failed the run. It is the one that the test gave.
        let state = state.unwrap_or_else(|error| panic!("step `{step}`: {error}"));
        Self { step, commit, before, state, seen }
    }

    /// Returns the state that the outcome stores, or that the step began with if it stores none.
    pub fn state(&self) -> &M::State {
        &self.state
    }

    /// Returns the error that the outcome records: that of a run which `handle` decided about, or
    /// the reason of a stop.
    pub fn error(&self) -> Option<&str> {
        self.commit.error.as_deref()
    }

    /// Returns the number of signals that the outcome takes out of the inbox.
    pub fn consumed(&self) -> usize {
        self.commit.consumed.len()
    }

    /// Returns the number of signals that the outcome leaves in the inbox.
    pub fn left(&self) -> usize {
        self.seen - self.consumed()
    }

    /// Expects that the outcome goes to this step at once.
    ///
    /// # Panics
    ///
    /// If it does not.
    #[expect(clippy::needless_pass_by_value, reason = "a step is written in place")]
    #[track_caller]
    pub fn assert_next(&self, to: M) {
        let holds = matches!(self.commit.change, Change::Next { step } if step == to.name());
        self.expect(holds, format_args!("goes to `{}`", to.name()));
    }

    /// Expects that the outcome goes to this step after this delay.
    ///
    /// # Panics
    ///
    /// If it does not.
    #[expect(clippy::needless_pass_by_value, reason = "a step is written in place")]
    #[track_caller]
    pub fn assert_next_in(&self, to: M, after: Duration) {
        let holds = matches!(self.commit.change, Change::Later { step, delay }
            if step == to.name() && delay.abs_diff(after) < MICROSECOND);
        self.expect(holds, format_args!("goes to `{}` in {after:?}", to.name()));
    }

    /// Expects that the same step runs again, after a `replay`, a `snooze` or a retry. Returns the
    /// delay.
    ///
    /// # Panics
    ///
    /// If it does not.
    #[track_caller]
    pub fn assert_repeats(&self) -> Duration {
        match self.commit.change {
            Change::Repeat { delay, .. } => delay,
            _ => self.unexpected("runs again"),
        }
    }

    /// Expects that the instance parks until a signal of this type arrives, perhaps among others.
    /// Returns the timeout.
    ///
    /// # Panics
    ///
    /// If it does not.
    #[track_caller]
    pub fn assert_awaits<S: DurableSignal>(&self) -> Option<Duration> {
        match &self.commit.change {
            Change::Await { names, timeout, .. } if names.contains(&S::NAME) => *timeout,
            _ => self.unexpected(format_args!("awaits `{}`", S::NAME)),
        }
    }

    /// Expects that the instance is done with this output.
    ///
    /// # Panics
    ///
    /// If it is not.
    #[track_caller]
    pub fn assert_done(&self, output: &M::Output)
    where
        M::Output: PartialEq + Debug,
    {
        let found = match &self.commit.change {
            Change::Done { result } => {
                value::decode::<M::Output>("result", M::NAME, M::VERSION, &result.0).ok()
            }
            _ => None,
        };
        self.expect(found.as_ref() == Some(output), format_args!("is done: {output:?}"));
    }

    /// Expects that the instance fails. Returns the reason.
    ///
    /// # Panics
    ///
    /// If it does not.
    #[track_caller]
    pub fn assert_failed(&self) -> &str {
        match self.commit.change {
            Change::Failed => self.error().unwrap_or_default(),
            _ => self.unexpected("fails"),
        }
    }

    /// Returns the instances of this machine that the outcome inserts, in their order.
    ///
    /// # Panics
    ///
    /// If a state does not decode.
    #[track_caller]
    pub fn inserts<N: Machine>(&self) -> Vec<Inserted<N::State>> {
        let of_machine = |new: &&NewInstance| new.fsm == N::NAME;
        self.commit
            .inserts
            .iter()
            .filter(of_machine)
            .map(|new| Inserted {
                step: new.step,
                state: decode("state", N::NAME, N::VERSION, &new.state),
                queue: new.queue.clone(),
                unique_key: new.unique_key.clone(),
                partition_key: new.partition_key.clone(),
                delay: match new.eligible {
                    Eligible::In(delay) => Some(delay),
                    Eligible::Now | Eligible::At(_) => None,
                },
                reports: new.report_to == Some(Receiver::Instance(self.commit.id)),
            })
            .collect()
    }

    /// Returns the signals of this type that the outcome sends, in their order.
    ///
    /// # Panics
    ///
    /// If a payload does not decode.
    #[track_caller]
    pub fn signals<S: DurableSignal>(&self) -> Vec<Sent<S>> {
        let of_type = |new: &&NewSignal| new.name == S::NAME;
        self.commit
            .signals
            .iter()
            .filter(of_type)
            .map(|new| {
                let (id, unique_key) = match &new.target {
                    Addressee::Id(id) => (Some(*id), None),
                    Addressee::Key(key) => (None, Some(key.clone())),
                };
                Sent {
                    signal: decode("signal payload", S::NAME, 1, &new.payload),
                    id,
                    unique_key,
                    dedup_key: new.dedup_key.clone(),
                }
            })
            .collect()
    }

    #[track_caller]
    fn expect(&self, holds: bool, wanted: impl Display) {
        if !holds {
            self.unexpected(wanted);
        }
    }

    #[track_caller]
    fn unexpected(&self, wanted: impl Display) -> ! {
        panic!(
            "expected that the instance {wanted} after step `{}`, but it {}",
            self.step,
            Effects::of(&self.commit, &self.before.0)
        )
    }
}

#[track_caller]
fn decode<T: serde::de::DeserializeOwned>(
    what: &str,
    of: &'static str,
    version: u32,
    text: &value::Json,
) -> T {
    match value::decode(what, of, version, &text.0) {
        Ok(value) => value,
        Err(error) => panic!("{error}"),
    }
}

/// Prints the outcome in words.
impl<M: Machine> Debug for StepRun<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "after step `{}` it {}", self.step, Effects::of(&self.commit, &self.before.0))
    }
}
