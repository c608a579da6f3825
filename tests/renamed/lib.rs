//! A machine and a job in a crate that depends on `gen_durable` under another name:
//! `crate = durable` is all that they need.

use durable::prelude::*;

/// A state.
#[derive(Clone, Debug, Default, DurableState)]
#[durable(crate = durable)]
pub struct Order {
    /// A field.
    pub id: i64,
}

/// A signal.
#[derive(Clone, Debug, DurableSignal)]
#[durable(crate = durable)]
pub struct Paid;

/// A machine.
#[durable_fsm(state = Order, output = i64, signals(Paid), crate = durable)]
#[derive(Debug)]
pub enum Checkout {
    /// A step.
    AwaitPay,
}

#[durable_fsm(crate = durable)]
impl Checkout {
    async fn await_pay(mut cx: Context<Self>) -> StepResult<Self> {
        if cx.take_signal::<Paid>()?.is_none() {
            return Ok(cx.await_signal::<Paid>());
        }
        let id = cx.state.id;
        Ok(cx.done(id))
    }
}

/// A job.
#[durable_job(crate = durable)]
pub async fn send_mail(cx: JobContext<Order>) -> JobOutcome<i64> {
    let id = cx.state.id;
    cx.done(id)
}

/// The name of a limit.
pub const LIMIT: &str = "stripe";

/// A job with a limit. No engine of a test runs it.
#[durable_job(limit(LIMIT, key = state.id, weight = 2), crate = durable)]
pub async fn charge(cx: JobContext<Order>) {
    let _ = cx;
}
