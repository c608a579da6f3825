#![allow(unused)]

use gen_durable::prelude::*;

#[durable_fsm]
enum Checkout {
    Ship,
}

#[durable_fsm]
impl Checkout {
    async fn ship(cx: Context<Self>, carrier: &Carier) -> Outcome<Self> {
        cx.next(Checkout::Ship)
    }
}

fn main() {}
