//! An operator mends what a broken carrier has left: orders that failed, one that waits, one that
//! is stuck, one that is late.
//!
//! ```text
//! cargo run --example operate
//! ```

use std::{
    ops::ControlFlow,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use gen_durable::{
    WaitError,
    operate::{Cancelled, Count, Counts, Page},
    prelude::*,
};
use gen_durable_examples::{Error, Session};

/// The carrier's connection: it works, or it does not.
struct Carrier {
    works: AtomicBool,
}

/// A parcel, and the place that it goes to.
#[derive(Clone, Debug, DurableState)]
pub struct Parcel {
    to: String,
}

/// The customer has paid.
#[derive(Clone, Debug, DurableSignal)]
pub struct Paid {}

/// An order: it is shipped, and on account it then waits to be paid.
#[derive(Debug)]
#[durable_fsm(state = Parcel, output = String, signals(Paid), on_cancel = Refund, history = "states")]
pub enum Order {
    /// Hands the parcel to the carrier.
    Ship,
    /// Waits for the money.
    AwaitPay,
    /// Answers a cancel.
    Refund,
}

#[durable_fsm]
impl Order {
    async fn ship(cx: Context<Self>, carrier: &Arc<Carrier>) -> StepResult<Self> {
        let to = cx.state.to.clone();
        if to == "nowhere" {
            // The carrier never answers.
            std::future::pending::<()>().await;
        }
        if !carrier.works.load(Ordering::Relaxed) {
            return Err("the carrier is down".into());
        }
        Ok(if to == "on account" { cx.next(Order::AwaitPay) } else { cx.done(format!("to {to}")) })
    }

    async fn await_pay(mut cx: Context<Self>) -> StepResult<Self> {
        Ok(match cx.take_signal::<Paid>()? {
            Some(Paid {}) => cx.done("paid".to_owned()),
            None => cx.await_signal::<Paid>(),
        })
    }

    async fn refund(cx: Context<Self>) -> Outcome<Self> {
        cx.done("refunded".to_owned())
    }
}

const WAIT: Duration = Duration::from_secs(30);

fn order(to: &str) -> gen_durable::Insert<Order> {
    Order::insert(Parcel { to: to.to_owned() })
}

#[tokio::main]
async fn main() -> Result<(), Error> {
    println!("starting Postgres and bringing its schema up to date …");
    let session = Session::open().await?;
    let carrier = Arc::new(Carrier { works: AtomicBool::new(true) });
    let builder = Engine::builder(session.pool.clone()).machine::<Order>();
    let engine = builder.resource(Arc::clone(&carrier)).start().await?;

    // The mess.
    let waiting = order("on account").execute(&engine).await?;
    let late = order("Berne").schedule_in(Duration::from_hours(24)).execute(&engine).await?;
    until(&engine, waiting, Status::AwaitingSignal).await?;
    carrier.works.store(false, Ordering::Relaxed);
    let stuck = order("nowhere").execute(&engine).await?;
    until(&engine, stuck, Status::Executing).await?;
    for to in ["Oslo", "Rome", "Bonn"] {
        let id = order(to).execute(&engine).await?;
        until(&engine, id, Status::Failed).await?;
    }

    // No further order is to fail at the carrier. The pause ends by itself, if nobody ends it.
    let carrier_step = engine.machine::<Order>();
    let tomorrow = SystemTime::now() + Duration::from_hours(24);
    let pause = carrier_step.pause_step(Order::Ship).until(tomorrow).by("ada");
    pause.reason("the carrier is down").execute(&engine).await?;
    let held = order("Lima").schedule_in(Duration::from_secs(1)).execute(&engine).await?;
    for pause in engine.client().pauses().await? {
        println!("{} is paused by {}", pause.scope, pause.by);
    }

    // A look.
    let failed = engine.instances::<Order>().status(Status::Failed).step(Order::Ship);
    assert_eq!(failed.count().await?, Count::Exact(3));
    let page = failed.list(Page::first()).await?;
    for entry in &page.entries {
        let order = engine.instance(entry.id).get().await?;
        let runs = engine.instance(entry.id).history().await?.len();
        let (to, error) = (order.state()?.to, order.last_error.unwrap_or_default());
        println!("{} to {to} failed: {error} ({runs} run recorded)", order.id);
    }

    // The cure.
    carrier.works.store(true, Ordering::Relaxed);
    let tell = |counts: &Counts| {
        println!("{} retried so far", counts.done);
        ControlFlow::Continue(())
    };
    let retry = failed.retry().by("ada").reason("it is up").progress(tell);
    assert_eq!(retry.execute(engine.client()).await?.done, 3);
    carrier_step.resume_step(Order::Ship).by("ada").execute(&engine).await?;
    for entry in &page.entries {
        let result = engine.wait(entry.id, WAIT).await?;
        assert!(["to Oslo", "to Rome", "to Bonn"].contains(&&*result));
        println!("{}: {result}", entry.id);
    }
    assert_eq!(engine.wait(held, WAIT).await?, "to Lima");
    assert_eq!(failed.count().await?, Count::Exact(0));

    let cancel = engine.instance(waiting).cancel("changed his mind").by("ada");
    assert_eq!(cancel.execute(&engine).await?, Cancelled::Answering);
    assert_eq!(engine.wait(waiting, WAIT).await?, "refunded");
    println!("{waiting} is refunded");

    // He wants it after all: a second order goes on where the first one waited to be paid.
    let entries = engine.instance(waiting).history().await?;
    let shipped = &entries[0];
    let fork = engine.instance(waiting).fork_from(shipped).by("ada").execute(&engine).await?;
    Order::signal_paid(fork, Paid {}).execute(&engine).await?;
    assert_eq!(engine.wait(fork, WAIT).await?, "paid");
    println!("{fork}, a fork of {waiting}, is paid");

    engine.instance(stuck).kill("the carrier lost it").by("ada").execute(&engine).await?;
    match engine.wait(stuck, WAIT).await {
        Err(WaitError::Cancelled { reason, .. }) => println!("{stuck} is cancelled: {reason}"),
        other => return Err(format!("it is not cancelled: {other:?}").into()),
    }

    engine.instance(late).run_now().by("ada").execute(&engine).await?;
    assert_eq!(engine.wait(late, WAIT).await?, "to Berne");
    println!("{late} has run");
    engine.instance(late).delete().by("ada").reason("a test").execute(&engine).await?;
    assert!(engine.client().find(late).await?.is_none());

    let audit: Vec<(String, String, i64)> = sqlx::query_as(
        "select actor, action, count(*) from gen_durable.audit group by actor, action order by action",
    )
    .fetch_all(&session.pool)
    .await?;
    for (actor, action, count) in &audit {
        println!("audit: {actor}, {action}: {count}");
    }
    assert_eq!(audit.iter().map(|(_, _, count)| count).sum::<i64>(), 11);
    engine.shutdown().await?;
    Ok(())
}

/// Waits until an order has a status.
async fn until(engine: &Engine, id: InstanceId<Order>, status: Status) -> Result<(), Error> {
    while engine.instance(id).get().await?.status != status {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use gen_durable::testing::{Lab, PgPool};

    use super::*;

    #[gen_durable::test]
    async fn a_failed_order_is_retried_and_a_parked_one_is_refunded(
        pool: PgPool,
    ) -> Result<(), Error> {
        let carrier = Arc::new(Carrier { works: AtomicBool::new(false) });
        let lab = Lab::new(&pool).machine::<Order>().resource(Arc::clone(&carrier));
        let mut lab = lab.start().await?;
        let failed = order("Oslo").execute(&lab).await?;
        lab.run_until_idle().await?;
        assert_eq!(lab.assert_failed(failed).await?, "the carrier is down");
        carrier.works.store(true, Ordering::Relaxed);
        let parked = order("on account").execute(&lab).await?;
        lab.client().instance(failed).retry().by("ada").execute(&lab).await?;
        lab.run_until_idle().await?;
        lab.assert_done(failed, &"to Oslo".to_owned()).await?;
        lab.assert_parked(parked, Order::AwaitPay).await?;
        lab.client().instance(parked).cancel("the customer moved").execute(&lab).await?;
        lab.run_until_idle().await?;
        lab.assert_done(parked, &"refunded".to_owned()).await?;
        Ok(())
    }

    #[test]
    fn the_graph_shows_where_a_cancel_leads() {
        assert_eq!(
            Order::graph().to_mermaid(),
            "stateDiagram-v2
    state \"a cancel in any step\" as on_a_cancel
    [*] --> ship
    ship --> await_pay
    ship --> [*]: done
    await_pay --> [*]: done
    await_pay --> await_pay: await paid
    refund --> [*]: done
    on_a_cancel --> refund
"
        );
    }
}
