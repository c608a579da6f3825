use gen_durable::prelude::*;

#[durable_fsm(queue = checkout)]
enum NoQuotes {
    Go,
}

#[durable_fsm]
impl NoQuotes {
    async fn go(cx: Context<Self>) -> Outcome<Self> {
        cx.next(NoQuotes::Go)
    }
}

#[durable_fsm(queue = "")]
enum Empty {
    Go,
}

#[durable_fsm]
impl Empty {
    async fn go(cx: Context<Self>) -> Outcome<Self> {
        cx.next(Empty::Go)
    }
}

#[durable_fsm(name = 3)]
enum Number {
    Go,
}

#[durable_fsm]
impl Number {
    async fn go(cx: Context<Self>) -> Outcome<Self> {
        cx.next(Number::Go)
    }
}

#[durable_fsm(name = check-out)]
enum Dashes {
    Go,
}

#[durable_fsm]
impl Dashes {
    async fn go(cx: Context<Self>) -> Outcome<Self> {
        cx.next(Dashes::Go)
    }
}

fn main() {}
