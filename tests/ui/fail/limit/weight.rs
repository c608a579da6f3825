#![allow(unused)]

use gen_durable::prelude::*;

#[durable_fsm(output = ())]
enum Checkout {
    Reserve,
    Charge,
    Pack,
    Ship,
}

#[durable_fsm]
impl Checkout {
    #[step(limit("stripe", weight = 0))]
    async fn reserve(cx: Context<Self>) -> Outcome<Self> {
        cx.next(Checkout::Charge)
    }

    #[step(limit("stripe", weight = 1_000_001))]
    async fn charge(cx: Context<Self>) -> Outcome<Self> {
        cx.next(Checkout::Pack)
    }

    #[step(limit("stripe", weight = -1, key = 1))]
    async fn pack(cx: Context<Self>) -> Outcome<Self> {
        cx.next(Checkout::Ship)
    }

    #[step(limit("stripe", weight = state.parcels, weight("2")))]
    async fn ship(cx: Context<Self>) -> Outcome<Self> {
        cx.done(())
    }
}

#[durable_job(limit("mail", weight = 0))]
async fn send_mail(cx: JobContext) {}

#[durable_job(limit("mail", weight))]
async fn send_letter(cx: JobContext) {}

fn main() {}
