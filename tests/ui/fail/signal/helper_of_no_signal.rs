use gen_durable::prelude::*;

#[derive(DurableSignal)]
struct Paid;

#[derive(DurableSignal)]
struct Cancelled;

#[derive(DurableSignal)]
struct Noted;

#[durable_fsm(signals(Cancelled, Noted))]
enum Checkout {
    Pack,
}

#[durable_fsm]
impl Checkout {
    async fn pack(cx: Context<Self>) -> StepResult<Self> {
        Ok(cx.await_signal::<Cancelled>())
    }
}

fn send(id: InstanceId<Checkout>) -> Signal<Checkout> {
    Checkout::signal_paid(id, Paid)
}

fn main() {}
