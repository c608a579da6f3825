use gen_durable::prelude::*;

#[derive(Clone, DurableState)]
struct Order {
    id: i64,
}

#[durable_fsm(state = Order, output = Order, initial = Ship)]
enum Checkout {
    Pack,
    Ship,
}

#[durable_fsm]
impl Checkout {
    async fn pack(cx: Context<Self>) -> Outcome<Self> {
        cx.done(3)
    }

    async fn ship(cx: Context<Self>) -> Outcome<Self> {
        cx.next(Checkout::Pack)
    }
}

fn main() {}
