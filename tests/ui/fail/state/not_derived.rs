use gen_durable::prelude::*;

#[derive(Clone)]
struct Order {
    id: i64,
}

struct Receipt;

#[durable_fsm(state = Order, output = Receipt)]
enum Checkout {
    Pack,
}

#[durable_fsm]
impl Checkout {
    async fn pack(mut cx: Context<Self>) -> Outcome<Self> {
        cx.state.id += 1;
        cx.done(Receipt)
    }
}

fn main() {}
