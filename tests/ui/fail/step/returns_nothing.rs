#![allow(unused)]

use gen_durable::prelude::*;

#[durable_fsm]
enum Checkout {
    Pack,
    Ship,
}

#[durable_fsm]
impl Checkout {
    async fn pack(cx: Context<Self>) {
        cx.next(Checkout::Pack);
    }

    async fn ship(cx: Context<Self>) -> () {}
}

fn main() {}
