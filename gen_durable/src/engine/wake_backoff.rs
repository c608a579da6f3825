//! How soon another process's announcement is followed.
//!
//! Many processes hear of one row, and one of them gets it. Those that found nothing follow the next
//! announcement a little later, and the later the more often that happens; those that find work
//! follow at once.
//!
//! Invariant: an announcement is followed, after [`PAUSE_MAX`] at most; one that comes after a time of
//! silence is followed at once.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// The first and the longest time from a false alarm to the next.
const PAUSE_MIN: Duration = Duration::from_millis(2);
const PAUSE_MAX: Duration = Duration::from_millis(32);

/// What the listener knows of the wakes of a process.
#[derive(Debug, Default)]
pub(crate) struct WakeBackoff {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The claimer was woken, and has not said what it found.
    raised: bool,
    /// The last one that was false, and for how long after it none is followed.
    last: Option<(Instant, Duration)>,
}

impl WakeBackoff {
    /// When to follow an announcement that is heard `now`; none if at once.
    pub(super) fn not_before(&self, now: Instant) -> Option<Instant> {
        let (at, pause) = self.lock().last?;
        let then = at + pause;
        (now < then).then_some(then)
    }

    /// The claimer is about to be woken.
    pub(super) fn raise(&self) {
        self.lock().raised = true;
    }

    /// A claim has ended.
    pub(super) fn answered(&self, found: bool, now: Instant) {
        let mut state = self.lock();
        let raised = std::mem::take(&mut state.raised);
        if found {
            state.last = None;
        } else if raised {
            let pause = match state.last {
                Some((at, pause)) if now < at + pause * 2 => (pause * 2).min(PAUSE_MAX),
                _ => PAUSE_MIN,
            };
            state.last = Some((now, pause));
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wakes_in_vain_are_followed_ever_later_up_to_a_bound() {
        let wake_backoff = WakeBackoff::default();
        let mut now = Instant::now();
        assert_eq!(wake_backoff.not_before(now), None, "the first one at once");
        for pause in [2, 4, 8, 16, 32, 32].map(Duration::from_millis) {
            wake_backoff.raise();
            wake_backoff.answered(false, now);
            assert_eq!(wake_backoff.not_before(now), Some(now + pause));
            now += pause;
            assert_eq!(wake_backoff.not_before(now), None);
        }
    }

    #[test]
    fn work_that_was_found_and_silence_end_it() {
        let wake_backoff = WakeBackoff::default();
        let now = Instant::now();
        for _ in 0..5 {
            wake_backoff.raise();
            wake_backoff.answered(false, now);
        }
        assert_eq!(wake_backoff.not_before(now), Some(now + PAUSE_MAX));
        let later = now + PAUSE_MAX * 2;
        wake_backoff.raise();
        wake_backoff.answered(false, later);
        assert_eq!(wake_backoff.not_before(later), Some(later + PAUSE_MIN), "it begins anew");
        wake_backoff.answered(true, later);
        assert_eq!(wake_backoff.not_before(later), None);
    }

    #[test]
    fn a_look_of_its_own_that_finds_nothing_is_no_wake_in_vain() {
        let wake_backoff = WakeBackoff::default();
        let now = Instant::now();
        wake_backoff.answered(false, now);
        assert_eq!(wake_backoff.not_before(now), None);
    }
}
