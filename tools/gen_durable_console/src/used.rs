//! The forms that were sent to this process: a form that has acted does not act again.
//!
//! Invariant: it keeps a bounded number of them.

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
};

/// The field of a form that tells it from others.
pub(crate) const ONCE: &str = "once";
/// The forms that are kept. A person sends a form again within moments.
const KEPT: usize = 1_000;
/// The bytes of the field, as a form has it.
const BYTES: usize = 64;

/// The forms that were sent last.
#[derive(Debug, Default)]
pub(crate) struct Used(Mutex<VecDeque<String>>);

impl Used {
    /// Notes a form. False if it was sent before. A value of another length is not from a page of
    /// this console. It is not noted, so such a form acts each time.
    pub(crate) fn take(&self, once: &str) -> bool {
        if once.len() != BYTES {
            return true;
        }
        let mut used = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if used.iter().any(|known| known == once) {
            return false;
        }
        if used.len() == KEPT {
            used.pop_front();
        }
        used.push_back(once.to_owned());
        true
    }

    /// Lets a form be sent again that has done nothing.
    pub(crate) fn give_back(&self, once: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|known| known != once);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_acts_once_unless_it_did_nothing() {
        let (used, form) = (Used::default(), "f".repeat(BYTES));
        assert!(used.take(&form));
        assert!(!used.take(&form));
        used.give_back(&form);
        assert!(used.take(&form));
        assert!(used.take("") && used.take(""));
        for n in 0..2 * KEPT {
            assert!(used.take(&format!("{n:064}")));
        }
        assert_eq!(used.0.lock().expect("no panic").len(), KEPT);
    }
}
