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
}

/// A fault and its time, from the beginning of the run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Event {
    pub(crate) at: Duration,
    pub(crate) fault: Fault,
}

/// The faults of a run, in order.
pub(crate) fn schedule(seed: u64, time: Duration, workers: usize) -> Vec<Event> {
    let mut random = Random::new(seed);
    let mut events = Vec::new();
    let end = millis(time);
    let mut now = 1500;
    while now < end {
        let worker = usize::try_from(random.below(workers as u64)).unwrap_or(0);
        let proxy = usize::try_from(random.below(workers as u64 + 1)).unwrap_or(0);
        let mut add = |after: u64, fault| {
            events.push(Event { at: Duration::from_millis(now + after), fault });
        };
        match random.below(100) {
            0..20 => {
                add(0, Fault::Kill(worker));
                add(random.between(50, 1500), Fault::Start(worker));
            }
            20..40 => {
                add(0, Fault::Stop(worker));
                let pause = random.between(50, 5000);
                // Some never wake up.
                if random.below(4) == 0 {
                    add(pause, Fault::Kill(worker));
                    add(pause + 100, Fault::Start(worker));
                } else {
                    add(pause, Fault::GoOn(worker));
                }
            }
            40..48 => {
                add(0, Fault::ShutDown(worker));
                add(random.between(100, 1000), Fault::Start(worker));
            }
            48..56 => {
                let mode = if random.below(3) == 0 { Mode::Fast } else { Mode::Immediate };
                add(0, Fault::Postgres(mode));
                add(random.between(10, 2500), Fault::PostgresBack);
            }
            56..66 => add(0, Fault::Terminate),
            66..80 => add(0, Fault::Cut(proxy)),
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

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
