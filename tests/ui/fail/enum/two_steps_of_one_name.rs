use gen_durable::prelude::*;

#[durable_fsm]
enum Checkout {
    AwaitPay,
    #[allow(non_camel_case_types)]
    Await_Pay,
}

#[durable_fsm]
impl Checkout {
    async fn await_pay(cx: Context<Self>) -> Outcome<Self> {
        cx.next(Checkout::AwaitPay)
    }
}

fn main() {}
