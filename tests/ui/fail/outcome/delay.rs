use gen_durable::prelude::*;

#[durable_fsm(output = ())]
pub enum Checkout {
    Pack,
}

#[durable_fsm]
impl Checkout {
    async fn pack(cx: Context<Self>) -> Outcome<Self> {
        if cx.attempt() > 3 {
            return cx.replay(5);
        }
        cx.replay()
    }
}

fn main() {}
