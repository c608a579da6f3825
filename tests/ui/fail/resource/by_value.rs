#![allow(unused)]

use gen_durable::prelude::*;
use std::sync::Arc;

struct Carrier;

#[durable_fsm]
enum Checkout {
    Pack,
    Ship,
}

#[durable_fsm]
impl Checkout {
    async fn pack(cx: Context<Self>, carrier: Carrier) -> Outcome<Self> {
        cx.next(Checkout::Ship)
    }

    async fn ship(cx: Context<Self>, carrier: Arc<Carrier>) -> Outcome<Self> {
        cx.next(Checkout::Pack)
    }
}

fn main() {}
