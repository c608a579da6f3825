//! Tries of something that needs a row which somebody else has locked.
//!
//! If others have the row locked one after another, it may be so at every try. So after some of them
//! whoever tries may wait in Postgres's own queue for the row, behind those who came before. Places to
//! wait are few, as each takes a connection. Whoever waited in vain asks for one only after twice as
//! many tries: in time, those whose rows are locked for long leave the places free most of the time,
//! and one whose row quick transactions have locked in turn finds a place at one of its next tries.
//!
//! Invariant: nobody stops asking, so nobody starves.

use std::{
    hash::{BuildHasher, Hasher, RandomState},
    time::Duration,
};

/// The first and the longest pause before the next try.
const PAUSE_MIN: Duration = Duration::from_millis(2);
const PAUSE_MAX: Duration = Duration::from_millis(100);
/// After so many tries one may wait. Twice as many after it waited in vain, up to the most: at the
/// longest pause, that is about a minute.
const TRIES_MIN: u32 = 5;
const TRIES_MAX: u32 = 640;

/// How often a row was found locked since it was last waited for, at how many such tries it may be
/// waited for again, and how long to pause before the next one.
#[derive(Debug)]
pub(crate) struct Tries {
    count: u32,
    count_max: u32,
    pause: Duration,
}

impl Tries {
    pub(crate) fn new() -> Self {
        Self { count: 0, count_max: TRIES_MIN, pause: PAUSE_MIN }
    }

    /// Counts a try that found the row locked; whether it may be waited for now.
    pub(crate) fn found_locked(&mut self) -> bool {
        self.count = self.count.saturating_add(1);
        self.count >= self.count_max
    }

    /// It was waited for in vain.
    pub(crate) fn waited(&mut self) {
        self.count = 0;
        self.count_max = (self.count_max * 2).min(TRIES_MAX);
    }

    /// The pause before the next try.
    pub(crate) fn pause(&mut self) -> Duration {
        let pause = self.pause;
        self.pause = (pause * 2).min(PAUSE_MAX);
        pause
    }
}

/// A pause of about this length. The randomness is that of the standard library's hash maps: good
/// enough to spread load, and no dependency.
pub(crate) fn jittered(pause: Duration) -> Duration {
    let random = RandomState::new().build_hasher().finish();
    pause.mul_f64(0.75 + f64::from(u16::try_from(random & 0x7fff).unwrap_or(0)) / 65534.0)
}

#[cfg(test)]
mod tests {
    use super::*;

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
            // At every further try as well, if somebody else is waiting.
            assert!(row.found_locked());
            assert!(row.found_locked());
            row.waited();
        }
    }
}
