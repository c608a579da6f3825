//! The support of the tests: a machine, a served console, a client of HTTP, a browser.

pub(crate) mod browser;
pub(crate) mod http;
pub(crate) mod site;

use std::time::{Duration, Instant};

use gen_durable::prelude::*;
use sqlx::PgPool;

pub(crate) type Error = Box<dyn std::error::Error + Send + Sync>;

/// The longest wait for something that should happen soon. The machine may be busy.
pub(crate) const SOON: Duration = Duration::from_secs(30);

/// A card, which is a secret.
#[derive(Clone, Debug, DurableState)]
pub(crate) struct Card {
    pub(crate) number: String,
    pub(crate) cents: u64,
}

#[derive(Clone, Debug, DurableSignal)]
pub(crate) struct Paid {}

/// Charges a card, waits for the money, ships.
#[derive(Debug)]
#[durable_fsm(state = Card, output = String, signals(Paid), on_cancel = Refund, history = "states")]
pub(crate) enum Order {
    Charge,
    AwaitPay,
    Ship,
    Refund,
}

#[durable_fsm]
impl Order {
    async fn charge(cx: Context<Self>) -> StepResult<Self> {
        if cx.state.cents == 13 {
            return Err("the bank refused the card".into());
        }
        Ok(cx.next(Order::AwaitPay))
    }

    async fn await_pay(mut cx: Context<Self>) -> StepResult<Self> {
        Ok(match cx.take_signal::<Paid>()? {
            Some(Paid {}) => cx.next(Order::Ship),
            None => cx.await_signal_for::<Paid>(Duration::from_hours(24)),
        })
    }

    async fn ship(cx: Context<Self>) -> Outcome<Self> {
        cx.done("shipped".to_owned())
    }

    async fn refund(cx: Context<Self>) -> Outcome<Self> {
        cx.done("refunded".to_owned())
    }
}

/// The part of a state that must not be seen.
pub(crate) const SECRET: &str = "4111-1111-secret";

pub(crate) fn order(cents: u64) -> gen_durable::Insert<Order> {
    Order::insert(Card { number: SECRET.to_owned(), cents })
}

/// Starts an engine that runs orders.
pub(crate) async fn engine(pool: &PgPool) -> Result<Engine, Error> {
    Ok(Engine::builder(pool.clone()).machine::<Order>().queue("default", 4).start().await?)
}

/// Waits until exactly `count` instances meet the condition.
pub(crate) async fn until(pool: &PgPool, count: i64, condition: &'static str) -> Result<(), Error> {
    let statement = match condition {
        "failed" => "select count(*) from gen_durable.instances where status = 'failed'",
        "parked" => "select count(*) from gen_durable.instances where status = 'awaiting_signal'",
        "done" => "select count(*) from gen_durable.instances where status = 'done'",
        "paused" => "select count(*) from gen_durable.instances where paused_by is not null",
        other => return Err(other.into()),
    };
    let began = Instant::now();
    loop {
        let found: i64 = sqlx::query_scalar(statement).fetch_one(pool).await?;
        if found == count {
            return Ok(());
        }
        if began.elapsed() > SOON {
            return Err(format!("{found} and not {count} are {condition}").into());
        }
        // Another process changes the rows, and tells nobody.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
