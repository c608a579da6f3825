use std::time::Duration;

use gen_durable::prelude::*;

#[durable_fsm(state = i64, output = String)]
enum Checkout {
    Pack,
    Ship,
}

#[durable_fsm]
impl Checkout {
    async fn pack(cx: Context<Self>) -> Outcome<Self> {
        cx.replay(backoff(cx.attempt()))
    }

    async fn ship(cx: Context<Self>) -> Outcome<Self> {
        if cx.state > 3 {
            return cx.next(Checkout::Pack).insert(Checkout::insert(cx.state));
        }
        cx.done(format!("order {}", cx.id()))
    }

    async fn handle(cx: Context<Self>, error: StepError) -> Outcome<Self> {
        cx.stop(format!("{error} in {}", cx.step_name().to_owned()))
    }
}

#[durable_job]
async fn poll(cx: JobContext<i64>) -> JobOutcome<i64> {
    cx.done(cx.state)
}

fn backoff(attempt: u32) -> Duration {
    Duration::from_secs(attempt.into())
}

fn main() {}
