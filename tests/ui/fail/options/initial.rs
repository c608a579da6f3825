use gen_durable::prelude::*;

#[durable_fsm(initial = Pak)]
enum Checkout {
    Pack,
    Ship,
}

#[durable_fsm]
impl Checkout {
    async fn pack(cx: Context<Self>) -> Outcome<Self> {
        cx.next(Checkout::Ship)
    }

    async fn ship(cx: Context<Self>) -> Outcome<Self> {
        cx.next(Checkout::Pack)
    }
}

#[durable_fsm(initial = Refund::Start)]
enum Refund {
    Start,
}

#[durable_fsm]
impl Refund {
    async fn start(cx: Context<Self>) -> Outcome<Self> {
        cx.next(Refund::Start)
    }
}

fn main() {}
