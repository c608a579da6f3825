#![allow(unused)]

use gen_durable::prelude::*;

#[durable_fsm(output = (), limit = "stripe")]
enum Checkout {
    A,
    B,
    C,
    D,
    E,
    F,
    G,
    H,
    I,
}

#[durable_fsm]
impl Checkout {
    #[step(limit)]
    async fn a(cx: Context<Self>) -> Outcome<Self> {
        cx.next(Checkout::B)
    }

    #[step(limit())]
    async fn b(cx: Context<Self>) -> Outcome<Self> {
        cx.next(Checkout::C)
    }

    #[step(limit(key = 7, weight = 3))]
    async fn c(cx: Context<Self>) -> Outcome<Self> {
        cx.next(Checkout::D)
    }

    #[step(limit("stripe", keys = 7, rate = 5))]
    async fn d(cx: Context<Self>) -> Outcome<Self> {
        cx.next(Checkout::E)
    }

    #[step(limit("stripe", key = 7, weight = 1, key = 1, weight = 2))]
    async fn e(cx: Context<Self>) -> Outcome<Self> {
        cx.next(Checkout::F)
    }

    #[step(limit = "stripe", limit("carrier"))]
    async fn f(cx: Context<Self>) -> Outcome<Self> {
        cx.next(Checkout::G)
    }

    #[step(limit = "stripe")]
    #[step(limit = "carrier")]
    async fn g(cx: Context<Self>) -> Outcome<Self> {
        cx.next(Checkout::H)
    }

    #[step(limit("stripe" weight = 3), limit("stripe"))]
    async fn h(cx: Context<Self>) -> Outcome<Self> {
        cx.next(Checkout::I)
    }

    #[step(limit("stripe", "carrier", key = ))]
    async fn i(cx: Context<Self>) -> Outcome<Self> {
        cx.done(())
    }

    #[step(limit = "stripe")]
    async fn handle(cx: Context<Self>, error: StepError) -> Outcome<Self> {
        cx.stop(error)
    }
}

#[durable_job(limit("mail", size = 3))]
async fn send_mail(cx: JobContext) {}

#[durable_job(limit(weight = 3))]
async fn send_letter(cx: JobContext) {}

#[durable_job(limit("mail", key = state., weight = 2))]
async fn send_parcel(cx: JobContext) {}

fn main() {}
