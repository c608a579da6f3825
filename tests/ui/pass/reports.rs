//! Reports of children in each form: a machine of another module, a job, one's own machine, one
//! under another name, and a receiver that is addressed by its key.

#![deny(warnings)]

use std::time::Duration;

use gen_durable::prelude::*;

pub mod parcels {
    use gen_durable::prelude::*;

    #[durable_fsm(name = "parcel, \"large\" ü", output = String)]
    pub enum Parcel {
        Send,
    }

    #[durable_fsm]
    impl Parcel {
        async fn send(cx: Context<Self>) -> Outcome<Self> {
            cx.done("label".to_owned())
        }
    }
}

#[durable_job]
pub async fn weigh(cx: JobContext<u32>) -> u32 {
    cx.state
}

/// A signal of the user's with nearly the same name.
#[derive(DurableSignal)]
pub struct Ending;

#[durable_fsm(
    output = u32,
    signals(Ended<parcels::Parcel>, Ending, gen_durable::Ended<Weigh>, Ended<Order>)
)]
pub enum Order {
    Split,
    Join,
    Watch,
}

#[durable_fsm]
impl Order {
    async fn split(cx: Context<Self>) -> Outcome<Self> {
        cx.next(Order::Join)
            .spawn([parcels::Parcel::insert(()).unique_key("a").refuse_if_taken()])
            .spawn(Weigh::insert_many([1, 2]))
            .spawn(Some(Order::insert(()).step(Order::Watch)))
    }

    async fn join(mut cx: Context<Self>) -> StepResult<Self> {
        let Some(weights) = cx.gather::<Ended<Weigh>>(2)? else {
            return Ok(cx.await_count::<Ended<Weigh>>(2));
        };
        if cx.take_signal::<Ended<parcels::Parcel>>()?.is_none() {
            let day = Duration::from_hours(24);
            return Ok(cx.await_count_for::<Ended<parcels::Parcel>>(1, day));
        }
        let mut sum = 0;
        for weight in weights {
            sum += match weight.result() {
                Ok(weight) => weight,
                Err(EndError::Failed { .. } | EndError::Taken { .. }) => 0,
                Err(why) => return Err(why.into()),
            };
            let (_, _): (InstanceId<Weigh>, Option<&str>) = (weight.id(), weight.unique_key());
        }
        Ok(cx.done(sum))
    }

    async fn watch(cx: Context<Self>) -> Outcome<Self> {
        cx.await_any::<(Ended<Order>, Ending)>()
    }
}

pub fn by_key() -> Insert<Weigh> {
    Weigh::insert(1).report_to(Order::by_key("order 7"))
}

fn main() {
    assert_eq!(<Ended<parcels::Parcel> as DurableSignal>::NAME, "ended(parcel, \"large\" ü)");
    assert_eq!(<Ended<Weigh> as DurableSignal>::NAME, "ended(weigh)");
}
