use gen_durable::prelude::*;

#[derive(Clone, DurableState)]
struct Order {
    id: i64,
}

#[derive(DurableState)]
struct Receipt;

#[derive(DurableSignal)]
struct Paid;

#[durable_fsm(state = "Order", output = "Receipt", initial = "Pack", signals("Paid"), crate = "gen_durable")]
enum Checkout {
    Ship,
    Pack,
}

#[durable_fsm]
impl Checkout {
    async fn pack(mut cx: Context<Self>) -> StepResult<Self> {
        cx.state.id += 1;
        let Some(Paid) = cx.take_signal()? else { return Ok(cx.await_signal::<Paid>()) };
        Ok(cx.next(Checkout::Ship))
    }

    async fn ship(cx: Context<Self>) -> Outcome<Self> {
        cx.done(Receipt)
    }
}

fn main() {}
