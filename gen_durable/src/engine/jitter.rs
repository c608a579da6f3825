//! Random variation of pauses, so that processes that started together do not stay in step.
//!
//! Invariant: a jittered pause is between three quarters and five quarters of the given one.

use std::{
    hash::{BuildHasher, Hasher, RandomState},
    time::Duration,
};

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
}
