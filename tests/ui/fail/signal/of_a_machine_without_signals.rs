use gen_durable::prelude::*;

#[derive(DurableSignal)]
struct Paid;

#[durable_fsm]
enum Checkout {
    Pack,
}

#[durable_fsm]
impl Checkout {
    async fn pack(cx: Context<Self>) -> Outcome<Self> {
        cx.await_signal::<Paid>()
    }
}

fn send(id: InstanceId<Checkout>) -> Signal<Checkout> {
    Checkout::signal(id, Paid)
}

fn main() {}
