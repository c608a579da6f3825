//! Births: an insert claims its row, and a signal claims whom it wakes, if nothing waits in the
//! queue and the process has a free slot.

use std::{sync::Arc, time::Duration};

use gen_durable::{Engine, Status, prelude::*};
use gen_durable_tests::proxy::{Direction, Effect};
use sqlx::{PgPool, Postgres, Transaction};

use crate::{
    networks::{Walk, behind, marked},
    support::{
        Breakpoint, WAIT_MAX, database, engine, eventually, note_claims, proxy, row, sql, until,
        until_a_session_waits, was_claimed,
    },
};

#[derive(Clone, Debug, DurableSignal)]
pub struct Nudge {
    n: u32,
}

#[durable_fsm(state = (), output = (), signals(Nudge))]
pub enum Short {
    Go,
    Stop,
    Wait,
}

#[durable_fsm]
impl Short {
    async fn go(cx: Context<Self>) -> Outcome<Self> {
        cx.done(())
    }

    /// Ends when it has been nudged twice.
    #[step(entry)]
    async fn wait(mut cx: Context<Self>) -> StepResult<Self> {
        Ok(match cx.gather::<Nudge>(2)? {
            Some(nudges) if nudges[0].n < nudges[1].n => cx.done(()),
            Some(_) => cx.stop("they came in another order"),
            None => cx.await_signal::<Nudge>(),
        })
    }

    #[step(entry)]
    async fn stop(cx: Context<Self>, breakpoint: &Arc<Breakpoint>) -> Outcome<Self> {
        breakpoint.pass(cx.id()).await;
        cx.done(())
    }
}

/// Inserts instances, each after the end of the one before, until one is born claimed: the claimer
/// has found that the queue is idle.
pub(crate) async fn until_idle(engine: &Engine, pool: &PgPool) {
    note_claims(pool).await;
    eventually("a row is born claimed", async || {
        let id = Short::insert(()).execute(engine).await.unwrap();
        engine.wait(id, WAIT_MAX).await.unwrap();
        (!was_claimed(pool, id).await).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p71_rows_of_an_idle_queue_are_claimed_by_their_inserts() {
    let db = database().await;
    let pool = db.pool();
    let breakpoint = Arc::new(Breakpoint::new());
    let engine = engine(&db).machine::<Short>().resource(Arc::clone(&breakpoint));
    let engine = engine.start().await.unwrap();
    until_idle(&engine, pool).await;
    let stop = || Short::insert(()).step(Short::Stop);
    // A unique key is held from the birth on. A claim that is under way at the insert leaves the
    // row to itself.
    let id = eventually("a row with a unique key is born claimed", async || {
        let id = stop().unique_key("a key").execute(&engine).await.unwrap();
        assert_eq!(breakpoint.arrival().await, id.get());
        if was_claimed(pool, id).await {
            breakpoint.open(1);
            engine.wait(id, WAIT_MAX).await.unwrap();
            return None;
        }
        Some(id)
    })
    .await;
    let born = row(pool, id).await;
    assert_eq!((&*born.status, born.locked_by), ("executing", Some(engine.worker())));
    assert_eq!((born.attempt, born.failures, born.crashes), (0, 0, 0));
    let taken = stop().unique_key("a key").execute(&engine).await;
    assert!(matches!(taken, Err(gen_durable::InsertError::Duplicate(_))), "{taken:?}");
    breakpoint.open(1);
    engine.wait(id, WAIT_MAX).await.unwrap();
    // These rows are claimed as ever: one has a partition key, one gives its unique key back when
    // it is claimed, and one is due later.
    let scope = [Status::Runnable];
    for insert in [
        Short::insert(()).partition_key("a key"),
        Short::insert(()).unique_key("another key").unique_while(scope),
        Short::insert(()).schedule_in(Duration::from_millis(1)),
    ] {
        let id = insert.execute(&engine).await.unwrap();
        engine.wait(id, WAIT_MAX).await.unwrap();
        assert!(was_claimed(pool, id).await);
    }
    engine.shutdown().await.unwrap();
}

/// Plain rows share their insert with rows that have a partition key or a schedule.
#[tokio::test(flavor = "multi_thread")]
async fn p71_rows_that_share_an_insert_keep_what_they_were_given() {
    let db = database().await;
    let pool = db.pool();
    let engine = engine(&db).machine::<Short>().resource(Arc::new(Breakpoint::new()));
    let engine = engine.start().await.unwrap();
    until_idle(&engine, pool).await;
    let (hour, mut inserts) = (Duration::from_hours(1), tokio::task::JoinSet::new());
    for n in 0..60 {
        let insert = match n % 3 {
            0 => Short::insert(()),
            1 => Short::insert(()).partition_key("a key").schedule_in(hour),
            _ => Short::insert(()).schedule_in(hour).unique_key(format!("key {n}")),
        };
        let client = engine.client().clone();
        inserts.spawn(async move { (n % 3, insert.execute(&client).await.unwrap()) });
    }
    while let Some(inserted) = inserts.join_next().await {
        let (kind, id) = inserted.unwrap();
        let stored: (Option<String>, bool, Option<String>) = sqlx::query_as(
            "select partition_key, eligible_at > now() + interval '50 min',
                    split_part(unique_key, ' ', 1)
             from gen_durable.instances where id = $1",
        )
        .bind(id.get())
        .fetch_one(pool)
        .await
        .unwrap();
        let key = (kind == 1).then(|| "a key".to_owned());
        assert_eq!(stored, (key, kind > 0, (kind == 2).then(|| "key".to_owned())));
    }
    engine.shutdown().await.unwrap();
}

/// The slots are full, and other rows wait. The next inserts must leave their rows behind these.
#[tokio::test(flavor = "multi_thread")]
async fn p71_no_row_is_born_claimed_past_a_waiting_one() {
    let db = database().await;
    let pool = db.pool();
    let breakpoint = Arc::new(Breakpoint::new());
    let engine = engine(&db).machine::<Short>().resource(Arc::clone(&breakpoint));
    let engine = engine.queue("default", 2).start().await.unwrap();
    until_idle(&engine, pool).await;
    let mut ids = Vec::new();
    for _ in 0..4 {
        ids.push(Short::insert(()).step(Short::Stop).execute(&engine).await.unwrap().get());
    }
    let mut arrived = Vec::new();
    for _ in 0..4 {
        arrived.push(breakpoint.arrival().await);
        breakpoint.open(1);
    }
    arrived.sort_unstable();
    assert_eq!(arrived, ids);
    let claimed: Vec<bool> = sqlx::query_scalar(
        "select exists (select from public.claims c where c.id = i.id)
         from gen_durable.instances i where i.id = any ($1) order by i.id",
    )
    .bind(&ids)
    .fetch_all(pool)
    .await
    .unwrap();
    assert_eq!(claimed[2..], [true, true], "no slot was free when they were inserted");
    engine.shutdown().await.unwrap();
}

/// Makes inserts wait until the returned transaction ends.
pub(crate) async fn stop_inserts(pool: &PgPool) -> Transaction<'static, Postgres> {
    sql(
        pool,
        "create or replace function public.wait_for_test() returns trigger language plpgsql as $$
         begin
             perform pg_advisory_xact_lock_shared(71);
             return null;
         end $$;
         create or replace trigger wait_for_test after insert on gen_durable.instances
             for each statement execute function public.wait_for_test()",
    )
    .await;
    let mut test = pool.begin().await.unwrap();
    sqlx::query("select pg_advisory_xact_lock(71)").execute(&mut *test).await.unwrap();
    test
}

/// One batch has an urgent row that cannot be born claimed, and a less urgent one that could.
#[tokio::test(flavor = "multi_thread")]
async fn p71_no_row_is_born_claimed_past_a_more_urgent_one_of_its_batch() {
    let db = database().await;
    let pool = db.pool();
    let engine = engine(&db).machine::<Short>().resource(Arc::new(Breakpoint::new()));
    let engine = engine.start().await.unwrap();
    until_idle(&engine, pool).await;
    let test = stop_inserts(pool).await;
    // Two batches are the most that are under way at a time. Each waits for the test.
    let mut first = Vec::new();
    for sessions in 1..=2 {
        let client = engine.client().clone();
        first.push(tokio::spawn(async move { Short::insert(()).execute(&client).await }));
        until_a_session_waits(pool, sessions).await;
    }
    // The next batch has both of these.
    let urgent = Short::insert(()).silent().priority(0).execute(&engine);
    let other = Short::insert(()).priority(9).execute(&engine);
    let (urgent, other, _) = tokio::join!(urgent, other, test.rollback());
    let (urgent, other) = (urgent.unwrap(), other.unwrap());
    for id in [urgent, other] {
        engine.wait(id, WAIT_MAX).await.unwrap();
    }
    assert!(was_claimed(pool, urgent).await, "it is not announced");
    assert!(was_claimed(pool, other).await, "a more urgent row waited");
    engine.shutdown().await.unwrap();
}

/// The database refuses rows that are claimed in their insert, as a trigger or a missing right may.
/// The same rows can be inserted without a claim.
#[tokio::test(flavor = "multi_thread")]
async fn p71_an_insert_succeeds_even_if_its_birth_is_refused() {
    let db = database().await;
    let pool = db.pool();
    let engine = engine(&db).machine::<Short>().resource(Arc::new(Breakpoint::new()));
    let engine = engine.start().await.unwrap();
    until_idle(&engine, pool).await;
    sql(
        pool,
        "create sequence public.refusals;
         create function public.refuse() returns trigger language plpgsql as $$
         begin
             perform nextval('public.refusals');
             raise insufficient_privilege;
         end $$;
         create trigger refuse before insert on gen_durable.instances
             for each row when (new.status = 'executing') execute function public.refuse()",
    )
    .await;
    for _ in 0..10 {
        let id = Short::insert(()).execute(&engine).await.unwrap();
        engine.wait(id, WAIT_MAX).await.unwrap();
        assert!(was_claimed(pool, id).await);
    }
    let refusals: Option<i64> =
        sqlx::query_scalar("select pg_sequence_last_value('public.refusals')")
            .fetch_one(pool)
            .await
            .unwrap();
    assert_eq!(refusals, Some(1), "no birth is tried for a while after one was refused");
    engine.shutdown().await.unwrap();
}

/// A shutdown begins while an insert that claims its row is under way. The row must not stay in the
/// name of a worker that is gone.
#[tokio::test(flavor = "multi_thread")]
async fn p71_a_shutdown_waits_for_births_and_gives_their_rows_back() {
    let db = database().await;
    let pool = db.pool();
    // A claim that is under way at the insert leaves the row to itself.
    eventually("a row is born claimed as a shutdown begins", async || {
        let engine = engine(&db).machine::<Short>().resource(Arc::new(Breakpoint::new()));
        let engine = engine.start().await.unwrap();
        until_idle(&engine, pool).await;
        let test = stop_inserts(pool).await;
        let insert = tokio::spawn({
            let client = engine.client().clone();
            async move { Short::insert(()).execute(&client).await }
        });
        until_a_session_waits(pool, 1).await;
        let mut shutdown = std::pin::pin!(engine.shutdown());
        tokio::select! {
            biased;
            _ = &mut shutdown => panic!("it did not wait for the birth"),
            () = std::future::ready(()) => {}
        }
        test.rollback().await.unwrap();
        let (id, stopped) = tokio::join!(insert, shutdown);
        stopped.unwrap();
        let id = id.unwrap().unwrap();
        let row = until(pool, id, "runnable").await;
        assert_eq!((row.locked_by, row.attempt, row.crashes), (None, 0, 0));
        let revision: i64 =
            sqlx::query_scalar("select revision from gen_durable.instances where id = $1")
                .bind(id.get())
                .fetch_one(pool)
                .await
                .unwrap();
        // A claim and a release raise it by one each.
        assert_eq!(revision % 2, 0);
        (revision > 0).then_some(())
    })
    .await;
}

/// An insert claims its row, and its answer is lost. No task has the row, so the engine must give
/// it back. The caller learns that the outcome of the insert is unknown.
#[tokio::test(flavor = "multi_thread")]
async fn p71_a_birth_whose_answer_is_lost_is_given_back() {
    let db = database().await;
    let pool = db.pool();
    let proxy = proxy().await;
    let breakpoint = Arc::new(Breakpoint::new());
    let engine = behind(&proxy, &db).machine::<Short>().resource(Arc::clone(&breakpoint));
    let engine = engine.start().await.unwrap();
    until_idle(&engine, pool).await;
    let sprung = proxy.trap(Direction::Request, "born in vain", Effect::LoseAnswer);
    let insert = Walk::insert(marked("born in vain")).step(Walk::End);
    insert.execute(&engine).await.unwrap_err();
    sprung.await.expect("the insert goes by");
    let id = breakpoint.arrival().await;
    let row = row(pool, id).await;
    assert_eq!((row.attempt, row.crashes), (0, 0));
    assert!(was_claimed(pool, id).await, "it was given back, and claimed again");
    breakpoint.open(1);
    until(pool, id, "done").await;
    engine.shutdown().await.unwrap();
}

/// The same, and the engine's shutdown begins before the answer would have come. No claimer is left
/// to look for the row.
#[tokio::test(flavor = "multi_thread")]
async fn p71_a_birth_whose_answer_is_lost_during_a_shutdown_is_given_back() {
    let db = database().await;
    let pool = db.pool();
    // A claim that is under way at the insert leaves the row to itself.
    eventually("a row is born claimed as a shutdown begins", async || {
        let proxy = proxy().await;
        let engine = behind(&proxy, &db).machine::<Short>().resource(Arc::new(Breakpoint::new()));
        let engine = engine.start().await.unwrap();
        until_idle(&engine, pool).await;
        let test = stop_inserts(pool).await;
        let sprung = proxy.trap(Direction::Request, "born in vain", Effect::LoseAnswer);
        let (client, insert) = (engine.client().clone(), Walk::insert(marked("born in vain")));
        let insert = tokio::spawn(async move { insert.step(Walk::End).execute(&client).await });
        sprung.await.expect("the insert goes by");
        until_a_session_waits(pool, 1).await;
        let mut shutdown = std::pin::pin!(engine.shutdown());
        tokio::select! {
            biased;
            _ = &mut shutdown => panic!("it did not wait for the birth"),
            () = std::future::ready(()) => {}
        }
        test.rollback().await.unwrap();
        shutdown.await.unwrap();
        insert.await.unwrap().unwrap_err();
        let (status, revision, attempt): (String, i64, i32) = sqlx::query_as(
            "select status, revision, attempt from gen_durable.instances order by id desc limit 1",
        )
        .fetch_one(pool)
        .await
        .unwrap();
        // A claim and a release raise the revision by one each.
        assert_eq!((&*status, revision % 2, attempt), ("runnable", 0, 0));
        (revision > 0).then_some(())
    })
    .await;
}

/// The signal wakes an instance of an idle queue, and the same transaction claims it. A signal that
/// came before, and one that came while no engine looked, are in its inbox.
#[tokio::test(flavor = "multi_thread")]
async fn p71_a_signal_claims_the_instance_that_it_wakes() {
    let db = database().await;
    let pool = db.pool();
    let engine = engine(&db).machine::<Short>().resource(Arc::new(Breakpoint::new()));
    let engine = engine.start().await.unwrap();
    sql(
        pool,
        "create table public.moves (id bigint, status text, transaction text);
         create function public.note_move() returns trigger language plpgsql as $$
         begin
             insert into public.moves values (new.id, new.status, pg_current_xact_id()::text);
             return null;
         end $$;
         create trigger note_move after update on gen_durable.instances for each row
             when (old.status <> new.status) execute function public.note_move()",
    )
    .await;
    eventually("a signal claims whom it wakes", async || {
        let id = Short::insert(()).step(Short::Wait).execute(&engine).await.unwrap();
        until(pool, id, "awaiting_signal").await;
        for n in 0..2 {
            Short::signal_nudge(id, Nudge { n }).execute(&engine).await.unwrap();
            if n == 0 {
                until(pool, id, "awaiting_signal").await;
            }
        }
        engine.wait(id, WAIT_MAX).await.unwrap();
        let together: i64 = sqlx::query_scalar(
            "select count(*) from public.moves as woken join public.moves as claimed
                 on claimed.id = woken.id and claimed.transaction = woken.transaction
             where woken.id = $1 and woken.status = 'runnable' and claimed.status = 'executing'",
        )
        .bind(id.get())
        .fetch_one(pool)
        .await
        .unwrap();
        (together > 0).then_some(())
    })
    .await;
    engine.shutdown().await.unwrap();
}
