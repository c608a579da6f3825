use gen_durable::prelude::*;

mod bank {
    #[derive(gen_durable::DurableSignal)]
    pub struct Paid;
}

#[derive(DurableSignal)]
struct Paid;

#[durable_fsm(signals(Paid, Paid, bank::Paid))]
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
