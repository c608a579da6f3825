use gen_durable::prelude::*;

mod v1 {
    use gen_durable::prelude::*;

    #[durable_fsm(version = 1, retired)]
    pub enum Order {
        Go,
    }
}

#[durable_fsm(version = 2, upgrades = "v1::Order")]
enum Order {
    Go,
}

impl Upgrade<v1::Order> for Order {
    fn upgrade(_: v1::Order, _: ()) -> Result<(Self, ()), UpgradeError> {
        Ok((Order::Go, ()))
    }
}

#[durable_fsm]
impl Order {
    async fn go(cx: Context<Self>) -> Outcome<Self> {
        cx.next(Order::Go)
    }
}

#[durable_fsm(upgrades, retired = true)]
enum Refund {
    Go,
}

#[durable_fsm(upgrade = v1::Order, name = "order", version = 2, retired)]
enum Misspelt {
    Go,
}

impl Upgrade<v1::Order> for Misspelt {
    fn upgrade(_: v1::Order, _: ()) -> Result<(Self, ()), UpgradeError> {
        Ok((Misspelt::Go, ()))
    }
}

fn main() {}
