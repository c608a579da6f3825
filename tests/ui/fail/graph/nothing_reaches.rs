//! A warning, unless somebody denies it.
#![deny(unused_must_use)]

use gen_durable::prelude::*;

#[durable_fsm(output = (), initial = Ship)]
pub enum Checkout {
    Start,
    Ship,
    Left,
    Right,
    #[allow(unused_must_use)]
    Allowed,
    Entered,
    Inserted,
    AfterAnError,
}

#[durable_fsm]
impl Checkout {
    async fn start(cx: Context<Self>) -> Outcome<Self> {
        cx.next(Checkout::Ship)
    }

    async fn ship(cx: Context<Self>) -> Outcome<Self> {
        cx.done(()).insert(Checkout::insert(()).step(Checkout::Inserted))
    }

    async fn left(cx: Context<Self>) -> Outcome<Self> {
        cx.next(Checkout::Right)
    }

    async fn right(cx: Context<Self>) -> Outcome<Self> {
        cx.next(Checkout::Left)
    }

    async fn allowed(cx: Context<Self>) -> Outcome<Self> {
        cx.done(())
    }

    #[step(entry)]
    async fn entered(cx: Context<Self>) -> Outcome<Self> {
        cx.done(())
    }

    async fn inserted(cx: Context<Self>) -> Outcome<Self> {
        cx.done(())
    }

    async fn after_an_error(cx: Context<Self>) -> Outcome<Self> {
        cx.done(())
    }

    async fn handle(cx: Context<Self>, _error: StepError) -> Outcome<Self> {
        cx.next(Checkout::AfterAnError)
    }
}

fn main() {}
