use gen_durable::prelude::*;

#[durable_fsm(verison = 2, retries = 3)]
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
