use gen_durable::prelude::*;

#[durable_fsm(output = ())]
pub enum Checkout {
    Start,
    Ship,
    Cancel,
}

#[durable_fsm]
impl Checkout {
    #[step(next(Ship))]
    async fn start(cx: Context<Self>) -> Outcome<Self> {
        if cx.attempt() > 3 {
            return cx.next(Checkout::Cancel);
        }
        cx.next(Checkout::Ship)
    }

    #[step(next())]
    async fn ship(cx: Context<Self>) -> Outcome<Self> {
        cx.next(Self::Start)
    }

    async fn cancel(cx: Context<Self>) -> Outcome<Self> {
        cx.stop("cancelled")
    }

    #[step(next(Cancel))]
    async fn handle(cx: Context<Self>, error: StepError) -> Outcome<Self> {
        let _ = error;
        cx.next(Checkout::Ship)
    }
}

fn main() {}
