use gen_durable::prelude::*;

#[durable_fsm]
enum Checkout {
    AwaitPay,
    Ship,
}

#[durable_fsm]
impl Checkout {
    async fn awiat_pay(cx: Context<Self>) -> Outcome<Self> {
        cx.next(Checkout::Ship)
    }

    async fn ship(cx: Context<Self>) -> Outcome<Self> {
        cx.next(Checkout::AwaitPay)
    }
}

fn main() {}
