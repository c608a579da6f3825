//! A warning, unless somebody denies it.
#![deny(unused_must_use)]

use gen_durable::prelude::*;

#[derive(DurableSignal)]
pub struct Paid;

#[durable_fsm(output = (), signals(Paid))]
pub enum Checkout {
    Ship,
}

#[durable_fsm]
impl Checkout {
    async fn ship(cx: Context<Self>) -> Outcome<Self> {
        Checkout::insert(());
        Checkout::signal_paid(cx.id(), Paid);
        cx.done(())
    }
}

fn main() {}
