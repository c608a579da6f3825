use gen_durable::prelude::*;

#[durable_fsm(version = 1, queue = "a", version = 2)]
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
