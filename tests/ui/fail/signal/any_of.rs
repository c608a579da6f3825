use gen_durable::prelude::*;

#[derive(DurableSignal)]
pub struct Paid;

#[derive(DurableSignal)]
pub struct Cancelled;

#[durable_fsm(output = (), signals(Paid))]
pub enum Checkout {
    Undeclared,
    One,
}

#[durable_fsm]
impl Checkout {
    async fn undeclared(cx: Context<Self>) -> Outcome<Self> {
        if cx.timed_out() {
            return cx.next(Checkout::One);
        }
        cx.await_any::<(Paid, Cancelled)>()
    }

    async fn one(cx: Context<Self>) -> Outcome<Self> {
        cx.await_any::<Paid>()
    }
}

fn main() {}
