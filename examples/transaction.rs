//! One transaction: it commits the caller's own rows together with an insert or a signal, or none
//! of them.
//!
//! ```text
//! cargo run --example transaction
//! ```
//!
//! This needs no outbox, and no row can be there without its instance: `.execute(&mut *tx)` is all.
//! The step `pack` has a transaction of its own. Its rows commit with its outcome: the first run
//! fails after its update, and the stock goes down by one all the same.

use std::time::Duration;

use gen_durable::{WaitError, prelude::*};
use gen_durable_examples::{Error, Session};
use sqlx::{PgConnection, PgPool};

#[derive(DurableState)]
struct DeliveryState {
    order: i64,
    paid: Option<i64>,
}

#[derive(DurableSignal)]
struct Paid {
    amount: i64,
}

#[derive(Debug, PartialEq, DurableState)]
struct Receipt {
    order: i64,
    paid: i64,
}

#[durable_fsm(state = DeliveryState, output = Receipt, signals(Paid))]
enum Delivery {
    AwaitPay,
    Pack,
}

#[durable_fsm]
impl Delivery {
    async fn await_pay(mut cx: Context<Self>) -> StepResult<Self> {
        let Some(Paid { amount }) = cx.take_signal()? else {
            println!("  await_pay: order {} is not paid yet, parking", cx.state.order);
            return Ok(cx.await_signal::<Paid>());
        };
        println!("  await_pay: {amount} paid for order {}", cx.state.order);
        cx.state.paid = Some(amount);
        Ok(cx.next(Delivery::Pack))
    }

    /// Takes a lamp from the stock, in the transaction that commits the outcome.
    #[step(timeout = "10s", retry(max_attempts = 2, initial = "100ms"))]
    async fn pack(cx: Context<Self>, tx: &mut PgConnection) -> StepResult<Self> {
        let left: i64 = sqlx::query_scalar("update example_stock set n = n - 1 returning n")
            .fetch_one(&mut *tx)
            .await?;
        if cx.attempt() == 0 {
            println!("  pack: {left} left, but the box breaks, and the update is rolled back");
            return Err("the box is broken".into());
        }
        println!("  pack: {left} left");
        let receipt = Receipt { order: cx.state.order, paid: cx.state.paid.unwrap_or(0) };
        Ok(cx.done(receipt))
    }
}

/// Takes an order: inserts a row of the caller's and an instance.
async fn place(tx: &mut PgConnection, item: &str) -> Result<(i64, InstanceId<Delivery>), Error> {
    let order = sqlx::query_scalar("insert into example_orders (item) values ($1) returning id")
        .bind(item)
        .fetch_one(&mut *tx)
        .await?;
    let id = Delivery::insert(DeliveryState { order, paid: None }).execute(&mut *tx).await?;
    Ok((order, id))
}

/// Takes the money: changes the caller's row and sends a signal.
async fn pay(
    tx: &mut PgConnection,
    (order, id): (i64, InstanceId<Delivery>),
    amount: i64,
) -> Result<(), Error> {
    sqlx::query("update example_orders set paid = $2 where id = $1")
        .bind(order)
        .bind(amount)
        .execute(&mut *tx)
        .await?;
    Delivery::signal_paid(id, Paid { amount }).execute(&mut *tx).await?;
    Ok(())
}

/// Returns the amount that was paid for an order, none before the payment. The outer option is none
/// if there is no such order.
async fn paid(pool: &PgPool, order: i64) -> Result<Option<Option<i64>>, sqlx::Error> {
    sqlx::query_scalar("select paid from example_orders where id = $1")
        .bind(order)
        .fetch_optional(pool)
        .await
}

/// Makes the application's own tables.
async fn tables(pool: PgPool) -> Result<(), sqlx::Error> {
    sqlx::raw_sql(
        "create table if not exists example_orders (
             id bigint generated always as identity primary key,
             item text not null,
             paid bigint
         );
         drop table if exists example_stock;
         create table example_stock (n bigint not null);
         insert into example_stock values (10)",
    )
    .execute(&pool)
    .await
    .map(drop)
}

#[tokio::main]
async fn main() -> Result<(), Error> {
    println!("starting Postgres and bringing its schema up to date …");
    let session = Session::open().await?;
    let pool = &session.pool;
    tables(pool.clone()).await?;
    let engine = Engine::builder(pool.clone()).machine::<Delivery>().start().await?;

    let mut tx = pool.begin().await?;
    let (order, id) = place(&mut tx, "a lamp").await?;
    tx.rollback().await?;
    println!("order {order} and instance {id} rolled back");
    let waited = engine.wait(id, Duration::from_secs(10)).await;
    assert!(matches!(waited, Err(WaitError::Unknown { .. })), "there is no instance: {waited:?}");
    assert_eq!(paid(pool, order).await?, None, "there is no order");

    let mut tx = pool.begin().await?;
    let (order, id) = place(&mut tx, "a lamp").await?;
    assert!(engine.client().find(id.get()).await?.is_none(), "nobody sees it before the commit");
    assert_eq!(engine.metrics().steps, 0, "nothing ran");
    tx.commit().await?;
    println!("order {order} and instance {id} committed");
    // The pause only makes the park visible: a signal may come at any time, also before the park.
    tokio::time::sleep(Duration::from_millis(300)).await;

    let mut tx = pool.begin().await?;
    pay(&mut tx, (order, id), 1).await?;
    tx.rollback().await?;
    println!("a payment of 1 rolled back");
    assert_eq!(paid(pool, order).await?, Some(None), "the order is not paid");

    let mut tx = pool.begin().await?;
    pay(&mut tx, (order, id), 100).await?;
    tx.commit().await?;
    println!("a payment of 100 committed");
    let receipt = engine.wait(id, Duration::from_secs(10)).await?;
    println!("{receipt:?}");
    // If the payment of 1 had arrived, the step would have taken it: it would be the oldest.
    assert_eq!(receipt, Receipt { order, paid: 100 });
    assert_eq!(paid(pool, order).await?, Some(Some(100)), "the order is paid");
    let left: i64 = sqlx::query_scalar("select n from example_stock").fetch_one(pool).await?;
    assert_eq!(left, 9, "one lamp was taken, by two runs");
    engine.shutdown().await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use gen_durable::testing::Lab;

    use super::*;

    /// The stock goes down by one, however often the step is rolled back.
    #[gen_durable::test(setup = tables)]
    async fn a_lamp_is_taken_once(pool: PgPool) -> Result<(), Error> {
        let mut lab = Lab::new(&pool).machine::<Delivery>().start().await?;
        lab.crash_before_commit(Delivery::Pack);
        let mut tx = pool.begin().await?;
        let (order, id) = place(&mut tx, "a lamp").await?;
        lab.run_until_idle().await?;
        assert_eq!(lab.tally().runs, 0, "nobody sees it before the commit");
        pay(&mut tx, (order, id), 100).await?;
        tx.commit().await?;
        lab.advance(Duration::from_secs(1)).await?;
        lab.assert_done(id, &Receipt { order, paid: 100 }).await?;
        let left: i64 = sqlx::query_scalar("select n from example_stock").fetch_one(&pool).await?;
        assert_eq!(left, 9);
        Ok(())
    }

    #[test]
    fn the_graph_is_read_from_the_step() {
        assert_eq!(
            Delivery::graph().to_mermaid(),
            "stateDiagram-v2
    state \"an error in any step\" as handle
    [*] --> await_pay
    await_pay --> await_pay: await paid
    await_pay --> pack
    pack --> [*]: done
    note left of pack : runs in a transaction
    handle --> handle: replay
    handle --> [*]: stop
"
        );
    }
}
