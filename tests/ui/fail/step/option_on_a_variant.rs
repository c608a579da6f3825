use gen_durable::prelude::*;

#[durable_fsm(output = ())]
pub enum Checkout {
    #[step(timeout = "5s")]
    Ship,
}

#[durable_fsm]
impl Checkout {
    async fn ship(cx: Context<Self>) -> Outcome<Self> {
        cx.done(())
    }
}

fn main() {}
