#![allow(unused)]

use gen_durable::prelude::*;

const EMPTY: &str = "";

mod limits {
    pub const LINES: &str = "a\nb";
    pub const NUMBER: u32 = 3;
}

#[durable_fsm(output = ())]
enum Checkout {
    Reserve,
    Charge,
}

#[durable_fsm]
impl Checkout {
    #[step(limit = EMPTY)]
    async fn reserve(cx: Context<Self>) -> Outcome<Self> {
        cx.next(Checkout::Charge)
    }

    #[step(limit(limits::LINES, weight = 2))]
    async fn charge(cx: Context<Self>) -> Outcome<Self> {
        cx.done(())
    }
}

#[durable_job(limit(limits::NUMBER))]
async fn send_mail(cx: JobContext) {}

#[durable_job(limit = MISSING)]
async fn send_letter(cx: JobContext) {}

fn main() {}
