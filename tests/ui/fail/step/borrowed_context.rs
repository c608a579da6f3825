#![allow(unused)]

use gen_durable::prelude::*;
use std::time::Duration;

#[durable_fsm]
enum Checkout {
    Pack,
    Ship,
}

#[durable_fsm]
impl Checkout {
    async fn pack(cx: &mut Context<Self>) -> Outcome<Self> {
        todo!()
    }

    async fn ship(cx: &Context<Self>) -> Outcome<Self> {
        todo!()
    }

    // Not a step: no variant is called so.
    fn delay(cx: &Context<Self>) -> Duration {
        Duration::from_secs(cx.attempt().into())
    }
}

fn main() {}
