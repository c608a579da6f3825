use gen_durable::prelude::*;

#[durable_fsm]
enum Checkout {
    Match,
    Crate,
}

#[durable_fsm]
impl Checkout {
    async fn start(cx: Context<Self>) -> Outcome<Self> {
        cx.next(Checkout::Match)
    }
}

fn main() {}
