//! Acting on instances: cancel, kill, run now, retry, delete, and looking at them.

mod answers;
mod races;
mod retries;

use std::{sync::Arc, time::Duration};

use gen_durable::{
    WaitError,
    operate::{Cancelled, OperateError},
    prelude::*,
};
use sqlx::PgPool;

use crate::support::{
    Breakpoint, WAIT_MAX, database, engine, eventually, log, row, sql, until, until_a_session_waits,
};

/// The work of an order.
#[derive(Clone, Debug, PartialEq, DurableState)]
pub enum Plan {
    /// Ends with this result.
    Done(i64),
    /// Fails.
    Fail,
    /// Stops at the breakpoint, and is then done.
    Stand,
    /// Waits for a signal.
    Wait,
    /// Computes at the breakpoint without awaiting, until its flag is set.
    Compute,
    /// Stops at the breakpoint in a transaction, and is then done.
    StandInside,
    /// Goes to the next step again and again, and stops at the breakpoint in each.
    Walk,
}

/// An order's answer to a cancel: `Some` is done with it, and none fails.
#[derive(Clone, Debug, PartialEq, DurableState)]
pub struct Errand {
    pub plan: Plan,
    pub refund: Option<i64>,
}

#[derive(Clone, Debug, DurableSignal)]
pub struct Word(pub i64);

/// A machine that answers a cancel.
#[durable_fsm(state = Errand, output = i64, signals(Word), on_cancel = Refund)]
pub enum Order {
    Work,
    Inside,
    Refund,
}

#[durable_fsm]
impl Order {
    async fn work(mut cx: Context<Self>, breakpoint: &Arc<Breakpoint>) -> StepResult<Self> {
        Ok(match cx.state.plan {
            Plan::Done(result) => cx.done(result),
            Plan::Fail => return Err("it fails".into()),
            Plan::Stand => {
                breakpoint.pass(cx.id()).await;
                cx.done(1)
            }
            Plan::Wait => match cx.take_signal::<Word>()? {
                Some(Word(number)) => cx.done(number),
                None => cx.await_signal::<Word>(),
            },
            Plan::Compute => {
                let flag = cx.cancelled();
                breakpoint.pass(cx.id()).await;
                let until_set = move || {
                    while !flag.is_set() {
                        std::hint::spin_loop();
                    }
                };
                tokio::task::spawn_blocking(until_set).await?;
                cx.done(2)
            }
            Plan::StandInside => cx.next(Order::Inside),
            Plan::Walk => {
                breakpoint.pass(cx.id()).await;
                cx.next(Order::Work)
            }
        })
    }

    async fn inside(
        cx: Context<Self>,
        tx: &mut PgConnection,
        breakpoint: &Arc<Breakpoint>,
    ) -> StepResult<Self> {
        sqlx::query("insert into notes values ('inside')").execute(tx).await?;
        breakpoint.pass(cx.id()).await;
        Ok(cx.done(3))
    }

    async fn refund(cx: Context<Self>) -> StepResult<Self> {
        match cx.state.refund {
            Some(result) => Ok(cx.done(result)),
            None => Err("nothing to refund".into()),
        }
    }

    async fn handle(cx: Context<Self>, error: StepError) -> Outcome<Self> {
        cx.stop(format!("handled: {error}"))
    }
}

/// A machine that a cancel ends.
#[durable_fsm(state = Plan, output = i64, signals(Word))]
pub enum Plain {
    Work,
    Inside,
}

#[durable_fsm]
impl Plain {
    async fn work(mut cx: Context<Self>, breakpoint: &Arc<Breakpoint>) -> StepResult<Self> {
        Ok(match cx.state {
            Plan::Done(result) => cx.done(result),
            Plan::Fail => return Err("it fails".into()),
            Plan::Wait => match cx.take_signal::<Word>()? {
                Some(Word(number)) => cx.done(number),
                None => cx.await_signal::<Word>(),
            },
            Plan::StandInside => cx.next(Plain::Inside),
            _ => {
                breakpoint.pass(cx.id()).await;
                cx.done(1)
            }
        })
    }

    async fn inside(
        cx: Context<Self>,
        tx: &mut PgConnection,
        breakpoint: &Arc<Breakpoint>,
    ) -> StepResult<Self> {
        sqlx::query("insert into notes values ('inside')").execute(tx).await?;
        breakpoint.pass(cx.id()).await;
        Ok(cx.done(3))
    }
}

/// A parent that hears of the end of one order, again and again.
#[durable_fsm(state = Vec<String>, output = (), signals(Ended<Order>, Ended<Plain>, Word))]
pub enum Parent {
    Hear,
}

#[durable_fsm]
impl Parent {
    async fn hear(mut cx: Context<Self>, breakpoint: &Arc<Breakpoint>) -> StepResult<Self> {
        if let Some(Word(_)) = cx.take_signal::<Word>()? {
            breakpoint.pass(cx.id()).await;
        }
        while let Some(ended) = cx.take_signal::<Ended<Plain>>()? {
            let text = match ended.result() {
                Ok(result) => format!("{result}"),
                Err(error) => error.to_string(),
            };
            let text = text.replace(&ended.id().to_string(), "N");
            cx.state.push(text);
        }
        Ok(cx.await_any::<(Ended<Plain>, Word)>())
    }
}

pub(super) fn errand(plan: Plan, refund: Option<i64>) -> Errand {
    Errand { plan, refund }
}

pub(super) async fn start(db: &gen_durable_postgres::TestDb) -> (Engine, Arc<Breakpoint>) {
    let breakpoint = Arc::new(Breakpoint::new());
    let engine = engine(db)
        .machine::<Order>()
        .machine::<Plain>()
        .machine::<Parent>()
        .resource(Arc::clone(&breakpoint))
        .start()
        .await
        .unwrap();
    (engine, breakpoint)
}

/// Returns the audit of an instance: actor, action, reason.
pub(super) async fn audit(
    pool: &PgPool,
    id: impl Into<i64>,
) -> Vec<(String, String, Option<String>)> {
    sqlx::query_as(
        "select actor, action, reason from gen_durable.audit where instance_id = $1 order by id",
    )
    .bind(id.into())
    .fetch_all(pool)
    .await
    .unwrap()
}

pub(super) fn noted(by: &str, action: &str, reason: &str) -> (String, String, Option<String>) {
    (by.to_owned(), action.to_owned(), Some(reason.to_owned()).filter(|text| !text.is_empty()))
}

#[tokio::test(flavor = "multi_thread")]
async fn p39_a_cancel_of_what_does_not_run_takes_effect_in_its_transaction() {
    let db = database().await;
    let (engine, _) = start(&db).await;
    let pool = db.pool();
    // Parked, delayed, and runnable in a queue that nobody serves.
    let parked = Plain::insert(Plan::Wait).execute(&engine).await.unwrap();
    until(pool, parked, "awaiting_signal").await;
    let hour = Duration::from_hours(1);
    let delayed = Plain::insert(Plan::Done(1)).schedule_in(hour).execute(&engine).await.unwrap();
    let runnable = Plain::insert(Plan::Done(1)).queue("nobody's").execute(&engine).await.unwrap();
    for id in [parked, delayed, runnable] {
        let mut tx = pool.begin().await.unwrap();
        let cancel = engine.instance(id).cancel("changed his mind").by("ada");
        assert_eq!(cancel.clone().execute(&mut *tx).await.unwrap(), Cancelled::Ended);
        tx.rollback().await.unwrap();
        assert_ne!(row(pool, id).await.status, "cancelled");
        assert_eq!(audit(pool, id).await, []);

        let mut tx = pool.begin().await.unwrap();
        assert_eq!(cancel.execute(&mut *tx).await.unwrap(), Cancelled::Ended);
        tx.commit().await.unwrap();
        let row = row(pool, id).await;
        assert_eq!(
            (&*row.status, row.last_error.as_deref()),
            ("cancelled", Some("changed his mind"))
        );
        assert_eq!(audit(pool, id).await, [noted("ada", "cancel", "changed his mind")]);
        let error = engine.wait(id, WAIT_MAX).await.unwrap_err();
        assert!(
            matches!(&error, WaitError::Cancelled { reason, .. } if reason == "changed his mind")
        );
        assert_eq!(error.to_string(), format!("instance {id} was cancelled: changed his mind"));
    }
    engine.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn p39_a_machine_answers_a_cancel_with_its_step() {
    let db = database().await;
    let (engine, breakpoint) = start(&db).await;
    let pool = db.pool();
    // A parked order, with a refund that is done and one that fails.
    for (refund, status) in [(Some(7), "done"), (None, "cancelled")] {
        let id = Order::insert(errand(Plan::Wait, refund)).execute(&engine).await.unwrap();
        until(pool, id, "awaiting_signal").await;
        let cancelled = engine.instance(id).cancel("").execute(&engine).await.unwrap();
        assert_eq!(cancelled, Cancelled::Answering);
        let row = until(pool, id, status).await;
        assert_eq!(row.step, "refund");
        if let Some(result) = refund {
            assert_eq!(engine.wait(id, WAIT_MAX).await.unwrap(), result);
        } else {
            let error = engine.wait(id, WAIT_MAX).await.unwrap_err();
            assert!(matches!(error, WaitError::Cancelled { .. }), "{error}");
            assert_eq!(row.last_error.as_deref(), Some("handled: nothing to refund"));
        }
        let user: String = sqlx::query_scalar("select session_user").fetch_one(pool).await.unwrap();
        assert_eq!(audit(pool, id).await, [noted(&user, "cancel", "")]);
    }
    // A run under way is dropped, and `handle` does not hear of it.
    for plan in [Plan::Stand, Plan::Compute, Plan::Walk] {
        let id = Order::insert(errand(plan.clone(), Some(7))).execute(&engine).await.unwrap();
        assert_eq!(breakpoint.arrival().await, id.get());
        if plan == Plan::Compute {
            breakpoint.open(1);
        }
        let cancelled = engine.instance(id).cancel("stop").execute(pool).await.unwrap();
        assert_eq!(cancelled, Cancelled::Asked);
        let again = engine.instance(id).cancel("again").execute(pool).await;
        assert!(matches!(
            again,
            Ok(Cancelled::Before) | Err(OperateError::Ended { status: Status::Done, .. })
        ));
        assert_eq!(engine.wait(id, WAIT_MAX).await.unwrap(), 7);
        assert_eq!(row(pool, id).await.last_error, None, "`handle` was not called");
        assert_eq!(audit(pool, id).await.len(), 1);
    }
    assert_eq!(engine.metrics().lost_commits, 0);
    engine.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn p39_a_cancel_drops_a_transaction_with_its_rows() {
    let db = database().await;
    let (engine, breakpoint) = start(&db).await;
    let pool = db.pool();
    sql(pool, "create table notes (text text)").await;
    let order = Order::insert(errand(Plan::StandInside, Some(7))).execute(&engine).await.unwrap();
    assert_eq!(breakpoint.arrival().await, order.get());
    let cancelled = engine.instance(order).cancel("stop").execute(&engine).await.unwrap();
    assert_eq!(cancelled, Cancelled::Asked);
    assert_eq!(engine.wait(order, WAIT_MAX).await.unwrap(), 7);
    let plain = Plain::insert(Plan::StandInside).execute(&engine).await.unwrap();
    assert_eq!(breakpoint.arrival().await, plain.get());
    engine.instance(plain).cancel("stop").execute(&engine).await.unwrap();
    let error = engine.wait(plain, WAIT_MAX).await.unwrap_err();
    assert_eq!(error.to_string(), format!("instance {plain} was cancelled: stop"));
    let notes: i64 =
        sqlx::query_scalar("select count(*) from notes").fetch_one(pool).await.unwrap();
    assert_eq!(notes, 0, "a dropped run leaves nothing");
    engine.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn p39_an_engine_that_only_polls_drops_the_run_too() {
    let db = database().await;
    let breakpoint = Arc::new(Breakpoint::new());
    let engine = engine(&db)
        .machine::<Order>()
        .resource(Arc::clone(&breakpoint))
        .poll_only()
        .maintenance(false)
        .start()
        .await
        .unwrap();
    let id = Order::insert(errand(Plan::Stand, Some(7))).execute(&engine).await.unwrap();
    breakpoint.arrival().await;
    engine.instance(id).cancel("stop").execute(db.pool()).await.unwrap();
    assert_eq!(engine.wait(id, WAIT_MAX).await.unwrap(), 7);
    engine.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn p39_a_cancelled_run_keeps_its_partition_key_until_it_is_dropped() {
    let db = database().await;
    let (engine, breakpoint) = start(&db).await;
    let pool = db.pool();
    let keyed = |plan| Plain::insert(plan).partition_key("k");
    let first = keyed(Plan::Stand).execute(&engine).await.unwrap();
    breakpoint.arrival().await;
    let second = keyed(Plan::Done(2)).execute(&engine).await.unwrap();
    let third = keyed(Plan::Done(3)).execute(&engine).await.unwrap();
    engine.instance(first).cancel("stop").execute(&engine).await.unwrap();
    assert_eq!(engine.wait(third, WAIT_MAX).await.unwrap(), 3);
    assert_eq!(engine.wait(second, WAIT_MAX).await.unwrap(), 2);
    assert_eq!(row(pool, first).await.status, "cancelled");

    // The head of a key is cancelled before it runs: the rows behind it go on.
    sql(pool, "update gen_durable.instances set status = status").await;
    let nobodys = |plan| Plain::insert(plan).partition_key("l").queue("nobody's");
    let head = nobodys(Plan::Done(1)).execute(&engine).await.unwrap();
    let served = keyed(Plan::Done(4)).partition_key("l").execute(&engine).await.unwrap();
    let mut tx = pool.begin().await.unwrap();
    engine.instance(head).kill("away").execute(&mut *tx).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(engine.wait(served, WAIT_MAX).await.unwrap(), 4);
    eventually("nothing is owed", async || {
        let owed: i64 =
            sqlx::query_scalar("select count(*) from gen_durable.instances where owes is not null")
                .fetch_one(pool)
                .await
                .unwrap();
        (owed == 0).then_some(())
    })
    .await;
    engine.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn p39_the_next_engine_that_knows_the_version_answers() {
    let db = database().await;
    let pool = db.pool();
    log();
    // No engine has run the machines yet.
    let client = Client::new(pool.clone());
    let order = Order::insert(errand(Plan::Done(1), Some(7))).execute(&client).await.unwrap();
    let plain = Plain::insert(Plan::Done(1)).partition_key("k").execute(&client).await.unwrap();
    let behind = Plain::insert(Plan::Done(2)).partition_key("k").execute(&client).await.unwrap();
    for id in [order.get(), plain.get()] {
        let cancelled = client.instance_by_id(id).cancel("no").execute(&client).await.unwrap();
        assert_eq!(cancelled, Cancelled::Asked);
        let again = client.instance_by_id(id).cancel("no").execute(&client).await.unwrap();
        assert_eq!(again, Cancelled::Before);
    }
    let (engine, _) = start(&db).await;
    assert_eq!(engine.wait(order, WAIT_MAX).await.unwrap(), 7);
    let error = engine.wait(plain, WAIT_MAX).await.unwrap_err();
    assert_eq!(error.to_string(), format!("instance {plain} was cancelled: no"));
    assert_eq!(engine.wait(behind, WAIT_MAX).await.unwrap(), 2);
    engine.shutdown().await.unwrap();
}
