use gen_durable::prelude::*;

#[durable_fsm]
enum Checkout {
    Pack,
    Ship,
}

fn main() {}
