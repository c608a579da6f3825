use gen_durable::prelude::*;

#[derive(DurableSignal)]
pub struct Paid;

#[durable_fsm(output = (), signals(Paid))]
pub enum Checkout {
    Pay,
}

#[durable_fsm]
impl Checkout {
    async fn pay(mut cx: Context<Self>) -> StepResult<Self> {
        if cx.take_signal(Paid)?.is_none() {
            return Ok(cx.await_signal("paid"));
        }
        if let Some(paid) = cx.take_signal::<Paid>() {
            let _: Paid = paid;
        }
        Ok(cx.done(()))
    }
}

fn main() {}
