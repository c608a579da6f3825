//! Which faults come when, from a seed.
//!
//! Invariant: the same seed, time and number of workers give the same schedule.

use std::time::Duration;

use gen_durable_test_postgres::Mode;
use gen_durable_tests::random::Random;

/// Something that is done to the fleet. What does not apply (to stop a dead worker) does nothing.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Fault {
    /// SIGKILL.
    Kill(usize),
    /// A worker that is not running is started.
    Start(usize),
    /// SIGSTOP.
    Stop(usize),
    /// SIGCONT.
    GoOn(usize),
    /// A graceful shutdown.
    ShutDown(usize),
    /// Postgres is stopped.
    Postgres(Mode),
    /// Postgres is started.
    PostgresBack,
    /// Every connection's server process is terminated.
    Terminate,
    /// The connections through this proxy are cut. The driver's is the last one.
    Cut(usize),
    /// The connections through this proxy are half open from now on, for good.
    Freeze(usize),
    /// Through this proxy everything arrives so much later.
    Delay(usize, Duration),
    /// The worker's wall clock jumps: from now on it is so many seconds ahead, or behind.
    Clock(usize, i64),
    /// The clock of Postgres jumps.
    PostgresClock(i64),
}

/// A fault and its time, from the beginning of the run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Event {
    pub(crate) at: Duration,
    pub(crate) fault: Fault,
}

/// How far a worker's clock may be off, in seconds: ten days.
const SKEW_MAX: u64 = 864_000;
/// How far that of Postgres may be off: a few leases. What was put into the queue while it was ahead
/// waits until the right time has come there too, so it must not be hours.
const JUMP_MAX: u64 = 8;

/// The faults of a run, in order. The last worker is spared what ends a process: what it has in memory
/// in the end tells whether the engine leaks.
pub(crate) fn schedule(seed: u64, time: Duration, workers: usize) -> Vec<Event> {
    let mut random = Random::new(seed);
    let mut events = Vec::new();
    let end = millis(time);
    let mut now = 1500;
    while now < end {
        let worker = usize::try_from(random.below(workers as u64)).unwrap_or(0);
        let mortal = usize::try_from(random.below((workers as u64 - 1).max(1))).unwrap_or(0);
        let proxy = usize::try_from(random.below(workers as u64 + 1)).unwrap_or(0);
        let mut add = |after: u64, fault| {
            events.push(Event { at: Duration::from_millis(now + after), fault });
        };
        match random.below(100) {
            0..20 => {
                add(0, Fault::Kill(mortal));
                add(random.between(50, 1500), Fault::Start(mortal));
            }
            20..38 => {
                add(0, Fault::Stop(worker));
                let pause = random.between(50, 5000);
                // Some never wake up.
                if random.below(4) == 0 && worker == mortal {
                    add(pause, Fault::Kill(worker));
                    add(pause + 100, Fault::Start(worker));
                } else {
                    add(pause, Fault::GoOn(worker));
                }
            }
            38..46 => {
                add(0, Fault::ShutDown(mortal));
                add(random.between(100, 1000), Fault::Start(mortal));
            }
            46..50 => add(0, Fault::Clock(worker, offset(&mut random, SKEW_MAX))),
            50..54 => add(0, Fault::PostgresClock(offset(&mut random, JUMP_MAX))),
            54..60 => {
                let mode = if random.below(3) == 0 { Mode::Fast } else { Mode::Immediate };
                add(0, Fault::Postgres(mode));
                add(random.between(10, 2500), Fault::PostgresBack);
            }
            60..67 => add(0, Fault::Terminate),
            67..80 => add(0, Fault::Cut(proxy)),
            80..90 => add(0, Fault::Freeze(proxy)),
            _ => {
                add(0, Fault::Delay(proxy, Duration::from_millis(random.between(1, 200))));
                add(random.between(200, 3000), Fault::Delay(proxy, Duration::ZERO));
            }
        }
        now += random.between(100, 900);
    }
    events.retain(|event| millis(event.at) <= end);
    events.sort_by_key(|event| event.at);
    events
}

/// How far the clock of each worker is off when it starts: some go right, some do not.
pub(crate) fn skews(seed: u64, workers: usize) -> Vec<i64> {
    let mut random = Random::new(seed ^ 3);
    (0..workers)
        .map(|worker| if worker % 2 == 0 { offset(&mut random, SKEW_MAX) } else { 0 })
        .collect()
}

fn offset(random: &mut Random, max: u64) -> i64 {
    i64::try_from(random.below(2 * max + 1)).unwrap_or(0) - i64::try_from(max).unwrap_or(0)
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
