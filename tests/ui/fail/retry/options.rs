use gen_durable::prelude::*;

#[durable_fsm(
    output = (),
    retry(max_attempts = 0, backoff = "quadratic", initial = 1, max = "5 minutes", jitter = true, tries = 3)
)]
pub enum Checkout {
    Ship,
    Bill,
    Close,
}

#[durable_fsm]
impl Checkout {
    #[step(retry = 5, timeout = "soon")]
    async fn ship(cx: Context<Self>) -> Outcome<Self> {
        cx.next(Checkout::Bill)
    }

    #[step(retry, retry(max_attempts = 2))]
    async fn bill(cx: Context<Self>) -> Outcome<Self> {
        cx.next(Checkout::Close)
    }

    #[step(retry(initial = "1h", max = "1m", max_attempts = many))]
    async fn close(cx: Context<Self>) -> Outcome<Self> {
        cx.done(())
    }
}

fn main() {}
