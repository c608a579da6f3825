use gen_durable::prelude::*;

#[derive(DurableState)]
struct Order {
    #[durable(default)]
    id: i64,
}

#[derive(DurableSignal)]
enum Paid {
    #[durable(name = "cash")]
    InCash,
    ByCard(#[durable(skip)] String),
}

fn main() {}
