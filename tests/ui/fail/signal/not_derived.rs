#![allow(unused)]

use gen_durable::prelude::*;

struct Paid;

#[durable_fsm(signals(Paid))]
enum Checkout {
    Pack,
}

#[durable_fsm]
impl Checkout {
    async fn pack(mut cx: Context<Self>) -> StepResult<Self> {
        let Some(paid) = cx.take_signal::<Paid>()? else {
            return Ok(cx.await_signal::<Paid>());
        };
        Ok(cx.next(Checkout::Pack))
    }
}

fn main() {}
