#![allow(unused)]

use gen_durable::prelude::*;

#[durable_fsm]
enum Checkout {
    Pack,
    Ship,
    Bill,
}

#[durable_fsm]
impl Checkout {
    async fn pack<T: Default>(cx: Context<Self>) -> Outcome<Self> {
        cx.next(Checkout::Ship)
    }

    async fn ship<'a>(cx: Context<Self>, carrier: &'a String) -> Outcome<Self> {
        cx.next(Checkout::Bill)
    }

    async fn bill(cx: Context<Self>, bank: &impl Send) -> Outcome<Self> {
        cx.next(Checkout::Pack)
    }
}

fn main() {}
