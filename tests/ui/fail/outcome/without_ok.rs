use gen_durable::prelude::*;

#[durable_fsm(output = ())]
pub enum Checkout {
    Pack,
    Ship,
}

#[durable_fsm]
impl Checkout {
    async fn pack(cx: Context<Self>) -> StepResult<Self> {
        cx.next(Checkout::Ship)
    }

    async fn ship(cx: Context<Self>) -> Outcome<Self> {
        Ok(cx.done(()))
    }
}

fn main() {}
