//! Pauses: [growing](Backoff) ones, [`jittered`] ones, and those of a caller that [tries](Tries)
//! again for a row which other transactions have locked.
//!
//! If transactions have the row locked one after another, each try may find it locked. Therefore
//! after some tries, the caller may wait in Postgres's own queue for the row, behind those that
//! came before. Places to wait are few, as each takes a connection. A caller that waited in vain
//! asks for one only after twice as many tries. In time, callers whose rows are locked for long
//! leave the places free most of the time. A caller whose row is locked by quick transactions, one
//! after another, then finds a place at one of its next tries.
//!
//! Invariant: every caller asks again, so none starves. A jittered pause is between three quarters
//! and five quarters of the given one.

use std::{
    hash::{BuildHasher, Hasher, RandomState},
    time::Duration,
};

/// The first and the longest pause before the next try.
const PAUSE_MIN: Duration = Duration::from_millis(2);
const PAUSE_MAX: Duration = Duration::from_millis(100);
/// The number of tries after which the caller may wait, at first and at most. It doubles each time
/// that the caller waited in vain. At the longest pause, the most tries take about a minute.
const TRIES_MIN: u32 = 5;
const TRIES_MAX: u32 = 640;

/// Pauses that double, from the first one up to the longest.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Backoff {
    first: Duration,
    longest: Duration,
    next: Duration,
}

impl Backoff {
    pub(crate) const fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest, next: first }
    }

    /// Returns the next pause, and doubles the one after it.
    pub(crate) fn pause(&mut self) -> Duration {
        let pause = self.next.min(self.longest);
        self.next = pause.saturating_mul(2);
        pause
    }

    /// Begins again with the first pause.
    pub(crate) fn reset(&mut self) {
        self.next = self.first;
    }
}

/// The history of the tries for a row: those that found it locked since the last wait, the number
/// after which the caller may wait again, and the next pause.
#[derive(Debug)]
pub(crate) struct Tries {
    count: u32,
    count_max: u32,
    backoff: Backoff,
}

impl Tries {
    pub(crate) fn new() -> Self {
        Self { count: 0, count_max: TRIES_MIN, backoff: Backoff::new(PAUSE_MIN, PAUSE_MAX) }
    }

    /// Counts a try that found the row locked. True if the caller may wait for the row now.
    pub(crate) fn found_locked(&mut self) -> bool {
        self.count = self.count.saturating_add(1);
        self.count >= self.count_max
    }

    /// Notes that the caller waited in vain.
    pub(crate) fn waited(&mut self) {
        self.count = 0;
        self.count_max = (self.count_max * 2).min(TRIES_MAX);
    }

    /// Returns the pause before the next try, and doubles the one after it, up to the longest.
    pub(crate) fn pause(&mut self) -> Duration {
        self.backoff.pause()
    }
}

/// Returns a pause of about this length. The randomness is that of the standard library's hash
/// maps: it is good enough to spread load, and needs no dependency.
pub(crate) fn jittered(pause: Duration) -> Duration {
    let random = RandomState::new().build_hasher().finish();
    pause.mul_f64(0.75 + f64::from(u16::try_from(random & 0x7fff).unwrap_or(0)) / 65534.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest_and_begin_anew() {
        let mut backoff = Backoff::new(Duration::from_millis(3), Duration::from_millis(10));
        let pauses: Vec<_> = (0..4).map(|_| backoff.pause().as_millis()).collect();
        assert_eq!(pauses, [3, 6, 10, 10]);
        backoff.reset();
        assert_eq!(backoff.pause().as_millis(), 3);
    }

    #[test]
    fn stays_within_a_quarter() {
        for _ in 0..1000 {
            let pause = jittered(Duration::from_secs(4));
            assert!(
                (Duration::from_secs(3)..=Duration::from_secs(5)).contains(&pause),
                "{pause:?}"
            );
        }
    }

    #[test]
    fn who_waited_in_vain_waits_again_but_ever_more_rarely() {
        let mut row = Tries::new();
        for tries in [5, 10, 20, 40, 80, 160, 320, 640, 640, 640] {
            for _ in 1..tries {
                assert!(!row.found_locked());
            }
            // If all places are taken, the caller may wait at each further try too.
            assert!(row.found_locked());
            assert!(row.found_locked());
            row.waited();
        }
    }
}
