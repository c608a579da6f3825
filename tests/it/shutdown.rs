//! Shutdown and drop: what runs may finish, what does not is given back, and nothing of the engine
//! is left.

use std::{sync::Arc, time::Duration};

use gen_durable::prelude::*;

use crate::support::{
    Breakpoint, WAIT_MAX, count, database, engine, eventually, row, sql, until,
    until_a_session_waits,
};

#[durable_fsm(state = u32, output = u32)]
pub enum Slow {
    Run,
    After,
}

#[durable_fsm]
impl Slow {
    async fn run(mut cx: Context<Self>, breakpoint: &Arc<Breakpoint>) -> Outcome<Self> {
        breakpoint.pass(cx.id()).await;
        cx.state += 1;
        cx.next(Slow::After)
    }

    async fn after(cx: Context<Self>) -> Outcome<Self> {
        let n = cx.state;
        cx.done(n)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn p14_a_step_may_finish_and_what_has_not_begun_is_released() {
    let db = database().await;
    let pool = db.pool();
    let breakpoint = Arc::new(Breakpoint::new());
    let start = async || {
        let engine = engine(&db).machine::<Slow>().queue("default", 1);
        engine.resource(Arc::clone(&breakpoint)).start().await.unwrap()
    };
    let engine = start().await;
    // The quick instances run first: the faster a queue is, the more rows the engine claims ahead.
    let quick = (0..2_000).map(|_| Slow::insert(1).step(Slow::After).priority(-1));
    Slow::insert_many(quick).execute(&engine).await.unwrap();
    let ids = Slow::insert_many([0; 20]).execute(&engine).await.unwrap();
    let running = breakpoint.arrival().await;
    let shutdown = tokio::spawn(engine.shutdown());
    eventually("what waits is released", async || {
        (count(pool, "runnable").await == 19).then_some(())
    })
    .await;
    assert!(!shutdown.is_finished(), "it waits for the step");
    breakpoint.open(1);
    shutdown.await.unwrap().unwrap();
    let after = row(pool, running).await;
    assert_eq!(
        (after.status.as_str(), after.step.as_str(), after.locked_by),
        ("runnable", "after", None)
    );
    for id in &ids {
        let row = row(pool, *id.as_ref().unwrap()).await;
        assert_eq!((row.status.as_str(), row.attempt, row.crashes), ("runnable", 0, 0));
    }
    let workers: i64 = sqlx::query_scalar("select count(*) from gen_durable.workers")
        .fetch_one(pool)
        .await
        .unwrap();
    assert_eq!(workers, 0);
    breakpoint.open(100);
    let again = start().await;
    for id in ids {
        assert_eq!(again.wait(id.unwrap(), WAIT_MAX).await.unwrap(), 1);
    }
    again.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn p14_a_step_that_outlives_the_drain_time_is_cut_off_and_released() {
    let db = database().await;
    let breakpoint = Arc::new(Breakpoint::new());
    let engine = engine(&db)
        .machine::<Slow>()
        .resource(Arc::clone(&breakpoint))
        .drain_timeout(Duration::from_millis(50))
        .start()
        .await
        .unwrap();
    let id = Slow::insert(0).partition_key("k").execute(&engine).await.unwrap();
    breakpoint.arrival().await;
    engine.shutdown().await.unwrap();
    let row = row(db.pool(), id).await;
    assert_eq!((row.status.as_str(), row.attempt, row.locked_by), ("runnable", 0, None));
    assert_eq!(row.state, 0);
}

/// A claim is under way when the shutdown begins, and its rows arrive later. The shutdown must wait
/// for the claim and give the rows back, and only then remove the worker.
#[tokio::test(flavor = "multi_thread")]
async fn p26_a_shutdown_waits_for_the_claim_that_is_under_way() {
    let db = database().await;
    let pool = db.pool();
    let breakpoint = Arc::new(Breakpoint::new());
    let id = Slow::insert(0).execute(pool).await.unwrap();
    // The claim stops in this trigger. It has found its worker in the table, and it will be
    // committed.
    sql(
        pool,
        "create function hold_claim() returns trigger language plpgsql as $$
         begin
             perform pg_advisory_xact_lock(26);
             return null;
         end $$;
         create trigger hold_claim after update on gen_durable.instances for each row
         when (new.status = 'executing') execute function hold_claim();",
    )
    .await;
    let mut lock = pool.begin().await.unwrap();
    sqlx::query("select pg_advisory_xact_lock(26)").execute(&mut *lock).await.unwrap();
    let engines = || engine(&db).maintenance(false).resource(Arc::clone(&breakpoint));
    let claiming = engines().machine::<Slow>().start().await.unwrap();
    until_a_session_waits(pool, 1).await;
    let worker = claiming.worker();
    // No step runs. A shutdown that looked at running steps alone would end now, and leave the row
    // in its worker's name. Other engines start and shut down completely meanwhile, so this one had
    // time to do the same.
    let others = async {
        for _ in 0..3 {
            engines().start().await.unwrap().shutdown().await.unwrap();
        }
    };
    let mut shutdown = std::pin::pin!(claiming.shutdown());
    tokio::select! {
        biased;
        _ = &mut shutdown => panic!("it did not wait for the claim"),
        () = others => {}
    }
    let workers: Vec<i64> =
        sqlx::query_scalar("select id from gen_durable.workers").fetch_all(pool).await.unwrap();
    assert_eq!(workers, [worker], "it stays until the claim has ended");
    lock.commit().await.unwrap();
    shutdown.await.unwrap();
    let row = row(pool, id).await;
    assert_eq!((row.status.as_str(), row.attempt, row.locked_by), ("runnable", 0, None));
}

#[tokio::test(flavor = "multi_thread")]
async fn p27_an_engine_that_is_dropped_gives_its_rows_back() {
    let db = database().await;
    let breakpoint = Arc::new(Breakpoint::new());
    let engine =
        engine(&db).machine::<Slow>().resource(Arc::clone(&breakpoint)).start().await.unwrap();
    let id = Slow::insert(0).execute(&engine).await.unwrap();
    breakpoint.arrival().await;
    drop(engine);
    until(db.pool(), id, "runnable").await;
}

/// Two engines shut down at once, while a commit of one of them is under way. That engine must wait
/// for the commit, and the other one must not. The outcome must then be committed.
#[tokio::test(flavor = "multi_thread")]
async fn p26_a_shutdown_waits_for_the_commit_that_is_under_way() {
    let db = database().await;
    let pool = db.pool();
    // The commit stops in this trigger, with its row locked and changed.
    sql(
        pool,
        "create function hold_commit() returns trigger language plpgsql as $$
         begin
             perform pg_advisory_xact_lock(26);
             return new;
         end $$;
         create trigger hold_commit after update on gen_durable.instances for each row
         when (old.status = 'executing' and new.step = 'after')
         execute function hold_commit();",
    )
    .await;
    let mut holder = pool.begin().await.unwrap();
    sqlx::query("select pg_advisory_xact_lock(26)").execute(&mut *holder).await.unwrap();
    let breakpoint = Arc::new(Breakpoint::new());
    breakpoint.open(1);
    let start = async || {
        engine(&db).machine::<Slow>().resource(Arc::clone(&breakpoint)).start().await.unwrap()
    };
    let (one, other) = (start().await, start().await);
    let id = Slow::insert(0).execute(pool).await.unwrap();
    until_a_session_waits(pool, 1).await;
    let both = tokio::spawn(async move { tokio::join!(one.shutdown(), other.shutdown()) });
    eventually("one has gone, the other one waits", async || {
        let workers: i64 = sqlx::query_scalar("select count(*) from gen_durable.workers")
            .fetch_one(pool)
            .await
            .unwrap();
        (workers == 1).then_some(())
    })
    .await;
    assert!(!both.is_finished());
    holder.commit().await.unwrap();
    let (one, other) = both.await.unwrap();
    one.unwrap();
    other.unwrap();
    let row = row(pool, id).await;
    assert_eq!((row.step.as_str(), row.attempt, row.locked_by), ("after", 0, None));
    assert_eq!(row.state, 1, "the outcome is committed, and not undone");
}

#[derive(Clone, Debug, DurableSignal)]
pub struct Ping;

#[durable_fsm(state = (), output = (), signals(Ping))]
pub enum Parked {
    Wait,
}

#[durable_fsm]
impl Parked {
    async fn wait(mut cx: Context<Self>) -> StepResult<Self> {
        match cx.take_signal::<Ping>()? {
            Some(Ping) => Ok(cx.done(())),
            None => Ok(cx.await_signal::<Ping>()),
        }
    }
}

/// An engine shuts down while a signal through its client is under way, and a second signal is sent
/// afterwards. The first must be delivered, and the second must be refused with an error.
#[tokio::test(flavor = "multi_thread")]
async fn p26_a_signal_during_a_shutdown_is_delivered_or_refused() {
    let db = database().await;
    let pool = db.pool();
    let start = async || engine(&db).machine::<Parked>().start().await.unwrap();
    let engine = start().await;
    let id = Parked::insert(()).execute(&engine).await.unwrap();
    until(pool, id, "awaiting_signal").await;
    let mut lock = pool.begin().await.unwrap();
    sqlx::query("select from gen_durable.instances where id = $1 for update")
        .bind(id.get())
        .execute(&mut *lock)
        .await
        .unwrap();
    let client = engine.client().clone();
    let signal = tokio::spawn({
        let client = client.clone();
        async move { Parked::signal(id, Ping).execute(&client).await }
    });
    until_a_session_waits(pool, 1).await;
    let shutdown = tokio::spawn(engine.shutdown());
    eventually("the worker is removed", async || {
        let workers: i64 = sqlx::query_scalar("select count(*) from gen_durable.workers")
            .fetch_one(pool)
            .await
            .unwrap();
        (workers == 0).then_some(())
    })
    .await;
    lock.rollback().await.unwrap();
    signal.await.unwrap().expect("it was under way, and is delivered");
    shutdown.await.unwrap().unwrap();
    assert_eq!(row(pool, id).await.inbox, 1);
    let error = Parked::signal(id, Ping).execute(&client).await.unwrap_err();
    assert!(error.to_string().contains("deliver a signal"), "{error}");
    assert_eq!(row(pool, id).await.inbox, 1);
    let engine = start().await;
    engine.wait(id, WAIT_MAX).await.unwrap();
    engine.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn p27_a_wait_that_is_dropped_harms_nobody() {
    let db = database().await;
    let breakpoint = Arc::new(Breakpoint::new());
    let engine =
        engine(&db).machine::<Slow>().resource(Arc::clone(&breakpoint)).start().await.unwrap();
    let elsewhere = Client::new(db.pool().clone());
    let id = Slow::insert(0).execute(&engine).await.unwrap();
    breakpoint.arrival().await;
    for _ in 0..200 {
        // Each wait is polled once and dropped.
        for client in [engine.client(), &elsewhere] {
            tokio::select! {
                biased;
                _ = client.wait(id, WAIT_MAX) => panic!("it has not ended"),
                () = tokio::task::yield_now() => {}
            }
        }
    }
    let waits = [engine.client().clone(), elsewhere]
        .map(|client| tokio::spawn(async move { client.wait(id, WAIT_MAX).await }));
    breakpoint.open(1);
    for wait in waits {
        assert_eq!(wait.await.unwrap().unwrap(), 1);
    }
    engine.shutdown().await.unwrap();
}

/// A row comes while the engine has claimed so many rows ahead that it asks for no more. The engine
/// must claim it as soon as there are free slots again, and not only at the next poll.
#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_came_while_the_queue_was_full_is_claimed_when_a_slot_is_free() {
    let db = database().await;
    let breakpoint = Arc::new(Breakpoint::new());
    let engine = engine(&db).machine::<Slow>().queue("default", 1);
    // Both take an hour, so neither the poll nor a renewal of the lease can help.
    let engine = engine.poll_interval(Duration::from_hours(1)).lease_ttl(Duration::from_hours(1));
    let engine = engine.resource(Arc::clone(&breakpoint));
    let engine = engine.start().await.unwrap();
    // The quick instances run first: the faster a queue is, the more rows the engine claims ahead.
    let quick = (0..2_000).map(|_| Slow::insert(1).step(Slow::After));
    for id in Slow::insert_many(quick).execute(&engine).await.unwrap() {
        engine.wait(id.unwrap(), WAIT_MAX).await.unwrap();
    }
    // These are more than half of the rows that the queue claims ahead, and fewer than all of them.
    let held = Slow::insert_many([0; 45]).execute(&engine).await.unwrap();
    eventually("they are claimed", async || (engine.metrics().claimed == 45).then_some(())).await;
    let last = Slow::insert(0).execute(&engine).await.unwrap();
    breakpoint.open(46);
    for id in held {
        engine.wait(id.unwrap(), WAIT_MAX).await.unwrap();
    }
    engine.wait(last, WAIT_MAX).await.unwrap();
    engine.shutdown().await.unwrap();
}

/// A table lock keeps the shutdown from removing its worker, and the lease is an hour. The shutdown
/// must end after a time of its own, as a process that does not end when it is asked to is killed.
#[tokio::test(flavor = "multi_thread")]
async fn p57_a_shutdown_ends_although_the_database_does_not_answer() {
    let db = database().await;
    let breakpoint = Arc::new(Breakpoint::new());
    let engine = engine(&db).machine::<Slow>().resource(Arc::clone(&breakpoint)).maintenance(false);
    let engine = engine.lease_ttl(Duration::from_hours(1)).drain_timeout(Duration::from_millis(1));
    let engine = engine.start().await.unwrap();
    Slow::insert(0).execute(&engine).await.unwrap();
    breakpoint.arrival().await;
    let mut holder = db.pool().begin().await.unwrap();
    sqlx::query("lock table gen_durable.workers, gen_durable.instances")
        .execute(&mut *holder)
        .await
        .unwrap();
    breakpoint.open(1);
    let shutdown = tokio::time::timeout(WAIT_MAX, engine.shutdown()).await;
    let error = shutdown.expect("it does not wait for the lock").unwrap_err();
    let error = error.to_string();
    assert!(error.contains("could not remove the worker: canceling statement"), "{error}");
    holder.rollback().await.unwrap();
}

/// A transaction locks the row of an outcome for longer than a shutdown waits. The shutdown must
/// give the outcome up, and no part of the engine may be left that would try again.
#[tokio::test(flavor = "multi_thread")]
async fn p26_what_a_shutdown_could_not_commit_is_given_up() {
    let db = database().await;
    let breakpoint = Arc::new(Breakpoint::new());
    let engine = engine(&db).maintenance(false).machine::<Slow>().resource(Arc::clone(&breakpoint));
    let engine = engine.drain_timeout(Duration::from_millis(10)).start().await.unwrap();
    let id = Slow::insert(0).execute(&engine).await.unwrap();
    breakpoint.arrival().await;
    let mut holder = db.pool().begin().await.unwrap();
    sqlx::query("select from gen_durable.instances where id = $1 for no key update")
        .bind(id.get())
        .execute(&mut *holder)
        .await
        .unwrap();
    breakpoint.open(1);
    engine.shutdown().await.unwrap();
    drop(engine);
    eventually("nothing of the engine is left", async || {
        (Arc::strong_count(&breakpoint) == 1).then_some(())
    })
    .await;
    holder.rollback().await.unwrap();
    let left = row(db.pool(), id).await;
    assert_eq!((left.status.as_str(), left.step.as_str()), ("executing", "run"));
}
