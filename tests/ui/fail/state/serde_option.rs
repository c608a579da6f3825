use gen_durable::prelude::*;

#[derive(DurableState)]
struct Order {
    #[serde(defualt)]
    id: i64,
}

fn main() {}
