use gen_durable::prelude::*;

#[durable_fsm]
enum Checkout {
    Ship,
}

#[durable_fsm]
impl<T> Checkout {
    async fn ship(cx: Context<Self>) -> Outcome<Self> {
        cx.next(Checkout::Ship)
    }
}

fn main() {}
