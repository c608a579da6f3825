use gen_durable::prelude::*;

#[durable_fsm]
enum Checkout {
    Pack,
}

#[durable_fsm]
impl Checkout {
    async fn pack(cx: Context<Self>) -> Outcome<Self> {
        "1".parse::<u32>()?;
        cx.next(Checkout::Pack)
    }
}

fn main() {}
