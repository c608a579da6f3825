//! Room: what a process that is full leaves to others, what it takes up itself as soon as it can, and
//! what it does while others hold what it wants.

use std::{sync::Arc, time::Duration};

use gen_durable::{EngineBuilder, prelude::*};
use gen_durable_test_postgres::TestDb;
use sqlx::{PgPool, postgres::PgListener};

use crate::support::{Gate, PATIENCE, count, database, engine, eventually, row, sql};

#[durable_fsm(state = (), output = ())]
pub enum Held {
    Hold,
}

#[durable_fsm]
impl Held {
    async fn hold(cx: Context<Self>, gate: &Arc<Gate>) -> Outcome<Self> {
        gate.pass(cx.id()).await;
        cx.done(())
    }
}

/// An engine that neither the poll nor a renewal of its lease helps.
fn deaf(db: &TestDb, gate: &Arc<Gate>) -> EngineBuilder {
    let engine = engine(db).machine::<Held>().resource(Arc::clone(gate));
    engine.poll_interval(Duration::from_hours(1)).lease_ttl(Duration::from_hours(1))
}

/// A process takes what was inserted through it, and so tells nobody. Once it is full, others must hear
/// of the rest.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_full_process_cannot_take_is_announced_to_others() {
    let db = database().await;
    let gate = Arc::new(Gate::new());
    let engine = deaf(&db, &gate).queue("default", 1).start().await.unwrap();
    let mut others = PgListener::connect_with(db.pool()).await.unwrap();
    others.listen("gen_durable").await.unwrap();
    Held::insert_many([(); 5]).execute(&engine).await.unwrap();
    gate.arrival().await;
    let heard = tokio::time::timeout(PATIENCE, others.recv()).await.expect("they hear of it");
    assert_eq!(heard.unwrap().payload(), "default");
    gate.open(5);
    eventually("all have run", async || (count(db.pool(), "done").await == 5).then_some(())).await;
    engine.shutdown().await.unwrap();
}

/// The queue `full` has no room, so a claim asks for the queue `idle` alone, and finds nothing. When
/// `full` has room again, its next row is claimed at once.
///
/// The pause after a claim that found nothing doubles with each. It is driven up until it is longer
/// than the test's patience: what is claimed then was not found by the poll.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_beside_an_idle_one_is_served_when_it_has_room() {
    let db = database().await;
    let pool = db.pool();
    let gate = Arc::new(Gate::new());
    let engine = deaf(&db, &gate).queue("full", 1).queue("idle", 1).start().await.unwrap();
    let first = Held::insert(()).queue("full").execute(&engine).await.unwrap();
    assert_eq!(gate.arrival().await, first.get());
    let mut looked = last_look(pool).await;
    for _ in 0..12 {
        looked = look_again(pool, looked, "idle").await;
    }
    let second = Held::insert(()).queue("full").execute(pool).await.unwrap();
    look_again(pool, looked, "full").await;
    assert_eq!(row(pool, second).await.status, "runnable");
    gate.open(2);
    assert_eq!(gate.arrival().await, second.get());
    engine.wait(second, PATIENCE).await.unwrap();
    engine.shutdown().await.unwrap();
}

/// When an engine last looked for what is due later, as it does after a claim that found nothing.
async fn last_look(pool: &PgPool) -> Option<f64> {
    sqlx::query_scalar(
        "select extract(epoch from max(query_start))::float8 from pg_stat_activity
         where datname = current_database() and query like '-- Microseconds until%'
           and state = 'idle'",
    )
    .fetch_one(pool)
    .await
    .unwrap()
}

/// Announces work in a queue until the engine has looked once more.
async fn look_again(pool: &PgPool, before: Option<f64>, queue: &str) -> Option<f64> {
    sqlx::query("select pg_notify('gen_durable', $1)").bind(queue).execute(pool).await.unwrap();
    eventually("the engine looks", async || {
        let now = last_look(pool).await;
        (now > before).then_some(now)
    })
    .await
}

/// Somebody else claims or frees a partition key just now. That is over in a moment, and is no reason
/// to sleep as if there were nothing to do; nor is a transaction left open meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_another_claim_holds_is_tried_again_at_once_and_holds_nothing_open() {
    const TRIES: i64 = 40;
    const LOOKS: usize = 200;
    let db = database().await;
    let pool = db.pool();
    let gate = Arc::new(Gate::new());
    gate.open(1);
    let mut holder = pool.begin().await.unwrap();
    sqlx::query("select pg_advisory_xact_lock(hashtextextended('k', 5297))")
        .execute(&mut *holder)
        .await
        .unwrap();
    let engine = deaf(&db, &gate).start().await.unwrap();
    let id = Held::insert(()).partition_key("k").execute(&engine).await.unwrap();
    // Each try ends with a rollback. With pauses that double, forty would take a thousand years.
    let before = rollbacks(pool).await;
    eventually("it has tried often", async || {
        (rollbacks(pool).await >= before + TRIES).then_some(())
    })
    .await;
    // Between two tries its connections are idle, and not idle in a transaction. One may be seen on its
    // way from a statement to the next.
    let mut open = 0;
    for _ in 0..LOOKS {
        let sessions: i64 = sqlx::query_scalar(
            "select count(*) from pg_stat_activity
             where datname = current_database() and state = 'idle in transaction'
               and query like '-- Takes the lock of each partition key%'",
        )
        .fetch_one(pool)
        .await
        .unwrap();
        open += usize::from(sessions > 0);
    }
    assert!(open < LOOKS / 3, "a transaction was open in {open} of {LOOKS} looks");
    assert_eq!(row(pool, id).await.status, "runnable");
    holder.rollback().await.unwrap();
    engine.wait(id, PATIENCE).await.unwrap();
    engine.shutdown().await.unwrap();
}

async fn rollbacks(pool: &PgPool) -> i64 {
    sqlx::query_scalar(
        "select xact_rollback from pg_stat_database where datname = current_database()",
    )
    .fetch_one(pool)
    .await
    .unwrap()
}

/// Postgres refuses an answer of a gigabyte: rows with large states must be claimed a few at a time.
/// Here it refuses claims of more than three rows, so that it need not be a gigabyte.
#[tokio::test(flavor = "multi_thread")]
async fn a_claim_that_postgres_refuses_as_too_large_is_asked_for_again_in_parts() {
    const ROWS: i64 = 40;
    let db = database().await;
    let pool = db.pool();
    sql(
        pool,
        "create function refuse() returns trigger language plpgsql as $$
         begin
             if (select count(*) from claimed where status = 'executing') > 3 then
                 raise exception 'out of memory' using errcode = 'program_limit_exceeded';
             end if;
             return null;
         end $$;
         create trigger refuse after update on gen_durable.instances
         referencing new table as claimed for each statement execute function refuse();",
    )
    .await;
    let gate = Arc::new(Gate::new());
    gate.open(100);
    let rows = vec![(); usize::try_from(ROWS).unwrap()];
    Held::insert_many(rows).execute(pool).await.unwrap();
    let engine = deaf(&db, &gate).queue("default", 40).start().await.unwrap();
    eventually("all have run", async || (count(pool, "done").await == ROWS).then_some(())).await;
    engine.shutdown().await.unwrap();
}
