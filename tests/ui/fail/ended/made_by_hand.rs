#![allow(unused)]

use gen_durable::prelude::*;

#[durable_fsm(output = (), signals(Ended<Order>))]
enum Order {
    Join,
}

#[durable_fsm]
impl Order {
    async fn join(cx: Context<Self>) -> Outcome<Self> {
        cx.await_count::<Ended<Order>>(1)
    }
}

#[derive(DurableSignal)]
#[durable(name = "ended(order)")]
struct OrderEnded;

fn send(to: InstanceId<Order>, report: Ended<Order>) -> Signal<Order> {
    Order::signal_ended_order(to, report)
}

fn main() {}
