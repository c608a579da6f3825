use gen_durable::prelude::*;

#[derive(Clone, DurableState)]
struct Order {
    id: i64,
}

#[derive(Clone, DurableState)]
struct Parcel {
    id: i64,
}

#[durable_fsm(state = Order)]
enum Checkout {
    Pack,
}

#[durable_fsm]
impl Checkout {
    async fn pack(cx: Context<Self>) -> Outcome<Self> {
        cx.next(Checkout::Pack)
    }
}

fn insert() -> Insert<Checkout> {
    Checkout::insert(Parcel { id: 1 })
}

fn main() {}
