use gen_durable::prelude::*;

#[durable_fsm(output = ())]
pub enum Checkout {
    Ship,
}

#[durable_fsm]
impl Checkout {
    async fn ship(cx: Context<Self>) -> Outcome<Self> {
        cx.done(())
    }

    async fn ship(cx: Context<Self>) -> Outcome<Self> {
        cx.done(())
    }
}

fn main() {}
