#![allow(unused)]

use gen_durable::prelude::*;

#[durable_fsm]
enum Checkout {
    Pack,
    Ship,
    Bill,
    Close,
}

#[durable_fsm]
impl Checkout {
    async fn pack(cx: Context<Self>) -> Self {
        Checkout::Ship
    }

    async fn ship(cx: Context<Self>) -> Result<(), StepError> {
        Ok(())
    }

    async fn bill(cx: Context<Self>) -> Option<Outcome<Self>> {
        Some(cx.next(Checkout::Pack))
    }

    async fn close(cx: Context<Self>) -> Result<Outcome<Self>, u32> {
        Err(1)
    }
}

fn main() {}
