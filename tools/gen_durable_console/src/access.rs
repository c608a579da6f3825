//! The rights of a request.
//!
//! Invariant: a request that may act names its operator, so each action has one in the audit.

/// The rights of a request, as the host of the console decides it: see
/// [`Console::access`](crate::Console::access).
///
/// ```
/// use gen_durable_console::Access;
///
/// assert!(!Access::none().may_read());
/// assert!(Access::read().may_read() && !Access::read().shows_states());
/// let ada = Access::write("ada").with_states();
/// assert_eq!(ada.operator(), Some("ada"));
/// assert!(ada.shows_states());
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Access {
    level: Level,
    states: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Level {
    None,
    Read,
    Write { operator: String },
}

impl Access {
    /// Refuses everything.
    pub const fn none() -> Self {
        Self { level: Level::None, states: false }
    }

    /// Lets the request look at everything but states, results and payloads.
    pub const fn read() -> Self {
        Self { level: Level::Read, states: false }
    }

    /// Lets the request look and act. The audit notes the operator's name: 1 to 255 bytes. With a
    /// name that the audit cannot store, each action is refused.
    pub fn write(operator: impl Into<String>) -> Self {
        Self { level: Level::Write { operator: operator.into() }, states: false }
    }

    /// Shows states, results and payloads too. They may be confidential, so they are hidden unless
    /// this permits them. To a request that may not read at all it permits nothing.
    #[must_use]
    pub const fn with_states(mut self) -> Self {
        self.states = true;
        self
    }

    /// True if the request may look.
    pub fn may_read(&self) -> bool {
        self.level != Level::None
    }

    /// True if the request may see states, results and payloads.
    pub fn shows_states(&self) -> bool {
        self.states && self.may_read()
    }

    /// Returns the operator's name, if the request may act.
    pub fn operator(&self) -> Option<&str> {
        match &self.level {
            Level::Write { operator } => Some(operator),
            Level::None | Level::Read => None,
        }
    }
}
