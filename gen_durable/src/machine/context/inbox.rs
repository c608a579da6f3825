//! The inbox, as a step uses it: look, take, discard.
//!
//! Invariant: nothing is deleted here. A signal is only flagged, and the commit of the outcome
//! deletes it.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::{Consumption, Context};
use crate::{
    error::DecodeError,
    machine::{
        Machine,
        signal::{Accepts, DurableSignal},
    },
    value,
};

impl<M: Machine> Context<M> {
    /// Takes the oldest signal of this type out of the inbox.
    ///
    /// The commit of the outcome deletes it. A `replay`, a `snooze` and a `stop` leave it in the
    /// inbox, and so does a run that fails.
    ///
    /// # Errors
    ///
    /// [`DecodeError`] if the stored payload does not fit the type. The signal stays in the inbox,
    /// and stays the oldest, until [`discard_signal`](Self::discard_signal) removes it.
    pub fn take_signal<S: DurableSignal>(&mut self) -> Result<Option<S>, DecodeError>
    where
        M: Accepts<S>,
    {
        let Some(index) = self.oldest(S::NAME) else { return Ok(None) };
        let signal = self.decode::<S>(index)?;
        self.inbox[index].consumption = Consumption::Taken;
        Ok(Some(signal))
    }

    /// Takes all signals of this type out of the inbox, the oldest first.
    ///
    /// A step is given the oldest thousand signals of an inbox, and 1 MiB of them at most. The
    /// others come with the next step, or when the step awaits them.
    /// [`count_signals`](Self::count_signals) counts them too: look at it before `done`, which
    /// deletes them. A step that is repeated on another claim begins with the oldest again, and
    /// awaits the others again.
    ///
    /// # Errors
    ///
    /// [`DecodeError`], like [`take_signal`](Self::take_signal). No signal is taken then.
    pub fn take_signals<S: DurableSignal>(&mut self) -> Result<Vec<S>, DecodeError>
    where
        M: Accepts<S>,
    {
        self.take_oldest(usize::MAX)
    }

    /// Takes the `count` oldest signals of this type out of the inbox. It takes none if there are
    /// not that many yet: then the step awaits them, and those that have come stay.
    ///
    /// If an inbox has more than a thousand signals or 1 MiB, the step is given the oldest. The
    /// others come when it awaits them, on the same claim.
    ///
    /// ```
    /// use gen_durable::prelude::*;
    ///
    /// #[derive(DurableSignal)]
    /// pub struct Vote {
    ///     yes: bool,
    /// }
    ///
    /// #[durable_fsm(output = bool, signals(Vote))]
    /// pub enum Ballot {
    ///     Count,
    /// }
    ///
    /// #[durable_fsm]
    /// impl Ballot {
    ///     async fn count(mut cx: Context<Self>) -> StepResult<Self> {
    ///         let Some(votes) = cx.gather::<Vote>(3)? else {
    ///             return Ok(cx.await_count::<Vote>(3));
    ///         };
    ///         Ok(cx.done(votes.iter().all(|vote| vote.yes)))
    ///     }
    /// }
    /// ```
    ///
    /// # Errors
    ///
    /// [`DecodeError`], like [`take_signal`](Self::take_signal). No signal is taken then.
    pub fn gather<S: DurableSignal>(&mut self, count: usize) -> Result<Option<Vec<S>>, DecodeError>
    where
        M: Accepts<S>,
    {
        // Signals that are not loaded come when the step awaits them.
        if self.kept(S::NAME).count() < count {
            return Ok(None);
        }
        self.take_oldest(count).map(Some)
    }

    fn take_oldest<S: DurableSignal>(&mut self, count: usize) -> Result<Vec<S>, DecodeError> {
        let found: Vec<usize> = self.kept(S::NAME).take(count).collect();
        let signals =
            found.iter().map(|&index| self.decode::<S>(index)).collect::<Result<_, _>>()?;
        for index in found {
            self.inbox[index].consumption = Consumption::Taken;
        }
        Ok(signals)
    }

    /// Looks at the oldest signal of this type and leaves it in the inbox.
    ///
    /// # Errors
    ///
    /// [`DecodeError`], like [`take_signal`](Self::take_signal).
    pub fn peek_signal<S: DurableSignal>(&self) -> Result<Option<S>, DecodeError>
    where
        M: Accepts<S>,
    {
        self.oldest(S::NAME).map(|index| self.decode::<S>(index)).transpose()
    }

    /// Returns the number of signals of this type that are in the inbox and not taken. Those that
    /// are not loaded yet count too.
    pub fn count_signals<S: DurableSignal>(&self) -> usize
    where
        M: Accepts<S>,
    {
        let beyond = self.beyond.as_ref().and_then(|beyond| beyond.get(S::NAME));
        self.kept(S::NAME).count() + beyond.copied().unwrap_or_default()
    }

    /// Removes the oldest signal of this type that does not decode. Returns true if there was one.
    ///
    /// Any outcome deletes it, also a `replay`, a `snooze` or a `stop`. A `handle` can therefore
    /// discard the signal that made the step fail, and let the step run again:
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use gen_durable::{StepErrorKind, prelude::*};
    ///
    /// #[derive(DurableSignal)]
    /// pub struct Paid {
    ///     amount: i64,
    /// }
    ///
    /// #[durable_fsm(output = i64, signals(Paid))]
    /// pub enum Order {
    ///     AwaitPay,
    /// }
    ///
    /// #[durable_fsm]
    /// impl Order {
    ///     async fn await_pay(mut cx: Context<Self>) -> StepResult<Self> {
    ///         match cx.take_signal::<Paid>()? {
    ///             Some(paid) => Ok(cx.done(paid.amount)),
    ///             None => Ok(cx.await_signal::<Paid>()),
    ///         }
    ///     }
    ///
    ///     async fn handle(mut cx: Context<Self>, error: StepError) -> Outcome<Self> {
    ///         if error.kind() == StepErrorKind::Undecodable && cx.discard_signal::<Paid>() {
    ///             return cx.replay(Duration::ZERO);
    ///         }
    ///         cx.stop(error)
    ///     }
    /// }
    /// ```
    pub fn discard_signal<S: DurableSignal>(&mut self) -> bool
    where
        M: Accepts<S>,
    {
        // A payload on which `Deserialize` panics does not decode either.
        let decodes = |index: usize| {
            let decode = AssertUnwindSafe(|| self.decode::<S>(index).is_ok());
            catch_unwind(decode).unwrap_or(false)
        };
        let Some(index) = self.kept(S::NAME).find(|index| !decodes(*index)) else { return false };
        self.inbox[index].consumption = Consumption::Discarded;
        true
    }

    fn oldest(&self, name: &str) -> Option<usize> {
        self.kept(name).next()
    }

    /// Returns the positions of the signals of this name that are not taken, the oldest first.
    fn kept(&self, name: &str) -> impl Iterator<Item = usize> {
        let found = self.inbox.iter().enumerate();
        found
            .filter(move |(_, signal)| {
                signal.consumption == Consumption::Kept && *signal.name == *name
            })
            .map(|(index, _)| index)
    }

    fn decode<S: DurableSignal>(&self, index: usize) -> Result<S, DecodeError> {
        let signal = &self.inbox[index];
        let what = format!("payload of signal `{}` (signal {})", signal.name, signal.id);
        value::decode(&what, M::NAME, M::VERSION, &signal.payload)
    }
}
