use gen_durable::prelude::*;

#[durable_fsm(output = ())]
pub enum Checkout {
    Ship,
}

#[durable_fsm]
impl Checkout {
    async fn ship(&mut self, cx: Context<Self>) -> Outcome<Self> {
        cx.done(())
    }
}

fn main() {}
