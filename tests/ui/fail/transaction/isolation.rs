#![allow(unused)]

use gen_durable::prelude::*;

#[durable_fsm]
enum Order {
    Reserve,
    Ship,
}

#[durable_fsm]
impl Order {
    #[step(isolation = "serialisable")]
    async fn reserve(cx: Context<Self>, tx: &mut PgConnection) -> Outcome<Self> {
        cx.next(Order::Ship)
    }

    #[step(isolation = "serializable")]
    async fn ship(cx: Context<Self>) -> Outcome<Self> {
        cx.next(Order::Reserve)
    }

    #[step(isolation = "repeatable read")]
    async fn handle(cx: Context<Self>, error: StepError) -> Outcome<Self> {
        cx.stop(error)
    }
}

#[durable_job(isolation = "read committed")]
async fn reserve(cx: JobContext) {}

fn main() {}
