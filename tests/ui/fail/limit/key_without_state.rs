#![allow(unused)]

use gen_durable::prelude::*;

#[durable_fsm(output = ())]
enum Checkout {
    Charge,
}

#[durable_fsm]
impl Checkout {
    #[step(limit("stripe", key = state.customer))]
    async fn charge(cx: Context<Self>) -> Outcome<Self> {
        cx.done(())
    }
}

#[durable_job(limit("mail", key = state.domain))]
async fn send_mail(cx: JobContext) {}

fn main() {}
