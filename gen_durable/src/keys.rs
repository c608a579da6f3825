//! Checks of keys and names, which a `text` column and its indexes must be able to hold.
//!
//! Invariant: a key or a name fits an index entry, and none is empty. A caller that leaves a key
//! empty has forgotten it, and would share it with every other caller that did the same.

use crate::error::EncodeError;

/// The longest key, in bytes. A B-tree entry must fit a third of a page (2,704 bytes) with all its
/// columns: a partition key beside the names of a queue and a machine.
const KEY_MAX: usize = 1024;
/// The longest name of a queue, a machine, a step or a signal, in bytes.
pub(crate) const NAME_MAX: usize = 255;
/// The longest reason for an action, in bytes.
const REASON_MAX: usize = 4096;
/// The beginning of the names of reports. No signal and no deduplication key of a user's begins
/// like this.
pub(crate) const RESERVED: &str = "ended(";

/// Refuses a key that is empty or cannot be stored.
pub(crate) fn check_key(what: &'static str, key: Option<&str>) -> Result<(), EncodeError> {
    key.map_or(Ok(()), |key| check(what, key, KEY_MAX))
}

/// Refuses a name that is empty or cannot be stored.
pub(crate) fn check_name(what: &'static str, name: &str) -> Result<(), EncodeError> {
    check(what, name, NAME_MAX)
}

/// Refuses the name of an operator that is empty or cannot be stored.
pub(crate) fn check_actor(name: Option<&str>) -> Result<(), EncodeError> {
    name.map_or(Ok(()), |name| check("the name of the operator", name, NAME_MAX))
}

/// Refuses a reason that cannot be stored.
pub(crate) fn check_reason(reason: Option<&str>) -> Result<(), EncodeError> {
    reason.map_or(Ok(()), |reason| check("reason", reason, REASON_MAX))
}

/// Refuses the name of a signal that is reserved, is empty or cannot be stored.
pub(crate) fn check_signal_name(name: &str) -> Result<(), EncodeError> {
    check_not_reserved("signal name", Some(name))?;
    check_name("signal name", name)
}

/// Refuses a deduplication key that is reserved, is empty or cannot be stored.
pub(crate) fn check_dedup_key(key: Option<&str>) -> Result<(), EncodeError> {
    check_not_reserved("dedup_key", key)?;
    check_key("dedup_key", key)
}

fn check_not_reserved(what: &'static str, text: Option<&str>) -> Result<(), EncodeError> {
    if text.is_some_and(|text| text.starts_with(RESERVED)) {
        return Err(EncodeError::Reserved { what, prefix: RESERVED });
    }
    Ok(())
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
