use gen_durable::prelude::*;

mod v1 {
    pub struct OrderState;
}

#[durable_fsm(version = 2, upgrades = v1::OrderState)]
enum Order {
    Go,
}

#[durable_fsm]
impl Order {
    async fn go(cx: Context<Self>) -> Outcome<Self> {
        cx.next(Order::Go)
    }
}

fn main() {}
