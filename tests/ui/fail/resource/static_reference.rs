#![allow(unused)]

use gen_durable::prelude::*;

struct Carrier;

#[durable_fsm]
enum Checkout {
    Ship,
}

#[durable_fsm]
impl Checkout {
    async fn ship(cx: Context<Self>, carrier: &'static Carrier) -> Outcome<Self> {
        cx.next(Checkout::Ship)
    }
}

fn main() {}
