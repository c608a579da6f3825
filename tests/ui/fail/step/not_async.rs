use gen_durable::prelude::*;

#[durable_fsm]
enum Checkout {
    Ship,
}

#[durable_fsm]
impl Checkout {
    fn ship(cx: Context<Self>) -> Outcome<Self> {
        Self::again(cx)
    }

    // Not a step: no variant is called so.
    fn again(cx: Context<Self>) -> Outcome<Self> {
        cx.next(Checkout::Ship)
    }
}

fn main() {}
