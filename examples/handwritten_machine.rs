//! The contract without macros: one machine twice, with the macros and by hand.
//!
//! ```text
//! cargo run --example handwritten_machine
//! ```
//!
//! The macros have no way into the engine of their own: a user can write by hand all that they
//! generate. The two machines differ only in their names, and do the same.

use std::time::Duration;

use gen_durable::{WaitError, prelude::*};
use gen_durable_examples::{Error, Session};

/// A resource that both machines use: the prices.
struct Menu {
    tea: i64,
}

mod with_macros {
    use std::time::Duration;

    use gen_durable::prelude::*;

    use super::Menu;

    #[derive(DurableState)]
    pub(crate) struct OrderState {
        pub(crate) cups: i64,
        #[serde(default)]
        pub(crate) paid: i64,
    }

    #[derive(DurableSignal)]
    pub(crate) struct Paid {
        pub(crate) amount: i64,
    }

    #[durable_fsm(name = "with_macros", version = 2, queue = "tea", timeout = "10s",
                  state = OrderState, output = i64, signals(Paid))]
    pub(crate) enum Order {
        AwaitPay,
        Brew,
    }

    #[durable_fsm]
    impl Order {
        async fn await_pay(mut cx: Context<Self>) -> StepResult<Self> {
            let Some(paid) = cx.take_signal::<Paid>()? else {
                return Ok(cx.await_signal::<Paid>());
            };
            cx.state.paid = paid.amount;
            Ok(cx.next(Order::Brew))
        }

        async fn brew(cx: Context<Self>, menu: &Menu) -> StepResult<Self> {
            let change = menu.change(cx.state.cups, cx.state.paid)?;
            tokio::time::sleep(Duration::from_millis(50)).await;
            Ok(cx.done(change))
        }

        async fn handle(cx: Context<Self>, error: StepError) -> Outcome<Self> {
            cx.stop(format!("no tea: {error}"))
        }
    }
}

mod by_hand {
    use std::time::Duration;

    use gen_durable::{
        IntoInsert, Requirement, StepFuture,
        graph::{Edge, Graph, StepNode},
        prelude::*,
    };
    use serde::{Deserialize, Serialize};

    use super::Menu;

    // A state is a type with serde's traits and the trait `DurableState`.
    #[derive(Serialize, Deserialize)]
    pub(crate) struct OrderState {
        pub(crate) cups: i64,
        #[serde(default)]
        pub(crate) paid: i64,
    }

    impl DurableState for OrderState {}

    // A signal also has a name.
    #[derive(Serialize, Deserialize)]
    pub(crate) struct Paid {
        pub(crate) amount: i64,
    }

    impl DurableSignal for Paid {
        const NAME: &'static str = "paid";
    }

    pub(crate) enum Order {
        AwaitPay,
        Brew,
    }

    // The attribute on the enum generates this impl: the names under which the machine is stored.
    impl Machine for Order {
        type State = OrderState;
        type Output = i64;
        const NAME: &'static str = "by_hand";
        const VERSION: u32 = 2;
        const QUEUE: &'static str = "tea";
        const TIMEOUT: Option<Duration> = Some(Duration::from_secs(10));
        const INITIAL: Self = Order::AwaitPay;
        const STEPS: &'static [&'static str] = &["await_pay", "brew"];
        const VARIANTS: &'static [&'static str] = &["AwaitPay", "Brew"];
        const SIGNALS: &'static [&'static str] = &[Paid::NAME];

        fn name(&self) -> &'static str {
            match self {
                Order::AwaitPay => "await_pay",
                Order::Brew => "brew",
            }
        }

        fn from_name(name: &str) -> Option<Self> {
            match name {
                "await_pay" => Some(Order::AwaitPay),
                "brew" => Some(Order::Brew),
                _ => None,
            }
        }
    }

    impl Accepts<Paid> for Order {}

    /// The typed functions for callers, who could also use `Insert::new(…)` and `Signal::new(…)`.
    impl Order {
        pub(crate) fn insert(state: OrderState) -> Insert<Self> {
            Insert::new(state)
        }

        pub(crate) fn signal_paid(id: InstanceId<Self>, payload: &Paid) -> Signal<Self> {
            Signal::new(id, payload)
        }
    }

    // This lets `InsertMany` take plain states.
    impl IntoInsert<Order> for OrderState {
        fn into_insert(self) -> Insert<Order> {
            Insert::new(self)
        }
    }

    // The attribute on the impl block generates this impl: the function of each step, and the
    // resources that it takes.
    impl Steps for Order {
        fn run(self, cx: Context<Self>, resources: &Resources) -> StepFuture<'_, Self> {
            match self {
                Order::AwaitPay => Box::pin(Self::await_pay(cx)),
                Order::Brew => Box::pin(Self::brew(cx, resources.get())),
            }
        }

        fn handle(cx: Context<Self>, error: StepError, _: &Resources) -> StepFuture<'_, Self> {
            Box::pin(async move { Ok(cx.stop(format!("no tea: {error}"))) })
        }

        fn requirements() -> Vec<Requirement> {
            vec![Requirement::of::<Menu>("brew")]
        }

        // The macro reads this graph from the bodies of the steps below.
        fn graph() -> Graph {
            Graph::new::<Self>([
                StepNode::new("await_pay", [Edge::wait("paid"), Edge::next("brew")]),
                StepNode::new("brew", [Edge::Done]),
            ])
            .on_error(StepNode::new("handle", [Edge::Stop]))
        }
    }

    impl Order {
        #[allow(clippy::unused_async, reason = "a step is a future, whether or not it waits")]
        async fn await_pay(mut cx: Context<Self>) -> StepResult<Self> {
            let Some(paid) = cx.take_signal::<Paid>()? else {
                return Ok(cx.await_signal::<Paid>());
            };
            cx.state.paid = paid.amount;
            Ok(cx.next(Order::Brew))
        }

        async fn brew(cx: Context<Self>, menu: &Menu) -> StepResult<Self> {
            let change = menu.change(cx.state.cups, cx.state.paid)?;
            tokio::time::sleep(Duration::from_millis(50)).await;
            Ok(cx.done(change))
        }
    }
}

#[derive(Debug, thiserror::Error)]
#[error("{paid} paid of {price}")]
struct TooLittle {
    paid: i64,
    price: i64,
}

impl Menu {
    /// Returns the change: the rest of the money after so many cups.
    fn change(&self, cups: i64, paid: i64) -> Result<i64, TooLittle> {
        let price = cups * self.tea;
        if paid < price { Err(TooLittle { paid, price }) } else { Ok(paid - price) }
    }
}

/// All that the engine knows of a machine, except for its name.
fn contract<M: Steps>() -> String {
    let takes: Vec<_> =
        M::requirements().iter().map(|takes| (takes.step, takes.type_name)).collect();
    format!(
        "version {}, queue {}, timeout {:?}, steps {:?} from {}, signals {:?}, resources {takes:?}",
        M::VERSION,
        M::QUEUE,
        M::TIMEOUT,
        M::STEPS,
        M::INITIAL.name(),
        M::SIGNALS,
    )
}

/// Runs an instance to its end. Returns its result, or the reason why it failed, as text.
async fn run<M: Machine<Output = i64>>(
    engine: &Engine,
    insert: Insert<M>,
    pay: impl FnOnce(InstanceId<M>) -> Signal<M>,
) -> Result<String, Error> {
    let id = insert.execute(engine).await?;
    pay(id).execute(engine).await?;
    let end = match engine.wait(id, Duration::from_secs(10)).await {
        Ok(change) => format!("done: {change}"),
        Err(WaitError::Failed { reason, .. }) => format!("failed: {reason}"),
        Err(error) => return Err(error.into()),
    };
    println!("  {}: instance {id} {end}", M::NAME);
    Ok(end)
}

#[tokio::main]
async fn main() -> Result<(), Error> {
    println!("{}", contract::<by_hand::Order>());
    assert_eq!(contract::<with_macros::Order>(), contract::<by_hand::Order>());

    println!("starting Postgres and bringing its schema up to date …");
    let session = Session::open().await?;
    let engine = Engine::builder(session.pool.clone())
        .machine::<with_macros::Order>()
        .machine::<by_hand::Order>()
        .queue("tea", 2)
        .resource(Menu { tea: 3 })
        .start()
        .await?;
    for (paid, expected) in [(10, "done: 4"), (5, "failed: no tea: 5 paid of 6")] {
        println!("two cups of tea, {paid} paid");
        let generated = {
            use with_macros::{Order, OrderState, Paid};
            let insert = Order::insert(OrderState { cups: 2, paid: 0 });
            run(&engine, insert, |id| Order::signal_paid(id, Paid { amount: paid })).await?
        };
        let written = {
            use by_hand::{Order, OrderState, Paid};
            let insert = Order::insert(OrderState { cups: 2, paid: 0 });
            run(&engine, insert, |id| Order::signal_paid(id, &Paid { amount: paid })).await?
        };
        assert_eq!((&*generated, &*written), (expected, expected));
    }
    engine.shutdown().await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use gen_durable::testing::StepTest;

    use super::*;

    /// The two machines do the same, step by step.
    #[tokio::test]
    async fn both_brew_for_who_has_paid() {
        let state = |paid| with_macros::OrderState { cups: 2, paid };
        let brew = StepTest::at(with_macros::Order::Brew).resource(Menu { tea: 3 });
        brew.state(state(10)).run().await.assert_done(&4);
        let brew = StepTest::at(with_macros::Order::Brew).resource(Menu { tea: 3 });
        let refused = brew.state(state(5)).run().await.assert_failed().to_owned();
        let state = |paid| by_hand::OrderState { cups: 2, paid };
        let brew = StepTest::at(by_hand::Order::Brew).resource(Menu { tea: 3 });
        brew.state(state(10)).run().await.assert_done(&4);
        let brew = StepTest::at(by_hand::Order::Brew).resource(Menu { tea: 3 });
        assert_eq!(brew.state(state(5)).run().await.assert_failed(), refused);
        let wait = StepTest::at(with_macros::Order::AwaitPay);
        let wait = wait.state(with_macros::OrderState { cups: 1, paid: 0 });
        let run = wait.signal(with_macros::Paid { amount: 3 }).run().await;
        run.assert_next(with_macros::Order::Brew);
        assert_eq!(run.state().paid, 3);
    }

    #[test]
    fn the_graph_that_is_read_and_the_one_that_is_stated_are_the_same() {
        let graph = with_macros::Order::graph();
        let stated = by_hand::Order::graph();
        assert_eq!((&graph.steps, &graph.handle), (&stated.steps, &stated.handle));
        assert_eq!(
            graph.to_mermaid(),
            "stateDiagram-v2
    state \"an error in any step\" as handle
    [*] --> await_pay
    await_pay --> await_pay: await paid
    await_pay --> brew
    brew --> [*]: done
    handle --> [*]: stop
"
        );
    }
}
