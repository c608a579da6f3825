#![allow(unused)]

use gen_durable::prelude::*;

#[derive(Clone, DurableState)]
struct Order {
    id: i64,
}

#[durable_fsm(state = Order)]
enum Checkout {
    Pack,
    Label,
    Ship,
    Bill,
}

#[durable_fsm]
impl Checkout {
    async fn pack(state: Order) -> Outcome<Self> {
        todo!()
    }

    async fn label() -> Outcome<Self> {
        todo!()
    }

    async fn ship(self, cx: Context<Self>) -> Outcome<Self> {
        cx.next(Checkout::Pack)
    }

    async fn bill(order: &Order, cx: Context<Self>) -> Outcome<Self> {
        cx.next(Checkout::Pack)
    }
}

fn main() {}
