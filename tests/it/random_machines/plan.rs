//! A machine that interprets the plan in its state, and a generator of random plans.

use std::time::Duration;

use gen_durable::prelude::*;
use proptest::prelude::*;
use serde::{Deserialize, Serialize};

/// The most steps that an instance makes. Then it ends, whatever its plan says.
pub(super) const STEPS_MAX: usize = 40;

/// Red and blue signals come from outside, green ones from the instance itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Colour {
    Red,
    Blue,
    Green,
}

#[derive(Clone, Debug, DurableSignal)]
pub struct Red {
    pub n: usize,
}

#[derive(Clone, Debug, DurableSignal)]
pub struct Blue {
    pub n: usize,
}

#[derive(Clone, Debug, DurableSignal)]
pub struct Green {
    pub n: usize,
}

/// The action of a step. The number that it ends with is the index of the next entry of the plan,
/// modulo the plan's length.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum Act {
    Done,
    Stop,
    /// Returns an error that `handle` stops at.
    Fatal,
    Next(usize),
    NextIn(usize),
    /// Replays this many times, and then goes on.
    Replay(u32, usize),
    /// Returns an error this many times, and `handle` replays. Then it goes on.
    Err(u32, usize),
    /// Panics this many times, and `handle` replays. Then it goes on.
    Panic(u32, usize),
    /// Runs past its timeout this many times, and `handle` replays. Then it goes on.
    Overrun(u32, usize),
    /// Takes a signal of this colour, or waits for one. Then it goes on.
    Take(Colour, usize),
    /// Takes nothing, and goes on once this many signals of this colour are in the inbox.
    Gather(Colour, usize, usize),
    /// The same, and it parks until they are there.
    Count(Colour, usize, usize),
    /// Spawns this many children, waits for all of them, and goes on.
    Family(usize, usize),
    /// Waits until its timeout, whatever signals come.
    TimeOut(usize),
    /// Its outcome carries an insert.
    Insert(usize),
    /// Its outcome carries a green signal to the instance itself.
    Send(usize),
    /// The same, to the instance that holds its own unique key.
    SendByKey(usize),
    /// Makes a note in its transaction. It fails this many times after that, and then goes on.
    Note(u32, usize),
}

/// A plan, and how far it has come.
#[derive(Clone, Debug, Default, DurableState)]
pub struct Plan {
    pub acts: Vec<Act>,
    #[serde(default)]
    pub at: usize,
    /// The steps committed, and the signals taken, in order.
    #[serde(default)]
    pub trail: Vec<usize>,
    #[serde(default)]
    pub taken: Vec<(Colour, usize)>,
    /// The step has spawned its children.
    #[serde(default)]
    pub spawned: bool,
    /// The instance's unique key.
    #[serde(default)]
    pub key: String,
}

/// The result of an instance.
#[derive(Clone, Debug, PartialEq, DurableState)]
pub struct End {
    pub trail: Vec<usize>,
    pub taken: Vec<(Colour, usize)>,
}

/// Its steps for even and odd entries differ, so that it goes from one to the other. A third step
/// has a timeout, and a fourth a transaction.
#[durable_fsm(state = Plan, output = End, signals(Red, Blue, Green, Ended<Offspring>))]
pub enum Interpreter {
    Even,
    Odd,
    Slow,
    Inside,
}

#[durable_fsm]
impl Interpreter {
    async fn even(cx: Context<Self>) -> StepResult<Self> {
        interpret(cx).await
    }

    async fn odd(cx: Context<Self>) -> StepResult<Self> {
        interpret(cx).await
    }

    #[step(timeout = "20ms")]
    async fn slow(cx: Context<Self>) -> StepResult<Self> {
        interpret(cx).await
    }

    async fn inside(cx: Context<Self>, tx: &mut PgConnection) -> StepResult<Self> {
        if cx.state.trail.len() < STEPS_MAX {
            let note = sqlx::query("insert into public.notes values ($1)").bind(cx.id().get());
            note.execute(tx).await?;
        }
        interpret(cx).await
    }

    async fn handle(cx: Context<Self>, error: StepError) -> Outcome<Self> {
        if error.to_string().contains("fatal") {
            return cx.stop("a fatal error");
        }
        cx.replay(Duration::ZERO)
    }
}

/// Inserted by an outcome of an [`Interpreter`]. The state is the interpreter's id. If it is
/// negative, the instance fails.
#[durable_fsm(state = i64, output = ())]
pub enum Offspring {
    Live,
}

#[durable_fsm]
impl Offspring {
    async fn live(cx: Context<Self>) -> Outcome<Self> {
        if cx.state < 0 { cx.stop("it is negative") } else { cx.done(()) }
    }
}

/// Returns the step for an entry of a plan.
pub(super) fn step(acts: &[Act], at: usize) -> Interpreter {
    match acts[at] {
        Act::Overrun(..) => Interpreter::Slow,
        Act::Note(..) => Interpreter::Inside,
        _ if at.is_multiple_of(2) => Interpreter::Even,
        _ => Interpreter::Odd,
    }
}

async fn interpret(mut cx: Context<Interpreter>) -> StepResult<Interpreter> {
    if cx.state.trail.len() >= STEPS_MAX {
        return Ok(end(cx));
    }
    let attempt = cx.attempt();
    let failing = |times: u32| attempt < times;
    match cx.state.acts[cx.state.at] {
        Act::NextIn(to) => {
            let to = advance(&mut cx, to);
            Ok(cx.next_in(to, Duration::from_millis(1)))
        }
        Act::Replay(times, _) if failing(times) => Ok(cx.replay(Duration::ZERO)),
        Act::Err(times, _) | Act::Note(times, _) if failing(times) => {
            Err(std::io::Error::other("an error").into())
        }
        Act::Panic(times, _) if failing(times) => panic!("a panic"),
        Act::Overrun(times, _) if failing(times) => std::future::pending().await,
        Act::Next(to)
        | Act::Replay(_, to)
        | Act::Err(_, to)
        | Act::Panic(_, to)
        | Act::Overrun(_, to)
        | Act::Note(_, to) => Ok(go(cx, to)),
        Act::Take(colour, to) => {
            let taken = match colour {
                Colour::Red => cx.take_signal::<Red>()?.map(|signal| signal.n),
                Colour::Blue => cx.take_signal::<Blue>()?.map(|signal| signal.n),
                Colour::Green => cx.take_signal::<Green>()?.map(|signal| signal.n),
            };
            let Some(n) = taken else { return Ok(park(cx, colour)) };
            cx.state.taken.push((colour, n));
            Ok(go(cx, to))
        }
        Act::Gather(colour, count, to) => {
            let found = count_of(&cx, colour);
            Ok(if found >= count { go(cx, to) } else { park(cx, colour) })
        }
        Act::Count(colour, count, to) => {
            let found = count_of(&cx, colour);
            Ok(match colour {
                _ if found >= count => go(cx, to),
                Colour::Red => cx.await_count::<Red>(count),
                Colour::Blue => cx.await_count::<Blue>(count),
                Colour::Green => cx.await_count::<Green>(count),
            })
        }
        Act::Family(children, to) => family(cx, children, to),
        // A signal that is already in the inbox counts as seen, and does not wake the instance.
        Act::TimeOut(to) if cx.timed_out() => Ok(go(cx, to)),
        Act::TimeOut(_) => Ok(cx.await_signal_for::<Red>(Duration::from_millis(1))),
        Act::Insert(to) => {
            let child = Offspring::insert(cx.id().get());
            Ok(go(cx, to).insert(child))
        }
        Act::Send(to) => {
            let green = Interpreter::signal_green(cx.id(), Green { n: cx.state.trail.len() });
            Ok(go(cx, to).signal(green))
        }
        Act::SendByKey(to) => {
            let key = Interpreter::by_key(cx.state.key.clone());
            let green = Interpreter::signal_green(key, Green { n: cx.state.trail.len() });
            Ok(go(cx, to).signal(green))
        }
        Act::Fatal => Err(std::io::Error::other("fatal").into()),
        Act::Done => Ok(end(cx)),
        Act::Stop => Ok(cx.stop("the plan says so")),
    }
}

fn count_of(cx: &Context<Interpreter>, colour: Colour) -> usize {
    match colour {
        Colour::Red => cx.count_signals::<Red>(),
        Colour::Blue => cx.count_signals::<Blue>(),
        Colour::Green => cx.count_signals::<Green>(),
    }
}

/// Spawns children, of which every third fails, and joins them.
fn family(mut cx: Context<Interpreter>, children: usize, to: usize) -> StepResult<Interpreter> {
    let id = cx.id().get();
    if !cx.state.spawned && children > 0 {
        cx.state.spawned = true;
        let state = |n: usize| if n % 3 == 2 { -id } else { id };
        let spawned = (0..children).map(|n| Offspring::insert(state(n)));
        let outcome = cx.await_count::<Ended<Offspring>>(children);
        return Ok(outcome.spawn(spawned));
    }
    let Some(reports) = cx.gather::<Ended<Offspring>>(children)? else {
        return Err(std::io::Error::other("fatal: it woke too early").into());
    };
    let failed = reports.iter().filter(|report| report.result().is_err()).count();
    if failed != children / 3 {
        return Err(std::io::Error::other("fatal: other children failed").into());
    }
    cx.state.spawned = false;
    Ok(go(cx, to))
}

fn advance(cx: &mut Context<Interpreter>, to: usize) -> Interpreter {
    let at = cx.state.at;
    cx.state.trail.push(at);
    cx.state.at = to % cx.state.acts.len();
    step(&cx.state.acts, cx.state.at)
}

fn go(mut cx: Context<Interpreter>, to: usize) -> Outcome<Interpreter> {
    let to = advance(&mut cx, to);
    cx.next(to)
}

fn park(cx: Context<Interpreter>, colour: Colour) -> Outcome<Interpreter> {
    match colour {
        Colour::Red => cx.await_signal::<Red>(),
        Colour::Blue => cx.await_signal::<Blue>(),
        Colour::Green => cx.await_signal::<Green>(),
    }
}

fn end(cx: Context<Interpreter>) -> Outcome<Interpreter> {
    let end = End { trail: cx.state.trail.clone(), taken: cx.state.taken.clone() };
    cx.done(end)
}

/// The moment at which a signal is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum When {
    /// In the transaction that inserts the instance.
    Before,
    /// While it runs.
    During,
    /// When it has ended, or waits for a signal although all earlier signals were delivered.
    AtRest,
}

/// A plan, and the signals that are sent to it, each with its moment and its colour. They are
/// numbered in the order in which they are sent.
#[derive(Clone, Debug)]
pub struct Case {
    pub acts: Vec<Act>,
    pub signals: Vec<(When, Colour)>,
}

/// The simplest action comes first, as proptest shrinks in that direction.
fn act() -> impl Strategy<Value = Act> {
    let to = || 0..6_usize;
    let colour = prop_oneof![Just(Colour::Red), Just(Colour::Blue), Just(Colour::Green)];
    prop_oneof![
        3 => Just(Act::Done),
        1 => Just(Act::Stop),
        1 => Just(Act::Fatal),
        4 => to().prop_map(Act::Next),
        2 => to().prop_map(Act::NextIn),
        2 => (0..3_u32, to()).prop_map(|(times, to)| Act::Replay(times, to)),
        1 => (0..3_u32, to()).prop_map(|(times, to)| Act::Err(times, to)),
        1 => (0..2_u32, to()).prop_map(|(times, to)| Act::Panic(times, to)),
        1 => (0..2_u32, to()).prop_map(|(times, to)| Act::Overrun(times, to)),
        4 => (colour.clone(), to()).prop_map(|(colour, to)| Act::Take(colour, to)),
        2 => (colour.clone(), 0..3_usize, to())
            .prop_map(|(colour, n, to)| Act::Gather(colour, n, to)),
        2 => (colour, 0..3_usize, to()).prop_map(|(colour, n, to)| Act::Count(colour, n, to)),
        2 => (0..5_usize, to()).prop_map(|(children, to)| Act::Family(children, to)),
        1 => to().prop_map(Act::TimeOut),
        2 => to().prop_map(Act::Insert),
        2 => to().prop_map(Act::Send),
        1 => to().prop_map(Act::SendByKey),
        2 => (0..2_u32, to()).prop_map(|(times, to)| Act::Note(times, to)),
    ]
}

pub(super) fn case() -> impl Strategy<Value = Case> {
    let when = prop_oneof![Just(When::Before), Just(When::During), Just(When::AtRest)];
    let signal = (when, prop_oneof![Just(Colour::Red), Just(Colour::Blue)]);
    (prop::collection::vec(act(), 1..7), prop::collection::vec(signal, 0..8)).prop_map(
        |(acts, mut signals)| {
            signals.sort_by_key(|(when, _)| *when);
            Case { acts, signals }
        },
    )
}
