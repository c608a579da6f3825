//! Retry policies: when `handle` tries a failed step again.
//!
//! Invariant: a delay is at most the policy's `max`, whatever the attempt. There are never more
//! than `max_attempts` runs that fail in a row.

use std::time::Duration;

use super::{Machine, context::Context, outcome::Outcome};
use crate::{backoff::jittered, error::StepError};

/// A policy that says how often a failed step is tried again, and after which delays.
///
/// `#[durable_fsm(retry(…))]` and `#[step(retry(…))]` make one from their options. A `handle` that
/// you write can use one too:
///
/// ```
/// use std::time::Duration;
///
/// use gen_durable::{Retry, StepErrorKind, prelude::*};
///
/// /// Eight runs, with delays of 1 s, 2 s, 4 s … and at most a minute between them.
/// const RETRY: Retry = Retry::exponential(Duration::from_secs(1))
///     .max_attempts(8)
///     .max(Duration::from_mins(1))
///     .jitter();
///
/// # #[durable_fsm(output = String)]
/// # pub enum Fetch { Get }
/// #[durable_fsm]
/// impl Fetch {
///     async fn get(cx: Context<Self>) -> StepResult<Self> {
///         let page = tokio::fs::read_to_string("/etc/hostname").await?;
///         Ok(cx.done(page))
///     }
///
///     async fn handle(cx: Context<Self>, error: StepError) -> Outcome<Self> {
///         if error.kind() == StepErrorKind::Panicked {
///             return cx.stop(error);
///         }
///         RETRY.decide(cx, error)
///     }
/// }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retry {
    max_attempts: u32,
    backoff: Backoff,
    initial: Duration,
    max: Duration,
    jitter: bool,
}

/// The way in which the delays grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Backoff {
    Constant,
    Linear,
    Exponential,
}

impl Retry {
    /// The number of runs that may fail in a row, if a policy states no
    /// [`max_attempts`](Self::max_attempts).
    const MAX_ATTEMPTS: u32 = 5;
    /// The longest delay of a policy that states no [`max`](Self::max).
    const MAX: Duration = Duration::from_mins(5);

    /// Makes a policy without a second run: the same as having no policy.
    pub const fn never() -> Self {
        Self::constant(Duration::ZERO).max_attempts(1)
    }

    /// Makes a policy with the same delay each time. It has five runs, unless
    /// [`max_attempts`](Self::max_attempts) sets another number.
    pub const fn constant(delay: Duration) -> Self {
        Self::new(Backoff::Constant, delay)
    }

    /// Makes a policy whose delay grows by `initial` each time, to five minutes at most. It has
    /// five runs, unless [`max_attempts`](Self::max_attempts) sets another number.
    pub const fn linear(initial: Duration) -> Self {
        Self::new(Backoff::Linear, initial)
    }

    /// Makes a policy whose delay doubles each time, beginning with `initial`, to five minutes at
    /// most. It has five runs, unless [`max_attempts`](Self::max_attempts) sets another number.
    pub const fn exponential(initial: Duration) -> Self {
        Self::new(Backoff::Exponential, initial)
    }

    const fn new(backoff: Backoff, initial: Duration) -> Self {
        // A caller who states a first delay of an hour means it: the usual longest delay does not
        // cut it.
        let max = if initial.as_nanos() > Self::MAX.as_nanos() { initial } else { Self::MAX };
        Self { max_attempts: Self::MAX_ATTEMPTS, backoff, initial, max, jitter: false }
    }

    /// Sets the number of runs of the step that may fail in a row before it is given up. 0 counts
    /// as 1.
    ///
    /// A `replay`, a `snooze` and a wake-up of the step itself begin the count anew. A run that a
    /// lost worker cut short is not counted.
    #[must_use]
    pub const fn max_attempts(mut self, runs: u32) -> Self {
        self.max_attempts = if runs == 0 { 1 } else { runs };
        self
    }

    /// Sets the longest delay.
    #[must_use]
    pub const fn max(mut self, delay: Duration) -> Self {
        self.max = delay;
        self
    }

    /// Varies each delay by up to a quarter, in both directions. Steps that failed together are
    /// then not tried again together.
    #[must_use]
    pub const fn jitter(mut self) -> Self {
        self.jitter = true;
        self
    }

    /// Returns the delay before the next run, or none if there is no next run. `failures` counts
    /// the runs that failed in a row before the one that has just failed.
    pub fn delay(&self, failures: u32) -> Option<Duration> {
        if failures >= self.max_attempts - 1 {
            return None;
        }
        let delay = match self.backoff {
            Backoff::Constant => self.initial,
            Backoff::Linear => self.initial.saturating_mul(failures.saturating_add(1)),
            Backoff::Exponential => {
                self.initial.saturating_mul(2_u32.checked_pow(failures).unwrap_or(u32::MAX))
            }
        };
        let delay = delay.min(self.max);
        // A delay of more than a century needs no jitter, and the arithmetic would overflow.
        let jitter = self.jitter && delay < Duration::from_secs(u64::from(u32::MAX));
        Some(if jitter { jittered(delay).min(self.max) } else { delay })
    }

    /// Makes the outcome that follows the error: [`replay`](Context::replay) after the delay, or
    /// [`stop`](Context::stop) with the error if there is no further run.
    pub fn decide<M: Machine>(&self, cx: Context<M>, error: StepError) -> Outcome<M> {
        match self.delay(cx.failures()) {
            Some(delay) => cx.replay(delay),
            None => cx.stop(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn seconds(retry: Retry) -> Vec<u64> {
        (0..).map_while(|attempt| retry.delay(attempt)).map(|delay| delay.as_secs()).collect()
    }

    #[test]
    fn delays_grow_as_they_are_told() {
        assert_eq!(seconds(Retry::constant(SECOND)), [1, 1, 1, 1]);
        assert_eq!(seconds(Retry::linear(SECOND)), [1, 2, 3, 4]);
        assert_eq!(seconds(Retry::exponential(SECOND)), [1, 2, 4, 8]);
        assert_eq!(seconds(Retry::exponential(SECOND).max(SECOND * 3)), [1, 2, 3, 3]);
        assert_eq!(seconds(Retry::exponential(SECOND).max_attempts(2)), [1]);
        assert_eq!(seconds(Retry::never()), [0_u64; 0]);
        assert_eq!(seconds(Retry::exponential(SECOND).max_attempts(0)), [0_u64; 0]);
    }

    #[test]
    fn no_attempt_is_too_large() {
        for retry in [Retry::linear(Duration::MAX), Retry::exponential(SECOND)] {
            let retry = retry.max_attempts(u32::MAX);
            for attempt in [31, 32, 63, u32::MAX - 2] {
                let most = if retry.initial == SECOND { Retry::MAX } else { Duration::MAX };
                assert_eq!(retry.delay(attempt), Some(most), "{attempt}");
                assert!(retry.jitter().delay(attempt) <= Some(most), "{attempt}");
            }
            assert_eq!(retry.delay(u32::MAX - 1), None);
            assert_eq!(retry.delay(u32::MAX), None);
        }
    }

    #[test]
    fn a_long_first_delay_is_not_cut_short() {
        let hour = Duration::from_hours(1);
        assert_eq!(Retry::constant(hour).delay(0), Some(hour));
        assert_eq!(Retry::constant(hour).max(SECOND).delay(0), Some(SECOND));
    }

    #[test]
    fn jitter_stays_close_and_below_the_longest() {
        let retry = Retry::constant(SECOND).max(SECOND).jitter();
        for _ in 0..1000 {
            let delay = retry.delay(0).expect("a second run");
            assert!((SECOND * 3 / 4..=SECOND).contains(&delay), "{delay:?}");
        }
    }
}
