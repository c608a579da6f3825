//! Random machines: graphs of steps, outcomes, signals and failures, run by the engine and by a small
//! reference model in memory. Both must come to the same end, and consume the same signals.
//!
//! One machine interprets a plan that its state carries. The model reads the same plan and knows
//! nothing of rows, claims or connections.

use std::{collections::BTreeMap, time::Duration};

use gen_durable::{WaitError, prelude::*};
use proptest::{prelude::*, strategy::ValueTree, test_runner::TestRunner};
use serde::{Deserialize, Serialize};

use crate::support::{PATIENCE, database, engine};

/// How many steps an instance may make before its plan ends it.
const STEPS_MAX: u32 = 40;

#[derive(Clone, Debug, DurableSignal)]
pub struct Red {
    n: u32,
}

#[derive(Clone, Debug, DurableSignal)]
pub struct Blue {
    n: u32,
}

/// What a step does.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum Act {
    Next(usize),
    NextIn(usize),
    /// As often, and then on.
    Replay(u32, usize),
    /// Takes a signal of this colour, or waits for one; then on.
    Take(bool, usize),
    /// Takes one if there is one after its time is up: a timeout always comes, as nobody sends it.
    TimeOut(usize),
    /// Looks, takes nothing, and goes on once there are as many of this colour in the inbox.
    Gather(bool, usize, usize),
    /// Returns an error, as often; `handle` replays; then on.
    Err(u32, usize),
    /// Panics, as often; `handle` replays; then on.
    Panic(u32, usize),
    /// Returns an error that `handle` stops at.
    Fatal,
    Done,
    Stop,
}

/// A plan, and how far it has come.
#[derive(Clone, Debug, DurableState)]
pub struct Plan {
    acts: Vec<Act>,
    #[serde(default)]
    at: usize,
    #[serde(default)]
    steps: u32,
    /// The steps committed, and the signals taken, in order.
    #[serde(default)]
    trail: Vec<usize>,
    #[serde(default)]
    taken: Vec<u32>,
}

/// What an instance comes to.
#[derive(Clone, Debug, PartialEq, DurableState)]
pub struct End {
    trail: Vec<usize>,
    taken: Vec<u32>,
}

/// Odd and even steps, so that there are two to go between.
#[durable_fsm(state = Plan, output = End, signals(Red, Blue))]
pub enum Interpreter {
    Even,
    Odd,
}

#[durable_fsm]
impl Interpreter {
    async fn even(cx: Context<Self>) -> StepResult<Self> {
        interpret(cx)
    }

    async fn odd(cx: Context<Self>) -> StepResult<Self> {
        interpret(cx)
    }

    async fn handle(cx: Context<Self>, error: StepError) -> Outcome<Self> {
        if error.to_string().contains("fatal") {
            return cx.stop("a fatal error");
        }
        cx.replay(Duration::ZERO)
    }
}

fn interpret(mut cx: Context<Interpreter>) -> StepResult<Interpreter> {
    if cx.state.steps >= STEPS_MAX {
        return Ok(end(cx));
    }
    let act = cx.state.acts[cx.state.at];
    let attempt = cx.attempt();
    let failing = |times: u32| attempt < times;
    match act {
        Act::NextIn(to) => Ok(go(cx, to, Some(Duration::from_millis(1)))),
        Act::Replay(times, _) if failing(times) => Ok(cx.replay(Duration::ZERO)),
        Act::Err(times, _) if failing(times) => Err(std::io::Error::other("an error").into()),
        Act::Panic(times, _) if failing(times) => panic!("a panic"),
        Act::Next(to) | Act::Replay(_, to) | Act::Err(_, to) | Act::Panic(_, to) => {
            Ok(go(cx, to, None))
        }
        Act::Take(red, to) => {
            let taken = if red {
                cx.take_signal::<Red>()?.map(|signal| signal.n)
            } else {
                cx.take_signal::<Blue>()?.map(|signal| signal.n)
            };
            match (taken, red) {
                (Some(n), _) => {
                    cx.state.taken.push(n);
                    Ok(go(cx, to, None))
                }
                (None, true) => Ok(cx.await_signal::<Red>()),
                (None, false) => Ok(cx.await_signal::<Blue>()),
            }
        }
        // A signal that is there already has been seen, and does not wake it.
        Act::TimeOut(to) if cx.timed_out() => Ok(go(cx, to, None)),
        Act::TimeOut(_) => Ok(cx.await_signal_for::<Red>(Duration::from_millis(1))),
        Act::Gather(red, count, to) => {
            let found = if red { cx.count_signals::<Red>() } else { cx.count_signals::<Blue>() };
            match (found >= count, red) {
                (true, _) => Ok(go(cx, to, None)),
                (false, true) => Ok(cx.await_signal::<Red>()),
                (false, false) => Ok(cx.await_signal::<Blue>()),
            }
        }
        Act::Fatal => Err(std::io::Error::other("fatal").into()),
        Act::Done => Ok(end(cx)),
        Act::Stop => Ok(cx.stop("the plan says so")),
    }
}

fn go(mut cx: Context<Interpreter>, to: usize, delay: Option<Duration>) -> Outcome<Interpreter> {
    let at = cx.state.at;
    cx.state.trail.push(at);
    cx.state.steps += 1;
    cx.state.at = to;
    let step = if to.is_multiple_of(2) { Interpreter::Even } else { Interpreter::Odd };
    match delay {
        None => cx.next(step),
        Some(delay) => cx.next_in(step, delay),
    }
}

fn end(cx: Context<Interpreter>) -> Outcome<Interpreter> {
    let end = End { trail: cx.state.trail.clone(), taken: cx.state.taken.clone() };
    cx.done(end)
}

/// What the model comes to: the result, the reason of a failure, or nothing: it waits.
#[derive(Debug, PartialEq)]
enum Fate {
    Done(End),
    Failed(&'static str),
    Waits,
}

/// The reference model: the same plan, with all its signals sent, and no database.
fn model(acts: &[Act], signals: &[(bool, u32)]) -> (Fate, Vec<u32>) {
    let mut inbox: BTreeMap<bool, Vec<u32>> = BTreeMap::new();
    for (red, n) in signals {
        inbox.entry(*red).or_default().push(*n);
    }
    let (mut at, mut trail, mut taken) = (0, Vec::new(), Vec::new());
    let fate = loop {
        if trail.len() >= STEPS_MAX as usize {
            break Fate::Done(End { trail, taken: taken.clone() });
        }
        let to = match acts[at] {
            Act::Next(to)
            | Act::NextIn(to)
            | Act::Replay(_, to)
            | Act::Err(_, to)
            | Act::Panic(_, to)
            | Act::TimeOut(to) => to,
            Act::Take(red, to) => {
                let box_ = inbox.entry(red).or_default();
                if box_.is_empty() {
                    break Fate::Waits;
                }
                taken.push(box_.remove(0));
                to
            }
            Act::Gather(red, count, to) => {
                if inbox.entry(red).or_default().len() < count {
                    break Fate::Waits;
                }
                to
            }
            Act::Fatal => break Fate::Failed("a fatal error"),
            Act::Done => break Fate::Done(End { trail, taken: taken.clone() }),
            Act::Stop => break Fate::Failed("the plan says so"),
        };
        trail.push(at);
        at = to;
    };
    (fate, taken)
}

fn act(acts: usize) -> impl Strategy<Value = Act> {
    let to = move || 0..acts;
    prop_oneof![
        4 => to().prop_map(Act::Next),
        2 => to().prop_map(Act::NextIn),
        2 => (0..3_u32, to()).prop_map(|(times, to)| Act::Replay(times, to)),
        4 => (any::<bool>(), to()).prop_map(|(red, to)| Act::Take(red, to)),
        1 => to().prop_map(Act::TimeOut),
        2 => (any::<bool>(), 0..3_usize, to())
            .prop_map(|(red, count, to)| Act::Gather(red, count, to)),
        1 => (0..3_u32, to()).prop_map(|(times, to)| Act::Err(times, to)),
        1 => (0..2_u32, to()).prop_map(|(times, to)| Act::Panic(times, to)),
        1 => Just(Act::Fatal),
        3 => Just(Act::Done),
        1 => Just(Act::Stop),
    ]
}

/// A plan's steps, and the signals that are sent to it: red or blue, and a number.
type Case = (Vec<Act>, Vec<(bool, u32)>);

/// A plan, and the colours of its signals.
fn plan() -> impl Strategy<Value = (Vec<Act>, Vec<bool>)> {
    (1..7_usize).prop_flat_map(|acts| {
        let signals = prop::collection::vec(any::<bool>(), 0..8);
        (prop::collection::vec(act(acts), acts), signals)
    })
}

/// Many plans at once; the seed is fixed, so a failure repeats.
#[tokio::test(flavor = "multi_thread")]
async fn random_machines_end_as_the_reference_model_says() {
    const PLANS: usize = 400;
    let db = database().await;
    let pool = db.pool();
    let engine = engine(&db).machine::<Interpreter>().queue("default", 30).start().await.unwrap();
    std::panic::set_hook(Box::new(|panic| {
        if !panic.to_string().contains("a panic") {
            eprintln!("{panic}");
        }
    }));
    let mut runner = TestRunner::deterministic();
    let plans: Vec<Case> = (0..PLANS)
        .map(|_| {
            let (acts, colours) = plan().new_tree(&mut runner).unwrap().current();
            (acts, colours.into_iter().zip(0..).collect())
        })
        .collect();
    let inserts = plans.iter().map(|(acts, _)| {
        let acts = acts.clone();
        Plan { acts, at: 0, steps: 0, trail: Vec::new(), taken: Vec::new() }
    });
    let ids = Interpreter::insert_many(inserts).execute(&engine).await.unwrap();
    let ids: Vec<_> = ids.into_iter().map(Result::unwrap).collect();
    // While they run; those of a plan in their order.
    let sends = ids.iter().zip(&plans).map(|(id, (_, signals))| {
        let (id, signals, client) = (*id, signals.clone(), engine.client().clone());
        tokio::spawn(async move {
            for (red, n) in signals {
                let sent = if red {
                    Interpreter::signal_red(id, Red { n }).execute(&client).await
                } else {
                    Interpreter::signal_blue(id, Blue { n }).execute(&client).await
                };
                // An instance that has ended accepts no more.
                assert!(matches!(sent, Ok(_) | Err(gen_durable::SignalError::Terminal { .. })));
            }
        })
    });
    for send in sends.collect::<Vec<_>>() {
        send.await.unwrap();
    }
    let mut fates = [0; 3];
    for (id, (acts, signals)) in ids.iter().zip(&plans) {
        let (fate, taken) = model(acts, signals);
        match &fate {
            Fate::Done(end) => {
                fates[0] += 1;
                assert_eq!(engine.wait(*id, PATIENCE).await.unwrap(), *end, "{acts:?}");
            }
            Fate::Failed(reason) => {
                fates[1] += 1;
                let error = engine.wait(*id, PATIENCE).await.unwrap_err();
                assert!(
                    matches!(&error, WaitError::Failed { reason: found, .. } if found == reason),
                    "{error} of {acts:?}"
                );
            }
            Fate::Waits => {
                fates[2] += 1;
                let (inbox, found) = parked(pool, *id, &taken).await;
                assert_eq!(found, taken, "{acts:?}");
                assert_eq!(inbox, signals.len() - taken.len(), "{acts:?}");
            }
        }
    }
    assert!(fates.iter().all(|count| *count > 20), "each fate comes often: {fates:?}");
    engine.shutdown().await.unwrap();
}

/// What an instance that waits for ever has left in its inbox, and has taken.
async fn parked(
    pool: &sqlx::PgPool,
    id: InstanceId<Interpreter>,
    expected: &[u32],
) -> (usize, Vec<u32>) {
    crate::support::eventually("it has taken what it can", async || {
        let row = crate::support::row(pool, id).await;
        let plan: Plan = serde_json::from_value(row.state).unwrap();
        let rests = row.status == "awaiting_signal" && plan.taken == expected;
        rests.then(|| (usize::try_from(row.inbox).unwrap(), plan.taken))
    })
    .await
}
