use gen_durable::prelude::*;

trait Shipping {
    fn ship();
}

#[durable_fsm]
enum Checkout {
    Ship,
}

#[durable_fsm]
impl Shipping for Checkout {
    fn ship() {}
}

fn main() {}
