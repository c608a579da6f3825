//! Faults of the network: a connection breaks in the middle of a statement, or the answer is lost,
//! or the connection stays up and carries nothing any more. The engine must lose nothing and do
//! nothing twice.

use std::{sync::Arc, time::Duration};

use gen_durable::{Engine, EngineBuilder, prelude::*};
use gen_durable_postgres::TestDb;
use gen_durable_tests::{
    oracle,
    proxy::{Direction, Effect, Proxy},
};
use sqlx::postgres::PgPoolOptions;

use crate::support::{
    Breakpoint, WAIT_MAX, count, database, engine, eventually, log, proxy, row, sql, until,
};

/// The lease of the engines here, and the longest time that a silent connection can hold them up:
/// an engine counts a statement without an answer as lost after its lease.
const LEASE: Duration = Duration::from_millis(1500);

#[derive(Clone, Debug, DurableSignal)]
pub struct Ping;

/// The state of a machine. The proxy recognises `mark`, a text of the test's choice, in the
/// traffic, and `n` counts the steps.
#[derive(Clone, Debug, Default, DurableState)]
pub struct Marked {
    mark: String,
    n: u32,
}

#[durable_fsm(state = Marked, output = Marked, signals(Ping))]
pub enum Walk {
    First,
    Second,
    Again,
    Park,
    End,
    Fail,
}

/// The transitions that the oracle allows. It reports an outcome that is committed twice.
const EDGES: [(&str, &str, &str); 4] = [
    ("walk", "first", "second"),
    ("walk", "second", "again"),
    ("walk", "again", "park"),
    ("walk", "park", "end"),
];
const ENDS: [(&str, &str, &str); 3] =
    [("walk", "end", "done"), ("walk", "fail", "failed"), ("child", "do", "done")];

#[durable_fsm]
impl Walk {
    async fn first(mut cx: Context<Self>, breakpoint: &Arc<Breakpoint>) -> Outcome<Self> {
        breakpoint.pass(cx.id()).await;
        cx.state.n += 1;
        let child = Child::insert(Marked::default());
        cx.next(Walk::Second).insert(child)
    }

    async fn second(mut cx: Context<Self>, breakpoint: &Arc<Breakpoint>) -> Outcome<Self> {
        breakpoint.pass(cx.id()).await;
        cx.state.n += 1;
        cx.next(Walk::Again)
    }

    async fn again(mut cx: Context<Self>, breakpoint: &Arc<Breakpoint>) -> Outcome<Self> {
        breakpoint.pass(cx.id()).await;
        if cx.attempt() == 0 {
            // The child carries `mark` for the proxy to find: the outcome of a replay contains no
            // state.
            let child = Child::insert(Marked { mark: cx.state.mark.clone(), n: 0 });
            return cx.replay(Duration::ZERO).insert(child);
        }
        cx.state.n += 1;
        cx.next_in(Walk::Park, Duration::from_millis(1))
    }

    async fn park(mut cx: Context<Self>, breakpoint: &Arc<Breakpoint>) -> StepResult<Self> {
        breakpoint.pass(cx.id()).await;
        if cx.take_signal::<Ping>()?.is_none() {
            return Ok(cx.await_signal::<Ping>());
        }
        cx.state.n += 1;
        Ok(cx.next(Walk::End))
    }

    async fn end(cx: Context<Self>, breakpoint: &Arc<Breakpoint>) -> Outcome<Self> {
        breakpoint.pass(cx.id()).await;
        let mut state = cx.state.clone();
        state.n += 1;
        cx.done(state)
    }

    #[step(entry)]
    async fn fail(cx: Context<Self>, breakpoint: &Arc<Breakpoint>) -> Outcome<Self> {
        breakpoint.pass(cx.id()).await;
        let reason = format!("{} on purpose", cx.state.mark);
        cx.stop(reason)
    }
}

#[durable_fsm(state = Marked, output = ())]
pub enum Child {
    Do,
}

#[durable_fsm]
impl Child {
    async fn r#do(cx: Context<Self>) -> Outcome<Self> {
        cx.done(())
    }
}

/// An engine whose only way to Postgres is the proxy.
pub(crate) fn behind(proxy: &Proxy, db: &TestDb) -> EngineBuilder {
    log();
    let pool = PgPoolOptions::new()
        .acquire_timeout(Duration::from_secs(5))
        .connect_lazy(&proxy.url(db.name()))
        .unwrap();
    Engine::builder(pool)
        .machine::<Walk>()
        .machine::<Child>()
        .queue("default", 10)
        .lease_ttl(LEASE)
        .poll_interval(Duration::from_millis(200))
}

pub(crate) fn marked(mark: &str) -> Marked {
    Marked { mark: mark.to_owned(), n: 0 }
}

async fn children(db: &TestDb) -> i64 {
    sqlx::query_scalar("select count(*) from gen_durable.instances where fsm = 'child'")
        .fetch_one(db.pool())
        .await
        .unwrap()
}

/// A `Walk` makes every kind of commit, one after the other. In the first round Postgres applies
/// each commit and its answer is lost. In the second round the connection is cut before the commit
/// arrives. Either way the engine must apply each outcome exactly once, with all that it carries.
#[tokio::test(flavor = "multi_thread")]
async fn p13_an_outcome_whose_answer_is_lost_is_applied_once() {
    let db = database().await;
    let pool = db.pool();
    oracle::install(pool).await.unwrap();
    oracle::allow(pool, &EDGES, &ENDS).await.unwrap();
    let proxy = proxy().await;
    for effect in [Effect::LoseAnswer, Effect::CutBefore] {
        let breakpoint = Arc::new(Breakpoint::new());
        let engine = behind(&proxy, &db).resource(Arc::clone(&breakpoint)).start().await.unwrap();
        let before = children(&db).await;
        let mark = format!("{effect:?}");
        let meets = async || {
            breakpoint.arrival().await;
            let sprung = proxy.trap(Direction::Request, &mark, effect);
            breakpoint.open(1);
            sprung.await.expect("the outcome goes by");
        };
        let id = Walk::insert(marked(&mark)).execute(pool).await.unwrap();
        // The commits of `first` with an insert, `second`, a replay with an insert, a delay, and a
        // park.
        for _ in 0..5 {
            meets().await;
        }
        until(pool, id, "awaiting_signal").await;
        Walk::signal(id, Ping).execute(pool).await.unwrap();
        // The commit that consumes the signal, and the end.
        for _ in 0..2 {
            meets().await;
        }
        let end = engine.wait(id, WAIT_MAX).await.unwrap();
        assert_eq!(end.n, 5);
        assert_eq!(row(pool, id).await.crashes, 0);
        let fails = Walk::insert(marked(&mark)).step(Walk::Fail).execute(pool).await.unwrap();
        meets().await;
        until(pool, fails, "failed").await;
        // Each outcome was committed once, with what it carried.
        assert_eq!(children(&db).await, before + 2);
        eventually("the children are done", async || {
            (count(pool, "runnable").await + count(pool, "executing").await == 0).then_some(())
        })
        .await;
        assert_eq!(oracle::check(pool).await.unwrap(), Vec::<String>::new());
        engine.shutdown().await.unwrap();
    }
}

/// The connection is cut before a commit arrives, so the engine cannot know if it was applied.
/// Before the engine sends it again, a reap finds that the row has lost too many workers, and fails
/// it for good. The reap raises the revision, as the commit would have. The engine must not
/// conclude that its commit was applied.
#[tokio::test(flavor = "multi_thread")]
async fn p13_an_uncertain_end_is_not_mistaken_for_a_reap_that_failed_the_row() {
    const REAP: &str = include_str!("../../gen_durable/src/storage/sql/reap.sql");
    let db = database().await;
    let pool = db.pool();
    let proxy = proxy().await;
    let breakpoint = Arc::new(Breakpoint::new());
    let engine = behind(&proxy, &db).lease_ttl(Duration::from_mins(10));
    let engine = engine.resource(Arc::clone(&breakpoint)).start().await.unwrap();
    let id = Walk::insert(marked("doubtful")).step(Walk::End).execute(pool).await.unwrap();
    breakpoint.arrival().await;
    // From here on the engine finds the row locked, until the reap is committed.
    let mut reaper = pool.begin().await.unwrap();
    sqlx::query("select from gen_durable.instances where id = $1 for update")
        .bind(id.get())
        .execute(&mut *reaper)
        .await
        .unwrap();
    let sprung = proxy.trap(Direction::Request, "doubtful", Effect::CutBefore);
    breakpoint.open(1);
    sprung.await.expect("the outcome goes by");
    sqlx::query("update gen_durable.workers set lease_expires_at = now()")
        .execute(&mut *reaper)
        .await
        .unwrap();
    let reaped = sqlx::query(REAP).bind(1000_i64).bind(1_i32).execute(&mut *reaper).await.unwrap();
    assert_eq!(reaped.rows_affected(), 1);
    // This wait runs in the engine's process. If the engine believed that its commit was applied,
    // it would tell the wait `done` itself.
    let wait = tokio::spawn({
        let client = engine.client().clone();
        async move { client.wait(id, WAIT_MAX).await }
    });
    reaper.commit().await.unwrap();
    let ended = wait.await.unwrap();
    assert!(matches!(&ended, Err(gen_durable::WaitError::Failed { .. })), "{ended:?}");
    eventually("the outcome counts as lost", async || {
        (engine.metrics().lost_commits == 1).then_some(())
    })
    .await;
    engine.shutdown().await.unwrap();
}

/// Postgres commits a claim, and the connection is cut before the rows arrive: once for a row
/// without a partition key and once with one. The engine must give the rows back, and no attempt
/// may be spent.
#[tokio::test(flavor = "multi_thread")]
async fn p13_a_claim_whose_answer_is_lost_is_given_back() {
    let db = database().await;
    let proxy = proxy().await;
    let breakpoint = Arc::new(Breakpoint::new());
    let engine = behind(&proxy, &db).resource(Arc::clone(&breakpoint)).start().await.unwrap();
    for key in [None, Some("a key")] {
        let sprung = proxy.trap(Direction::Answer, "claimed in vain", Effect::CutBefore);
        let mut insert = Walk::insert(marked("claimed in vain")).step(Walk::End);
        if let Some(key) = key {
            insert = insert.partition_key(key);
        }
        let id = insert.execute(db.pool()).await.unwrap();
        sprung.await.expect("the claim's answer goes by");
        assert_eq!(breakpoint.arrival().await, id.get());
        let row = row(db.pool(), id).await;
        assert_eq!((row.attempt, row.crashes), (0, 0));
        breakpoint.open(1);
        assert_eq!(engine.wait(id, WAIT_MAX).await.unwrap().n, 1);
    }
    engine.shutdown().await.unwrap();
}

/// The state of a machine that delays its next step, again and again.
#[derive(Clone, Debug, DurableState)]
pub struct Ticks {
    left: u64,
    /// The delay in milliseconds. If it is zero, each delay is a little shorter than the one
    /// before.
    delay: u64,
}

#[durable_fsm(state = Ticks, output = ())]
pub enum Tick {
    Tock,
}

#[durable_fsm]
impl Tick {
    async fn tock(mut cx: Context<Self>) -> Outcome<Self> {
        if cx.state.left == 0 {
            return cx.done(());
        }
        let delay = if cx.state.delay == 0 { cx.state.left / 2 + 5 } else { cx.state.delay };
        cx.state.left -= 1;
        cx.next_in(Tick::Tock, Duration::from_millis(delay))
    }
}

/// Runs an instance of `Tick` to its end, on an engine whose poll does not help. The claimer's
/// pauses double up to an hour, so a due row that the claimer misses once is found too late for the
/// test.
async fn tick(db: &TestDb, proxy: &Proxy, ticks: Ticks) {
    let engine = behind(proxy, db).machine::<Tick>().resource(Arc::new(Breakpoint::new()));
    let engine = engine.poll_interval(Duration::from_hours(1)).lease_ttl(Duration::from_hours(1));
    let engine = engine.start().await.unwrap();
    let id = Tick::insert(ticks).execute(&engine).await.unwrap();
    engine.wait(id, WAIT_MAX).await.unwrap();
    engine.shutdown().await.unwrap();
}

/// The proxy delays all traffic by 5 ms. Therefore a row often falls due after a claim has looked
/// for it, and before the engine asks when the next row is due. The engine must not miss such a
/// row.
#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_comes_to_be_due_between_two_looks_is_not_missed() {
    let (db, proxy) = (database().await, proxy().await);
    proxy.delay(Duration::from_millis(5));
    tick(&db, &proxy, Ticks { left: 40, delay: 0 }).await;
}

/// A step delays its row while the claimer looks for due rows and still remembers an earlier due
/// time. The engine must not lose the new due time.
#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_is_delayed_while_the_claimer_looks_is_not_missed() {
    let (db, proxy) = (database().await, proxy().await);
    tick(&db, &proxy, Ticks { left: 500, delay: 1 }).await;
}

/// All connections of the engine are frozen: the statements under way never end, and nothing
/// reports an error. The engine must count them as lost after its lease, connect again, and go on.
#[tokio::test(flavor = "multi_thread")]
async fn p13_half_open_connections_are_given_up() {
    let db = database().await;
    let proxy = proxy().await;
    let breakpoint = Arc::new(Breakpoint::new());
    let engine = behind(&proxy, &db).resource(Arc::clone(&breakpoint)).start().await.unwrap();
    for _ in 0..3 {
        let running = Walk::insert(marked("m")).step(Walk::End).execute(&engine).await.unwrap();
        breakpoint.arrival().await;
        proxy.freeze();
        let waiting = Walk::insert(marked("m")).step(Walk::End).execute(db.pool()).await.unwrap();
        breakpoint.open(2);
        until(db.pool(), running, "done").await;
        until(db.pool(), waiting, "done").await;
        breakpoint.arrival().await;
        // Calls through the engine recover too.
        let called = eventually("a call succeeds", async || {
            Walk::insert(marked("m")).step(Walk::End).execute(&engine).await.ok()
        })
        .await;
        breakpoint.arrival().await;
        breakpoint.open(1);
        engine.wait(called, WAIT_MAX).await.unwrap();
    }
    proxy.freeze();
    engine.shutdown().await.unwrap();
    assert_eq!(count(db.pool(), "executing").await, 0);
}

/// A connection dies in the middle of a transaction, and Postgres does not learn of it. The row
/// that the transaction has locked must be free again after a while.
#[tokio::test(flavor = "multi_thread")]
async fn p13_a_transaction_that_nobody_ends_holds_nobody_up_for_long() {
    let db = database().await;
    let proxy = proxy().await;
    let breakpoint = Arc::new(Breakpoint::new());
    let engine = behind(&proxy, &db).resource(Arc::clone(&breakpoint)).start().await.unwrap();
    let id = Walk::insert(marked("m")).step(Walk::Park).execute(&engine).await.unwrap();
    breakpoint.arrival().await;
    // The transaction of a park has locked the row, and its COMMIT never arrives.
    let sprung = proxy.trap_commit(Effect::FreezeBefore);
    breakpoint.open(1);
    sprung.await.expect("the park goes by");
    Walk::signal(id, Ping).execute(db.pool()).await.unwrap();
    breakpoint.arrival().await;
    breakpoint.open(2);
    until(db.pool(), id, "done").await;
    engine.shutdown().await.unwrap();
}

/// A new connection becomes half open in the middle of its setup, which is given up sooner than any
/// statement is. The pool would test such a connection for ever. The lease has a pool of one
/// connection, so its place must be free again.
#[tokio::test(flavor = "multi_thread")]
async fn p13_a_connection_that_freezes_while_it_is_set_up_costs_no_place() {
    let db = database().await;
    let proxy = proxy().await;
    let breakpoint = Arc::new(Breakpoint::new());
    breakpoint.open(1000);
    let engine = behind(&proxy, &db).resource(breakpoint).lease_ttl(Duration::from_secs(2));
    let engine = engine.start().await.unwrap();
    // The first renewal opens the connection that keeps the lease.
    let mut sprung = 0;
    while sprung < 6 {
        let trap =
            proxy.trap(Direction::Request, "Sets up a connection of the", Effect::FreezeBefore);
        if tokio::time::timeout(Duration::from_millis(1500), trap).await.is_err() {
            break;
        }
        sprung += 1;
    }
    assert!(sprung > 0, "a connection is set up");
    proxy.forget_traps();
    for _ in 0..3 {
        let before = renewals(&db).await;
        eventually("the lease is renewed", async || (renewals(&db).await > before).then_some(()))
            .await;
    }
    let id = Walk::insert(marked("m")).step(Walk::End).execute(db.pool()).await.unwrap();
    engine.wait(id, WAIT_MAX).await.unwrap();
    engine.shutdown().await.unwrap();
}

/// The end of the lease, in microseconds since 1970.
async fn renewals(db: &TestDb) -> i64 {
    sqlx::query_scalar(
        "select coalesce(max((extract(epoch from lease_expires_at) * 1000000)::bigint), 0)
         from gen_durable.workers",
    )
    .fetch_one(db.pool())
    .await
    .unwrap()
}

/// All connections are frozen, also the one that listens, so it hears nothing. The engine must
/// listen again on another connection. Until then the poll finds what is announced.
#[tokio::test(flavor = "multi_thread")]
async fn p13_an_engine_listens_again_after_its_connection_was_half_open() {
    let db = database().await;
    let proxy = proxy().await;
    let breakpoint = Arc::new(Breakpoint::new());
    let engine = behind(&proxy, &db).resource(Arc::clone(&breakpoint)).start().await.unwrap();
    let listeners = async || -> Vec<i32> {
        sqlx::query_scalar(
            "select pid from pg_stat_activity
             where datname = current_database() and query ilike 'listen%'",
        )
        .fetch_all(db.pool())
        .await
        .unwrap()
    };
    let first = eventually("it listens", async || listeners().await.first().copied()).await;
    proxy.freeze();
    eventually("it listens on another connection", async || {
        listeners().await.iter().any(|pid| *pid != first).then_some(())
    })
    .await;
    engine.shutdown().await.unwrap();
}

/// The connection that listens is closed. The poll and the lease take an hour, and the claimer's
/// pauses have grown long. The engine must listen again: only that can find a row that is inserted
/// later.
#[tokio::test(flavor = "multi_thread")]
async fn p13_an_engine_listens_again_after_its_connection_was_closed() {
    let db = database().await;
    let pool = db.pool();
    let hour = Duration::from_hours(1);
    let engine = engine(&db).machine::<Child>().maintenance(false).poll_interval(hour);
    let engine = engine.lease_ttl(hour).start().await.unwrap();
    let at_rest = async || {
        eventually("the claimer rests", async || {
            // Each statement of the engine begins with a comment, `-- `.
            let rests: bool = sqlx::query_scalar(
                "select not exists (
                     select from pg_stat_activity
                     where datname = current_database() and query like '-- %'
                       and query_start > clock_timestamp() - interval '300 milliseconds'
                 )",
            )
            .fetch_one(pool)
            .await
            .unwrap();
            rests.then_some(())
        })
        .await;
    };
    // Each look that finds nothing doubles the pause before the next one, from 50 ms on.
    for _ in 0..14 {
        let id = Child::insert(marked("own")).execute(&engine).await.unwrap();
        engine.wait(id, WAIT_MAX).await.unwrap();
        at_rest().await;
    }
    // The test inserts this row by hand, so nothing announces it. The engine must find it all the
    // same: it looks for rows when it listens again.
    let missed: i64 = sqlx::query_scalar(
        "insert into gen_durable.instances (fsm, fsm_version, step, state)
         values ('child', 1, 'do', '{\"mark\": \"missed\", \"n\": 0}') returning id",
    )
    .fetch_one(pool)
    .await
    .unwrap();
    sql(
        pool,
        "select pg_terminate_backend(pid) from pg_stat_activity
         where datname = current_database() and query ilike 'listen%'",
    )
    .await;
    until(pool, missed, "done").await;
    at_rest().await;
    let heard = Child::insert(marked("heard")).execute(pool).await.unwrap();
    until(pool, heard, "done").await;
    engine.shutdown().await.unwrap();
}
