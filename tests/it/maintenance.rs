//! Retention, and what maintenance finds to mend.

use std::time::Duration;

use gen_durable::prelude::*;

use crate::support::{PATIENCE, count, database, engine, until};

#[durable_fsm(state = (), output = ())]
pub enum Quick {
    Go,
}

#[durable_fsm]
impl Quick {
    async fn go(cx: Context<Self>) -> Outcome<Self> {
        cx.done(())
    }
}

#[derive(DurableSignal)]
pub struct Ping;

#[durable_fsm(state = (), output = (), signals(Ping))]
pub enum Listening {
    Go,
}

#[durable_fsm]
impl Listening {
    async fn go(cx: Context<Self>) -> Outcome<Self> {
        cx.done(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ended_instances_are_pruned_after_their_retention_and_live_ones_never() {
    let db = database().await;
    let pool = db.pool();
    let engine =
        engine(&db).machine::<Quick>().retention(Duration::from_hours(1)).start().await.unwrap();
    let ids = Quick::insert_many([(); 3]).execute(&engine).await.unwrap();
    for id in ids {
        engine.wait(id.unwrap(), PATIENCE).await.unwrap();
    }
    let later =
        Quick::insert(()).schedule_in(Duration::from_hours(1)).execute(&engine).await.unwrap();
    sqlx::query(
        "update gen_durable.instances
         set finished_at = finished_at - interval '2 hours', inserted_at = inserted_at - interval '2 hours'
         where id <> (select min(id) from gen_durable.instances)",
    )
    .execute(pool)
    .await
    .unwrap();
    engine.maintain().await.unwrap();
    assert_eq!((count(pool, "done").await, count(pool, "runnable").await), (1, 1));
    assert!(engine.client().find(later.get()).await.unwrap().is_some());
    engine.shutdown().await.unwrap();
}

/// A row that a claim took out of its index, and whose key was freed without it: the sweep finds it.
#[tokio::test(flavor = "multi_thread")]
async fn a_stranded_partition_key_is_freed() {
    let db = database().await;
    let engine = engine(&db).machine::<Quick>().start().await.unwrap();
    let id: i64 = sqlx::query_scalar(
        "insert into gen_durable.instances (fsm, fsm_version, step, state, partition_key, blocked)
         values ('quick', 1, 'go', 'null', 'k', true) returning id",
    )
    .fetch_one(db.pool())
    .await
    .unwrap();
    engine.maintain().await.unwrap();
    until(db.pool(), id, "done").await;
    engine.shutdown().await.unwrap();
}

/// Nothing but a trigger ties an inbox to its instance.
#[tokio::test(flavor = "multi_thread")]
async fn an_instance_takes_its_inbox_with_it_when_it_is_deleted() {
    let db = database().await;
    let pool = db.pool();
    let later = Duration::from_hours(1);
    let mut ids = Vec::new();
    for _ in 0..3 {
        let id = Listening::insert(()).schedule_in(later).execute(pool).await.unwrap();
        Listening::signal_ping(id, Ping).dedup_key("once").execute(pool).await.unwrap();
        ids.push(id.get());
    }
    sqlx::query("delete from gen_durable.instances where id = any ($1)")
        .bind(&ids[..2])
        .execute(pool)
        .await
        .unwrap();
    let left: Vec<i64> = sqlx::query_scalar(
        "select target_id from gen_durable.signals
         union all select target_id from gen_durable.signal_keys",
    )
    .fetch_all(pool)
    .await
    .unwrap();
    assert_eq!(left, [ids[2], ids[2]]);
}

/// Of a key, one row is stranded, and another one is in the claim's index but not due for an hour.
#[tokio::test(flavor = "multi_thread")]
async fn a_scheduled_row_hides_no_stranded_key() {
    let db = database().await;
    let pool = db.pool();
    let later = Quick::insert(()).partition_key("k").schedule_in(Duration::from_hours(1));
    let later = later.execute(pool).await.unwrap();
    let stranded = Quick::insert(()).partition_key("k").execute(pool).await.unwrap();
    sqlx::query("update gen_durable.instances set blocked = true where id = $1")
        .bind(stranded.get())
        .execute(pool)
        .await
        .unwrap();
    let engine = engine(&db).machine::<Quick>().start().await.unwrap();
    engine.maintain().await.unwrap();
    engine.wait(stranded, PATIENCE).await.unwrap();
    assert_eq!(crate::support::row(pool, later).await.status, "runnable");
    engine.shutdown().await.unwrap();
}
