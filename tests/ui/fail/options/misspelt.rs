use gen_durable::prelude::*;

#[derive(Clone, DurableState)]
struct Order {
    id: i64,
}

#[derive(DurableSignal)]
struct Paid;

// What a misspelt option was given is still used: the body below has no mistake.
#[durable_fsm(sate = Order, signal(Paid))]
enum Checkout {
    Ship,
}

#[durable_fsm]
impl Checkout {
    async fn ship(mut cx: Context<Self>) -> StepResult<Self> {
        cx.state.id += 1;
        let Some(Paid) = cx.take_signal()? else { return Ok(cx.await_signal::<Paid>()) };
        Ok(cx.next(Checkout::Ship))
    }
}

fn main() {}
