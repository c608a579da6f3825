#![allow(unused)]

use gen_durable::prelude::*;

struct Carrier<'a>(&'a str);

#[durable_fsm]
enum Checkout {
    Ship,
}

#[durable_fsm]
impl Checkout {
    async fn ship(cx: Context<Self>, carrier: &Carrier) -> Outcome<Self> {
        cx.next(Checkout::Ship)
    }
}

fn main() {}
