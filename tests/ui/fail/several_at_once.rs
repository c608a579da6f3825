#![allow(unused)]

use gen_durable::prelude::*;

struct Carrier;

#[derive(DurableState)]
#[durable(serd = external)]
struct Order<T> {
    id: T,
}

#[durable_fsm(version = 0, queue = checkout, timeout = "soon", retries = 3, initial = Strat)]
enum Checkout {
    Start,
    Pay(u32),
    Signal,
}

#[durable_fsm(queue = "checkout")]
impl Checkout {
    async fn start(cx: Context<Self>, carrier: Carrier) {
        cx.next(Checkout::Start);
    }

    async fn pay<T>(cx: Context<Self>, carrier: &mut Carrier) -> Outcome<Self> {
        cx.next(Checkout::Start)
    }
}

fn main() {}
