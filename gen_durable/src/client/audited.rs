//! The operator and the reason of an action, as its builder takes them.
//!
//! Invariant: what cannot be stored is refused before anything is sent.

use crate::{
    error::EncodeError,
    keys::{check_actor, check_reason},
};

/// The operator and the reason of an action, as the audit notes them.
#[derive(Clone, Debug, Default)]
pub(super) struct Audited {
    /// None for the role of the database session.
    pub(super) actor: Option<String>,
    pub(super) reason: Option<String>,
}

impl Audited {
    pub(super) fn by(self, operator: impl Into<String>) -> Self {
        Self { actor: Some(operator.into()), ..self }
    }

    pub(super) fn reason(self, reason: impl Into<String>) -> Self {
        Self { reason: Some(reason.into()).filter(|reason| !reason.is_empty()), ..self }
    }

    /// Returns both, if they can be stored.
    pub(super) fn checked(self) -> Result<Self, EncodeError> {
        check_actor(self.actor.as_deref())?;
        check_reason(self.reason.as_deref())?;
        Ok(self)
    }
}

/// The methods `by` and `reason` of a builder that has the field `audited`. Further
/// sentences about the reason are given as documentation.
macro_rules! by_and_reason {
    ($(#[$more:meta])*) => {
        /// Names the operator in the audit: at most 255 bytes. Without it the audit names the role
        /// of the database session.
        pub fn by(self, operator: impl Into<String>) -> Self {
            Self { audited: self.audited.by(operator), ..self }
        }

        /// States the reason in the audit: at most 4,096 bytes. An empty one states none.
        $(#[$more])*
        pub fn reason(self, reason: impl Into<String>) -> Self {
            Self { audited: self.audited.reason(reason), ..self }
        }
    };
}

pub(super) use by_and_reason;
