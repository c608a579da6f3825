#![allow(unused)]

use gen_durable::prelude::*;

#[durable_fsm(output = ())]
enum Parcel {
    Send,
}

#[durable_fsm]
impl Parcel {
    async fn send(cx: Context<Self>) -> Outcome<Self> {
        cx.done(())
    }
}

#[durable_fsm(output = ())]
enum Order {
    Split,
    Join,
}

#[durable_fsm]
impl Order {
    async fn split(cx: Context<Self>) -> Outcome<Self> {
        cx.next(Order::Join).spawn([Parcel::insert(())])
    }

    async fn join(cx: Context<Self>) -> Outcome<Self> {
        cx.await_count::<Ended<Parcel>>(1)
    }
}

fn report(to: InstanceId<Order>) -> Insert<Parcel> {
    Parcel::insert(()).report_to(to)
}

fn main() {}
