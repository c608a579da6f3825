use gen_durable::prelude::*;

#[durable_fsm(timeout = "30")]
enum NoUnit {
    Go,
}

#[durable_fsm]
impl NoUnit {
    async fn go(cx: Context<Self>) -> Outcome<Self> {
        cx.next(NoUnit::Go)
    }
}

#[durable_fsm(timeout = 30)]
enum Number {
    Go,
}

#[durable_fsm]
impl Number {
    async fn go(cx: Context<Self>) -> Outcome<Self> {
        cx.next(Number::Go)
    }
}

#[durable_fsm(timeout = "5 minutes")]
enum Words {
    Go,
}

#[durable_fsm]
impl Words {
    async fn go(cx: Context<Self>) -> Outcome<Self> {
        cx.next(Words::Go)
    }
}

#[durable_fsm(timeout = "0s")]
enum Zero {
    Go,
}

#[durable_fsm]
impl Zero {
    async fn go(cx: Context<Self>) -> Outcome<Self> {
        cx.next(Zero::Go)
    }
}

#[durable_fsm(timeout = Duration::from_secs(30))]
enum Expression {
    Go,
}

#[durable_fsm]
impl Expression {
    async fn go(cx: Context<Self>) -> Outcome<Self> {
        cx.next(Expression::Go)
    }
}

fn main() {}
