//! `#[cfg]` on variants and on their steps.

#![allow(unexpected_cfgs)]

use gen_durable::prelude::*;

#[durable_fsm]
enum Checkout {
    #[cfg(any())]
    Never,
    #[cfg(not(all()))]
    #[cfg(all())]
    NeverEither,
    #[cfg(all())]
    Always,
    Ship,
    #[cfg(absent)]
    Last,
}

#[durable_fsm]
impl Checkout {
    #[cfg(any())]
    async fn never(cx: Context<Self>, missing: &Missing) -> Outcome<Self> {
        cx.next(Checkout::Never)
    }

    #[cfg(not(all()))]
    #[cfg(all())]
    async fn never_either(cx: Context<Self>) -> Outcome<Self> {
        cx.next(Checkout::NeverEither)
    }

    #[cfg(all())]
    async fn always(cx: Context<Self>) -> Outcome<Self> {
        cx.next(Checkout::Ship)
    }

    #[cfg(absent)]
    async fn ship(cx: Context<Self>) -> Outcome<Self> {
        cx.next(Checkout::Last)
    }

    #[cfg(not(absent))]
    async fn ship(cx: Context<Self>) -> Outcome<Self> {
        cx.next(Checkout::Always)
    }

    #[cfg(absent)]
    async fn last(cx: Context<Self>) -> Outcome<Self> {
        cx.next(Checkout::Always)
    }

    #[cfg(absent)]
    async fn handle(cx: Context<Self>, error: StepError, missing: &Missing) -> Outcome<Self> {
        cx.stop(error)
    }
}

#[durable_fsm(initial = Second)]
enum Refund {
    #[cfg(all())]
    First,
    Second,
}

#[durable_fsm]
impl Refund {
    async fn first(cx: Context<Self>) -> Outcome<Self> {
        cx.next(Refund::Second)
    }

    async fn second(cx: Context<Self>) -> Outcome<Self> {
        cx.next(Refund::First)
    }
}

fn main() {
    assert_eq!(Checkout::STEPS, ["always", "ship"]);
    assert_eq!(Checkout::INITIAL.name(), "always");
    assert!(Checkout::requirements().is_empty());
    assert_eq!(Refund::INITIAL.name(), "second");
}
