use gen_durable::prelude::*;

#[derive(DurableSignal)]
struct Paid;

#[durable_fsm(signals(Paid))]
enum Checkout {
    Insert,
    InsertMany,
    Signal,
    ByKey,
    SignalPaid,
    Handle,
    // No signal of this machine's is called so.
    SignalBank,
}

#[durable_fsm]
impl Checkout {
    async fn insert(cx: Context<Self>) -> Outcome<Self> {
        cx.next(Checkout::InsertMany)
    }

    async fn insert_many(cx: Context<Self>) -> Outcome<Self> {
        cx.next(Checkout::Signal)
    }

    async fn signal(cx: Context<Self>) -> Outcome<Self> {
        cx.next(Checkout::SignalPaid)
    }

    async fn signal_paid(cx: Context<Self>) -> Outcome<Self> {
        cx.next(Checkout::SignalBank)
    }

    async fn signal_bank(cx: Context<Self>) -> Outcome<Self> {
        cx.next(Checkout::Insert)
    }
}

fn main() {}
