use gen_durable::prelude::*;

#[derive(Clone, DurableSignal)]
pub struct Paid;

#[durable_fsm(output = (), signals(Paid))]
pub enum Order {
    Wait,
}

#[durable_fsm]
impl Order {
    async fn wait(cx: Context<Self>) -> Outcome<Self> {
        cx.await_signal::<Paid>()
    }
}

#[durable_fsm(output = ())]
pub enum Other {
    Go,
}

#[durable_fsm]
impl Other {
    async fn go(cx: Context<Self>) -> Outcome<Self> {
        cx.done(())
    }
}

fn main() {
    let _ = Order::signal_paid(Other::by_key("order 42"), Paid);
    let _ = Order::signal_paid(42, Paid);
    let _ = Other::insert(()).unique_key("k").with_signal(Paid);
}
