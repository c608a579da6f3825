use gen_durable::prelude::*;

#[durable_fsm]
enum Checkout {
    Pack,
    Ship,
}

#[durable_fsm]
impl Checkout {
    async unsafe fn pack(cx: Context<Self>) -> Outcome<Self> {
        cx.next(Checkout::Ship)
    }

    async extern "C" fn ship(cx: Context<Self>) -> Outcome<Self> {
        cx.next(Checkout::Pack)
    }
}

fn main() {}
