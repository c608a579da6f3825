use gen_durable::prelude::*;

#[durable_fsm(output = (), retry(max_attempts = 5, jitter))]
pub enum Checkout {
    Ship,
}

#[durable_fsm]
impl Checkout {
    async fn ship(cx: Context<Self>) -> Outcome<Self> {
        cx.done(())
    }

    async fn handle(cx: Context<Self>, error: StepError) -> Outcome<Self> {
        cx.stop(error)
    }
}

#[durable_fsm(output = ())]
pub enum Refund {
    Pay,
}

#[durable_fsm]
impl Refund {
    #[step(retry(max_attempts = 5))]
    async fn pay(cx: Context<Self>) -> Outcome<Self> {
        cx.done(())
    }

    async fn handle(cx: Context<Self>, error: StepError) -> Outcome<Self> {
        cx.stop(error)
    }
}

fn main() {}
