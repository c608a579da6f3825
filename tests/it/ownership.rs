//! Ownership of rows: a worker that lost its lease, or a row, must not have any effect on it.

use std::{sync::Arc, time::Duration};

use gen_durable::{Engine, prelude::*};
use gen_durable_postgres::TestDb;
use sqlx::PgPool;

use crate::support::{
    Breakpoint, WAIT_MAX, count, database, engine, eventually, expire_lease, lose_worker, row, sql,
    until_a_session_waits,
};

#[derive(Clone, Debug, DurableSignal)]
pub struct Token {
    n: u32,
}

#[derive(Clone, Debug, Default, DurableState)]
pub struct Effects {
    ran: u32,
}

#[durable_fsm(state = u32, output = ())]
pub enum Child {
    Do,
}

#[durable_fsm]
impl Child {
    async fn r#do(cx: Context<Self>) -> Outcome<Self> {
        cx.done(())
    }
}

/// The outcome of its first step has every effect that an outcome can have.
#[durable_fsm(state = Effects, output = u32, signals(Token))]
pub enum Effectful {
    Act,
    Rest,
}

#[durable_fsm]
impl Effectful {
    async fn act(mut cx: Context<Self>, breakpoint: &Arc<Breakpoint>) -> StepResult<Self> {
        breakpoint.pass(cx.id()).await;
        cx.state.ran += 1;
        let token = cx.take_signal::<Token>()?.expect("a signal was sent");
        let id = cx.id();
        Ok(cx
            .next(Effectful::Rest)
            .insert(Child::insert(token.n))
            .signal(Effectful::signal_token(id, Token { n: token.n + 1 })))
    }

    async fn rest(cx: Context<Self>, breakpoint: &Arc<Breakpoint>) -> Outcome<Self> {
        breakpoint.pass(cx.id()).await;
        let ran = cx.state.ran;
        cx.done(ran)
    }
}

async fn start(db: &TestDb, breakpoint: &Arc<Breakpoint>) -> Engine {
    let engine = engine(db).machine::<Effectful>().machine::<Child>();
    engine.resource(Arc::clone(breakpoint)).start().await.unwrap()
}

/// Inserts an instance and its signal in one transaction, so that no claim finds it without its
/// signal.
async fn begin(pool: &PgPool) -> InstanceId<Effectful> {
    let mut tx = pool.begin().await.unwrap();
    let id = Effectful::insert(Effects::default()).execute(&mut *tx).await.unwrap();
    Effectful::signal_token(id, Token { n: 1 }).execute(&mut *tx).await.unwrap();
    tx.commit().await.unwrap();
    id
}

#[tokio::test(flavor = "multi_thread")]
async fn p02_a_worker_that_lost_its_lease_commits_nothing() {
    let db = database().await;
    let pool = db.pool();
    let (lost_breakpoint, breakpoint) = (Arc::new(Breakpoint::new()), Arc::new(Breakpoint::new()));
    let lost = start(&db, &lost_breakpoint).await;
    let id = begin(pool).await;
    lost_breakpoint.arrival().await;

    expire_lease(pool, lost.worker()).await;
    let heir = start(&db, &breakpoint).await;
    heir.maintain().await.unwrap();
    breakpoint.arrival().await;
    let before = row(pool, id).await;
    assert_eq!(
        (before.locked_by, before.attempt),
        (Some(heir.worker()), 1),
        "a lost worker counts"
    );

    // The old step ends now, while the heir holds the row and its step has stopped at its
    // breakpoint.
    lost_breakpoint.open(1);
    eventually("the outcome was dropped", async || {
        (lost.metrics().lost_commits == 1).then_some(())
    })
    .await;
    assert_eq!(row(pool, id).await, before, "state, step and inbox are as they were");
    assert_eq!(children(&db).await, 0, "no message went out");

    breakpoint.open(2);
    assert_eq!(heir.wait(id, WAIT_MAX).await.unwrap(), 1);
    assert_eq!(children(&db).await, 1);
    heir.shutdown().await.unwrap();
    drop(lost);
}

async fn children(db: &TestDb) -> i64 {
    sqlx::query_scalar("select count(*) from gen_durable.instances where fsm = 'child'")
        .fetch_one(db.pool())
        .await
        .unwrap()
}

/// A worker claims a row again while its old step for that row still runs. `locked_by` is the same
/// for both runs, and only the revision tells them apart. One of the two outcomes must have no
/// effect.
#[tokio::test(flavor = "multi_thread")]
async fn p02_an_old_step_of_the_same_worker_commits_nothing() {
    let db = database().await;
    let pool = db.pool();
    let breakpoint = Arc::new(Breakpoint::new());
    let engine = start(&db, &breakpoint).await;
    let id = begin(pool).await;
    breakpoint.arrival().await;
    sqlx::query(
        "update gen_durable.instances
         set status = 'runnable', locked_by = null, revision = revision + 1 where id = $1",
    )
    .bind(id.get())
    .execute(pool)
    .await
    .unwrap();
    // Both runs of the step have stopped at the breakpoint. Either may pass first; one of them has
    // no effect.
    Child::insert(0).execute(&engine).await.unwrap();
    breakpoint.arrival().await;
    breakpoint.open(2);
    eventually("one was dropped", async || (engine.metrics().lost_commits == 1).then_some(()))
        .await;
    breakpoint.open(1);
    assert_eq!(engine.wait(id, WAIT_MAX).await.unwrap(), 1);
    assert_eq!(children(&db).await, 2);
    engine.shutdown().await.unwrap();
}

/// Both runs end while an earlier commit is under way, so their outcomes are in one batch. The
/// engine must apply only one of them, and send only that one's signals and inserts.
#[tokio::test(flavor = "multi_thread")]
async fn p02_outcomes_of_an_old_and_a_new_run_in_one_batch_are_told_apart() {
    let db = database().await;
    let pool = db.pool();
    let breakpoint = Arc::new(Breakpoint::new());
    let engine = start(&db, &breakpoint).await;
    // The breakpoint lets steps pass in the order of their arrival.
    let first = begin(pool).await;
    assert_eq!(breakpoint.arrival().await, first.get());
    let id = begin(pool).await;
    assert_eq!(breakpoint.arrival().await, id.get());
    // The same worker claims the row again, and its step runs a second time.
    sqlx::query(
        "update gen_durable.instances
         set status = 'runnable', locked_by = null, revision = revision + 1 where id = $1",
    )
    .bind(id.get())
    .execute(pool)
    .await
    .unwrap();
    let child = Child::insert(0).execute(&engine).await.unwrap();
    assert_eq!(breakpoint.arrival().await, id.get());
    // The child ends before the test counts steps below, so that its step is not counted.
    engine.wait(child, WAIT_MAX).await.unwrap();
    // The commit of the first instance waits for its row. Outcomes that arrive meanwhile form the
    // next batch.
    let mut lock = pool.begin().await.unwrap();
    sqlx::query("select from gen_durable.instances where id = $1 for update")
        .bind(first.get())
        .execute(&mut *lock)
        .await
        .unwrap();
    let steps = engine.metrics().steps;
    breakpoint.open(1);
    until_a_session_waits(pool, 1).await;
    breakpoint.open(2);
    eventually("both runs have ended", async || {
        (engine.metrics().steps == steps + 3).then_some(())
    })
    .await;
    lock.rollback().await.unwrap();
    eventually("one was dropped", async || (engine.metrics().lost_commits == 1).then_some(()))
        .await;
    breakpoint.open(2);
    assert_eq!(engine.wait(first, WAIT_MAX).await.unwrap(), 1);
    assert_eq!(engine.wait(id, WAIT_MAX).await.unwrap(), 1);
    assert_eq!(children(&db).await, 3, "one of each instance, and the one from here");
    engine.shutdown().await.unwrap();
}

/// A claim whose answer is lost leaves rows in the worker's name that the worker does not know of.
/// The worker must find such a row and give it back, and no attempt may be spent.
#[tokio::test(flavor = "multi_thread")]
async fn rows_claimed_in_vain_are_given_back() {
    let db = database().await;
    let pool = db.pool();
    let breakpoint = Arc::new(Breakpoint::new());
    let engine = start(&db, &breakpoint).await;
    // The test inserts what such a claim leaves behind. The engine has never heard of this row.
    let id: i64 = sqlx::query_scalar(
        "insert into gen_durable.instances (fsm, fsm_version, step, state, status, locked_by, revision)
         values ('child', 1, 'do', '0', 'executing', $1, 1) returning id",
    )
    .bind(engine.worker())
    .fetch_one(pool)
    .await
    .unwrap();
    // All connections break. The engine now suspects that a claim was committed without its
    // knowledge.
    eventually("the claimer has met the outage and looked", async || {
        sql(
            pool,
            "select pg_terminate_backend(pid) from pg_stat_activity
             where datname = current_database() and pid <> pg_backend_pid()
               and query like '%gen_durable%'",
        )
        .await;
        Child::insert(1).execute(pool).await.ok();
        (row(pool, id).await.status == "done").then_some(())
    })
    .await;
    let row = row(pool, id).await;
    assert_eq!((row.attempt, row.crashes), (0, 0), "no attempt is burnt");
    engine.shutdown().await.unwrap();
}

#[durable_fsm(state = (), output = ())]
pub enum Deadly {
    Kill,
}

#[durable_fsm]
impl Deadly {
    async fn kill(cx: Context<Self>, breakpoint: &Arc<Breakpoint>) -> Outcome<Self> {
        breakpoint.pass(cx.id()).await;
        cx.done(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn p24_an_instance_that_loses_every_worker_is_failed() {
    let db = database().await;
    let pool = db.pool();
    let id = Deadly::insert(()).execute(pool).await.unwrap();
    for crash in 1..=3 {
        let breakpoint = Arc::new(Breakpoint::new());
        let start = async || {
            let engine = engine(&db).machine::<Deadly>().crashes_max(3);
            engine.resource(Arc::clone(&breakpoint)).start().await.unwrap()
        };
        let dies = start().await;
        breakpoint.arrival().await;
        // The reaper's engine knows no machine, so that no engine claims the row at once.
        let reaper = engine(&db).crashes_max(3).start().await.unwrap();
        lose_worker(pool, dies.worker(), &reaper, id).await;
        let row = row(pool, id).await;
        assert_eq!(row.crashes, crash);
        if crash < 3 {
            assert_eq!(row.status, "runnable");
        } else {
            assert_eq!(row.status, "failed");
            assert_eq!(
                row.last_error.as_deref(),
                Some("step kill: its worker was lost 3 times in a row")
            );
        }
        reaper.shutdown().await.unwrap();
        drop(dies);
    }
}

/// An engine keeps the default for `crashes_max`. An instance that loses its twentieth worker in a
/// row fails, and one that loses its nineteenth does not.
#[tokio::test(flavor = "multi_thread")]
async fn p24_by_default_twenty_lost_workers_are_too_many() {
    let db = database().await;
    let pool = db.pool();
    let breakpoint = Arc::new(Breakpoint::new());
    let dies =
        engine(&db).machine::<Deadly>().resource(Arc::clone(&breakpoint)).start().await.unwrap();
    let ids = Deadly::insert_many([(); 2]).execute(pool).await.unwrap();
    for _ in &ids {
        breakpoint.arrival().await;
    }
    let [last, other] = [&ids[0], &ids[1]].map(|id| *id.as_ref().unwrap());
    for (id, crashes) in [(last, 19), (other, 18)] {
        sqlx::query("update gen_durable.instances set crashes = $2 where id = $1")
            .bind(id.get())
            .bind(crashes)
            .execute(pool)
            .await
            .unwrap();
    }
    let reaper = engine(&db).start().await.unwrap();
    lose_worker(pool, dies.worker(), &reaper, last).await;
    assert_eq!(
        row(pool, last).await.last_error.as_deref(),
        Some("step kill: its worker was lost 20 times in a row")
    );
    let other = row(pool, other).await;
    assert_eq!((other.status.as_str(), other.crashes), ("runnable", 19));
    reaper.shutdown().await.unwrap();
    drop(dies);
}

/// A transaction locks the worker's row, so the worker cannot renew its lease, and the lease runs
/// out while a step still runs. Another worker takes the instance. The old step's outcome must have
/// no effect.
#[tokio::test(flavor = "multi_thread")]
async fn p23_a_step_that_outlives_its_lease_has_no_effect() {
    let db = database().await;
    let pool = db.pool();
    let (slow_breakpoint, breakpoint) = (Arc::new(Breakpoint::new()), Arc::new(Breakpoint::new()));
    let slow = engine(&db)
        .machine::<Effectful>()
        .machine::<Child>()
        .lease_ttl(Duration::from_millis(400))
        .resource(Arc::clone(&slow_breakpoint))
        .start()
        .await
        .unwrap();
    let id = begin(pool).await;
    slow_breakpoint.arrival().await;
    let mut lock = pool.begin().await.unwrap();
    sqlx::query("select from gen_durable.workers where id = $1 for update")
        .bind(slow.worker())
        .execute(&mut *lock)
        .await
        .unwrap();
    let heir = start(&db, &breakpoint).await;
    eventually("the lease has run out and the row is another worker's", async || {
        heir.maintain().await.unwrap();
        (row(pool, id).await.locked_by == Some(heir.worker())).then_some(())
    })
    .await;
    let steps = slow.metrics().steps;
    slow_breakpoint.open(1);
    eventually("the outcome was dropped", async || {
        (slow.metrics().lost_commits == 1).then_some(())
    })
    .await;
    assert_eq!(slow.metrics().steps, steps + 1);
    assert_eq!(children(&db).await, 0);
    lock.rollback().await.unwrap();
    breakpoint.arrival().await;
    breakpoint.open(2);
    // An instance whose step signals itself goes through the queue. The slow worker has a lease
    // again by now, so it may claim the next step.
    slow_breakpoint.open(1);
    assert_eq!(heir.wait(id, WAIT_MAX).await.unwrap(), 1);
    slow.shutdown().await.unwrap();
    heir.shutdown().await.unwrap();
}

/// `Hold` stops at the breakpoint and then inserts a child; `Skip` ends at once.
#[durable_fsm(state = u32, output = ())]
pub enum Paced {
    Hold,
    Skip,
}

#[durable_fsm]
impl Paced {
    async fn hold(cx: Context<Self>, breakpoint: &Arc<Breakpoint>) -> Outcome<Self> {
        breakpoint.pass(cx.id()).await;
        let n = cx.state;
        cx.done(()).insert(Child::insert(n))
    }

    #[step(entry)]
    async fn skip(cx: Context<Self>) -> Outcome<Self> {
        cx.done(())
    }
}

/// Rows that were claimed ahead wait behind a step that outlives the lease. When that step ends, a
/// slot is free for them. None of them may start: they belong to the heir by then.
#[tokio::test(flavor = "multi_thread")]
async fn p23_what_was_claimed_ahead_does_not_start_after_the_lease() {
    const QUICK: u32 = 2_000;
    const HELD: u32 = 20;
    let db = database().await;
    let pool = db.pool();
    let (slow_breakpoint, breakpoint) = (Arc::new(Breakpoint::new()), Arc::new(Breakpoint::new()));
    let slow = engine(&db)
        .machine::<Paced>()
        .queue("default", 1)
        .maintenance(false)
        .lease_ttl(Duration::from_millis(400))
        .resource(Arc::clone(&slow_breakpoint))
        .start()
        .await
        .unwrap();
    // The quick instances run first: the faster a queue is, the more rows the engine claims ahead.
    let quick = (0..QUICK).map(|n| Paced::insert(n).step(Paced::Skip).priority(-1));
    Paced::insert_many(quick).execute(&slow).await.unwrap();
    Paced::insert_many(0..HELD).execute(&slow).await.unwrap();
    slow_breakpoint.arrival().await;
    eventually("the quick ones have ended, and more than the running one is claimed", async || {
        let quick = count(pool, "done").await == i64::from(QUICK);
        (quick && slow.metrics().claimed > 1).then_some(())
    })
    .await;
    let mut lock = pool.begin().await.unwrap();
    sqlx::query("select from gen_durable.workers where id = $1 for update")
        .bind(slow.worker())
        .execute(&mut *lock)
        .await
        .unwrap();
    breakpoint.open(HELD as usize);
    let heir = engine(&db).machine::<Paced>().machine::<Child>().resource(Arc::clone(&breakpoint));
    let heir = heir.start().await.unwrap();
    eventually("the lease has run out and no row is the slow worker's", async || {
        heir.maintain().await.unwrap();
        let rows: i64 =
            sqlx::query_scalar("select count(*) from gen_durable.instances where locked_by = $1")
                .bind(slow.worker())
                .fetch_one(pool)
                .await
                .unwrap();
        (rows == 0).then_some(())
    })
    .await;
    // Any step that reached the breakpoint from now on would pass it.
    let steps = slow.metrics().steps;
    slow_breakpoint.open(HELD as usize);
    eventually("nothing is left of them", async || (slow.metrics().claimed == 0).then_some(()))
        .await;
    let all = i64::from(QUICK + 2 * HELD);
    eventually("the heir has ended all", async || (count(pool, "done").await == all).then_some(()))
        .await;
    let metrics = slow.metrics();
    assert_eq!((metrics.steps, metrics.lost_commits), (steps + 1, 1), "the one that was running");
    let effects: Vec<i32> = sqlx::query_scalar(
        "select state::text::int from gen_durable.instances where fsm = 'child' order by 1",
    )
    .fetch_all(pool)
    .await
    .unwrap();
    assert!(effects.into_iter().eq(0..HELD as i32), "one of each");
    lock.rollback().await.unwrap();
    slow.shutdown().await.unwrap();
    heir.shutdown().await.unwrap();
}
