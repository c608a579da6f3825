//! A checkout: it takes an order, waits for the payment's signal, ships, and returns a receipt.
//!
//! ```text
//! cargo run --example checkout
//! cargo run --example checkout -- --data /tmp/checkout    # keeps the database
//! RUST_LOG=gen_durable=debug cargo run --example checkout # shows what the engine does
//! ```

#![allow(missing_debug_implementations, reason = "a machine is seldom printed")]

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use gen_durable::prelude::*;
use gen_durable_examples::{Error, Session};

/// The state carried from step to step, stored as a JSON object.
#[derive(Clone, Debug, Default, DurableState)]
pub struct CheckoutState {
    /// The order's number.
    pub order: i64,
    /// The number of committed runs of the first step.
    #[serde(default)]
    pub n: u32,
    /// The amount that was paid; none before the payment.
    #[serde(default)]
    pub paid: Option<i64>,
}

/// A signal. Its name is the type's name in `snake_case`, here `"payment_confirmed"`.
#[derive(Clone, Debug, DurableSignal)]
pub struct PaymentConfirmed {
    /// The amount that was paid.
    pub amount: i64,
}

/// The result of a checkout.
#[derive(Clone, Debug, PartialEq, DurableState)]
pub struct Receipt {
    /// True if the parcel is on its way.
    pub shipped: bool,
}

/// The machine: each variant is a step.
#[durable_fsm(version = 1, queue = "checkout", state = CheckoutState, output = Receipt,
              signals(PaymentConfirmed))]
pub enum Checkout {
    /// Takes the order.
    Start, // the first variant is the initial step, unless initial = Variant says otherwise
    /// Waits for the money.
    AwaitPay,
    /// Hands the parcel to the carrier.
    Ship,
}

#[durable_fsm]
impl Checkout {
    async fn start(mut cx: Context<Self>) -> Outcome<Self> {
        println!("  start: order {} taken", cx.state.order);
        cx.state.n += 1;
        cx.next(Checkout::AwaitPay)
    }

    async fn await_pay(mut cx: Context<Self>) -> StepResult<Self> {
        let Some(payment) = cx.take_signal::<PaymentConfirmed>()? else {
            println!("  await_pay: no payment yet, parking; nothing runs until it arrives");
            return Ok(cx.await_signal::<PaymentConfirmed>());
        };
        println!("  await_pay: {} paid", payment.amount);
        cx.state.paid = Some(payment.amount);
        Ok(cx.next(Checkout::Ship))
    }

    // Parameters after the context are resources, which the engine is given when it is built. A
    // missing one is an error at start-up.
    async fn ship(cx: Context<Self>, carrier: &Carrier) -> StepResult<Self> {
        carrier.ship(cx.state.order).await?;
        Ok(cx.done(Receipt { shipped: true }))
    }

    async fn handle(cx: Context<Self>, error: StepError) -> Outcome<Self> {
        println!("  handle: attempt {} of {} failed: {error}", cx.attempt() + 1, cx.step_name());
        if cx.attempt() < 5 {
            let delay = Duration::from_secs(u64::from(cx.attempt()));
            cx.replay(delay)
        } else {
            cx.stop(error)
        }
    }
}

/// A service outside of Postgres that a step needs. It knows an order by its number: a step may run
/// twice, and the second call changes nothing.
#[derive(Clone, Debug, Default)]
pub struct Carrier {
    calls: Arc<AtomicU32>,
    /// The orders that it has taken, each with the number of its parcels.
    taken: Arc<Mutex<BTreeMap<i64, u32>>>,
}

/// The carrier did not take the parcel.
#[derive(Debug, thiserror::Error)]
#[error("the carrier's line was busy")]
pub struct Busy;

impl Carrier {
    /// Ships an order; the first call finds the line busy, so that `handle` has an error to handle.
    ///
    /// # Errors
    ///
    /// [`Busy`].
    pub async fn ship(&self, order: i64) -> Result<(), Busy> {
        tokio::time::sleep(Duration::from_millis(50)).await;
        if self.calls.fetch_add(1, Ordering::Relaxed) == 0 {
            return Err(Busy);
        }
        println!("  ship: order {order} handed to the carrier");
        self.taken.lock().unwrap_or_else(PoisonError::into_inner).entry(order).or_insert(1);
        Ok(())
    }
}

#[tokio::main]
async fn main() -> Result<(), Error> {
    println!("starting Postgres and bringing its schema up to date …");
    let session = Session::open().await?;

    let engine = Engine::builder(session.pool.clone())
        .machine::<Checkout>()
        .queue("default", 10) // at most 10 steps of this queue at once, in this process
        .queue("checkout", 5)
        .resource(Carrier::default())
        .start()
        .await?;

    let id = Checkout::insert(CheckoutState { order: 42, ..Default::default() })
        .partition_key("order:42")
        .execute(&engine) // or on a &PgPool, or on &mut *tx: the caller's transaction
        .await?;
    println!("instance {id} inserted");

    // The pause only makes the park visible: a signal may come at any time, also before the park.
    tokio::time::sleep(Duration::from_millis(300)).await;
    println!("the payment arrives, twice: the second time it is a duplicate");
    for _ in 0..2 {
        let delivery = Checkout::signal_payment_confirmed(id, PaymentConfirmed { amount: 100 })
            .dedup_key("evt-7")
            .execute(&engine)
            .await?;
        println!("signal: {delivery:?}");
    }

    let receipt = engine.wait(id, Duration::from_secs(10)).await?; // Receipt, or an error
    println!("{receipt:?}");
    engine.shutdown().await?; // graceful: running instances are finished or given back
    Ok(())
}

#[cfg(test)]
mod tests {
    use gen_durable::testing::{Lab, LabError, PgPool, StepTest};

    use super::*;

    #[tokio::test]
    async fn a_payment_is_taken_once() {
        let paid = || PaymentConfirmed { amount: 100 };
        let run = StepTest::at(Checkout::AwaitPay).state(order()).signal(paid()).run().await;
        run.assert_next(Checkout::Ship);
        assert_eq!(run.state().paid, Some(100));
        let run = StepTest::at(Checkout::AwaitPay).state(order()).run().await;
        run.assert_awaits::<PaymentConfirmed>();
    }

    fn order() -> CheckoutState {
        CheckoutState { order: 42, ..Default::default() }
    }

    #[gen_durable::test]
    async fn a_busy_carrier_is_called_again(pool: PgPool) -> Result<(), Error> {
        let carrier = Carrier::default();
        let lab = Lab::new(&pool).machine::<Checkout>().resource(carrier.clone());
        let mut lab = lab.start().await?;
        let id = Checkout::insert(order()).execute(&lab).await?;
        lab.run_until_idle().await?;
        lab.assert_parked(id, Checkout::AwaitPay).await?;
        let paid = Checkout::signal_payment_confirmed(id, PaymentConfirmed { amount: 100 });
        paid.execute(&lab).await?;
        lab.run_until_idle().await?;
        lab.assert_done(id, &Receipt { shipped: true }).await?;
        assert_eq!(carrier.calls.load(Ordering::Relaxed), 2);
        Ok(())
    }

    /// A carrier that does not know an order again.
    #[derive(Clone, Default)]
    struct Forgetful(Arc<Mutex<u32>>);

    /// The same machine, broken on purpose: the second run of its step ships again.
    #[durable_fsm(state = CheckoutState, output = u32)]
    enum Broken {
        Ship,
    }

    #[durable_fsm]
    impl Broken {
        async fn ship(cx: Context<Self>, carrier: &Forgetful) -> Outcome<Self> {
            let mut shipped = carrier.0.lock().expect("nobody panics");
            *shipped += 1;
            cx.done(*shipped)
        }
    }

    #[gen_durable::test]
    async fn a_crash_ships_nothing_twice(pool: PgPool) -> Result<(), Error> {
        let carrier = Carrier::default();
        carrier.calls.store(1, Ordering::Relaxed);
        let lab = Lab::new(&pool).machine::<Checkout>().machine::<Broken>();
        let lab = lab.resource(carrier.clone()).resource(Forgetful::default());
        let mut lab = lab.start().await?;
        lab.run_each_step_twice();
        let id = Checkout::insert(order()).step(Checkout::Ship).execute(&lab).await?;
        lab.run_until_idle().await?;
        lab.assert_done(id, &Receipt { shipped: true }).await?;
        assert_eq!(carrier.taken.lock().expect("nobody panics").get(&42), Some(&1));

        Broken::insert(order()).execute(&lab).await?;
        let found: LabError = lab.run_until_idle().await.expect_err("it ships twice");
        assert!(found.to_string().starts_with("step `ship` of `broken` is not idempotent"));
        Ok(())
    }

    #[test]
    fn the_graph_is_read_from_the_steps() {
        let graph = Checkout::graph();
        assert!(graph.is_complete());
        assert_eq!(
            graph.to_mermaid(),
            "stateDiagram-v2
    state \"an error in any step\" as handle
    [*] --> start
    start --> await_pay
    await_pay --> await_pay: await payment_confirmed
    await_pay --> ship
    ship --> [*]: done
    handle --> handle: replay
    handle --> [*]: stop
"
        );
    }

    #[test]
    fn the_graph_for_graphviz() {
        assert_eq!(
            Checkout::graph().to_dot(),
            "digraph \"checkout\" {
    node [shape=box, style=rounded];
    \"[begin]\" [shape=point];
    \"[end]\" [shape=doublecircle, label=\"\", width=0.15];
    \"[begin]\" -> \"start\";
    \"start\" -> \"await_pay\" [label=\"\"];
    \"await_pay\" -> \"await_pay\" [label=\"await payment_confirmed\", style=dashed];
    \"await_pay\" -> \"ship\" [label=\"\"];
    \"ship\" -> \"[end]\" [label=\"done\"];
    \"handle\" -> \"handle\" [label=\"replay\", style=dashed];
    \"handle\" -> \"[end]\" [label=\"stop\"];
    \"handle\" [label=\"an error in any step\", shape=hexagon];
}
"
        );
    }
}
