use gen_durable::prelude::*;

#[durable_fsm]
enum Checkout {
    #[allow(non_camel_case_types)]
    await_pay,
    开始,
}

#[durable_fsm]
impl Checkout {
    async fn await_pay(cx: Context<Self>) -> Outcome<Self> {
        cx.next(Checkout::开始)
    }

    async fn 开始(cx: Context<Self>) -> Outcome<Self> {
        cx.next(Checkout::await_pay)
    }
}

fn main() {}
