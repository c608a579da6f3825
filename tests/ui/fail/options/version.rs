use gen_durable::prelude::*;

#[durable_fsm(version = 0)]
enum Zero {
    Go,
}

#[durable_fsm]
impl Zero {
    async fn go(cx: Context<Self>) -> Outcome<Self> {
        cx.next(Zero::Go)
    }
}

#[durable_fsm(version = -1)]
enum Negative {
    Go,
}

#[durable_fsm]
impl Negative {
    async fn go(cx: Context<Self>) -> Outcome<Self> {
        cx.next(Negative::Go)
    }
}

#[durable_fsm(version = "2")]
enum Text {
    Go,
}

#[durable_fsm]
impl Text {
    async fn go(cx: Context<Self>) -> Outcome<Self> {
        cx.next(Text::Go)
    }
}

#[durable_fsm(version = 1.5)]
enum Fraction {
    Go,
}

#[durable_fsm]
impl Fraction {
    async fn go(cx: Context<Self>) -> Outcome<Self> {
        cx.next(Fraction::Go)
    }
}

#[durable_fsm(version = 4294967296)]
enum Huge {
    Go,
}

#[durable_fsm]
impl Huge {
    async fn go(cx: Context<Self>) -> Outcome<Self> {
        cx.next(Huge::Go)
    }
}

fn main() {}
