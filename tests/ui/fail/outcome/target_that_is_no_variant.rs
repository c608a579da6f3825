use std::time::Duration;

use gen_durable::prelude::*;

#[durable_fsm(output = ())]
pub enum Checkout {
    Pack,
    Bill,
    Wait,
    Ship,
}

#[durable_fsm]
impl Checkout {
    async fn pack(cx: Context<Self>) -> Outcome<Self> {
        cx.next(Checkout::bill)
    }

    async fn bill(cx: Context<Self>) -> Outcome<Self> {
        cx.next("wait")
    }

    async fn wait(cx: Context<Self>) -> Outcome<Self> {
        cx.next_in(Duration::from_secs(1), Checkout::Ship)
    }

    async fn ship(cx: Context<Self>) -> Outcome<Self> {
        cx.done(())
    }
}

fn main() {}
