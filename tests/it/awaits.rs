//! Steps that await one of several signals, or several signals of one kind, with and without a
//! timeout.

use std::time::Duration;

use gen_durable::prelude::*;

use crate::support::{Row, WAIT_MAX, database, engine, eventually, row, until};

#[derive(Clone, Debug, PartialEq, DurableSignal)]
pub struct Paid {
    amount: i64,
}

#[derive(Clone, Debug, DurableSignal)]
pub struct Cancelled;

#[derive(Clone, Debug, DurableSignal)]
pub struct Noted;

#[derive(Clone, Debug, Default, DurableState)]
pub struct OrderState {
    timeout_ms: Option<u64>,
    #[serde(default)]
    runs: u32,
}

/// Ends with the first signal that arrives, or with the timeout.
#[durable_fsm(state = OrderState, output = String, signals(Paid, Cancelled, Noted))]
pub enum Order {
    AwaitPay,
}

#[durable_fsm]
impl Order {
    async fn await_pay(mut cx: Context<Self>) -> StepResult<Self> {
        cx.state.runs += 1;
        if let Some(paid) = cx.take_signal::<Paid>()? {
            return Ok(cx.done(format!("paid {}", paid.amount)));
        }
        if cx.take_signal::<Cancelled>()?.is_some() {
            return Ok(cx.done("cancelled".to_owned()));
        }
        if cx.timed_out() {
            return Ok(cx.done("timed out".to_owned()));
        }
        Ok(match cx.state.timeout_ms {
            None => cx.await_any::<(Paid, Cancelled)>(),
            Some(timeout) => cx.await_any_for::<(Paid, Cancelled)>(Duration::from_millis(timeout)),
        })
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn any_of_several_signals_wakes_and_no_other() {
    let db = database().await;
    let engine = engine(&db).machine::<Order>().start().await.unwrap();
    let paid = Order::insert(OrderState::default()).execute(&engine).await.unwrap();
    let cancelled = Order::insert(OrderState::default()).execute(&engine).await.unwrap();
    for id in [paid, cancelled] {
        until(db.pool(), id, "awaiting_signal").await;
        Order::signal_noted(id, Noted).execute(&engine).await.unwrap();
    }
    Order::signal_paid(paid, Paid { amount: 3 }).execute(&engine).await.unwrap();
    Order::signal_cancelled(cancelled, Cancelled).execute(&engine).await.unwrap();
    assert_eq!(engine.wait(paid, WAIT_MAX).await.unwrap(), "paid 3");
    assert_eq!(engine.wait(cancelled, WAIT_MAX).await.unwrap(), "cancelled");
    for id in [paid, cancelled] {
        assert_eq!(row(db.pool(), id).await.state["runs"], 2, "the note woke nobody");
    }
    engine.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn any_of_several_signals_or_a_timeout() {
    let db = database().await;
    let engine = engine(&db).machine::<Order>().start().await.unwrap();
    let state = OrderState { timeout_ms: Some(1), runs: 0 };
    let id = Order::insert(state).execute(&engine).await.unwrap();
    assert_eq!(engine.wait(id, WAIT_MAX).await.unwrap(), "timed out");
    let state = OrderState { timeout_ms: Some(3_600_000), runs: 0 };
    let id = Order::insert(state).execute(&engine).await.unwrap();
    until(db.pool(), id, "awaiting_signal").await;
    Order::signal_cancelled(id, Cancelled).execute(&engine).await.unwrap();
    assert_eq!(engine.wait(id, WAIT_MAX).await.unwrap(), "cancelled");
    engine.shutdown().await.unwrap();
}

/// The state of a ballot. The step `first` gathers three votes, and the step `rest` takes all
/// others.
#[derive(Clone, Debug, Default, DurableState)]
pub struct Votes {
    first: Vec<i64>,
    runs: u32,
}

#[durable_fsm(state = Votes, output = Vec<Vec<i64>>, signals(Paid, Noted))]
pub enum Ballot {
    First,
    Rest,
}

#[durable_fsm]
impl Ballot {
    async fn first(mut cx: Context<Self>) -> StepResult<Self> {
        cx.state.runs += 1;
        let Some(votes) = cx.gather::<Paid>(3)? else {
            return Ok(cx.await_signal::<Paid>());
        };
        cx.state.first = votes.iter().map(|vote| vote.amount).collect();
        Ok(cx.next(Ballot::Rest))
    }

    async fn rest(mut cx: Context<Self>) -> StepResult<Self> {
        if cx.take_signal::<Noted>()?.is_none() {
            return Ok(cx.await_signal::<Noted>());
        }
        let rest = cx.take_signals::<Paid>()?.iter().map(|vote| vote.amount).collect();
        assert!(cx.take_signals::<Paid>()?.is_empty(), "all were taken");
        let votes = vec![cx.state.first.clone(), rest];
        Ok(cx.done(votes))
    }
}

/// Waits until the row is parked with this many signals in its inbox, and returns it.
async fn parked_with(pool: &sqlx::PgPool, id: InstanceId<Ballot>, inbox: i64) -> Row {
    eventually(&format!("it is parked with {inbox} signals"), async || {
        let row = row(pool, id).await;
        (row.status == "awaiting_signal" && row.inbox == inbox).then_some(row)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn p05_a_gathering_takes_all_or_none_and_never_spins() {
    let db = database().await;
    let engine = engine(&db).machine::<Ballot>().start().await.unwrap();
    let id = Ballot::insert(Votes::default()).execute(&engine).await.unwrap();
    parked_with(db.pool(), id, 0).await;
    for amount in 1..=2 {
        Ballot::signal_paid(id, Paid { amount }).execute(&engine).await.unwrap();
        let parked = eventually("it has run once more", async || {
            let row = parked_with(db.pool(), id, amount).await;
            (row.state["runs"] == amount + 1).then_some(row)
        })
        .await;
        assert_eq!(parked.step, "first");
    }
    // If the step spun on its two signals, it would run on meanwhile, and the count below would be
    // higher.
    Ballot::signal_noted(id, Noted).execute(&engine).await.unwrap();
    let parked = parked_with(db.pool(), id, 3).await;
    assert_eq!(parked.state["runs"], 3, "one run at first, and one for each signal");
    // These votes arrive in one transaction. The third vote ends the first step. The note lets the
    // second step end at once, so it would end before votes that arrive later.
    let mut together = db.pool().begin().await.unwrap();
    for amount in 3..=5 {
        Ballot::signal_paid(id, Paid { amount }).execute(&mut *together).await.unwrap();
    }
    together.commit().await.unwrap();
    let votes = engine.wait(id, WAIT_MAX).await.unwrap();
    assert_eq!(votes, [vec![1, 2, 3], vec![4, 5]], "the oldest three, and the rest in order");
    engine.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn signals_that_came_before_are_gathered_at_once() {
    let db = database().await;
    let client = Client::new(db.pool().clone());
    let id = Ballot::insert(Votes::default()).execute(&client).await.unwrap();
    for amount in 1..=5 {
        Ballot::signal_paid(id, Paid { amount }).execute(&client).await.unwrap();
    }
    Ballot::signal_noted(id, Noted).execute(&client).await.unwrap();
    let engine = engine(&db).machine::<Ballot>().start().await.unwrap();
    assert_eq!(engine.wait(id, WAIT_MAX).await.unwrap(), [vec![1, 2, 3], vec![4, 5]]);
    assert_eq!(row(db.pool(), id).await.state["runs"], 1);
    engine.shutdown().await.unwrap();
}
