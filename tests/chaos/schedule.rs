//! The schedule of the faults, made from a seed.

use std::time::Duration;

use gen_durable_postgres::Mode;
use gen_durable_tests::random::Random;

use crate::administrator::Harm;

/// A fault, or its end. A fault that does not apply, such as stopping a dead worker, does nothing.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Fault {
    /// The worker gets SIGKILL.
    Kill(usize),
    /// The worker is started, if it does not run.
    Start(usize),
    /// The worker gets SIGSTOP.
    Stop(usize),
    /// The worker gets SIGCONT.
    GoOn(usize),
    /// The worker shuts down gracefully.
    ShutDown(usize),
    /// Postgres is stopped.
    Postgres(Mode),
    /// Postgres is started.
    PostgresBack,
    /// Postgres terminates the server process of every connection.
    Terminate,
    /// The connections through this proxy are cut. The driver's proxy is the last one.
    Cut(usize),
    /// The connections through this proxy are half open from now on, for good.
    Freeze(usize),
    /// All that goes through this proxy arrives this much later.
    Delay(usize, Duration),
    /// The worker's wall clock jumps. It is this many seconds ahead from now on, or behind if
    /// negative.
    Clock(usize, i64),
    /// The clock of Postgres jumps.
    PostgresClock(i64),
    /// The administrator breaks something in the database.
    Harm(Harm),
    /// The administrator mends it.
    Mend,
    /// New connections begin at this isolation level; none stands for Postgres's default.
    Isolation(Option<&'static str>),
    /// The logins get another password, which neither workers nor driver know yet.
    Rotate,
    /// Workers and driver are told the password.
    Tell,
    /// A caller inserts this many rows of this many bytes at once.
    Giants(u32, usize),
    /// Callers send this many signals of this many bytes to one instance.
    Inbox(u32, usize),
    /// A caller's transaction holds a row or a key for this time. It is committed if the flag is
    /// true.
    Hold(Hold, Duration, bool),
}

/// The kind of lock that a caller's transaction holds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Hold {
    /// The row of an instance.
    Row,
    /// A unique key.
    Key,
}

/// A fault and its time, from the beginning of the run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Event {
    pub(crate) at: Duration,
    pub(crate) fault: Fault,
}

/// The most seconds by which a worker's clock may be wrong: ten days.
const SKEW_MAX: u64 = 864_000;
/// The most seconds by which the clock of Postgres may be wrong: a few leases. A row that is
/// inserted while the clock is ahead waits until the right time has reached that moment. Therefore
/// it must not be hours.
const JUMP_MAX: u64 = 8;

const MIB: u64 = 1024 * 1024;
const HARMS: [Harm; 6] = [
    Harm::Rights,
    Harm::Rights,
    Harm::Table("instances"),
    Harm::Table("signals"),
    Harm::Table("workers"),
    Harm::Schema,
];

/// Returns the faults of a run, in order. No fault ends the process of the last worker: its memory
/// at the end tells if the engine leaks.
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
                // Some workers never continue.
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
    meanwhile(&mut Random::new(seed ^ 4), end, &mut events);
    events.retain(|event| millis(event.at) <= end);
    events.sort_by_key(|event| event.at);
    events
}

/// Adds the acts of the administrator and of callers. They follow from random numbers of their own,
/// so that the other faults are the same as without them.
fn meanwhile(random: &mut Random, end: u64, events: &mut Vec<Event>) {
    let mut now = 1000;
    while now < end {
        let mut add = |after: u64, fault| {
            events.push(Event { at: Duration::from_millis(now + after), fault });
        };
        match random.below(100) {
            0..20 => {
                add(0, Fault::Harm(pick(random, &HARMS)));
                add(random.between(300, 2000), Fault::Mend);
            }
            20..35 => {
                add(0, Fault::Isolation(Some(pick(random, &["serializable", "repeatable read"]))));
                // An open connection keeps its isolation level.
                if random.below(2) == 0 {
                    add(50, Fault::Terminate);
                }
                add(random.between(1000, 6000), Fault::Isolation(None));
            }
            35..48 => {
                let bytes = random.between(MIB / 4, 6 * MIB);
                add(0, Fault::Giants(together(bytes, 16 * MIB), size(bytes)));
            }
            48..54 => {
                let signals = u32::try_from(random.between(1000, 2500)).unwrap_or(1);
                add(0, Fault::Inbox(signals, size(random.below(64))));
            }
            54..62 => {
                let bytes = random.between(MIB / 8, MIB);
                add(0, Fault::Inbox(together(bytes, 8 * MIB), size(bytes)));
            }
            62..83 => {
                let time = Duration::from_millis(random.between(500, 6000));
                let hold = pick(random, &[Hold::Row, Hold::Key]);
                add(0, Fault::Hold(hold, time, random.below(2) == 0));
            }
            _ => {
                add(0, Fault::Rotate);
                if random.below(2) == 0 {
                    add(random.between(0, 500), Fault::Terminate);
                }
                add(random.between(0, 1500), Fault::Tell);
            }
        }
        now += random.between(600, 2600);
    }
}

fn pick<T: Copy>(random: &mut Random, choices: &[T]) -> T {
    choices[usize::try_from(random.below(choices.len() as u64)).unwrap_or(0)]
}

/// Returns how many items of this size have that many bytes together.
fn together(bytes: u64, all: u64) -> u32 {
    u32::try_from(all / bytes).unwrap_or(1)
}

fn size(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(0)
}

/// Returns by how many seconds the clock of each worker is wrong when it starts. Every second clock
/// is right.
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
