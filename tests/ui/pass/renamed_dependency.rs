//! `gen_durable` under another name: no path of the expansion is to the usual one.

extern crate gen_durable as renamed;

use renamed::prelude::*;

/// The usual name leads nowhere.
mod gen_durable {}

#[derive(Clone, DurableState)]
#[durable(crate = renamed)]
struct Order {
    id: i64,
}

#[derive(DurableSignal)]
#[durable(crate = renamed, name = "cash")]
struct Paid {
    amount: i64,
}

#[durable_fsm(state = Order, signals(Paid), timeout = "30s", crate = renamed)]
enum Checkout {
    AwaitPay,
    Ship,
}

#[durable_fsm(crate = renamed)]
impl Checkout {
    async fn await_pay(mut cx: Context<Self>) -> StepResult<Self> {
        let Some(paid) = cx.take_signal::<Paid>()? else {
            return Ok(cx.await_signal::<Paid>());
        };
        cx.state.id += paid.amount;
        Ok(cx.next(Checkout::Ship))
    }

    async fn ship(cx: Context<Self>, carrier: &String) -> Outcome<Self> {
        let by = carrier.as_str().into();
        cx.done(by)
    }

    async fn handle(cx: Context<Self>, error: StepError) -> Outcome<Self> {
        cx.stop(error)
    }
}

fn main() {
    assert_eq!(Checkout::SIGNALS, ["cash"]);
    assert_eq!(Checkout::TIMEOUT, Some(std::time::Duration::from_secs(30)));
    let insert: Insert<Checkout> = Checkout::insert(Order { id: 1 });
    drop(insert);
}
