//! The code that the macros generate passes the strictest lints. This module is compiled with them,
//! and `cargo clippy` checks it.

#![deny(warnings, clippy::all, clippy::pedantic, clippy::nursery)]
#![deny(clippy::unused_async, clippy::needless_pass_by_value, clippy::unwrap_used)]
#![deny(missing_docs, missing_debug_implementations, unreachable_pub, rust_2018_idioms, unused)]

use std::sync::{Arc, Mutex, PoisonError};

use gen_durable::prelude::*;

/// A state.
#[derive(Clone, Debug, Default, DurableState)]
#[serde(default, rename_all = "camelCase")]
struct Order {
    /// A field.
    order_id: i64,
    /// A field that need not be there.
    note: Option<String>,
}

/// A result.
#[derive(Clone, Debug, DurableState)]
enum Receipt {
    /// A tuple.
    Sent(i64),
    /// A struct.
    Lost {
        /// A field.
        reason: String,
    },
}

/// A signal.
#[derive(Clone, Copy, Debug, DurableSignal)]
struct Paid {
    /// A field.
    amount: i64,
}

/// A machine that uses every option.
#[durable_fsm(
    version = 2,
    queue = "checkout",
    state = Order,
    output = Receipt,
    name = "pedantic",
    initial = AwaitPay,
    signals(Paid),
    timeout = "90s"
)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Checkout {
    /// A step.
    Ship,
    /// Another step.
    AwaitPay,
}

#[durable_fsm]
impl Checkout {
    async fn ship(
        cx: Context<Self>,
        carrier: &Arc<dyn Fn(i64) -> bool + Send + Sync>,
    ) -> Outcome<Self> {
        if carrier(cx.state.order_id) {
            let receipt = Receipt::Sent(cx.state.order_id);
            return cx.done(receipt);
        }
        cx.done(Receipt::Lost { reason: "no parcel".to_owned() })
    }

    async fn await_pay(mut cx: Context<Self>) -> StepResult<Self> {
        let Some(paid) = cx.take_signal::<Paid>()? else {
            return Ok(cx.await_signal::<Paid>());
        };
        cx.state.note = Some(paid.amount.to_string());
        Ok(cx.next(Self::Ship))
    }

    async fn handle(
        cx: Context<Self>,
        error: StepError,
        log: &Mutex<Vec<String>>,
    ) -> Outcome<Self> {
        log.lock().unwrap_or_else(PoisonError::into_inner).push(error.to_string());
        cx.stop(error)
    }
}

/// A machine that leaves errors to a policy, and whose steps have options.
#[durable_fsm(output = (), retry(max_attempts = 3, jitter))]
#[derive(Debug)]
enum Refund {
    /// A step.
    Ask,
    /// Another step.
    Pay,
}

#[durable_fsm]
impl Refund {
    #[step(next(Pay), timeout = "1s")]
    async fn ask(cx: Context<Self>) -> Outcome<Self> {
        go(cx, Self::Pay)
    }

    #[step(entry, retry(backoff = "linear"))]
    async fn pay(cx: Context<Self>) -> Outcome<Self> {
        cx.done(())
    }
}

fn go(cx: Context<Refund>, target: Refund) -> Outcome<Refund> {
    cx.next(target)
}

/// A job.
#[durable_job(queue = "mail", timeout = "30s", retry(max_attempts = 2))]
async fn send_mail(cx: JobContext<Order>, log: &Mutex<Vec<String>>) -> Result<(), std::fmt::Error> {
    if cx.state.note.is_none() {
        return Err(std::fmt::Error);
    }
    log.lock().unwrap_or_else(PoisonError::into_inner).push(cx.state.order_id.to_string());
    Ok(())
}

#[test]
fn a_machine_under_the_strictest_lints() {
    assert_eq!((Checkout::NAME, Checkout::VERSION, Checkout::QUEUE), ("pedantic", 2, "checkout"));
    assert_eq!(Checkout::INITIAL, Checkout::AwaitPay);
    let steps: Vec<_> = Checkout::requirements().iter().map(|taken| taken.step).collect();
    assert_eq!(steps, ["ship", "handle"]);
    assert!(Refund::graph().is_complete());
    assert_eq!(SendMail::QUEUE, "mail");
}
