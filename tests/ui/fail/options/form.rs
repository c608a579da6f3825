use gen_durable::prelude::*;

#[durable_fsm(version = 1 queue = "a")]
enum NoComma {
    Go,
}

#[durable_fsm]
impl NoComma {
    async fn go(cx: Context<Self>) -> Outcome<Self> {
        cx.next(NoComma::Go)
    }
}

#[durable_fsm(version)]
enum NoValue {
    Go,
}

#[durable_fsm]
impl NoValue {
    async fn go(cx: Context<Self>) -> Outcome<Self> {
        cx.next(NoValue::Go)
    }
}

#[durable_fsm(state)]
enum NoType {
    Go,
}

#[durable_fsm]
impl NoType {
    async fn go(cx: Context<Self>) -> Outcome<Self> {
        cx.next(NoType::Go)
    }
}

#[durable_fsm(version(1))]
enum Parentheses {
    Go,
}

#[durable_fsm]
impl Parentheses {
    async fn go(cx: Context<Self>) -> Outcome<Self> {
        cx.next(Parentheses::Go)
    }
}

#[durable_fsm("checkout")]
enum NoName {
    Go,
}

#[durable_fsm]
impl NoName {
    async fn go(cx: Context<Self>) -> Outcome<Self> {
        cx.next(NoName::Go)
    }
}

#[durable_fsm(queue: "a")]
enum Colon {
    Go,
}

#[durable_fsm]
impl Colon {
    async fn go(cx: Context<Self>) -> Outcome<Self> {
        cx.next(Colon::Go)
    }
}

fn main() {}
