//! The error of a stored value that does not fit the type that reads it.
//!
//! Invariant: the message says nothing of the value itself.

use std::fmt;

/// A stored value does not fit the type that reads it.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
#[error(
    "{what} does not decode{} in machine `{machine}` version {version}: {reason}; {}",
    Place(.field),
    advice(.what)
)]
pub struct DecodeError {
    /// The value that was read: the state, a result, or the payload of a signal.
    pub what: String,
    /// The machine.
    pub machine: &'static str,
    /// The machine's version.
    pub version: u32,
    /// The path to the field. It is `.` if the whole value does not fit.
    pub field: String,
    /// The reason why the field does not fit.
    pub reason: String,
}

/// Says what helps.
fn advice(what: &str) -> &'static str {
    if what.starts_with("payload of signal") {
        "send it as its type is written, and remove this one by `discard_signal`"
    } else {
        "make the field optional or raise the machine's version"
    }
}

/// The place in a value, as a part of a message.
struct Place<'a>(&'a str);

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == "." { Ok(()) } else { write!(f, " at field `{}`", self.0) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_message_says_where_and_what_helps() {
        let error = |what: &str, field: &str| {
            let (what, field) = (what.to_owned(), field.to_owned());
            let reason = "invalid type: null".to_owned();
            DecodeError { what, machine: "order", version: 2, field, reason }.to_string()
        };
        assert_eq!(
            error("state", "items[3].price"),
            "state does not decode at field `items[3].price` in machine `order` version 2: \
             invalid type: null; make the field optional or raise the machine's version"
        );
        assert_eq!(
            error("payload of signal `paid` (signal 41)", "."),
            "payload of signal `paid` (signal 41) does not decode in machine `order` version 2: \
             invalid type: null; send it as its type is written, and remove this one by \
             `discard_signal`"
        );
    }
}
