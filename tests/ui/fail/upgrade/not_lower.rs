use gen_durable::prelude::*;

mod older {
    use gen_durable::prelude::*;

    #[durable_fsm(version = 3, retired)]
    pub enum Order {
        Go,
    }

    #[durable_fsm(retired)]
    pub enum Refund {
        Go,
    }
}

#[durable_fsm(version = 2, upgrades = older::Order)]
enum Order {
    Go,
}

impl Upgrade<older::Order> for Order {
    fn upgrade(_: older::Order, _: ()) -> Result<(Self, ()), UpgradeError> {
        Ok((Order::Go, ()))
    }
}

#[durable_fsm]
impl Order {
    async fn go(cx: Context<Self>) -> Outcome<Self> {
        cx.next(Order::Go)
    }
}

// The version was not raised.
#[durable_fsm(upgrades = older::Refund)]
enum Refund {
    Go,
}

impl Upgrade<older::Refund> for Refund {
    fn upgrade(_: older::Refund, _: ()) -> Result<(Self, ()), UpgradeError> {
        Ok((Refund::Go, ()))
    }
}

#[durable_fsm]
impl Refund {
    async fn go(cx: Context<Self>) -> Outcome<Self> {
        cx.next(Refund::Go)
    }
}

fn main() {}
