//! The machines of the test: an order, and the parcel that it spawns.

use std::time::Duration;

use gen_durable::{Ended, prelude::*};

/// A customer has paid an order.
#[derive(Clone, Debug, DurableSignal)]
pub(crate) struct Paid {
    pub(crate) amount: i64,
}

#[durable_fsm(state = i64, output = i64, queue = "orders", signals(Paid, Ended<Parcel>))]
pub(crate) enum Order {
    Reserve,
    Collect,
    Ship,
    Deliver,
}

#[durable_fsm]
impl Order {
    async fn reserve(cx: Context<Self>) -> Outcome<Self> {
        cx.next(Order::Collect)
    }

    async fn collect(mut cx: Context<Self>) -> StepResult<Self> {
        Ok(match cx.take_signal::<Paid>()? {
            Some(paid) => {
                cx.state = paid.amount;
                cx.next(Order::Ship)
            }
            None => cx.await_signal::<Paid>(),
        })
    }

    async fn ship(cx: Context<Self>) -> Outcome<Self> {
        let amount = cx.state;
        cx.next(Order::Deliver).spawn([Parcel::insert(amount)])
    }

    async fn deliver(mut cx: Context<Self>) -> StepResult<Self> {
        Ok(match cx.take_signal::<Ended<Parcel>>()? {
            Some(parcel) => cx.done(parcel.result()?),
            None => cx.await_signal::<Ended<Parcel>>(),
        })
    }
}

/// Its label cannot be printed the first time.
#[durable_fsm(state = i64, output = i64, queue = "parcels")]
pub(crate) enum Parcel {
    Pack,
}

#[durable_fsm]
impl Parcel {
    async fn pack(cx: Context<Self>) -> StepResult<Self> {
        if cx.attempt() == 0 {
            // It takes a time that the span of `handle` must not have.
            tokio::time::sleep(Duration::from_millis(100)).await;
            return Err("the printer is out of paper".into());
        }
        let amount = cx.state;
        Ok(cx.done(amount))
    }

    async fn handle(cx: Context<Self>, _: StepError) -> Outcome<Self> {
        cx.replay(Duration::from_millis(20))
    }
}
