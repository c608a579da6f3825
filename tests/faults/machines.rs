//! The machines of the chaos run. Together they use every outcome that there is.
//!
//! Invariant, on which the oracle builds: `state.n` grows by one with each `next`, and with nothing
//! else. Each machine goes along its edges in `EDGES` and ends as in `ENDS`. A chained or keyed
//! step records its run first, and ends it last. Its outcome carries the run.

use std::time::Duration;

use gen_durable::prelude::*;
use sqlx::PgPool;

use crate::{
    random::mix,
    runs::{self, Run},
};

/// The transitions that each machine may make: the machine, the step from which it goes, and the
/// one to which.
pub const EDGES: &[(&str, &str, &str)] = &[
    ("chain", "hop", "hop"),
    ("chain", "hop", "pause"),
    ("chain", "pause", "hop"),
    ("chain", "hop", "finish"),
    ("collector", "begin", "wait"),
    ("collector", "wait", "sum"),
    ("keyed", "first", "second"),
    ("booker", "book", "check"),
    ("booker", "check", "book"),
    ("booker", "book", "close"),
    ("booker", "check", "close"),
    ("order", "split", "join"),
    ("order", "join", "close"),
    ("parcel", "pack", "send"),
    ("parcel", "pack", "check"),
    ("parcel", "pack", "audit"),
    ("wild", "try", "end"),
    ("giant", "grow", "take"),
    ("giant", "take", "end"),
];

/// The steps in which each machine may end, and the status that it then has.
pub const ENDS: &[(&str, &str, &str)] = &[
    ("chain", "finish", "done"),
    ("collector", "sum", "done"),
    ("leaf", "work", "done"),
    ("leaf", "work", "failed"),
    ("keyed", "second", "done"),
    ("stopper", "try", "failed"),
    ("once", "do", "done"),
    ("held", "hold", "done"),
    ("booker", "close", "done"),
    ("order", "close", "done"),
    ("parcel", "send", "done"),
    ("parcel", "send", "failed"),
    ("parcel", "check", "done"),
    ("parcel", "check", "failed"),
    ("parcel", "audit", "done"),
    ("parcel", "audit", "failed"),
    ("wild", "end", "done"),
    ("giant", "end", "done"),
];

/// The number of the first external signal of a [`Collector`].
pub const EXTERNAL: u32 = 1000;

/// A signal with a number, to be collected.
#[derive(Clone, Debug, DurableSignal)]
pub struct Ping {
    /// The number.
    pub n: u32,
}

/// The state of a [`Chain`].
#[derive(Clone, Debug, Default, DurableState)]
pub struct ChainState {
    /// The number of steps that were committed.
    pub n: u32,
    /// The number of hops to make.
    pub hops: u32,
    /// The seed of its choices.
    pub seed: u32,
    /// The run that has this state as its outcome.
    #[serde(default)]
    pub run: Option<Run>,
}

/// Hops, with replays, errors, panics and delays in between.
#[derive(Debug)]
#[durable_fsm(state = ChainState, output = u32)]
pub enum Chain {
    /// Goes on, in a way that the seed chooses.
    Hop,
    /// Goes back to `Hop`.
    Pause,
    /// Ends.
    Finish,
}

#[durable_fsm]
impl Chain {
    async fn hop(mut cx: Context<Self>) -> StepResult<Self> {
        let run = runs::begin(&cx, cx.state.n).await;
        let choice = mix(u64::from(cx.state.seed), u64::from(cx.state.n));
        take_time(choice).await;
        cx.state.run = run.end().await;
        if cx.attempt() == 0 {
            let tell = |what| Run::tell(cx.state.run, what);
            match choice % 16 {
                0 => return Ok(cx.replay(Duration::from_millis(choice % 7))),
                1 => return Err(std::io::Error::other(tell("an error on purpose")).into()),
                2 => panic!("{}", tell("a panic on purpose")),
                _ => {}
            }
        }
        cx.state.n += 1;
        if cx.state.n > cx.state.hops {
            return Ok(cx.next(Chain::Finish));
        }
        match choice % 16 {
            3 | 4 => Ok(cx.next_in(Chain::Pause, Duration::from_millis(choice % 50))),
            5 => Ok(cx.next(Chain::Pause)),
            _ => Ok(cx.next(Chain::Hop)),
        }
    }

    async fn pause(mut cx: Context<Self>) -> Outcome<Self> {
        cx.state.run = runs::begin(&cx, cx.state.n).await.end().await;
        cx.state.n += 1;
        cx.next(Chain::Hop)
    }

    async fn finish(mut cx: Context<Self>) -> Outcome<Self> {
        cx.state.run = runs::begin(&cx, cx.state.n).await.end().await;
        let n = cx.state.n;
        cx.done(n)
    }

    async fn handle(mut cx: Context<Self>, error: StepError) -> Outcome<Self> {
        cx.state.run = Run::told(&error.to_string());
        cx.replay(Duration::from_millis(1))
    }
}

/// The state of a [`Collector`].
#[derive(Clone, Debug, Default, DurableState)]
pub struct CollectorState {
    /// The number of steps that were committed.
    pub n: u32,
    /// The number of leaves to insert. Each leaf sends its own number.
    pub leaves: u32,
    /// The number of signals that come from outside.
    pub external: u32,
    /// Its unique key, by which every second leaf signals it.
    #[serde(default)]
    pub key: Option<String>,
    /// The numbers that have come.
    #[serde(default)]
    pub got: Vec<u32>,
    /// The number of times that a timeout woke it.
    #[serde(default)]
    pub timeouts: u32,
}

/// Inserts its leaves, takes their signals and others, and ends with all numbers.
#[derive(Debug)]
#[durable_fsm(state = CollectorState, output = Vec<u32>, signals(Ping))]
pub enum Collector {
    /// Inserts the leaves.
    Begin,
    /// Takes what has come, and waits for more.
    Wait,
    /// Ends.
    Sum,
}

#[durable_fsm]
impl Collector {
    async fn begin(mut cx: Context<Self>) -> Outcome<Self> {
        let parent = cx.id();
        let key = |index: u32| cx.state.key.clone().filter(|_| !index.is_multiple_of(2));
        let leaf = |index| Leaf::insert(LeafState { n: 0, parent, key: key(index), index });
        let leaves: Vec<_> = (0..cx.state.leaves).map(leaf).collect();
        cx.state.n += 1;
        cx.next(Collector::Wait).insert_many(leaves)
    }

    async fn wait(mut cx: Context<Self>) -> StepResult<Self> {
        while let Some(ping) = cx.take_signal::<Ping>()? {
            cx.state.got.push(ping.n);
        }
        if cx.timed_out() {
            cx.state.timeouts += 1;
        }
        let missing = cx.state.leaves + cx.state.external > u32::try_from(cx.state.got.len())?;
        if !missing {
            cx.state.n += 1;
            return Ok(cx.next(Collector::Sum));
        }
        if (cx.state.got.len() + cx.state.timeouts as usize).is_multiple_of(2) {
            return Ok(cx.await_signal_for::<Ping>(Duration::from_millis(300)));
        }
        Ok(cx.await_signal::<Ping>())
    }

    async fn sum(cx: Context<Self>) -> Outcome<Self> {
        let mut got = cx.state.got.clone();
        got.sort_unstable();
        cx.done(got)
    }
}

/// The state of a [`Leaf`].
#[derive(Clone, Debug, DurableState)]
pub struct LeafState {
    /// The number of steps that were committed.
    pub n: u32,
    /// The collector that inserted it.
    pub parent: InstanceId<Collector>,
    /// The collector's unique key, if it is to be found by that.
    #[serde(default)]
    pub key: Option<String>,
    /// Its number.
    pub index: u32,
}

/// Sends its number to its parent, in success and in failure.
#[derive(Debug)]
#[durable_fsm(state = LeafState, output = ())]
pub enum Leaf {
    /// Ends, with the signal.
    Work,
}

#[durable_fsm]
impl Leaf {
    async fn work(cx: Context<Self>) -> Outcome<Self> {
        let LeafState { parent, index, .. } = cx.state;
        take_time(u64::from(index)).await;
        let mut ping = match cx.state.key.clone() {
            Some(key) => Collector::signal_ping(Collector::by_key(key), Ping { n: index }),
            None => Collector::signal_ping(parent, Ping { n: index }),
        };
        if index.is_multiple_of(2) {
            ping = ping.dedup_key(format!("leaf {index}"));
        }
        if index % 5 == 4 {
            return cx.stop("a leaf fails on purpose").signal(ping);
        }
        cx.done(()).signal(ping)
    }
}

/// The state of a [`Keyed`].
#[derive(Clone, Debug, Default, DurableState)]
pub struct KeyedState {
    /// The number of steps that were committed.
    pub n: u32,
    /// The run that has this state as its outcome.
    #[serde(default)]
    pub run: Option<Run>,
}

/// Two steps under a partition key.
#[derive(Debug)]
#[durable_fsm(queue = "keyed", state = KeyedState, output = ())]
pub enum Keyed {
    /// Goes on, at once or a little later.
    First,
    /// Ends.
    Second,
}

#[durable_fsm]
impl Keyed {
    async fn first(mut cx: Context<Self>) -> Outcome<Self> {
        let run = runs::begin(&cx, cx.state.n).await;
        let choice = mix(cx.id().get().unsigned_abs(), 1);
        take_time(choice).await;
        cx.state.run = run.end().await;
        cx.state.n += 1;
        if choice.is_multiple_of(3) {
            return cx.next_in(Keyed::Second, Duration::from_millis(choice % 20));
        }
        cx.next(Keyed::Second)
    }

    async fn second(mut cx: Context<Self>) -> Outcome<Self> {
        let run = runs::begin(&cx, cx.state.n).await;
        take_time(mix(cx.id().get().unsigned_abs(), 2)).await;
        cx.state.run = run.end().await;
        cx.done(())
    }
}

/// Always fails.
#[derive(Debug)]
#[durable_fsm(state = KeyedState, output = ())]
pub enum Stopper {
    /// Returns an error, and the machine has no `handle`.
    Try,
}

#[durable_fsm]
impl Stopper {
    async fn r#try(_cx: Context<Self>) -> StepResult<Self> {
        Err(std::io::Error::other("an error on purpose").into())
    }
}

/// Inserted again and again with the same unique keys.
#[derive(Debug)]
#[durable_fsm(state = KeyedState, output = ())]
pub enum Once {
    /// Ends.
    Do,
}

#[durable_fsm]
impl Once {
    async fn r#do(cx: Context<Self>) -> Outcome<Self> {
        cx.done(())
    }
}

/// The advisory lock that a [`Held`] step needs for a moment.
pub const HOLD_LOCK: i64 = 4711;

/// Runs for as long as a test holds [`HOLD_LOCK`]. At its end it inserts an instance of `Once`,
/// which the test can find.
#[derive(Debug)]
#[durable_fsm(state = KeyedState, output = ())]
pub enum Held {
    /// Waits for the lock, and ends.
    Hold,
}

#[durable_fsm]
impl Held {
    async fn hold(cx: Context<Self>, pool: &PgPool) -> StepResult<Self> {
        let mut transaction = pool.begin().await?;
        sqlx::query("select pg_advisory_xact_lock_shared($1)")
            .bind(HOLD_LOCK)
            .execute(&mut *transaction)
            .await?;
        transaction.rollback().await?;
        Ok(cx.done(()).insert(Once::insert(KeyedState::default())))
    }
}

/// Kills the process that runs it.
#[derive(Debug)]
#[durable_fsm(state = KeyedState, output = ())]
pub enum Deadly {
    /// Ends the process.
    Kill,
}

#[durable_fsm]
impl Deadly {
    async fn kill(_cx: Context<Self>) -> Outcome<Self> {
        std::process::abort()
    }
}

/// Lets some steps take a while, so that faults meet them in the middle.
async fn take_time(choice: u64) {
    if choice % 8 == 7 {
        tokio::time::sleep(Duration::from_millis(choice % 23)).await;
    }
}
