use gen_durable::prelude::*;

#[derive(DurableSignal)]
struct Paid<T> {
    amount: T,
}

#[derive(DurableSignal)]
struct Noted<'a> {
    text: &'a str,
}

#[durable_fsm(signals(Paid<i64>))]
enum Checkout {
    Pack,
}

#[durable_fsm]
impl Checkout {
    async fn pack(cx: Context<Self>) -> Outcome<Self> {
        cx.next(Checkout::Pack)
    }
}

fn main() {}
