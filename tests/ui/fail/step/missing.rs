use gen_durable::prelude::*;

#[durable_fsm]
enum Checkout {
    AwaitPay,
    Ship,
    Match,
}

#[durable_fsm]
impl Checkout {
    async fn ship(cx: Context<Self>) -> Outcome<Self> {
        cx.next(Checkout::AwaitPay)
    }
}

fn main() {}
