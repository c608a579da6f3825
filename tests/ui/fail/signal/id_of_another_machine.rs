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

#[durable_fsm]
enum Refund {
    Pay,
}

#[durable_fsm]
impl Refund {
    async fn pay(cx: Context<Self>) -> Outcome<Self> {
        cx.next(Refund::Pay)
    }
}

fn send(id: InstanceId<Refund>) -> Signal<Checkout> {
    Checkout::signal_cancelled(id, Cancelled)
}

fn send_any(id: InstanceId<Refund>) -> Signal<Checkout> {
    Checkout::signal(id, Cancelled)
}

fn main() {}
