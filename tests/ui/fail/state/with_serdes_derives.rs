use gen_durable::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, DurableState)]
struct Order {
    id: i64,
}

#[derive(DurableSignal, Serialize)]
struct Paid {
    amount: i64,
}

fn main() {}
