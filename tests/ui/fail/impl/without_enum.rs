use gen_durable::prelude::*;

enum Checkout {
    Pack,
    Ship,
}

#[durable_fsm]
impl Checkout {
    async fn pack(cx: Context<Self>) -> Outcome<Self> {
        cx.next(Checkout::Ship)
    }

    async fn ship(cx: Context<Self>) -> StepResult<Self> {
        Ok(cx.next(Checkout::Pack))
    }
}

fn main() {}
