//! Log lines that every call would repeat.
//!
//! Invariant: one is due at first, and then no sooner than [`PAUSE`] after the last.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// The shortest time between two lines.
const PAUSE: Duration = Duration::from_mins(1);

/// When a line was last logged.
#[derive(Debug, Default)]
pub(crate) struct Rarely {
    last: Mutex<Option<Instant>>,
}

impl Rarely {
    /// Whether to log the line now.
    pub(crate) fn is_due(&self) -> bool {
        self.is_due_at(Instant::now())
    }

    fn is_due_at(&self, now: Instant) -> bool {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let due = last.is_none_or(|last| now.saturating_duration_since(last) >= PAUSE);
        if due {
            *last = Some(now);
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_logged_once_a_minute() {
        let (rarely, now) = (Rarely::default(), Instant::now());
        let due = [0, 1, 59, 60, 61, 120]
            .map(|second| rarely.is_due_at(now + Duration::from_secs(second)));
        assert_eq!(due, [true, false, false, true, false, true]);
    }
}
