use gen_durable::prelude::*;

#[derive(DurableSignal)]
struct Paid;

#[derive(DurableSignal)]
struct Cancelled;

#[durable_fsm(signals = Paid)]
enum Equals {
    Go,
}

#[durable_fsm]
impl Equals {
    async fn go(cx: Context<Self>) -> Outcome<Self> {
        cx.await_signal::<Paid>()
    }
}

#[durable_fsm(signals[Paid, Cancelled])]
enum Brackets {
    Go,
}

#[durable_fsm]
impl Brackets {
    async fn go(cx: Context<Self>) -> Outcome<Self> {
        cx.await_signal::<Paid>()
    }
}

#[durable_fsm(signals = [Paid, Cancelled])]
enum EqualsList {
    Go,
}

#[durable_fsm]
impl EqualsList {
    async fn go(cx: Context<Self>) -> Outcome<Self> {
        cx.await_signal::<Paid>()
    }
}

#[durable_fsm(signals(Paid, "Cancelled"))]
enum Mixed {
    Go,
}

#[durable_fsm]
impl Mixed {
    async fn go(cx: Context<Self>) -> Outcome<Self> {
        cx.await_signal::<Paid>()
    }
}

fn main() {}
