//! Calls that address an instance by its unique key, and inserts that signal the holder of a key.

use std::{collections::HashSet, time::Duration};

use gen_durable::{Address, prelude::*};
use sqlx::{Connection, PgPool};
use tokio::task::JoinSet;

use crate::support::{
    WAIT_MAX, count, database, engine, eventually, log, row, sql, until, until_a_session_waits,
};

#[derive(Clone, Debug, DurableSignal)]
pub struct Part(i64);

/// Collects as many parts as its state says.
#[durable_fsm(state = usize, output = Vec<i64>, signals(Part))]
pub enum Collect {
    Wait,
}

#[durable_fsm]
impl Collect {
    async fn wait(mut cx: Context<Self>) -> StepResult<Self> {
        if cx.count_signals::<Part>() < cx.state {
            return Ok(cx.await_signal::<Part>());
        }
        let parts = cx.take_signals::<Part>()?;
        Ok(cx.done(parts.into_iter().map(|part| part.0).collect()))
    }
}

/// A machine with the same keys as [`Collect`].
#[durable_fsm(state = i64, output = (), signals(Part))]
pub enum Other {
    Wait,
}

#[durable_fsm]
impl Other {
    async fn wait(cx: Context<Self>) -> Outcome<Self> {
        cx.await_signal::<Part>()
    }
}

/// Sends a part to the collector that holds the key in its state, and ends.
#[durable_fsm(state = String, output = ())]
pub enum Sender {
    Send,
}

#[durable_fsm]
impl Sender {
    async fn send(cx: Context<Self>) -> Outcome<Self> {
        let to = Collect::by_key(cx.state.clone());
        cx.done(()).signal(Collect::signal_part(to, Part(5)))
    }
}

fn start(parts: usize, key: &str) -> Insert<Collect> {
    Collect::insert(parts).unique_key(key)
}

fn is_nobody(error: &SignalError) -> bool {
    matches!(error, SignalError::NoHolder { machine, key } if machine == "collect" && key == "k")
}

#[tokio::test(flavor = "multi_thread")]
async fn p38_every_call_takes_a_key_in_place_of_an_id() {
    let db = database().await;
    let pool = db.pool();
    let engine = engine(&db).machine::<Collect>().start().await.unwrap();
    let client = engine.client();
    let id = start(3, "k").execute(&engine).await.unwrap();
    // Another machine's instance with the same key is another instance.
    Other::insert(0).unique_key("k").queue("nobody's").execute(&engine).await.unwrap();
    let found = client.find(Collect::by_key("k")).await.unwrap().unwrap();
    assert_eq!(found.id, id);
    let part = |n| Collect::signal_part(Collect::by_key("k"), Part(n));
    let answer = part(1).dedup_key("once").execute(&engine).await.unwrap();
    assert_eq!(answer, Delivery::Delivered);
    let mut transaction = pool.begin().await.unwrap();
    let answer = part(1).dedup_key("once").execute(&mut *transaction).await.unwrap();
    assert_eq!(answer, Delivery::Duplicate);
    transaction.commit().await.unwrap();
    part(1).execute(pool).await.unwrap();
    let waited_for = eventually("the holder is waited for", async || {
        match client.wait(Collect::by_key("k"), Duration::from_millis(100)).await.unwrap_err() {
            WaitError::TimedOut { id, .. } => Some(id),
            // The holder was not found in time.
            WaitError::Database(_) => None,
            error => panic!("{error}"),
        }
    });
    assert_eq!(waited_for.await, id.get());
    part(1).execute(&engine).await.unwrap();
    assert_eq!(client.wait(id, WAIT_MAX).await.unwrap(), [1, 1, 1]);
    until(pool, id, "done").await;
    // The instance gave its key back.
    assert!(is_nobody(&part(1).execute(&engine).await.unwrap_err()));
    assert!(is_nobody(&part(1).execute(pool).await.unwrap_err()));
    let error = client.wait(Collect::by_key("k"), WAIT_MAX).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "no instance of machine `collect` holds the unique key `k`; it was never committed, or it has given the key back"
    );
    assert!(client.find(Collect::by_key("k")).await.unwrap().is_none());
    // An instance that ends and keeps its key is found, and takes no signals.
    let kept = Collect::insert(0).unique_key("k").unique_while(Status::ALL.iter().copied());
    let kept = kept.execute(&engine).await.unwrap();
    until(pool, kept, "done").await;
    assert_eq!(client.wait(Collect::by_key("k"), WAIT_MAX).await.unwrap(), Vec::<i64>::new());
    let error = part(1).execute(&engine).await.unwrap_err();
    assert!(matches!(error, SignalError::Terminal { id, .. } if id == kept.get()), "{error}");
    engine.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn p38_a_batch_may_mix_ids_and_keys() {
    let db = database().await;
    let engine = engine(&db).machine::<Collect>().start().await.unwrap();
    let mut calls = JoinSet::new();
    for n in 0..50 {
        let key = format!("key {n}");
        let id = start(2, &key).execute(&engine).await.unwrap();
        let client = engine.client().clone();
        calls.spawn(async move {
            let one = Collect::signal_part(Collect::by_key(&*key), Part(1));
            let two = Collect::signal_part(id, Part(1));
            let nobody = Collect::signal_part(Collect::by_key("k"), Part(1));
            let answers =
                tokio::join!(one.execute(&client), two.execute(&client), nobody.execute(&client));
            assert_eq!(answers.0.unwrap(), Delivery::Delivered);
            assert_eq!(answers.1.unwrap(), Delivery::Delivered);
            assert!(is_nobody(&answers.2.unwrap_err()));
            assert_eq!(client.wait(id, WAIT_MAX).await.unwrap(), [1, 1]);
        });
    }
    calls.join_all().await;
    engine.shutdown().await.unwrap();
}

/// Two instances pass a key on while signals to it wait for the first one's lock. The holder is
/// looked up again, and a signal reaches nobody who has given the key back.
#[tokio::test(flavor = "multi_thread")]
async fn p38_a_signal_follows_its_key_to_the_next_holder() {
    let db = database().await;
    let pool = db.pool();
    let client = Client::new(pool.clone());
    for by_client in [true, false] {
        let later = Duration::from_hours(1);
        let first = start(1, "k").schedule_in(later).execute(pool).await.unwrap();
        let mut passing = pool.begin().await.unwrap();
        sqlx::query(
            "update gen_durable.instances
             set status = 'done', unique_scope = null, finished_at = now() where id = $1",
        )
        .bind(first)
        .execute(&mut *passing)
        .await
        .unwrap();
        let second = start(1, "k").schedule_in(later).execute(&mut *passing).await.unwrap();
        let signal = Collect::signal_part(Collect::by_key("k"), Part(1));
        let (client, pool_2) = (client.clone(), pool.clone());
        let sent = tokio::spawn(async move {
            if by_client { signal.execute(&client).await } else { signal.execute(&pool_2).await }
        });
        until_a_session_waits(pool, 1).await;
        passing.commit().await.unwrap();
        assert_eq!(sent.await.unwrap().unwrap(), Delivery::Delivered);
        let targets: Vec<InstanceId<Collect>> =
            sqlx::query_scalar("select target_id from gen_durable.signals")
                .fetch_all(pool)
                .await
                .unwrap();
        assert_eq!(targets, [second]);
        sql(pool, "delete from gen_durable.instances").await;
    }
}

/// The instance of a signal is deleted while the signal waits for its lock. By its id it is gone.
/// Its key is looked up again, and may have a new holder.
#[tokio::test(flavor = "multi_thread")]
async fn p38_a_signal_to_an_instance_that_is_deleted_meanwhile_is_answered() {
    let db = database().await;
    let pool = db.pool();
    for (by_key, passes_on) in [(false, false), (true, false), (true, true)] {
        let later = Duration::from_hours(1);
        let first = start(1, "k").schedule_in(later).execute(pool).await.unwrap();
        let mut deleting = pool.begin().await.unwrap();
        sqlx::query("delete from gen_durable.instances").execute(&mut *deleting).await.unwrap();
        if passes_on {
            start(1, "k").schedule_in(later).execute(&mut *deleting).await.unwrap();
        }
        let pool_2 = pool.clone();
        let sent = tokio::spawn(async move {
            let part = Part(1);
            if by_key {
                Collect::signal_part(Collect::by_key("k"), part).execute(&pool_2).await
            } else {
                Collect::signal_part(first, part).execute(&pool_2).await
            }
        });
        until_a_session_waits(pool, 1).await;
        deleting.commit().await.unwrap();
        match sent.await.unwrap() {
            Ok(Delivery::Delivered) => assert!(passes_on),
            Err(SignalError::Unknown { id }) => assert!(!by_key && id == first.get()),
            Err(error) => assert!(by_key && !passes_on && is_nobody(&error), "{error}"),
            other => panic!("{other:?}"),
        }
        sql(pool, "delete from gen_durable.instances").await;
    }
}

/// Many calls for a key whose holder is locked do not hold up a call for another key.
#[tokio::test(flavor = "multi_thread")]
async fn p38_a_locked_key_holds_up_no_other_key() {
    let db = database().await;
    let pool = db.pool();
    let client = Client::new(pool.clone());
    let later = Duration::from_hours(1);
    start(1, "held").schedule_in(later).execute(pool).await.unwrap();
    let mut holding = pool.begin().await.unwrap();
    sqlx::query("select from gen_durable.instances for update")
        .execute(&mut *holding)
        .await
        .unwrap();
    let mut waiting = JoinSet::new();
    for n in 0..60 {
        let client = client.clone();
        let call = start(1, "held").with_signal(Part(n));
        waiting.spawn(async move { call.execute(&client).await });
    }
    until_a_session_waits(pool, 1).await;
    let other = start(1, "other").schedule_in(later).with_signal(Part(1)).execute(&client).await;
    assert!(matches!(other, Ok(Reached::Started(_))), "{other:?}");
    let early = waiting.try_join_next();
    assert!(early.is_none(), "nobody has got the held key: {early:?}");
    holding.rollback().await.unwrap();
    for reached in waiting.join_all().await {
        assert!(matches!(reached, Ok(Reached::Signalled(_))), "{reached:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn p38_an_outcome_signals_the_holder_of_a_key() {
    let db = database().await;
    log();
    let engine = engine(&db).machine::<Collect>().machine::<Sender>().start().await.unwrap();
    let id = start(1, "k").execute(&engine).await.unwrap();
    let sender = Sender::insert("k".to_owned()).execute(&engine).await.unwrap();
    engine.wait(sender, WAIT_MAX).await.unwrap();
    assert_eq!(engine.wait(id, WAIT_MAX).await.unwrap(), [5]);
    // Nobody holds the key now. The signal is dropped, and the outcome counts.
    let sender = Sender::insert("k".to_owned()).execute(&engine).await.unwrap();
    engine.wait(sender, WAIT_MAX).await.unwrap();
    engine.shutdown().await.unwrap();
}

/// Many tasks send parts for one key, each in its own way, while the collectors end and give the
/// key back. Each part is collected or left in the inbox of an instance that had already ended; no
/// instance begins without a part.
#[tokio::test(flavor = "multi_thread")]
async fn p38_start_or_signal_starts_one_instance_and_loses_no_signal() {
    const TASKS: i64 = 8;
    const EACH: i64 = 60;
    let db = database().await;
    let pool = db.pool();
    let engine = engine(&db).machine::<Collect>().start().await.unwrap();
    let mut calls = JoinSet::new();
    for task in 0..TASKS {
        let (client, pool) = (engine.client().clone(), pool.clone());
        calls.spawn(async move {
            let mut reached = Vec::new();
            for n in 0..EACH {
                let call = start(7, "k").with_signal(Part(1)).dedup_key(format!("{task} {n}"));
                let answer = match n % 3 {
                    0 => call.execute(&client).await,
                    1 => call.execute(&pool).await,
                    _ => {
                        let mut transaction = pool.begin().await.unwrap();
                        let answer = call.execute(&mut *transaction).await;
                        transaction.commit().await.unwrap();
                        answer
                    }
                };
                reached.push(answer.unwrap());
            }
            reached
        });
    }
    let reached: Vec<Reached<InstanceId<Collect>>> =
        calls.join_all().await.into_iter().flatten().collect();
    let started: HashSet<_> = reached
        .iter()
        .filter(|reached| matches!(reached, Reached::Started(_)))
        .map(Reached::id)
        .collect();
    let ids: HashSet<InstanceId<Collect>> = reached.iter().map(Reached::id).collect();
    assert_eq!(started, ids, "a signal went to an instance that nobody started");
    let instances: i64 = sqlx::query_scalar("select count(*) from gen_durable.instances")
        .fetch_one(pool)
        .await
        .unwrap();
    assert_eq!(instances, i64::try_from(started.len()).unwrap());
    assert!(!reached.iter().any(|reached| matches!(reached, Reached::Duplicate(_))));
    // Each instance has accepted the signals that were acknowledged for it.
    let accepted: i64 = sqlx::query_scalar("select count(*) from gen_durable.signal_keys")
        .fetch_one(pool)
        .await
        .unwrap();
    assert_eq!(accepted, TASKS * EACH);
    engine.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn p38_start_or_signal_waits_for_who_inserts_the_key() {
    let db = database().await;
    let pool = db.pool();
    for commits in [true, false] {
        for by_client in [true, false] {
            let mut inserting = pool.begin().await.unwrap();
            let later = Duration::from_hours(1);
            let first = start(1, "k").schedule_in(later).execute(&mut *inserting).await.unwrap();
            let client = Client::new(pool.clone());
            let pool_2 = pool.clone();
            let call = start(1, "k").schedule_in(later).with_signal(Part(1));
            let reached = tokio::spawn(async move {
                if by_client { call.execute(&client).await } else { call.execute(&pool_2).await }
            });
            until_a_session_waits(pool, 1).await;
            if commits {
                inserting.commit().await.unwrap();
                // The statement's snapshot does not show the holder, so the statement runs twice.
                assert_eq!(reached.await.unwrap().unwrap(), Reached::Signalled(first));
            } else {
                inserting.rollback().await.unwrap();
                let reached = reached.await.unwrap().unwrap();
                assert!(matches!(reached, Reached::Started(_)), "{reached:?}");
            }
            assert_eq!(count(pool, "runnable").await, 1);
            sql(pool, "delete from gen_durable.instances").await;
        }
    }
}

/// The holder of the key is locked, and ends, parks or stays as it is in the meantime.
#[tokio::test(flavor = "multi_thread")]
async fn p38_start_or_signal_waits_for_the_holder_and_sees_what_became_of_it() {
    let db = database().await;
    let pool = db.pool();
    for (change, expected) in [
        ("status = 'done', unique_scope = null, finished_at = now()", "started"),
        ("status = 'awaiting_signal', awaits = '{part}'", "woken"),
        ("status = 'awaiting_signal', awaits = '{other}'", "signalled"),
        ("priority = 1", "signalled"),
    ] {
        let later = Duration::from_hours(1);
        let first = start(1, "k").schedule_in(later).execute(pool).await.unwrap();
        let mut holding = pool.begin().await.unwrap();
        let update = format!("update gen_durable.instances set {change}");
        sqlx::query(sqlx::AssertSqlSafe(update)).execute(&mut *holding).await.unwrap();
        let call = start(1, "k").schedule_in(later).with_signal(Part(1));
        let pool_2 = pool.clone();
        let reached = tokio::spawn(async move { call.execute(&pool_2).await });
        until_a_session_waits(pool, 1).await;
        holding.commit().await.unwrap();
        let reached = reached.await.unwrap().unwrap();
        let seen = match reached {
            Reached::Started(id) if id != first => "started",
            Reached::Signalled(id) if id == first => match &*row(pool, id).await.status {
                "runnable" if change.contains("part") => "woken",
                _ => "signalled",
            },
            _ => "something else",
        };
        assert_eq!(seen, expected, "{change}: {reached:?}");
        let target: InstanceId<Collect> =
            sqlx::query_scalar("select target_id from gen_durable.signals")
                .fetch_one(pool)
                .await
                .unwrap();
        assert_eq!(target, reached.id());
        sql(pool, "delete from gen_durable.instances").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn p38_start_or_signal_says_what_it_did() {
    let db = database().await;
    let pool = db.pool();
    let call = || start(1, "k").with_signal(Part(1)).dedup_key("evt-7");
    let Reached::Started(id) = call().execute(pool).await.unwrap() else { panic!("it is new") };
    assert_eq!(call().execute(pool).await.unwrap(), Reached::Duplicate(id));
    assert_eq!(call().dedup_key("evt-8").execute(pool).await.unwrap(), Reached::Signalled(id));
    // Neither stays of a transaction that is rolled back.
    let mut transaction = pool.begin().await.unwrap();
    let other = start(1, "other").with_signal(Part(1)).execute(&mut *transaction).await.unwrap();
    assert!(matches!(other, Reached::Started(_)));
    transaction.rollback().await.unwrap();
    let client = Client::new(pool.clone());
    assert!(client.find(Collect::by_key("other")).await.unwrap().is_none());
    let inbox: i64 = sqlx::query_scalar("select count(*) from gen_durable.signals")
        .fetch_one(pool)
        .await
        .unwrap();
    assert_eq!(inbox, 2);
    // A transaction whose snapshot is older than the holder is told to begin anew.
    let mut connection = pool.acquire().await.unwrap();
    let mut old = connection.begin_with("begin isolation level repeatable read").await.unwrap();
    sqlx::query("select").execute(&mut *old).await.unwrap();
    start(1, "new").execute(pool).await.unwrap();
    let error = start(1, "new").with_signal(Part(1)).execute(&mut *old).await.unwrap_err();
    let SignalError::Database(error) = error else { panic!("{error}") };
    assert_eq!(error.sqlstate(), Some("40001"));
    old.rollback().await.unwrap();
    drop(connection);
    // An ended instance that keeps its key takes no signal, and no other one begins.
    let kept = || start(0, "kept").unique_while(Status::ALL.iter().copied());
    let kept_id = kept().execute(pool).await.unwrap();
    sqlx::query(
        "update gen_durable.instances set status = 'failed', finished_at = now() where id = $1",
    )
    .bind(kept_id)
    .execute(pool)
    .await
    .unwrap();
    let error = kept().with_signal(Part(1)).execute(pool).await.unwrap_err();
    let SignalError::Terminal { id, status } = error else { panic!("{error}") };
    assert_eq!((id, status), (kept_id.get(), Status::Failed));
}

#[tokio::test(flavor = "multi_thread")]
async fn p38_bad_keys_are_refused_before_anything_is_sent() {
    async fn refused(pool: &PgPool, to: impl Address<Collect>) -> String {
        Collect::signal_part(to, Part(1)).execute(pool).await.unwrap_err().to_string()
    }
    let db = database().await;
    let pool = db.pool();
    let client = Client::new(pool.clone());
    let empty = "unique_key is empty; give it a value, or leave it out";
    assert_eq!(refused(pool, Collect::by_key("")).await, empty);
    assert!(refused(pool, Collect::by_key("a\0b")).await.contains("NUL"));
    assert!(refused(pool, Collect::by_key("x".repeat(1025))).await.contains("limit of 1024"));
    assert_eq!(client.wait(Collect::by_key(""), WAIT_MAX).await.unwrap_err().to_string(), empty);
    assert_eq!(client.find(Collect::by_key("")).await.unwrap_err().to_string(), empty);
    let error = Collect::insert(1).with_signal(Part(1)).execute(pool).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "with_signal needs a unique_key before it, by which it finds the instance to signal"
    );
    let error = start(1, "").with_signal(Part(1)).execute(pool).await.unwrap_err();
    assert_eq!(error.to_string(), empty);
    let error = start(1, "k").with_signal(Part(1)).dedup_key("").execute(pool).await.unwrap_err();
    assert_eq!(error.to_string(), "dedup_key is empty; give it a value, or leave it out");
    assert_eq!(count(pool, "runnable").await, 0);
}
