//! The deeds of actions, and the answers to them.
//!
//! Invariant: a value that cannot be stored is refused before anything is sent.

use std::{fmt, time::SystemTime};

use crate::{
    error::EncodeError,
    keys::check_name,
    machine::Machine,
    storage::{Acted, Deed},
    value,
};

/// The deed of an [`Action`](crate::operate::Action). This crate alone implements it.
pub trait Does: sealed::Sealed {
    /// The answer to the action.
    type Answer;

    #[doc(hidden)]
    fn into_deed(self, value_max: usize) -> Result<DeedOf, EncodeError>;

    #[doc(hidden)]
    fn answer(acted: &ActedOn) -> Self::Answer;
}

/// The deed as it is executed.
#[doc(hidden)]
#[derive(Debug)]
pub struct DeedOf(pub(in crate::client) Deed);

/// The answer of the database to an action.
#[doc(hidden)]
#[derive(Debug)]
pub struct ActedOn(pub(super) Acted);

mod sealed {
    pub trait Sealed {}
}

/// The deed of [`InstanceHandle::cancel`](crate::operate::InstanceHandle::cancel).
#[derive(Clone, Debug)]
pub struct Cancel(pub(in crate::client) ());

/// The deed of [`InstanceHandle::kill`](crate::operate::InstanceHandle::kill).
#[derive(Clone, Debug)]
pub struct Kill(pub(in crate::client) ());

/// The deed of [`InstanceHandle::run_now`](crate::operate::InstanceHandle::run_now).
#[derive(Clone, Debug)]
pub struct RunNow(pub(in crate::client) ());

/// The deed of [`InstanceHandle::delete`](crate::operate::InstanceHandle::delete).
#[derive(Clone, Debug)]
pub struct Delete(pub(in crate::client) ());

/// The deed of [`InstanceHandle::retry`](crate::operate::InstanceHandle::retry).
#[derive(Clone, Default)]
pub struct Retry {
    pub(super) step: Option<String>,
    pub(super) state: Option<Result<value::Json, EncodeError>>,
    version: Option<u32>,
    pub(in crate::client) forgets_dedup_keys: bool,
}

impl Retry {
    pub(in crate::client) fn at<M: Machine>(&mut self, step: &str) {
        (self.step, self.version) = (Some(step.to_owned()), Some(M::VERSION));
    }

    pub(super) fn with_state<M: Machine>(&mut self, state: &M::State) {
        self.state = Some(value::encode("state", state, usize::MAX));
        self.version = Some(M::VERSION);
    }
}

/// Prints no state, as it may be confidential.
impl fmt::Debug for Retry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Retry").field("step", &self.step).finish_non_exhaustive()
    }
}

/// The deed of a pause: of an [instance](crate::operate::InstanceHandle::pause), a queue, a machine
/// or a step.
#[derive(Clone, Debug, Default)]
pub struct Pause {
    pub(in crate::client) until: Option<SystemTime>,
}

/// The deed that ends a pause.
#[derive(Clone, Debug)]
pub struct Resume(pub(in crate::client) ());

/// The answer to a resume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Resumed {
    /// The pause is over.
    Resumed,
    /// It was not paused, and nothing was changed.
    NotPaused,
}

/// The answer to a cancel that was accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Cancelled {
    /// The instance has ended as cancelled.
    Ended,
    /// The instance goes to the step with which its machine answers.
    Answering,
    /// An engine answers the cancel: the one that runs the instance, once it has dropped the run.
    /// If no engine has registered the instance's version, it is the next one that knows it. No
    /// other step's outcome takes effect before.
    Asked,
    /// The instance was cancelled before, and has not ended yet. Nothing was changed.
    Before,
}

/// The answer to a retry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Retried {
    /// True if the instance that gets the report of its end may have seen the report of the last
    /// one. It hears of that end alone: the next one sends no report.
    pub heard: bool,
}

impl sealed::Sealed for Cancel {}
impl Does for Cancel {
    type Answer = Cancelled;

    fn into_deed(self, _: usize) -> Result<DeedOf, EncodeError> {
        Ok(DeedOf(Deed::Cancel))
    }

    fn answer(acted: &ActedOn) -> Cancelled {
        match &*acted.0.deed {
            "asked" => Cancelled::Asked,
            "goes" => Cancelled::Answering,
            "before" => Cancelled::Before,
            _ => Cancelled::Ended,
        }
    }
}

impl sealed::Sealed for Kill {}
impl Does for Kill {
    type Answer = ();

    fn into_deed(self, _: usize) -> Result<DeedOf, EncodeError> {
        Ok(DeedOf(Deed::Kill))
    }

    fn answer(_: &ActedOn) {}
}

impl sealed::Sealed for RunNow {}
impl Does for RunNow {
    type Answer = ();

    fn into_deed(self, _: usize) -> Result<DeedOf, EncodeError> {
        Ok(DeedOf(Deed::RunNow))
    }

    fn answer(_: &ActedOn) {}
}

impl sealed::Sealed for Delete {}
impl Does for Delete {
    type Answer = ();

    fn into_deed(self, _: usize) -> Result<DeedOf, EncodeError> {
        Ok(DeedOf(Deed::Delete))
    }

    fn answer(_: &ActedOn) {}
}

impl sealed::Sealed for Retry {}
impl Does for Retry {
    type Answer = Retried;

    fn into_deed(self, value_max: usize) -> Result<DeedOf, EncodeError> {
        if let Some(step) = &self.step {
            check_name("the name of a step", step)?;
        }
        let state = self.state.map(|state| state?.within("state", value_max)).transpose()?;
        Ok(DeedOf(Deed::Retry {
            step: self.step,
            state,
            version: self.version,
            forgets_dedup_keys: self.forgets_dedup_keys,
        }))
    }

    fn answer(acted: &ActedOn) -> Retried {
        Retried { heard: acted.0.retry.as_deref().is_some_and(|retry| retry.heard) }
    }
}

impl sealed::Sealed for Pause {}
impl Does for Pause {
    type Answer = ();

    fn into_deed(self, _: usize) -> Result<DeedOf, EncodeError> {
        Ok(DeedOf(Deed::Pause { until: self.until }))
    }

    fn answer(_: &ActedOn) {}
}

impl sealed::Sealed for Resume {}
impl Does for Resume {
    type Answer = Resumed;

    fn into_deed(self, _: usize) -> Result<DeedOf, EncodeError> {
        Ok(DeedOf(Deed::Resume))
    }

    fn answer(acted: &ActedOn) -> Resumed {
        if acted.0.deed == "before" { Resumed::NotPaused } else { Resumed::Resumed }
    }
}
