//! The errors of a step that failed, and of an upgrade that failed.
//!
//! Invariant: the error that user code returned keeps its type through every conversion.

use std::{any::Any, error::Error as StdError, fmt, sync::Arc, time::Duration};

use super::{
    DecodeError,
    cause::{holds_details, with_causes},
};
use crate::fault;

type Boxed = Box<dyn StdError + Send + Sync>;

/// The reason why a step failed, as a machine's `handle` gets it.
///
/// The operator `?` makes it from any error that is `Send + Sync + 'static`, boxed or not. It also
/// makes it from `anyhow::Error`, `eyre::Report` and a text. It does not implement
/// [`std::error::Error`] itself, as that would exclude these conversions.
///
/// ```
/// use gen_durable::prelude::*;
///
/// fn reserve(stock: u32, wanted: &str) -> Result<u32, StepError> {
///     let wanted: u32 = wanted.parse()?;
///     if stock == 0 {
///         return Err("no stock".into());
///     }
///     stock.checked_sub(wanted).ok_or_else(|| format!("{wanted} of {stock}").into())
/// }
///
/// assert_eq!(reserve(0, "1").unwrap_err().to_string(), "no stock");
/// assert_eq!(reserve(3, "4").unwrap_err().to_string(), "4 of 3");
/// let error = reserve(3, "x").unwrap_err();
/// assert!(error.downcast_ref::<std::num::ParseIntError>().is_some());
/// ```
pub struct StepError {
    kind: StepErrorKind,
    source: Source,
}

/// The kinds of [`StepError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StepErrorKind {
    /// The step returned an error.
    Failed,
    /// The step panicked.
    Panicked,
    /// The step ran longer than its timeout, or the machine's, and was dropped.
    TimedOut,
    /// The step's outcome cannot be committed: a value of it cannot be stored (the state, the
    /// result, or a message that it sends), it awaits signals that the step has seen, or the step's
    /// transaction cannot be committed.
    Rejected,
    /// A stored payload does not decode. The step returned a [`DecodeError`], or an error that was
    /// caused by one.
    Undecodable,
}

/// An error as the step returned it. Errors of `anyhow` and `eyre` are kept as they are, because in
/// a box they hide the error that they hold.
#[derive(Clone)]
enum Source {
    Boxed(Arc<dyn StdError + Send + Sync>),
    #[cfg(feature = "anyhow")]
    Anyhow(Arc<anyhow::Error>),
    #[cfg(feature = "eyre")]
    Eyre(Arc<eyre::Report>),
}

impl StepError {
    pub(crate) fn panicked(payload: &(dyn Any + Send)) -> Self {
        let message = payload
            .downcast_ref::<&str>()
            .map(|text| (*text).to_owned())
            .or_else(|| payload.downcast_ref::<String>().cloned())
            .unwrap_or_else(|| "a value that is not text".to_owned());
        Self::of(StepErrorKind::Panicked, format!("panicked: {message}"))
    }

    pub(crate) fn timed_out(limit: Duration) -> Self {
        Self::of(StepErrorKind::TimedOut, format!("ran longer than its timeout of {limit:?}"))
    }

    pub(crate) fn rejected(source: impl Into<Boxed>) -> Self {
        Self::of(StepErrorKind::Rejected, source)
    }

    fn of(kind: StepErrorKind, source: impl Into<Boxed>) -> Self {
        Self { kind, source: Source::Boxed(Arc::from(source.into())) }
    }

    /// Returns the same error, for another run of `handle`.
    pub(crate) fn again(&self) -> Self {
        Self { kind: self.kind, source: self.source.clone() }
    }

    /// True if the step's transaction was rolled back to resolve a conflict.
    pub(crate) fn is_conflict(&self) -> bool {
        self.downcast_ref::<sqlx::Error>().is_some_and(fault::is_rolled_back)
            || self.downcast_ref::<Stale>().is_some()
    }

    /// Returns the kind of the failure.
    pub fn kind(&self) -> StepErrorKind {
        self.kind
    }

    /// Returns the error of this type that the step returned, or that caused the returned one.
    ///
    /// It is found in a `Box` or an `Arc`, and through `anyhow` and `eyre`, with context or
    /// without. A context that is itself an error is found as well.
    pub fn downcast_ref<E: StdError + Send + Sync + 'static>(&self) -> Option<&E> {
        let held = match &self.source {
            Source::Boxed(_) => None,
            // `anyhow` and `eyre` may hold a context, or a box that was given to them. Only their
            // own `downcast_ref` finds these.
            #[cfg(feature = "anyhow")]
            Source::Anyhow(error) => {
                let boxed = || error.downcast_ref::<Boxed>().and_then(|error| find(&**error));
                error.downcast_ref().or_else(boxed)
            }
            #[cfg(feature = "eyre")]
            Source::Eyre(error) => {
                let boxed = || error.downcast_ref::<Boxed>().and_then(|error| find(&**error));
                error.downcast_ref().or_else(boxed)
            }
        };
        held.or_else(|| find(self.source()))
    }

    /// Returns the error that the step returned.
    pub fn source(&self) -> &(dyn StdError + Send + Sync + 'static) {
        match &self.source {
            Source::Boxed(error) => &**error,
            #[cfg(feature = "anyhow")]
            Source::Anyhow(error) => &***error,
            #[cfg(feature = "eyre")]
            Source::Eyre(error) => &***error,
        }
    }
}

/// Finds the first error of this type among an error and its causes.
fn find<'a, E: StdError + 'static>(error: &'a (dyn StdError + 'static)) -> Option<&'a E> {
    let mut next = Some(error);
    while let Some(error) = next {
        let within = || {
            // `Box` and `Arc` are errors of their own. Their `source` is the cause of their
            // content, and not the content.
            let boxed = || error.downcast_ref::<Box<E>>().map(|error| &**error);
            let shared = || error.downcast_ref::<Arc<E>>().map(|error| &**error);
            let unnamed = || find(&**error.downcast_ref::<Arc<dyn StdError + Send + Sync>>()?);
            boxed().or_else(shared).or_else(unnamed)
        };
        if let Some(found) = error.downcast_ref().or_else(within) {
            return Some(found);
        }
        next = error.source();
    }
    None
}

/// Keeps the type of the given error.
impl<E: Into<Boxed> + 'static> From<E> for StepError {
    fn from(error: E) -> Self {
        let source = Source::new(error);
        let mut error = Self { kind: StepErrorKind::Failed, source };
        if error.downcast_ref::<DecodeError>().is_some() {
            error.kind = StepErrorKind::Undecodable;
        }
        error
    }
}

impl Source {
    #[cfg_attr(
        not(any(feature = "anyhow", feature = "eyre")),
        expect(unused_mut, reason = "there is nothing to look into")
    )]
    fn new<E: Into<Boxed> + 'static>(error: E) -> Self {
        let mut error = Some(error);
        // The conversion of these errors into a box keeps the text, and hides the type of the error
        // that they hold.
        #[cfg(feature = "anyhow")]
        if let Some(error) = (&mut error as &mut dyn Any).downcast_mut().and_then(Option::take) {
            return Self::Anyhow(Arc::new(error));
        }
        #[cfg(feature = "eyre")]
        if let Some(error) = (&mut error as &mut dyn Any).downcast_mut().and_then(Option::take) {
            return Self::Eyre(Arc::new(error));
        }
        match error {
            Some(error) => Self::Boxed(Arc::from(error.into())),
            None => unreachable!("an error that was taken has been returned"),
        }
    }
}

/// Prints the error with all its causes on one line. The text becomes the instance's `last_error`.
impl fmt::Display for StepError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        with_causes(self.source(), f)
    }
}

impl fmt::Debug for StepError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StepError")
            .field("kind", &self.kind)
            .field("source", &Printed(self.source()))
            .finish()
    }
}

/// Prints an error as `Debug` does, but without Postgres's details.
struct Printed<'a>(&'a (dyn StdError + 'static));

impl fmt::Debug for Printed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if holds_details(self.0) { with_causes(self.0, f) } else { fmt::Debug::fmt(self.0, f) }
    }
}

/// A signal came after the snapshot of a step's transaction, and the step ended the instance.
#[derive(Debug, thiserror::Error)]
#[error(
    "signals came while the step ran, and its transaction does not see them: end the instance in a step at `read committed`"
)]
pub(crate) struct Stale;

/// The reason why an instance of an older version cannot be upgraded; see
/// [`Upgrade`](crate::Upgrade).
///
/// The operator `?` makes it from any error and from a text. It does not implement
/// [`std::error::Error`] itself, as that would exclude this conversion.
///
/// ```
/// use gen_durable::UpgradeError;
///
/// fn plan(code: &str) -> Result<u8, UpgradeError> {
///     if code.is_empty() {
///         return Err("the plan has no code".into());
///     }
///     Ok(code.parse()?)
/// }
///
/// assert_eq!(plan("").unwrap_err().to_string(), "the plan has no code");
/// assert_eq!(plan("x").unwrap_err().to_string(), "invalid digit found in string");
/// ```
pub struct UpgradeError {
    source: Boxed,
}

impl<E: Into<Boxed>> From<E> for UpgradeError {
    fn from(error: E) -> Self {
        Self { source: error.into() }
    }
}

/// Prints the error with all its causes on one line. The text is part of the instance's
/// `last_error`.
impl fmt::Display for UpgradeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        with_causes(&*self.source, f)
    }
}

impl fmt::Debug for UpgradeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UpgradeError").field("source", &Printed(&*self.source)).finish()
    }
}
