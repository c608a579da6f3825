//! Pauses while engines start, end and die.

use super::*;
use crate::support::lose_worker;

/// An engine that starts while a step is paused does not begin it. The others find the rows that a
/// lost worker has marked or claimed.
#[tokio::test(flavor = "multi_thread")]
async fn p42_a_pause_holds_for_engines_that_come_and_go() {
    let db = database().await;
    let pool = db.pool();
    let (first, stop) = start(&db, false).await;
    let client = Client::new(pool.clone());
    let standing_at = Order::insert(1).execute(&client).await.unwrap();
    stop.arrival().await;
    client.machine::<Order>().pause().execute(&client).await.unwrap();
    first.maintain().await.unwrap();
    let marked = Order::insert(2).execute(&client).await.unwrap();
    until_there_are(pool, 1, "status = 'runnable' and blocked_by & 4 = 4").await;
    let (second, open) = start(&db, false).await;
    open.open(1_000_000);
    // The first one is lost in the middle of a step.
    lose_worker(pool, first.worker(), &second, standing_at).await;
    let other = Other::insert(()).execute(&client).await.unwrap();
    second.wait(other, WAIT_MAX).await.unwrap();
    until_there_are(pool, 2, "fsm = 'order' and status = 'runnable' and blocked_by & 4 = 4").await;
    client.machine::<Order>().resume().execute(&client).await.unwrap();
    second.wait(standing_at, WAIT_MAX).await.unwrap();
    second.wait(marked, WAIT_MAX).await.unwrap();
    stop.open(1_000_000);
    second.shutdown().await.unwrap();
    drop(first);
}

/// A mark that is left over, as all engines died before they cleared it, is found by the next one.
#[tokio::test(flavor = "multi_thread")]
async fn p42_marks_that_are_left_over_are_cleared_by_the_next_engine() {
    let db = database().await;
    let pool = db.pool();
    sql(
        pool,
        "insert into gen_durable.instances (fsm, fsm_version, step, state, blocked_by, paused_by)
         select 'order', 1, 'ship', n::text::json, 4, 77 from generate_series(1, 2500) as n",
    )
    .await;
    let (engine, _) = start(&db, false).await;
    until_there_are(pool, 2_500, "status = 'done'").await;
    engine.shutdown().await.unwrap();
}

/// A deep backlog at a paused step is marked part by part, and hides nothing behind it.
#[tokio::test(flavor = "multi_thread")]
async fn p42_a_deep_backlog_at_a_paused_step_hides_nothing() {
    let db = database().await;
    let pool = db.pool();
    let (engine, _) = start(&db, false).await;
    let client = engine.client().clone();
    client.machine::<Order>().pause_step(Order::Ship).execute(&client).await.unwrap();
    engine.maintain().await.unwrap();
    sql(
        pool,
        "insert into gen_durable.instances (fsm, fsm_version, step, state, partition_key)
         select 'order', 1, 'ship', n::text::json, case when n % 5 = 0 then 'k' || n % 100 end
         from generate_series(1, 12000) as n",
    )
    .await;
    let last = Order::insert(1).step(Order::Listen).execute(&client).await.unwrap();
    until(pool, last, "awaiting_signal").await;
    until_there_are(pool, 12_000, "status = 'runnable' and blocked_by <> 0").await;
    client.machine::<Order>().resume_step(Order::Ship).execute(&client).await.unwrap();
    until_there_are(pool, 12_000, "status = 'done'").await;
    engine.shutdown().await.unwrap();
}
