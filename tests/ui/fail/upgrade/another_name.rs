use gen_durable::prelude::*;

#[durable_fsm(retired)]
enum OrderV1 {
    Go,
}

#[durable_fsm(version = 2, upgrades = OrderV1)]
enum Order {
    Go,
}

impl Upgrade<OrderV1> for Order {
    fn upgrade(_: OrderV1, _: ()) -> Result<(Self, ()), UpgradeError> {
        Ok((Order::Go, ()))
    }
}

#[durable_fsm]
impl Order {
    async fn go(cx: Context<Self>) -> Outcome<Self> {
        cx.next(Order::Go)
    }
}

fn main() {}
