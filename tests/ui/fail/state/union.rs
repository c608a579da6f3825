use gen_durable::prelude::*;

#[derive(DurableState)]
union Order {
    id: i64,
    code: u64,
}

#[derive(DurableSignal)]
union Paid {
    amount: i64,
    code: u64,
}

fn main() {}
