//! The age at which an engine closes a connection, and the idleness after which it tests one.
//!
//! Invariant: no connection lives longer than the caller's pool lets its own live. Connections that
//! were opened together do not end together.

use std::{
    hash::{BuildHasher, Hasher, RandomState},
    time::{Duration, Instant},
};

use sqlx::postgres::PgPoolOptions;

/// The longest life of a connection if the caller's pool sets none.
const AGE_MAX: Duration = Duration::from_mins(30);
/// The longest life that counts. Longer lives mean the same, and with this bound no clock
/// overflows.
const FOR_EVER: Duration = Duration::from_hours(365 * 24);
/// The longest idleness without a test. A firewall may have forgotten a connection that was idle
/// for longer, and tells neither side.
const IDLE_MAX: Duration = Duration::from_mins(1);

/// The limits of each connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Age {
    /// Half of the longest age. The engine keeps a connection for that long, and so does its pool.
    ///
    /// The pool does not tell the age of an idle connection. The engine may therefore keep one for
    /// half a life after it has spent the other half in the pool.
    pub(super) half: Duration,
    idle_max: Duration,
}

impl Age {
    /// Returns the limits of a pool with these options.
    pub(super) fn of(options: &PgPoolOptions) -> Self {
        let age_max = options.get_max_lifetime().unwrap_or(AGE_MAX);
        let idle_max = options.get_idle_timeout().unwrap_or(IDLE_MAX);
        Self {
            half: (age_max.min(FOR_EVER) / 2).max(Duration::from_millis(1)),
            idle_max: idle_max.min(IDLE_MAX),
        }
    }

    /// Returns the time until which a connection that is opened now is kept. It is earlier than it
    /// may be, by a random part of up to a tenth.
    pub(super) fn end(&self, now: Instant) -> Instant {
        // This is random enough to spread load, as in the engine's pauses.
        let random = RandomState::new().build_hasher().finish();
        let less = f64::from(u16::try_from(random & 0x7fff).unwrap_or(0)) / 327_670.0;
        now + self.half.mul_f64(1.0 - less)
    }

    /// True if a connection that was used last at that time must be tested.
    pub(super) fn needs_test(&self, used: Instant, now: Instant) -> bool {
        now.saturating_duration_since(used) >= self.idle_max
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p67_connections_end_within_a_life_and_not_together() {
        let now = Instant::now();
        for (options, max) in [
            (PgPoolOptions::new().max_lifetime(Duration::from_mins(10)), Duration::from_mins(10)),
            (PgPoolOptions::new().max_lifetime(None), AGE_MAX),
        ] {
            let age = Age::of(&options);
            let ends: Vec<Instant> = (0..1000).map(|_| age.end(now)).collect();
            let (first, last) = (ends.iter().min().copied(), ends.iter().max().copied());
            assert!(first >= Some(now + max.mul_f64(0.449)), "a tenth less at most: {age:?}");
            assert!(last <= Some(now + max / 2), "the pool may have had it as long: {age:?}");
            assert!(last > first.map(|first| first + max / 100), "they are spread: {age:?}");
            assert!(age.half + max / 2 <= max);
        }
        let for_ever = Age::of(&PgPoolOptions::new().max_lifetime(Duration::MAX));
        assert!(for_ever.end(now) > now + FOR_EVER / 3, "{for_ever:?}");
    }

    #[test]
    fn p67_a_connection_is_tested_after_a_minute_of_idleness() {
        let used = Instant::now();
        let age = |idle| Age::of(&PgPoolOptions::new().idle_timeout(idle));
        for idle in [None, Some(Duration::from_mins(10))] {
            assert!(!age(idle).needs_test(used, used + Duration::from_secs(59)));
            assert!(age(idle).needs_test(used, used + Duration::from_mins(1)));
        }
        let short = age(Some(Duration::from_secs(5)));
        assert!(short.needs_test(used, used + Duration::from_secs(5)));
        assert!(!short.needs_test(used, used + Duration::from_secs(4)));
    }
}
