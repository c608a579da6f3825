//! The levels of a machine's history.
//!
//! Invariant: each level records what the level before it records, and more.

/// The level of the history of a machine's instances, set by `#[durable_fsm(history = "…")]`; see
/// [the guide](crate::guide::history).
///
/// ```
/// use gen_durable::prelude::*;
///
/// #[durable_fsm(state = u32, output = (), history = "steps")]
/// pub enum Invoice {
///     Print,
///     Send,
/// }
///
/// #[durable_fsm]
/// impl Invoice {
///     async fn print(cx: Context<Self>) -> Outcome<Self> {
///         cx.next(Invoice::Send)
///     }
///
///     async fn send(cx: Context<Self>) -> Outcome<Self> {
///         cx.done(())
///     }
/// }
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum History {
    /// `off`: nothing.
    Off,
    /// `failures`: each run that failed, was lost with its worker, or ended its instance as failed.
    /// This is the default.
    #[default]
    Failures,
    /// `steps`: each run with an outcome as well.
    Steps,
    /// `states`: the state after each outcome as well.
    States,
}

impl History {
    /// Returns the name of the level, as the option and the table `gen_durable.machines` have it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Failures => "failures",
            Self::Steps => "steps",
            Self::States => "states",
        }
    }
    pub(crate) fn of(name: &str) -> Option<Self> {
        let levels = [Self::Off, Self::Failures, Self::Steps, Self::States];
        levels.into_iter().find(|level| level.as_str() == name)
    }
}
