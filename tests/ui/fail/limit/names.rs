#![allow(unused)]

use gen_durable::prelude::*;

#[durable_fsm(output = ())]
enum Checkout {
    Reserve,
    Charge,
    Pack,
    Ship,
    Report,
}

#[durable_fsm]
impl Checkout {
    #[step(limit = "")]
    async fn reserve(cx: Context<Self>) -> Outcome<Self> {
        cx.next(Checkout::Charge)
    }

    #[step(limit("a\nb", weight = 2))]
    async fn charge(cx: Context<Self>) -> Outcome<Self> {
        cx.next(Checkout::Pack)
    }

    #[step(limit = stripe)]
    async fn pack(cx: Context<Self>) -> Outcome<Self> {
        cx.next(Checkout::Ship)
    }

    #[step(limit(stripe, key = 5))]
    async fn ship(cx: Context<Self>) -> Outcome<Self> {
        cx.next(Checkout::Report)
    }

    #[step(limit("ninety bytes, ninety bytes, ninety bytes, ninety bytes, ninety bytes, ninety bytes, ninety.ninety bytes, ninety bytes, ninety bytes, ninety bytes, ninety bytes, ninety bytes, ninety.ninety bytes, ninety bytes, ninety bytes, ninety bytes, ninety bytes, ninety bytes, ninety."))]
    async fn report(cx: Context<Self>) -> Outcome<Self> {
        cx.done(())
    }
}

#[durable_job(limit = 3)]
async fn send_mail(cx: JobContext) {}

#[durable_job(limit(""))]
async fn send_letter(cx: JobContext) {}

fn main() {}
