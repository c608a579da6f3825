//! The wake backoff: how soon an announcement of another process is followed.
//!
//! Many processes hear of one row, and one of them gets it. A process that found nothing follows
//! the next announcement a little later. The pause grows with each announcement that led to
//! nothing. A process that finds work follows at once.
//!
//! Invariant: each announcement is followed, after [`PAUSE_MAX`] at most. An announcement that
//! comes after a time of silence is followed at once.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use crate::backoff::Backoff;

/// The first and the longest pause between an announcement that led to nothing and the next one
/// that is followed.
const PAUSE_MIN: Duration = Duration::from_millis(2);
const PAUSE_MAX: Duration = Duration::from_millis(32);

/// The pause before this process follows an announcement, after others that led to nothing.
#[derive(Debug)]
pub(crate) struct WakeBackoff {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// The claimer was woken by an announcement, and has not said what it found.
    raised: bool,
    /// The time of the last announcement that led to nothing, and the pause after it.
    last: Option<(Instant, Duration)>,
    backoff: Backoff,
}

impl Default for WakeBackoff {
    fn default() -> Self {
        let backoff = Backoff::new(PAUSE_MIN, PAUSE_MAX);
        Self { state: Mutex::new(State { raised: false, last: None, backoff }) }
    }
}

impl WakeBackoff {
    /// Returns the time at which to follow an announcement that is heard `now`, or none to follow
    /// it at once.
    pub(super) fn not_before(&self, now: Instant) -> Option<Instant> {
        let (at, pause) = self.lock().last?;
        let then = at + pause;
        (now < then).then_some(then)
    }

    /// Notes that an announcement is about to wake the claimer.
    pub(super) fn raise(&self) {
        self.lock().raised = true;
    }

    /// Notes that a claim has ended, and whether it found rows.
    pub(super) fn answered(&self, found: bool, now: Instant) {
        let mut state = self.lock();
        let raised = std::mem::take(&mut state.raised);
        if found {
            state.last = None;
        } else if raised {
            if state.last.is_none_or(|(at, pause)| now >= at + pause * 2) {
                state.backoff.reset();
            }
            state.last = Some((now, state.backoff.pause()));
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
