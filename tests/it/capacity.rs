//! Engines that have reached the limit of their queues. A full engine leaves rows to other
//! processes, and claims again as soon as it has a free slot. An engine also tries again soon if
//! another session holds a key, and divides a claim that is too large.

use std::{sync::Arc, time::Duration};

use gen_durable::{Engine, EngineBuilder, prelude::*};
use gen_durable_postgres::TestDb;
use sqlx::{PgPool, Postgres, Transaction, postgres::PgListener};

use crate::support::{Breakpoint, WAIT_MAX, count, database, engine, eventually, row, sql};

#[durable_fsm(state = (), output = ())]
pub enum Held {
    Hold,
}

#[durable_fsm]
impl Held {
    async fn hold(cx: Context<Self>, breakpoint: &Arc<Breakpoint>) -> Outcome<Self> {
        breakpoint.pass(cx.id()).await;
        cx.done(())
    }
}

/// An engine that polls and renews its lease once an hour: in a test, neither makes it look for
/// rows.
fn deaf(db: &TestDb, breakpoint: &Arc<Breakpoint>) -> EngineBuilder {
    let engine = engine(db).machine::<Held>().resource(Arc::clone(breakpoint));
    engine.poll_interval(Duration::from_hours(1)).lease_ttl(Duration::from_hours(1))
}

/// A process claims the rows that were inserted through it, so it does not announce them to others.
/// Once it is full, it must announce the rest.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_full_process_cannot_take_is_announced_to_others() {
    let db = database().await;
    let breakpoint = Arc::new(Breakpoint::new());
    let engine = deaf(&db, &breakpoint).queue("default", 1).start().await.unwrap();
    let mut others = PgListener::connect_with(db.pool()).await.unwrap();
    others.listen("gen_durable").await.unwrap();
    Held::insert_many([(); 5]).execute(&engine).await.unwrap();
    breakpoint.arrival().await;
    let heard = tokio::time::timeout(WAIT_MAX, others.recv()).await.expect("they hear of it");
    assert_eq!(heard.unwrap().payload(), "default");
    breakpoint.open(5);
    eventually("all have run", async || (count(db.pool(), "done").await == 5).then_some(())).await;
    engine.shutdown().await.unwrap();
}

/// The queue `full` has no free slot, so a claim asks for the queue `idle` alone and finds nothing.
/// When `full` has a free slot again, its next row is claimed at once.
///
/// The pause after a claim that found nothing doubles with each such claim. The test drives it up
/// until it is longer than `WAIT_MAX`. A row that is claimed within `WAIT_MAX` was then not found
/// by the poll.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_beside_an_idle_one_is_served_when_a_slot_is_free() {
    let db = database().await;
    let pool = db.pool();
    let breakpoint = Arc::new(Breakpoint::new());
    let engine = deaf(&db, &breakpoint).queue("full", 1).queue("idle", 1).start().await.unwrap();
    let first = Held::insert(()).queue("full").execute(&engine).await.unwrap();
    assert_eq!(breakpoint.arrival().await, first.get());
    let mut looked = last_look(pool).await;
    for _ in 0..12 {
        looked = look_again(pool, looked, "idle").await;
    }
    let second = Held::insert(()).queue("full").execute(pool).await.unwrap();
    look_again(pool, looked, "full").await;
    assert_eq!(row(pool, second).await.status, "runnable");
    breakpoint.open(2);
    assert_eq!(breakpoint.arrival().await, second.get());
    engine.wait(second, WAIT_MAX).await.unwrap();
    engine.shutdown().await.unwrap();
}

/// The queue `full` has no capacity left when a claim for the other queue is sent. The claim before
/// got less than it asked for, so a step that ends in `full` does not wake the claimer. When the
/// claim ends, the claimer sees by itself that `full` has capacity again. It claims the next row of
/// `full` before it looks how long it may sleep.
#[tokio::test(flavor = "multi_thread")]
async fn slots_that_come_free_during_a_claim_for_other_queues_are_used_at_once() {
    const HELD: usize = 34;
    let db = database().await;
    let pool = db.pool();
    let breakpoint = Arc::new(Breakpoint::new());
    let engine = deaf(&db, &breakpoint).queue("full", 1).queue("idle", 2).start().await.unwrap();
    // From here on the engine has a watermark in the queue `idle`.
    breakpoint.open(1);
    let id = Held::insert(()).queue("idle").execute(&engine).await.unwrap();
    engine.wait(id, WAIT_MAX).await.unwrap();
    fill(&engine, pool, &breakpoint, HELD).await;

    // From here on, a claim stops at each row that it takes, until it gets an advisory lock: 1 for
    // the queue `idle`, 2 for all others.
    sql(
        pool,
        "create function hold_claim() returns trigger language plpgsql as $$
         begin
             perform pg_advisory_xact_lock(case new.queue when 'idle' then 1 else 2 end);
             return new;
         end $$;
         create trigger hold_claim before update on gen_durable.instances for each row
         when (new.status = 'executing' and old.status = 'runnable') execute function hold_claim();",
    )
    .await;
    let (hold_idle, hold_full) = (hold(pool, 1).await, hold(pool, 2).await);
    // This row is not announced. It was due well before the claim, so it does not count as one that
    // the claim has just missed.
    let next: i64 = sqlx::query_scalar(
        "insert into gen_durable.instances (fsm, fsm_version, step, state, queue, eligible_at)
         values ('held', 1, 'hold', 'null', 'full', now() - interval '100 milliseconds') returning id",
    )
    .fetch_one(pool)
    .await
    .unwrap();
    // This row lies far before the watermark. Only a claim without watermarks finds it, and after
    // such a claim no other one is due soon.
    let idle: i64 = sqlx::query_scalar(
        "insert into gen_durable.instances (fsm, fsm_version, step, state, queue, eligible_at)
         values ('held', 1, 'hold', 'null', 'idle', '2000-01-01') returning id",
    )
    .fetch_one(pool)
    .await
    .unwrap();
    eventually("a claim is held up", async || waits_for(pool, 1).await.then_some(())).await;
    breakpoint.open(HELD);
    eventually("a slot is free", async || (engine.metrics().claimed == 0).then_some(())).await;
    let looked = last_look(pool).await;
    hold_idle.rollback().await.unwrap();
    eventually("the next one is being claimed", async || {
        assert!(last_look(pool).await <= looked, "it looked how long it may sleep");
        waits_for(pool, 2).await.then_some(())
    })
    .await;
    hold_full.rollback().await.unwrap();
    breakpoint.open(2);
    engine.wait(InstanceId::<Held>::from_raw(next), WAIT_MAX).await.unwrap();
    engine.wait(InstanceId::<Held>::from_raw(idle), WAIT_MAX).await.unwrap();
    engine.shutdown().await.unwrap();
}

/// Lets one claim fill the queue `full`, and get less than it asked for. The queue then has so
/// little capacity left that the claimer does not ask for more.
async fn fill(engine: &Engine, pool: &PgPool, breakpoint: &Breakpoint, held: usize) {
    const QUICK: usize = 2_000;
    loop {
        // The faster the steps of a queue end, the more rows are claimed ahead.
        breakpoint.open(QUICK);
        let quick = (0..QUICK).map(|_| Held::insert(()).queue("full"));
        Held::insert_many(quick).execute(engine).await.unwrap();
        eventually("they have run", async || {
            (count(pool, "runnable").await == 0 && engine.metrics().claimed == 0).then_some(())
        })
        .await;
        // The claimer has looked once more, so nothing that happened before wakes it later.
        let looked = look_again(pool, last_look(pool).await, "idle").await;
        let rows = (0..held).map(|_| Held::insert(()).queue("full"));
        Held::insert_many(rows).execute(pool).await.unwrap();
        look(pool, looked).await;
        if engine.metrics().claimed == held {
            return;
        }
        // The host was too busy, and the queue too slow, to claim this many rows ahead. Try again.
        breakpoint.open(held);
        eventually("they have run", async || (engine.metrics().claimed == 0).then_some(())).await;
    }
}

/// Takes an advisory lock. Sessions that want it wait until the returned transaction ends.
async fn hold(pool: &PgPool, key: i64) -> Transaction<'static, Postgres> {
    let mut holder = pool.begin().await.unwrap();
    sqlx::query("select pg_advisory_xact_lock($1)").bind(key).execute(&mut *holder).await.unwrap();
    holder
}

/// True if a session waits for this advisory lock.
async fn waits_for(pool: &PgPool, key: i64) -> bool {
    sqlx::query_scalar(
        "select exists (
             select from pg_locks
             where locktype = 'advisory' and not granted and objid = $1::bigint::oid
               and database = (select oid from pg_database where datname = current_database())
         )",
    )
    .bind(key)
    .fetch_one(pool)
    .await
    .unwrap()
}

/// Returns the time at which an engine last looked for rows that are due later. It does so after a
/// claim that found nothing.
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

/// Announces rows in a queue, and waits until the engine has looked once more.
async fn look_again(pool: &PgPool, before: Option<f64>, queue: &str) -> Option<f64> {
    sqlx::query("select pg_notify('gen_durable', $1)").bind(queue).execute(pool).await.unwrap();
    look(pool, before).await
}

/// Waits until an engine has looked after the time `before`, and returns the time of its last look.
async fn look(pool: &PgPool, before: Option<f64>) -> Option<f64> {
    eventually("the engine looks", async || {
        let now = last_look(pool).await;
        (now > before).then_some(now)
    })
    .await
}

/// Another session has the lock of a partition key, as a claim or a commit that frees the key has
/// for a moment. Therefore the engine soon tries again, and does not sleep as if there were nothing
/// to do. Between its tries, it leaves no transaction open.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_another_claim_holds_is_tried_again_at_once_and_holds_nothing_open() {
    const TRIES: i64 = 40;
    const LOOKS: usize = 200;
    let db = database().await;
    let pool = db.pool();
    let breakpoint = Arc::new(Breakpoint::new());
    breakpoint.open(1);
    let mut holder = pool.begin().await.unwrap();
    sqlx::query("select pg_advisory_xact_lock(hashtextextended('k', 5297))")
        .execute(&mut *holder)
        .await
        .unwrap();
    let engine = deaf(&db, &breakpoint).start().await.unwrap();
    let id = Held::insert(()).partition_key("k").execute(&engine).await.unwrap();
    // Each try ends with a rollback. The pauses of an idle engine double, up to an hour here, so
    // forty tries would take a day.
    let before = rollbacks(pool).await;
    eventually("it has tried often", async || {
        (rollbacks(pool).await >= before + TRIES).then_some(())
    })
    .await;
    // Between two tries the engine's connections are idle, and not idle in a transaction. A look
    // may still find a try between two of its statements.
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
    engine.wait(id, WAIT_MAX).await.unwrap();
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

/// Postgres refuses an answer of a gigabyte, so rows with large states must be claimed a few at a
/// time. Here a trigger refuses claims of more than three rows, so that the test needs no gigabyte.
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
    let breakpoint = Arc::new(Breakpoint::new());
    breakpoint.open(100);
    let rows = vec![(); usize::try_from(ROWS).unwrap()];
    Held::insert_many(rows).execute(pool).await.unwrap();
    let engine = deaf(&db, &breakpoint).queue("default", 40).start().await.unwrap();
    eventually("all have run", async || (count(pool, "done").await == ROWS).then_some(())).await;
    engine.shutdown().await.unwrap();
}
