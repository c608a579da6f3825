use gen_durable::prelude::*;

#[durable_fsm]
enum Checkout {}

#[durable_fsm]
impl Checkout {}

fn main() {}
