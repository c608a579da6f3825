#![deny(unused_must_use)]

use gen_durable::prelude::*;

#[derive(Clone, DurableState)]
struct Order {
    id: i64,
}

#[durable_fsm(state = Order)]
enum Checkout {
    Pack,
    Ship,
}

#[durable_fsm]
impl Checkout {
    async fn pack(cx: Context<Self>) -> Outcome<Self> {
        if cx.state.id == 0 {
            Self::finish(cx);
            loop {}
        }
        cx.next(Checkout::Ship)
    }

    fn finish(cx: Context<Self>) -> Outcome<Self> {
        cx.stop("no order")
    }

    async fn ship(cx: Context<Self>) -> Outcome<Self> {
        cx.next(Checkout::Pack)
    }
}

fn main() {}
