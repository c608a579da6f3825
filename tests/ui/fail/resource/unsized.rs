#![allow(unused)]

use gen_durable::prelude::*;

trait Carrier: Send + Sync {}

#[durable_fsm]
enum Checkout {
    Label,
    Pack,
    Ship,
}

#[durable_fsm]
impl Checkout {
    async fn label(cx: Context<Self>, name: &str) -> Outcome<Self> {
        cx.next(Checkout::Pack)
    }

    async fn pack(cx: Context<Self>, sizes: &[u32]) -> Outcome<Self> {
        cx.next(Checkout::Ship)
    }

    async fn ship(cx: Context<Self>, carrier: &dyn Carrier) -> Outcome<Self> {
        cx.next(Checkout::Label)
    }
}

fn main() {}
