use gen_durable::prelude::*;

#[durable_fsm(output = ())]
pub enum Checkout {
    Start,
    Ship,
    Cancel,
    Refund,
}

#[durable_fsm]
impl Checkout {
    #[step(next(Shipp, "cancel"), nxt(Ship))]
    async fn start(cx: Context<Self>) -> Outcome<Self> {
        cx.next(Checkout::Ship)
    }

    #[step]
    #[step(next = Cancel)]
    async fn ship(cx: Context<Self>) -> Outcome<Self> {
        cx.next(Checkout::Cancel)
    }

    #[step(entry, entry, next(5))]
    async fn cancel(cx: Context<Self>) -> Outcome<Self> {
        cx.stop("cancelled")
    }

    #[step(entry = true)]
    async fn refund(cx: Context<Self>) -> Outcome<Self> {
        cx.stop("cancelled")
    }

    #[step(entry)]
    fn helper(order: i64) -> i64 {
        order
    }

    #[step(entry)]
    async fn handle(cx: Context<Self>, error: StepError) -> Outcome<Self> {
        cx.stop(error)
    }
}

fn main() {
    let _ = Checkout::helper(1);
}
