//! Nothing that the macros generate is warned of.

#![deny(warnings, missing_docs, missing_debug_implementations, unreachable_pub)]
#![deny(rust_2018_idioms, unused, nonstandard_style, future_incompatible, let_underscore)]

use std::fmt;

use gen_durable::prelude::*;

/// A state.
#[derive(Clone, Debug, Default, DurableState)]
pub struct Order {
    /// A field.
    pub id: i64,
}

/// A signal.
#[derive(Clone, Debug, DurableSignal)]
pub struct Paid {
    /// A field.
    pub amount: i64,
}

/// A machine.
#[durable_fsm(state = Order, output = Order, signals(Paid))]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checkout {
    /// A step.
    AwaitPay,
    /// Another step.
    Ship,
}

/// A resource.
#[derive(Debug)]
pub struct Carrier;

#[durable_fsm]
impl Checkout {
    async fn await_pay(mut cx: Context<Self>) -> StepResult<Self> {
        let Some(paid) = cx.take_signal::<Paid>()? else {
            return Ok(cx.await_signal::<Paid>());
        };
        cx.state.id = paid.amount;
        Ok(cx.next(Checkout::Ship))
    }

    async fn ship(cx: Context<Self>, carrier: &Carrier) -> Outcome<Self> {
        if Self::is_odd(carrier) {
            return cx.stop("odd");
        }
        let order = cx.state.clone();
        cx.done(order)
    }

    fn is_odd(carrier: &impl fmt::Debug) -> bool {
        format!("{carrier:?}").len() % 2 == 1
    }
}

/// A machine that nobody uses.
#[durable_fsm]
enum Unused {
    Step,
}

#[durable_fsm]
impl Unused {
    async fn step(cx: Context<Self>) -> Outcome<Self> {
        cx.next(Unused::Step)
    }
}

/// A machine that is as private as its arguments.
#[durable_job]
async fn tidy_up(cx: JobContext<Order>) -> i64 {
    cx.state.id
}

/// Not a late use: another name, and another value.
#[durable_fsm(output = i64)]
enum Shadowed {
    Step,
}

#[durable_fsm]
impl Shadowed {
    async fn step(cx: Context<Self>) -> Outcome<Self> {
        let numbers = [1, 2].map(|cx: i64| cx.next(cx.pow(2)));
        cx.done(numbers[0])
    }
}

trait Next {
    fn next(self, other: i64) -> i64;
}

impl Next for i64 {
    fn next(self, other: i64) -> i64 {
        self + other
    }
}

fn main() {
    assert_eq!(Checkout::from_name("ship"), Some(Checkout::Ship));
}
