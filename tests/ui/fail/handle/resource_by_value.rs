#![allow(unused)]

use gen_durable::prelude::*;

#[durable_fsm]
enum Checkout {
    Ship,
}

#[durable_fsm]
impl Checkout {
    async fn ship(cx: Context<Self>) -> Outcome<Self> {
        cx.next(Checkout::Ship)
    }

    async fn handle(cx: Context<Self>, error: StepError, log: String) -> Outcome<Self> {
        todo!()
    }
}

fn main() {}
