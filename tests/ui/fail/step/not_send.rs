use gen_durable::prelude::*;
use std::rc::Rc;

#[durable_fsm]
enum Checkout {
    Pack,
    Ship,
}

async fn wait() {}

#[durable_fsm]
impl Checkout {
    async fn pack(cx: Context<Self>) -> Outcome<Self> {
        let shared = Rc::new(1);
        wait().await;
        drop(shared);
        cx.next(Checkout::Ship)
    }

    async fn ship(cx: Context<Self>) -> Outcome<Self> {
        cx.next(Checkout::Ship)
    }

    async fn handle(cx: Context<Self>, error: StepError) -> Outcome<Self> {
        let shared = Rc::new(1);
        wait().await;
        drop(shared);
        cx.stop(error)
    }
}

fn main() {}
