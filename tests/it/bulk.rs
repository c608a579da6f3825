//! Actions on all instances of a choice, and forks.

use std::{
    ops::ControlFlow,
    sync::{Arc, Mutex},
    time::Duration,
};

use gen_durable::{
    operate::{Count, Counts, OperateError},
    prelude::*,
};
use sqlx::PgPool;

use crate::support::{WAIT_MAX, database, engine, eventually, sql, until, until_a_session_waits};

/// Counts down to zero, one step at a time. A negative number fails.
#[durable_fsm(state = i64, output = i64, history = "states")]
pub enum Countdown {
    Count,
    End,
}

#[durable_fsm]
impl Countdown {
    async fn count(mut cx: Context<Self>) -> Outcome<Self> {
        if cx.state < 0 {
            return cx.stop("below zero");
        }
        cx.state -= 1;
        let next = if cx.state > 0 { Countdown::Count } else { Countdown::End };
        cx.next(next)
    }

    async fn end(cx: Context<Self>) -> Outcome<Self> {
        let state = cx.state;
        cx.done(state)
    }
}

/// Another machine, whose history has no states.
#[durable_fsm(output = (), history = "steps")]
pub enum Plain {
    Work,
    End,
}

#[durable_fsm]
impl Plain {
    async fn work(cx: Context<Self>) -> Outcome<Self> {
        cx.next(Plain::End)
    }

    async fn end(cx: Context<Self>) -> Outcome<Self> {
        cx.done(())
    }
}

/// Failed instances, of which every tenth stands at another step.
async fn failed(pool: &PgPool, count: i64) {
    sqlx::query(
        "insert into gen_durable.instances
             (fsm, fsm_version, step, state, status, last_error, finished_at, updated_at)
         select 'countdown', 1, case when n % 10 = 0 then 'end' else 'count' end, '1', 'failed', 'why',
                now(), '2020-01-01'
         from generate_series(1, $1) as n",
    )
    .bind(count)
    .execute(pool)
    .await
    .unwrap();
}

fn stop_after(batches: usize) -> impl FnMut(&Counts) -> ControlFlow<()> + Send + 'static {
    let mut seen = 0;
    move |_| {
        seen += 1;
        if seen == batches { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

/// An action goes batch by batch, tells how far it is, is stopped, and goes on where it was.
#[tokio::test(flavor = "multi_thread")]
async fn p43_an_action_on_many_is_stopped_and_begun_again() {
    let db = database().await;
    let pool = db.pool();
    failed(pool, 2_300).await;
    let client = Client::new(pool.clone());
    let all = client.instances::<Countdown>().status(Status::Failed);
    let count = all.clone().step(Countdown::Count);
    let told = Arc::new(Mutex::new(Vec::new()));
    let counts = {
        let told = Arc::clone(&told);
        let mut stop = stop_after(2);
        let progress = move |counts: &Counts| {
            told.lock().unwrap().push(counts.done);
            stop(counts)
        };
        let retry = count.retry().by("ada").reason("again").progress(progress);
        retry.execute(&client).await.unwrap()
    };
    assert_eq!(
        (counts.done, counts.left_alone, counts.locked, counts.stopped),
        (1_000, 0, 0, true)
    );
    assert_eq!(*told.lock().unwrap(), [500, 1_000]);
    let left = client.instances::<Countdown>().status(Status::Failed).count().await.unwrap();
    assert_eq!(left, Count::Exact(1_300));
    let counts = count.retry().by("ada").execute(&client).await.unwrap();
    assert_eq!((counts.done, counts.left_alone, counts.stopped), (1_070, 0, false));
    assert_eq!(all.count().await.unwrap(), Count::Exact(230), "those at the other step");
    let audits: (i64, i64, i64) = sqlx::query_as(
        "select count(*), count(distinct instance_id), count(*) filter (where reason = 'again' and actor = 'ada')
         from gen_durable.audit where action = 'retry'",
    )
    .fetch_one(pool)
    .await
    .unwrap();
    assert_eq!(audits, (2_070, 2_070, 1_000));
    // They run, and are done once.
    let engine = engine(&db).machine::<Countdown>().start().await.unwrap();
    eventually("all that was retried is done", async || {
        let done = client.instances::<Countdown>().status(Status::Done).count().await.unwrap();
        (done == Count::Exact(2_070)).then_some(())
    })
    .await;
    engine.shutdown().await.unwrap();
}

/// Each action, and what it leaves alone.
#[tokio::test(flavor = "multi_thread")]
async fn p43_each_action_does_what_it_does_to_one() {
    let db = database().await;
    let pool = db.pool();
    sql(
        pool,
        "insert into gen_durable.instances (fsm, fsm_version, step, state, status, eligible_at, finished_at, awaits)
         select 'countdown', 1, 'count', '1', k.status, now() + interval '1 h',
                case when k.status in ('done', 'failed', 'cancelled') then now() end,
                case when k.status = 'awaiting_signal' then '{go}'::text[] end
         from unnest('{runnable,awaiting_signal,done,failed,cancelled}'::text[]) as k (status),
              generate_series(1, 10)",
    )
    .await;
    sql(pool, "insert into gen_durable.machines (fsm, fsm_version, initial, steps) values ('countdown', 1, 'count', '{count,end}')").await;
    let client = Client::new(pool.clone());
    let all = client.instances::<Countdown>();
    let counts = |counts: Counts| (counts.done, counts.left_alone, counts.locked);
    let done = |status: &'static str| {
        let pool = pool.clone();
        async move {
            let count = "select count(*) from gen_durable.instances where status = $1";
            sqlx::query_scalar::<_, i64>(count).bind(status).fetch_one(&pool).await.unwrap()
        }
    };
    assert_eq!(counts(all.run_now().execute(&client).await.unwrap()), (10, 40, 0));
    assert_eq!(counts(all.run_now().execute(&client).await.unwrap()), (0, 50, 0), "it is done");
    assert_eq!(counts(all.pause().execute(&client).await.unwrap()), (20, 30, 0));
    let paused = "select count(*) from gen_durable.instances where blocked_by = 8";
    assert_eq!(sqlx::query_scalar::<_, i64>(paused).fetch_one(pool).await.unwrap(), 20);
    assert_eq!(counts(all.resume().execute(&client).await.unwrap()), (20, 30, 0));
    assert_eq!(counts(all.resume().execute(&client).await.unwrap()), (0, 50, 0));
    let parked = all.clone().status(Status::AwaitingSignal);
    assert_eq!(counts(parked.kill("k").execute(&client).await.unwrap()), (10, 0, 0));
    assert_eq!(counts(all.cancel("c").by("ada").execute(&client).await.unwrap()), (10, 40, 0));
    assert_eq!(done("cancelled").await, 30);
    assert_eq!(counts(all.retry().at(Countdown::End).execute(&client).await.unwrap()), (40, 10, 0));
    assert_eq!(counts(all.delete().execute(&client).await.unwrap()), (10, 40, 0));
    assert_eq!((done("done").await, done("runnable").await), (0, 40));
    for error in [
        all.cancel("").by("x".repeat(10_000)).execute(&client).await.unwrap_err(),
        all.clone().queue("").retry().execute(&client).await.unwrap_err(),
        client.all_instances().step("\0").delete().execute(&client).await.unwrap_err(),
    ] {
        assert!(matches!(error, OperateError::Encode(_)), "{error}");
    }
}

/// An instance changes between the search and the lock. It does not fit the choice any more.
#[tokio::test(flavor = "multi_thread")]
async fn p43_what_fits_the_choice_no_more_is_left_alone() {
    let db = database().await;
    let pool = db.pool();
    failed(pool, 30).await;
    let client = Client::new(pool.clone());
    // One row is locked all the time, and one changes under its lock.
    let mut held = pool.begin().await.unwrap();
    sqlx::query("select from gen_durable.instances where id = 5 for update")
        .execute(&mut *held)
        .await
        .unwrap();
    let mut changing = pool.begin().await.unwrap();
    sqlx::query("update gen_durable.instances set step = 'end' where id = 7")
        .execute(&mut *changing)
        .await
        .unwrap();
    let retrying = {
        let client = client.clone();
        tokio::spawn(async move {
            let mut changing = Some(changing);
            let choice =
                client.instances::<Countdown>().status(Status::Failed).step(Countdown::Count);
            let (tell, told) = tokio::sync::oneshot::channel();
            let mut tell = Some(tell);
            let commit = tokio::spawn(async move {
                // The first batch is over, and has left both rows out.
                let _ = told.await;
                changing.take().unwrap().commit().await.unwrap();
            });
            let progress = move |_: &Counts| {
                let _ = tell.take().map(|tell| tell.send(()));
                ControlFlow::Continue(())
            };
            let counts = choice.retry().progress(progress).execute(&client).await.unwrap();
            commit.await.unwrap();
            counts
        })
    };
    let counts = retrying.await.unwrap();
    // There were 27 at the step. One was locked for long, and one was at another step by then.
    assert_eq!((counts.done, counts.left_alone, counts.locked), (25, 1, 1));
    held.rollback().await.unwrap();
    let retried: i64 =
        sqlx::query_scalar("select count(*) from gen_durable.audit where instance_id in (5, 7)")
            .fetch_one(pool)
            .await
            .unwrap();
    assert_eq!(retried, 0);
}

/// Children that are retried together report once each, and wait for nobody in a circle.
#[tokio::test(flavor = "multi_thread")]
async fn p43_twins_of_a_unique_key_are_retried_once() {
    let db = database().await;
    let pool = db.pool();
    let engine = engine(&db).machine::<Countdown>().start().await.unwrap();
    let client = engine.client().clone();
    let mut ids = Vec::new();
    for _ in 0..3 {
        let id = Countdown::insert(-1).unique_key("one").execute(&engine).await.unwrap();
        until(pool, id, "failed").await;
        ids.push(id);
    }
    let failed = client.instances::<Countdown>().status(Status::Failed);
    let counts = failed.retry().execute(&client).await.unwrap();
    assert_eq!((counts.done, counts.left_alone), (1, 2));
    engine.shutdown().await.unwrap();
}

/// A fork goes on from the recorded step and state, and the old instance stays as it is.
#[tokio::test(flavor = "multi_thread")]
async fn p43_a_fork_goes_on_from_a_recorded_step_and_state() {
    let db = database().await;
    let pool = db.pool();
    let engine = engine(&db).machine::<Countdown>().queue("slow", 1).start().await.unwrap();
    let client = engine.client().clone();
    let id = Countdown::insert(3)
        .queue("slow")
        .priority(-5)
        .partition_key("p")
        .unique_key("u")
        .execute(&engine)
        .await
        .unwrap();
    assert_eq!(engine.wait(id, WAIT_MAX).await.unwrap(), 0);
    let on = client.instance(id);
    let entries = on.history().await.unwrap();
    let states: Vec<Option<i64>> = entries.iter().map(|entry| entry.state().unwrap()).collect();
    assert_eq!(states[..3], [Some(2), Some(1), Some(0)]);
    let fork =
        on.fork_from(&entries[0]).by("ada").reason("what if").execute(&client).await.unwrap();
    assert_ne!(fork, id);
    assert_eq!(engine.wait(fork, WAIT_MAX).await.unwrap(), 0);
    let details = client.instance(fork).get().await.unwrap();
    assert_eq!(
        (&*details.queue, details.priority, details.partition_key.as_deref(), details.unique_key),
        ("slow", -5, Some("p"), None)
    );
    let of_fork = client.instance(fork).history().await.unwrap();
    assert_eq!(of_fork.len(), 3, "it has its own history: two counts and the end");
    assert_eq!(on.history().await.unwrap().len(), entries.len());
    let noted: Vec<(String, i64, Option<String>)> =
        sqlx::query_as("select action, instance_id, reason from gen_durable.audit order by action")
            .fetch_all(pool)
            .await
            .unwrap();
    let why = Some("what if".to_owned());
    assert_eq!(noted, [("fork".into(), id.get(), why.clone()), ("forked".into(), fork.get(), why)]);
    // The instance may be gone, as long as the history has the entry.
    sql(pool, "delete from gen_durable.instances where unique_key = 'u'").await;
    let orphan = on.fork_from(&entries[1]).execute(&client).await.unwrap();
    assert_eq!(engine.wait(orphan, WAIT_MAX).await.unwrap(), 0);
    // A fork in the caller's transaction, which rolls back.
    let mut transaction = pool.begin().await.unwrap();
    let undone = on.fork_from(&entries[1]).execute(&mut *transaction).await.unwrap();
    transaction.rollback().await.unwrap();
    assert!(matches!(client.instance(undone).get().await, Err(OperateError::Unknown { .. })));
    engine.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn p43_a_fork_from_what_is_not_there_gets_a_clear_answer() {
    let db = database().await;
    let pool = db.pool();
    let engine = engine(&db).machine::<Countdown>().machine::<Plain>().start().await.unwrap();
    let client = engine.client().clone();
    let id = Countdown::insert(1).execute(&engine).await.unwrap();
    let plain = Plain::insert(()).execute(&engine).await.unwrap();
    engine.wait(id, WAIT_MAX).await.unwrap();
    engine.wait(plain, WAIT_MAX).await.unwrap();
    let on = client.instance(id);
    let entries = on.history().await.unwrap();
    let last = entries.last().unwrap();
    let error = on.fork_from(last).execute(&client).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "instance {id} ended with entry {} of its history, so there is no step to go on from; fork from an earlier entry",
            last.id
        )
    );
    let handle = client.instance(plain);
    let without = &handle.history().await.unwrap()[0];
    let error = handle.fork_from(without).execute(&client).await.unwrap_err();
    assert!(
        error.to_string().contains("has no state; a machine with `history = \"states\"`"),
        "{error}"
    );
    // An entry of another instance, of another machine, and one that is gone.
    let other = Countdown::insert(1).execute(&engine).await.unwrap();
    let error = client.instance(other).fork_from(&entries[0]).execute(&client).await.unwrap_err();
    assert!(matches!(error, OperateError::NoEntry { .. }), "{error}");
    sql(pool, "update gen_durable.history set fsm = 'x'").await;
    let error = on.fork_from(&entries[0]).execute(&client).await.unwrap_err();
    assert!(matches!(error, OperateError::WrongMachine { .. }), "{error}");
    sql(pool, "delete from gen_durable.history").await;
    let error = on.fork_from(&entries[0]).execute(&client).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "the history of instance {id} has no entry {}: it belongs to another instance, was deleted, or is older than the history's retention",
            entries[0].id
        )
    );
    engine.shutdown().await.unwrap();
}

/// A transaction waits for a row that a batch has locked, and for no longer than the batch takes.
#[tokio::test(flavor = "multi_thread")]
async fn p43_a_batch_holds_its_locks_until_its_own_commit() {
    let db = database().await;
    let pool = db.pool();
    failed(pool, 1_200).await;
    let client = Client::new(pool.clone());
    // The audit of one row in the last batch is held up, so that batch stays open.
    sql(
        pool,
        "create function public.hold() returns trigger language plpgsql as $$
         begin
             if new.instance_id = 100 then perform pg_advisory_xact_lock(77); end if;
             return null;
         end $$;
         create trigger hold after insert on gen_durable.audit for each row execute function public.hold()",
    )
    .await;
    let mut barrier = pool.begin().await.unwrap();
    sqlx::query("select pg_advisory_xact_lock(77)").execute(&mut *barrier).await.unwrap();
    let retrying = {
        let client = client.clone();
        tokio::spawn(async move {
            let failed = client.instances::<Countdown>().status(Status::Failed);
            failed.retry().execute(&client).await
        })
    };
    until_a_session_waits(pool, 1).await;
    // Rows of the earlier batches are free, and those of this one are not.
    let free = |id: i64| {
        let pool = pool.clone();
        async move {
            let look = "select from gen_durable.instances where id = $1 for update skip locked";
            sqlx::query(look).bind(id).fetch_optional(&pool).await.unwrap().is_some()
        }
    };
    assert!(free(1_000).await);
    assert!(!free(150).await);
    barrier.rollback().await.unwrap();
    let counts =
        tokio::time::timeout(Duration::from_mins(1), retrying).await.unwrap().unwrap().unwrap();
    assert_eq!(counts.done, 1_200);
}
