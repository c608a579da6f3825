//! Inserts with unique keys, of many rows at once, and in the caller's own transaction.

use std::{sync::Arc, time::Duration};

use gen_durable::{Duplicate, Insert, InsertError, prelude::*};

use crate::support::{Breakpoint, WAIT_MAX, count, database, deadlocks, engine, row, until};

#[derive(Clone, Debug, DurableSignal)]
pub struct Go;

#[durable_fsm(state = i64, output = i64, signals(Go))]
pub enum Task {
    Wait,
    Finish,
}

#[durable_fsm]
impl Task {
    async fn wait(mut cx: Context<Self>) -> StepResult<Self> {
        match cx.take_signal::<Go>()? {
            Some(Go) => Ok(cx.next(Task::Finish)),
            None => Ok(cx.await_signal::<Go>()),
        }
    }

    async fn finish(cx: Context<Self>) -> Outcome<Self> {
        let n = cx.state;
        cx.done(n)
    }
}

fn unique(n: i64, key: &str) -> Insert<Task> {
    Task::insert(n).unique_key(key)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_duplicate_names_the_holder_and_is_refused_alone() {
    let db = database().await;
    let pool = db.pool();
    let engine = engine(&db).machine::<Task>().start().await.unwrap();
    let id = unique(1, "order 1").execute(&engine).await.unwrap();
    let error = unique(2, "order 1").execute(&engine).await.unwrap_err();
    assert!(
        matches!(error, InsertError::Duplicate(Duplicate { id: holder, .. }) if holder == id),
        "{error}"
    );
    let error = unique(2, "order 1").execute(pool).await.unwrap_err();
    assert!(matches!(error, InsertError::Duplicate(_)), "{error}");
    let rows =
        vec![unique(3, "order 3"), unique(4, "order 1"), unique(5, "order 3"), Task::insert(6)];
    let answers = Task::insert_many(rows).execute(&engine).await.unwrap();
    let third = *answers[0].as_ref().unwrap();
    assert_eq!(answers[1].as_ref().unwrap_err().id, id);
    assert_eq!(answers[2].as_ref().unwrap_err().id, third, "taken by an earlier entry");
    assert!(answers[3].is_ok());
    // An ended instance no longer holds its key.
    Task::signal_go(id, Go).execute(&engine).await.unwrap();
    engine.wait(id, WAIT_MAX).await.unwrap();
    unique(7, "order 1").execute(&engine).await.unwrap();
    engine.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_held_while_the_statuses_say_so() {
    let db = database().await;
    let engine = engine(&db).machine::<Task>().start().await.unwrap();
    let until_parked = || unique(1, "k").unique_while([Status::Runnable, Status::Executing]);
    let first = until_parked().execute(&engine).await.unwrap();
    until(db.pool(), first, "awaiting_signal").await;
    let second = until_parked().execute(&engine).await.unwrap();
    until(db.pool(), second, "awaiting_signal").await;
    // An instance that wakes does not take its key back, so it cannot collide.
    Task::signal_go(first, Go).execute(&engine).await.unwrap();
    Task::signal_go(second, Go).execute(&engine).await.unwrap();
    engine.wait(first, WAIT_MAX).await.unwrap();
    engine.wait(second, WAIT_MAX).await.unwrap();
    // With the status done in its scope, a key is held for ever.
    let all = [Status::Runnable, Status::Executing, Status::AwaitingSignal, Status::Done];
    let kept = unique(3, "once").unique_while(all).execute(&engine).await.unwrap();
    Task::signal_go(kept, Go).execute(&engine).await.unwrap();
    engine.wait(kept, WAIT_MAX).await.unwrap();
    let error = unique(4, "once").execute(&engine).await.unwrap_err();
    assert!(matches!(error, InsertError::Duplicate(_)), "{error}");
    let error = unique(5, "x").unique_while([Status::Done]).execute(&engine).await.unwrap_err();
    assert!(error.to_string().contains("must include Status::Runnable"), "{error}");
    engine.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn p07_batches_with_the_same_keys_in_opposite_orders() {
    const KEYS: usize = 200;
    let db = database().await;
    let pool = db.pool();
    for round in 0..10 {
        let batch = |reverse: bool| {
            let mut keys: Vec<usize> = (0..KEYS).collect();
            if reverse {
                keys.reverse();
            }
            let pool = pool.clone();
            tokio::spawn(async move {
                let rows = keys.iter().map(|key| unique(*key as i64, &format!("{round} {key}")));
                Task::insert_many(rows).execute(&pool).await
            })
        };
        let batches = [batch(false), batch(true), batch(false), batch(true)];
        let mut won = 0;
        let mut lost = 0;
        for batch in batches {
            for answer in batch.await.unwrap().expect("all are inserted or refused") {
                match answer {
                    Ok(_) => won += 1,
                    Err(_) => lost += 1,
                }
            }
        }
        assert_eq!((won, lost), (KEYS, 3 * KEYS));
    }
    // A batch that Postgres aborted for a deadlock would have been tried again, unseen by the test.
    assert_eq!(deadlocks(&db).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn p08_insert_many_takes_a_hundred_thousand_rows() {
    const ROWS: i64 = 100_000;
    let db = database().await;
    let ids = Task::insert_many(0..ROWS).execute(db.pool()).await.unwrap();
    assert_eq!(ids.len() as i64, ROWS);
    assert_eq!(count(db.pool(), "runnable").await, ROWS);
    for n in [0, 1, 50_000, 99_999] {
        let id = *ids[n].as_ref().unwrap();
        assert_eq!(row(db.pool(), id).await.state, n as i64, "ids come in the order of the rows");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_insert_commits_with_the_callers_rows_or_not_at_all() {
    let db = database().await;
    let pool = db.pool();
    crate::support::sql(pool, "create table orders (id bigint primary key)").await;
    let engine = engine(&db).machine::<Task>().start().await.unwrap();
    for commit in [false, true] {
        let mut tx = pool.begin().await.unwrap();
        sqlx::query("insert into orders values (1)").execute(&mut *tx).await.unwrap();
        let id = Task::insert(1).step(Task::Finish).execute(&mut *tx).await.unwrap();
        if commit {
            tx.commit().await.unwrap();
            assert_eq!(engine.wait(id, WAIT_MAX).await.unwrap(), 1);
        } else {
            tx.rollback().await.unwrap();
            assert_eq!(count(pool, "runnable").await, 0);
        }
    }
    engine.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_inserts_share_commits_and_each_gets_its_own_answer() {
    let db = database().await;
    let client = Client::new(db.pool().clone());
    let inserts: Vec<_> = (0..500_i64)
        .map(|n| {
            let client = client.clone();
            // Every fifth insert has the key of the one before it.
            let key = if n % 5 == 4 { n - 1 } else { n };
            tokio::spawn(async move { (n, unique(n, &key.to_string()).execute(&client).await) })
        })
        .collect();
    let mut refused = 0;
    for insert in inserts {
        match insert.await.unwrap() {
            (n, Ok(id)) => assert_eq!(row(db.pool(), id).await.state, n),
            (_, Err(InsertError::Duplicate(_))) => refused += 1,
            (_, Err(error)) => panic!("{error}"),
        }
    }
    assert_eq!(refused, 100);
}

/// Goes back to the queue twice: by a replay, and by a delayed next step.
#[durable_fsm(state = u32, output = u32)]
pub enum Returns {
    Begin,
    Again,
}

#[durable_fsm]
impl Returns {
    async fn begin(cx: Context<Self>, breakpoint: &Arc<Breakpoint>) -> Outcome<Self> {
        breakpoint.pass(cx.id()).await;
        if cx.attempt() == 0 {
            return cx.replay(Duration::ZERO);
        }
        cx.next_in(Returns::Again, Duration::from_millis(1))
    }

    async fn again(cx: Context<Self>) -> Outcome<Self> {
        let n = cx.state;
        cx.done(n)
    }
}

/// An instance holds its key until it first leaves the statuses in the key's scope. If it comes
/// back to such a status, it does not take the key again. Therefore it cannot collide with another
/// instance that took the key meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn p22_a_replay_never_collides_with_who_took_the_key_meanwhile() {
    let db = database().await;
    let breakpoint = Arc::new(Breakpoint::new());
    let engine =
        engine(&db).machine::<Returns>().resource(Arc::clone(&breakpoint)).start().await.unwrap();
    let insert = |n| Returns::insert(n).unique_key("k").unique_while([Status::Runnable]);
    let first = insert(1).execute(&engine).await.unwrap();
    breakpoint.arrival().await;
    let second = insert(2).execute(&engine).await.unwrap();
    breakpoint.arrival().await;
    let third = insert(3).schedule_in(Duration::from_hours(1)).execute(&engine).await.unwrap();
    breakpoint.open(4);
    assert_eq!(engine.wait(first, WAIT_MAX).await.unwrap(), 1);
    assert_eq!(engine.wait(second, WAIT_MAX).await.unwrap(), 2);
    let error = insert(4).execute(&engine).await.unwrap_err();
    assert!(matches!(error, InsertError::Duplicate(Duplicate { id, .. }) if id == third));
    engine.shutdown().await.unwrap();
}
