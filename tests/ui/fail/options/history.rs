#![allow(unused)]

use gen_durable::prelude::*;

#[durable_fsm(history = "all")]
enum Order {
    Reserve,
}

#[durable_fsm]
impl Order {
    async fn reserve(cx: Context<Self>) -> StepResult<Self> {
        Ok(cx.stop("closed"))
    }
}

#[durable_fsm(history = steps)]
enum Other {
    Reserve,
}

#[durable_fsm]
impl Other {
    async fn reserve(cx: Context<Self>) -> StepResult<Self> {
        Ok(cx.stop("closed"))
    }
}

#[durable_job(history = "state")]
async fn reserve(cx: JobContext) {}

#[durable_job(history)]
async fn ship(cx: JobContext) {}

fn main() {}
