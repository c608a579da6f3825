use gen_durable::prelude::*;

#[durable_fsm]
enum Checkout<T> {
    Ship,
}

#[durable_fsm]
impl<T> Checkout<T> {}

#[durable_fsm]
enum Refund<'a> {
    Pay,
}

fn main() {}
