//! Keys and names, and what a `text` column and its indexes can hold of them.
//!
//! Invariant: whatever is in an index fits its entries, and nothing is told apart by an empty text:
//! who leaves a key empty has forgotten it, and would share it with everybody who has done the
//! same.

use crate::error::EncodeError;

/// The longest key, in bytes. A B-tree entry must fit a third of a page (2,704 bytes), together
/// with its neighbours: a partition key beside a queue's and a machine's name.
const KEY_MAX: usize = 1024;
/// The longest name of a queue, a machine, a step or a signal, in bytes.
const NAME_MAX: usize = 255;

/// Refuses a key that cannot be stored, or is empty.
pub(crate) fn check_key(what: &'static str, key: Option<&str>) -> Result<(), EncodeError> {
    key.map_or(Ok(()), |key| check(what, key, KEY_MAX))
}

/// Refuses a name that cannot be stored, or is empty.
pub(crate) fn check_name(what: &'static str, name: &str) -> Result<(), EncodeError> {
    check(what, name, NAME_MAX)
}

fn check(what: &'static str, text: &str, max: usize) -> Result<(), EncodeError> {
    if text.is_empty() {
        Err(EncodeError::Empty { what })
    } else if text.len() > max {
        Err(EncodeError::TooLong { what, bytes: text.len(), max })
    } else if text.contains('\0') {
        Err(EncodeError::Nul { what })
    } else {
        Ok(())
    }
}
