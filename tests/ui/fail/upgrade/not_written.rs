use gen_durable::prelude::*;

mod v1 {
    use gen_durable::prelude::*;

    #[durable_fsm(retired)]
    pub enum Order {
        Go,
    }
}

#[durable_fsm(version = 2, upgrades = v1::Order)]
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
