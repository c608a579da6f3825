//! The machines of the tests, and an engine that runs them.
//!
//! Invariant: an instance comes to rest by itself. It parks, fails, is delayed or is done.

use std::time::Duration;

use gen_durable::{Engine, EngineBuilder, Limit, prelude::*};
use gen_durable_postgres::TestDb;

/// The state of an order.
#[derive(Clone, Debug, DurableState)]
pub(crate) struct Cart {
    pub(crate) sku: String,
    #[serde(default)]
    pub(crate) paid: u32,
}

impl Cart {
    pub(crate) fn of(sku: &str) -> Self {
        Self { sku: sku.to_owned(), paid: 0 }
    }
}

#[derive(Debug, DurableSignal)]
pub(crate) struct Paid {
    pub(crate) cents: u32,
}

/// It reserves, waits for its payment, and ships. A cart with the article `none` fails.
#[durable_fsm(state = Cart, output = u32, signals(Paid), history = "states")]
pub(crate) enum Order {
    Reserve,
    AwaitPay,
    Ship,
}

#[durable_fsm]
impl Order {
    async fn reserve(cx: Context<Self>) -> Outcome<Self> {
        match &*cx.state.sku {
            "none" => cx.stop("no stock"),
            // A terminal would obey this, if it got it raw.
            "evil" => cx.stop("\u{1b}]0;owned\u{7}\u{1b}[2J"),
            _ => cx.next(Order::AwaitPay),
        }
    }

    async fn await_pay(mut cx: Context<Self>) -> StepResult<Self> {
        let Some(paid) = cx.take_signal::<Paid>()? else {
            return Ok(cx.await_signal::<Paid>());
        };
        cx.state.paid = paid.cents;
        Ok(cx.next(Order::Ship))
    }

    #[step(limit = "carrier")]
    async fn ship(cx: Context<Self>) -> Outcome<Self> {
        let paid = cx.state.paid;
        cx.done(paid)
    }
}

/// A machine that records nothing.
#[durable_fsm(state = u32, output = u32, history = "off")]
pub(crate) enum Import {
    Read,
}

#[durable_fsm]
impl Import {
    async fn read(cx: Context<Self>) -> Outcome<Self> {
        match cx.state {
            0 => cx.stop("nothing to import"),
            n => cx.done(n),
        }
    }
}

/// An engine of both machines, and of a queue that they do not use.
pub(crate) fn engine(db: &TestDb) -> EngineBuilder {
    Engine::builder(db.pool().clone())
        .machine::<Order>()
        .machine::<Import>()
        .queue("default", 10)
        .queue("mail", 2)
        .limit("carrier", Limit::new().at_once(3).per(100, Duration::from_secs(1)).burst(20))
}
