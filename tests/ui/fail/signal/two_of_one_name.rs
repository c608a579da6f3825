use gen_durable::prelude::*;

#[derive(DurableSignal)]
struct Paid;

#[derive(DurableSignal)]
#[durable(name = "paid")]
struct PaidInCash;

#[durable_fsm(signals(Paid, PaidInCash))]
enum Checkout {
    Pack,
}

#[durable_fsm]
impl Checkout {
    async fn pack(cx: Context<Self>) -> Outcome<Self> {
        cx.await_signal::<Paid>()
    }
}

fn main() {}
