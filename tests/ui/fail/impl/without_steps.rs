use gen_durable::prelude::*;

#[durable_fsm]
enum Checkout {
    Ship,
}

#[durable_fsm]
impl Checkout {
    fn carrier() -> &'static str {
        "by land"
    }
}

fn main() {}
