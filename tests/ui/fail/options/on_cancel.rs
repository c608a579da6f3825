use gen_durable::prelude::*;

#[durable_fsm(on_cancel = Refnd)]
enum Checkout {
    Pack,
    Refund,
}

#[durable_fsm]
impl Checkout {
    async fn pack(cx: Context<Self>) -> Outcome<Self> {
        cx.next(Checkout::Pack)
    }

    #[step(entry)]
    async fn refund(cx: Context<Self>) -> Outcome<Self> {
        cx.next(Checkout::Pack)
    }
}

#[durable_fsm(on_cancel = "Undo")]
enum Booking {
    Undo,
}

#[durable_fsm]
impl Booking {
    async fn undo(cx: Context<Self>) -> Outcome<Self> {
        cx.done(serde_json::Value::Null)
    }
}

fn main() {}
