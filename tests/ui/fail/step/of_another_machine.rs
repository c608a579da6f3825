use gen_durable::prelude::*;

#[durable_fsm]
enum Refund {
    Pay,
}

#[durable_fsm]
impl Refund {
    async fn pay(cx: Context<Self>) -> Outcome<Self> {
        cx.next(Refund::Pay)
    }
}

#[durable_fsm]
enum Checkout {
    Pack,
    Ship,
}

#[durable_fsm]
impl Checkout {
    async fn pack(cx: Context<Refund>) -> Outcome<Refund> {
        cx.next(Refund::Pay)
    }

    async fn ship(cx: Context<Self>) -> Outcome<Self> {
        cx.next(Refund::Pay)
    }
}

fn main() {}
