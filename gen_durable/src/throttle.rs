//! Bounds the log lines about a condition that lasts: one a minute for each subject.
//!
//! Invariant: the first line about a subject is never held back.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// The shortest time between two lines about one subject.
const PAUSE: Duration = Duration::from_mins(1);
/// The most subjects that are remembered. Beyond that, subjects without a line in the last minute
/// are forgotten.
const SUBJECTS_MAX: usize = 1000;

/// The last line about each subject.
#[derive(Debug, Default)]
pub(crate) struct Throttle {
    last: Mutex<HashMap<String, Line>>,
}

#[derive(Debug)]
struct Line {
    at: Instant,
    held_back: u64,
}

impl Throttle {
    /// Returns the number of lines that were held back since the last one, if a line about this
    /// subject may be logged now.
    pub(crate) fn allows(&self, subject: &str) -> Option<u64> {
        self.allows_at(subject, Instant::now())
    }

    fn allows_at(&self, subject: &str, now: Instant) -> Option<u64> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let recent = |line: &Line| now.saturating_duration_since(line.at) < PAUSE;
        if let Some(line) = last.get_mut(subject) {
            if recent(line) {
                line.held_back += 1;
                return None;
            }
            line.at = now;
            return Some(std::mem::take(&mut line.held_back));
        }
        if last.len() >= SUBJECTS_MAX {
            last.retain(|_, line| recent(line));
        }
        if last.len() < SUBJECTS_MAX {
            last.insert(subject.to_owned(), Line { at: now, held_back: 0 });
        }
        Some(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subject_has_a_line_a_minute_and_others_have_theirs() {
        let (throttle, now) = (Throttle::default(), Instant::now());
        assert_eq!(throttle.allows_at("a", now), Some(0));
        assert_eq!(throttle.allows_at("a", now), None);
        assert_eq!(throttle.allows_at("b", now), Some(0));
        assert_eq!(throttle.allows_at("a", now + PAUSE / 2), None);
        assert_eq!(throttle.allows_at("a", now + PAUSE), Some(2));
        assert_eq!(throttle.allows_at("a", now + PAUSE), None);
    }

    #[test]
    fn subjects_without_end_take_no_memory_without_end() {
        let (throttle, now) = (Throttle::default(), Instant::now());
        for subject in 0..SUBJECTS_MAX * 2 {
            assert_eq!(throttle.allows_at(&subject.to_string(), now), Some(0));
        }
        assert_eq!(throttle.last.lock().map(|last| last.len()).ok(), Some(SUBJECTS_MAX));
        assert_eq!(throttle.allows_at("later", now + PAUSE), Some(0));
        assert_eq!(throttle.last.lock().map(|last| last.len()).ok(), Some(1));
    }
}
