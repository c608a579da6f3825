//! Repeated runs: the engine tells each what it told the first, and a retry policy counts only
//! failures in a row.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use gen_durable::prelude::*;

use crate::support::{
    Breakpoint, WAIT_MAX, count, database, engine, eventually, lose_worker, row, sql, until,
};

#[derive(Clone, Debug, DurableSignal)]
pub struct Paid {}

/// The way in which a run goes on after its await has timed out.
type Plan = String;

/// The facts that each run was told: if its await had timed out, its attempt, and its failures.
type Told = Arc<Mutex<Vec<(bool, u32, u32)>>>;

#[durable_fsm(state = Plan, output = u32, signals(Paid),
              retry(max_attempts = 3, backoff = "constant", initial = "1ms"))]
pub enum Park {
    Wait,
}

#[durable_fsm]
impl Park {
    async fn wait(
        mut cx: Context<Self>,
        told: &Told,
        breakpoint: &Arc<Breakpoint>,
    ) -> StepResult<Self> {
        let runs = {
            let mut told = told.lock().unwrap();
            told.push((cx.timed_out(), cx.attempt(), cx.failures()));
            told.iter().filter(|told| told.0).count()
        };
        if cx.take_signal::<Paid>()?.is_some() {
            return Ok(cx.done(2));
        }
        if !cx.timed_out() {
            return Ok(cx.await_signal_for::<Paid>(Duration::from_millis(1)));
        }
        match (cx.state.as_str(), runs) {
            ("always fails", _) => Err(std::io::Error::other("it always fails"))?,
            ("fails", 1) => Err(std::io::Error::other("it fails once"))?,
            ("panics", 1) => panic!("it panics once"),
            ("replays", 1) => return Ok(cx.replay(Duration::ZERO)),
            ("snoozes", 1) => return Ok(cx.snooze(Duration::ZERO)),
            ("is lost" | "is released", 1) => breakpoint.pass(cx.id()).await,
            ("awaits again", 1) => return Ok(cx.await_signal::<Paid>()),
            _ => {}
        }
        Ok(cx.done(1))
    }
}

async fn park(plan: &str) -> (Result<u32, String>, Vec<(bool, u32, u32)>) {
    let db = database().await;
    let (told, breakpoint) = (Told::default(), Arc::new(Breakpoint::new()));
    let start = async || {
        let engine = engine(&db).machine::<Park>().resource(Arc::clone(&told));
        engine.resource(Arc::clone(&breakpoint)).start().await.unwrap()
    };
    let mut engine = start().await;
    let id = Park::insert(plan.to_owned()).execute(&engine).await.unwrap();
    if plan == "is lost" {
        assert_eq!(breakpoint.arrival().await, id.get());
        let reaper = crate::support::engine(&db).start().await.unwrap();
        lose_worker(db.pool(), engine.worker(), &reaper, id).await;
        breakpoint.open(1);
        reaper.shutdown().await.unwrap();
    }
    if plan == "is released" {
        assert_eq!(breakpoint.arrival().await, id.get());
        drop(engine);
        until(db.pool(), id, "runnable").await;
        engine = start().await;
    }
    if plan == "awaits again" {
        until(db.pool(), id, "awaiting_signal").await;
        eventually("it is told", async || (told.lock().unwrap().len() == 2).then_some(())).await;
        until(db.pool(), id, "awaiting_signal").await;
        Park::signal_paid(id, Paid {}).execute(&engine).await.unwrap();
    }
    let result = engine.wait(id, WAIT_MAX).await.map_err(|error| error.to_string());
    engine.shutdown().await.unwrap();
    let told = told.lock().unwrap().clone();
    (result, told)
}

/// An await times out, and the run after it is repeated for one reason after the other. The
/// repeated run must be told again that the await has timed out.
#[tokio::test(flavor = "multi_thread")]
async fn p47_a_repeated_run_is_told_what_the_first_was_told() {
    let first = (false, 0, 0);
    let second = (true, 0, 0);
    for (plan, third) in [
        ("fails", (true, 1, 1)),
        ("panics", (true, 1, 1)),
        ("replays", (true, 1, 0)),
        ("snoozes", (true, 0, 0)),
        ("is lost", (true, 1, 0)),
        ("is released", (true, 0, 0)),
    ] {
        let (result, told) = park(plan).await;
        assert_eq!(result, Ok(1), "{plan}");
        assert_eq!(told, [first, second, third], "{plan}");
    }
    let (result, told) = park("awaits again").await;
    assert_eq!((result, told), (Ok(2), vec![first, second, first]), "a new await begins anew");
}

#[tokio::test(flavor = "multi_thread")]
async fn p47_what_always_fails_after_a_timeout_is_given_up() {
    let (result, told) = park("always fails").await;
    assert!(result.unwrap_err().contains("it always fails"));
    assert_eq!(told, [(false, 0, 0), (true, 0, 0), (true, 1, 1), (true, 2, 2)]);
}

/// Ends each run as the next letter of its state says: a replay, a snooze or a failure.
#[durable_fsm(state = String, output = Vec<u32>,
              retry(max_attempts = 3, backoff = "constant", initial = "1ms"))]
pub enum Poll {
    Look,
}

#[durable_fsm]
impl Poll {
    async fn look(cx: Context<Self>, told: &Told) -> StepResult<Self> {
        let run = {
            let mut told = told.lock().unwrap();
            told.push((false, cx.attempt(), cx.failures()));
            told.len()
        };
        let kind = cx.state.chars().nth(run - 1);
        match kind {
            Some('r') => Ok(cx.replay(Duration::from_millis(1))),
            Some('s') => Ok(cx.snooze(Duration::from_millis(1))),
            Some('f') => Err(std::io::Error::other("it fails").into()),
            _ => {
                let counts = [cx.attempt(), cx.failures()];
                Ok(cx.done(counts.to_vec()))
            }
        }
    }
}

async fn poll(plan: &str) -> (Result<Vec<u32>, String>, usize) {
    let db = database().await;
    let told = Told::default();
    let engine = engine(&db).machine::<Poll>().resource(Arc::clone(&told)).start().await.unwrap();
    let id = Poll::insert(plan.to_owned()).execute(&engine).await.unwrap();
    let result = engine.wait(id, WAIT_MAX).await.map_err(|error| error.to_string());
    engine.shutdown().await.unwrap();
    let runs = told.lock().unwrap().len();
    (result, runs)
}

/// A policy allows three runs. Only three failures in a row may use it up, and no replay or snooze.
#[tokio::test(flavor = "multi_thread")]
async fn p48_a_policy_counts_failures_in_a_row() {
    assert_eq!(poll("rrrrrr").await, (Ok(vec![6, 0]), 7));
    assert_eq!(poll("ssssss").await, (Ok(vec![0, 0]), 7));
    assert_eq!(poll("fsfsfsfsfs").await, (Ok(vec![5, 0]), 11), "one error now and then");
    assert_eq!(poll("ffrff").await, (Ok(vec![5, 2]), 6));
    let (result, runs) = poll("rrfff").await;
    assert!(result.unwrap_err().contains("it fails"));
    assert_eq!(runs, 5);
}

/// After two failures in a row the worker is lost. That is no failure of the step: it must not
/// raise the count of failures, and must not reset it.
#[tokio::test(flavor = "multi_thread")]
async fn p48_a_lost_worker_neither_adds_to_the_failures_nor_resets_them() {
    let db = database().await;
    let pool = db.pool();
    let told = Told::default();
    let id = Poll::insert("ff".to_owned()).execute(pool).await.unwrap();
    // The row is as a lost worker leaves it after two failures. The worker 404 does not exist.
    sql(
        pool,
        "update gen_durable.instances set status = 'executing', locked_by = 404, attempt = 2,
             failures = 2",
    )
    .await;
    told.lock().unwrap().extend([(false, 0, 0), (false, 1, 1)]);
    let engine = engine(&db).machine::<Poll>().resource(Arc::clone(&told)).start().await.unwrap();
    engine.maintain().await.unwrap();
    assert_eq!(engine.wait(id, WAIT_MAX).await.unwrap(), [3, 2]);
    let found = engine.client().find(id.get()).await.unwrap().unwrap();
    assert_eq!((found.attempt, found.failures), (3, 0), "its end is an outcome of the step");
    assert_eq!(row(pool, id).await.crashes, 0);
    assert_eq!(count(pool, "done").await, 1);
    engine.shutdown().await.unwrap();
}

/// Wakes for each signal, and ends when its deadline is over.
#[durable_fsm(state = Option<SystemTime>, output = u32, signals(Paid))]
pub enum Deadline {
    Wait,
}

#[durable_fsm]
impl Deadline {
    async fn wait(mut cx: Context<Self>, told: &Told) -> StepResult<Self> {
        let now = cx.now();
        let ends_at = *cx.state.get_or_insert(now + Duration::from_hours(1));
        told.lock().unwrap().push((cx.timed_out(), 0, 0));
        let paid = cx.count_signals::<Paid>();
        if cx.timed_out() {
            return Ok(cx.done(u32::try_from(paid)?));
        }
        Ok(cx.await_signal_until::<Paid>(ends_at))
    }
}

/// A step parks again and again until the same deadline. The deadline must stay where it is, and a
/// park whose deadline is over must wake at once.
#[tokio::test(flavor = "multi_thread")]
async fn p47_a_deadline_does_not_begin_anew_with_each_park() {
    let db = database().await;
    let pool = db.pool();
    let told = Told::default();
    let engine = engine(&db).machine::<Deadline>().resource(Arc::clone(&told));
    let engine = engine.start().await.unwrap();
    let id = Deadline::insert(None).execute(&engine).await.unwrap();
    let wakes = async |runs: usize| -> f64 {
        eventually("it is parked again", async || {
            (told.lock().unwrap().len() == runs).then_some(())
        })
        .await;
        until(pool, id, "awaiting_signal").await;
        let wake = "select extract(epoch from wake_at)::float8 from gen_durable.instances";
        sqlx::query_scalar(wake).fetch_one(pool).await.unwrap()
    };
    let first = wakes(1).await;
    // Moves the deadline, as if the instance had waited for half an hour.
    let half = "update gen_durable.instances set state = json_build_object(
        'secs_since_epoch', (state ->> 'secs_since_epoch')::bigint - 1800, 'nanos_since_epoch', 0)";
    sql(pool, half).await;
    Deadline::signal_paid(id, Paid {}).execute(&engine).await.unwrap();
    let second = wakes(2).await;
    // The tolerance is a tenth of a minute. The wake-up is late only by the time from the claim to
    // the commit.
    assert!((first - 1800.0 - second).abs() < 6.0, "{first} and {second}");
    sql(
        pool,
        "update gen_durable.instances set state = '{\"secs_since_epoch\": 1, \"nanos_since_epoch\": 0}'",
    )
    .await;
    Deadline::signal_paid(id, Paid {}).execute(&engine).await.unwrap();
    assert_eq!(engine.wait(id, WAIT_MAX).await.unwrap(), 2);
    let told: Vec<bool> = told.lock().unwrap().iter().map(|told| told.0).collect();
    assert_eq!(told, [false, false, false, true]);
    engine.shutdown().await.unwrap();
}
