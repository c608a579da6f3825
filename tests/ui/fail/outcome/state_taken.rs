use gen_durable::prelude::*;

#[derive(DurableState)]
pub struct Order {
    pub items: Vec<String>,
}

#[durable_fsm(state = Order, output = Vec<String>)]
pub enum Checkout {
    Pack,
    Ship,
}

#[durable_fsm]
impl Checkout {
    async fn pack(cx: Context<Self>) -> Outcome<Self> {
        let items = cx.state.items;
        drop(items);
        cx.next(Checkout::Ship)
    }

    async fn ship(cx: Context<Self>) -> Outcome<Self> {
        cx.done(cx.state.items)
    }
}

fn main() {}
