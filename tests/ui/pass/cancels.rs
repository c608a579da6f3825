//! Machines that answer a cancel: nothing else leads to their steps for it, and no warning says so.

#![deny(warnings)]

use gen_durable::prelude::*;

#[durable_fsm(output = (), on_cancel = Refund)]
pub enum Order {
    Pack,
    Refund,
    Apologise,
}

#[durable_fsm]
impl Order {
    async fn pack(cx: Context<Self>) -> StepResult<Self> {
        let flag = cx.cancelled();
        let packed = tokio::task::spawn_blocking(move || !flag.is_set()).await?;
        if packed { Ok(cx.done(())) } else { Err("given up".into()) }
    }

    async fn refund(cx: Context<Self>) -> Outcome<Self> {
        cx.next(Order::Apologise)
    }

    async fn apologise(cx: Context<Self>) -> Outcome<Self> {
        cx.next(Order::Refund)
    }
}

/// A cancel leads to the first step.
#[durable_fsm(output = (), on_cancel = Start)]
pub enum Restart {
    Start,
}

#[durable_fsm]
impl Restart {
    async fn start(cx: Context<Self>) -> Outcome<Self> {
        cx.done(())
    }
}

fn main() {
    assert_eq!(Order::graph().on_cancel, Some("refund"));
    assert!(Order::graph().to_mermaid().contains("on_a_cancel --> refund"));
    assert!(Order::graph().to_dot().contains("\"[cancel]\" -> \"refund\""));
    assert_eq!(Restart::graph().on_cancel, Some("start"));
}
