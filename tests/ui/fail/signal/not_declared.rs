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
    async fn pack(mut cx: Context<Self>) -> StepResult<Self> {
        if cx.peek_signal::<Paid>()?.is_some() && cx.count_signals::<Paid>() > 1 {
            cx.take_signal::<Paid>()?;
        }
        Ok(cx.await_signal::<Paid>())
    }
}

fn send(id: InstanceId<Checkout>) -> Signal<Checkout> {
    Checkout::signal(id, Paid)
}

fn main() {}
