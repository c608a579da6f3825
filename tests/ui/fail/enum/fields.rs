use gen_durable::prelude::*;

#[durable_fsm]
enum Checkout {
    Start,
    Pay(u32),
    Ship { order: i64 },
}

#[durable_fsm]
impl Checkout {
    async fn start(cx: Context<Self>) -> Outcome<Self> {
        cx.next(Checkout::Pay(3))
    }

    async fn pay(cx: Context<Self>) -> Outcome<Self> {
        cx.next(Checkout::Ship { order: 1 })
    }

    async fn ship(cx: Context<Self>) -> Outcome<Self> {
        cx.next(Checkout::Start)
    }
}

fn main() {}
