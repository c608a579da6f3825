//! Versions that take over from each other; of the older ones nothing is left but enum, state and upgrade.

#![deny(warnings)]

use gen_durable::prelude::*;

mod v1 {
    use gen_durable::prelude::*;

    #[derive(DurableState)]
    pub struct State {
        pub price: String,
    }

    #[derive(DurableSignal)]
    pub struct Paid {
        pub amount: String,
    }

    #[durable_fsm(state = State, output = (), signals(Paid), retired)]
    pub enum Order {
        Charge,
        Ship,
    }
}

mod v2 {
    use gen_durable::prelude::*;

    use super::v1;

    #[durable_fsm(version = 2, state = i64, retired, upgrades = v1::Order)]
    pub enum Order {
        Charge,
        Ship,
    }

    impl Upgrade<v1::Order> for Order {
        fn upgrade(step: v1::Order, state: v1::State) -> Result<(Self, i64), UpgradeError> {
            let step = match step {
                v1::Order::Charge => Order::Charge,
                v1::Order::Ship => Order::Ship,
            };
            Ok((step, state.price.parse()?))
        }
    }
}

#[durable_fsm(name = "order", version = 7, state = i64, output = (), upgrades = v2::Order)]
pub enum CurrentOrder {
    Ship,
}

impl Upgrade<v2::Order> for CurrentOrder {
    fn upgrade(step: v2::Order, state: i64) -> Result<(Self, i64), UpgradeError> {
        match step {
            v2::Order::Charge if state < 0 => Err("a negative price".into()),
            v2::Order::Charge | v2::Order::Ship => Ok((CurrentOrder::Ship, state)),
        }
    }
}

#[durable_fsm]
impl CurrentOrder {
    async fn ship(cx: Context<Self>) -> Outcome<Self> {
        cx.done(())
    }
}

/// A version that is retired may keep its steps for a while.
#[durable_fsm(retired, output = ())]
pub enum Refund {
    Go,
}

#[durable_fsm]
impl Refund {
    async fn go(cx: Context<Self>) -> Outcome<Self> {
        cx.done(())
    }
}

fn main() {
    let text = format!("{:?}", CurrentOrder::UPGRADES);
    assert_eq!(text, "Upgrades { machine: \"order\", versions: [2, 1] }");
    let paid = v1::Paid { amount: "1".to_owned() };
    let _ = v1::Order::signal_paid(InstanceId::from_raw(1), paid);
}
