#![allow(unused)]

use gen_durable::prelude::*;

#[durable_fsm]
enum Checkout {
    Ship,
}

#[durable_fsm]
impl Checkout {
    async fn ship(cx: Context<Self>) -> Outcome<Self> {
        cx.next(Checkout::Ship)
    }

    async fn handle(cx: Context<Self>) -> Outcome<Self> {
        todo!()
    }
}

#[durable_fsm]
enum Refund {
    Ship,
}

#[durable_fsm]
impl Refund {
    async fn ship(cx: Context<Self>) -> Outcome<Self> {
        cx.next(Refund::Ship)
    }

    async fn handle(error: StepError) -> Outcome<Self> {
        todo!()
    }
}

#[durable_fsm]
enum Invoice {
    Ship,
}

#[durable_fsm]
impl Invoice {
    async fn ship(cx: Context<Self>) -> Outcome<Self> {
        cx.next(Invoice::Ship)
    }

    async fn handle() -> Outcome<Self> {
        todo!()
    }
}

#[durable_fsm]
enum Parcel {
    Ship,
}

#[durable_fsm]
impl Parcel {
    async fn ship(cx: Context<Self>) -> Outcome<Self> {
        cx.next(Parcel::Ship)
    }

    async fn handle(cx: &Context<Self>, error: StepError) -> Outcome<Self> {
        todo!()
    }
}

fn main() {}
