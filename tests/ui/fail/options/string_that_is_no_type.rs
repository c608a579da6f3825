use gen_durable::prelude::*;

#[durable_fsm(state = "an order", initial = "the first")]
enum Checkout {
    Ship,
}

#[durable_fsm]
impl Checkout {
    async fn ship(cx: Context<Self>) -> Outcome<Self> {
        cx.next(Checkout::Ship)
    }
}

fn main() {}
