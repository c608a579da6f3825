//! Outcomes, and the order in which instances run.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use gen_durable::prelude::*;

use crate::support::{Breakpoint, WAIT_MAX, database, engine, eventually, row, until};

#[derive(Clone, Debug, Default, PartialEq, DurableState)]
pub struct Trail {
    #[serde(default)]
    seen: Vec<String>,
}

#[durable_fsm(state = Trail, output = Trail)]
pub enum Walk {
    First,
    Second,
    Third,
}

#[durable_fsm]
impl Walk {
    async fn first(mut cx: Context<Self>) -> Outcome<Self> {
        cx.state.seen.push(format!("first {}", cx.attempt()));
        if cx.attempt() < 2 { cx.replay(Duration::from_millis(1)) } else { cx.next(Walk::Second) }
    }

    async fn second(mut cx: Context<Self>) -> Outcome<Self> {
        cx.state.seen.push(format!("second {}", cx.attempt()));
        cx.next_in(Walk::Third, Duration::from_millis(20))
    }

    async fn third(mut cx: Context<Self>) -> Outcome<Self> {
        cx.state.seen.push(format!("third {}", cx.attempt()));
        let trail = cx.state.clone();
        cx.done(trail)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_outcome_leads_where_it_says() {
    let db = database().await;
    let engine = engine(&db).machine::<Walk>().start().await.unwrap();
    let id = Walk::insert(Trail::default()).execute(&engine).await.unwrap();
    let trail = engine.wait(id, WAIT_MAX).await.unwrap();
    let seen = ["first 0", "first 1", "first 2", "second 0", "third 0"];
    assert_eq!(trail.seen, seen);
    let row = row(db.pool(), id).await;
    assert_eq!((row.status.as_str(), row.step.as_str(), row.locked_by), ("done", "third", None));
    assert_eq!(
        row.state["seen"].as_array().unwrap().len(),
        5,
        "the state is committed with `done`"
    );
    engine.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_may_begin_at_another_step() {
    let db = database().await;
    let engine = engine(&db).machine::<Walk>().start().await.unwrap();
    let id = Walk::insert(Trail::default()).step(Walk::Third).execute(&engine).await.unwrap();
    assert_eq!(engine.wait(id, WAIT_MAX).await.unwrap().seen, ["third 0"]);
    engine.shutdown().await.unwrap();
}

#[durable_fsm(state = u32, output = u32)]
pub enum Stopper {
    Stop,
}

#[durable_fsm]
impl Stopper {
    async fn stop(cx: Context<Self>) -> Outcome<Self> {
        cx.stop("enough")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_instance_says_why() {
    let db = database().await;
    let engine = engine(&db).machine::<Stopper>().start().await.unwrap();
    let id = Stopper::insert(7).execute(&engine).await.unwrap();
    let error = engine.wait(id, WAIT_MAX).await.unwrap_err();
    assert_eq!(error.to_string(), format!("instance {id} failed: enough"));
    let found = engine.client().find(id.get()).await.unwrap().unwrap();
    assert_eq!((found.status, found.reason.as_deref()), (Status::Failed, Some("enough")));
    engine.shutdown().await.unwrap();
}

/// The instances that ran, in order.
type Log = Arc<Mutex<Vec<i64>>>;

#[durable_fsm(state = i64, output = ())]
pub enum Note {
    Write,
}

#[durable_fsm]
impl Note {
    async fn write(cx: Context<Self>, log: &Log) -> Outcome<Self> {
        log.lock().unwrap().push(cx.state);
        cx.done(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_runs_by_priority_then_time_then_id() {
    let db = database().await;
    let pool = db.pool();
    // A claim takes all of these rows before any of them runs, so a queue of one slot shows their
    // order.
    let insert = |n: i64| Note::insert(n);
    insert(4).priority(1).execute(pool).await.unwrap();
    insert(5).priority(1).execute(pool).await.unwrap();
    insert(3).execute(pool).await.unwrap();
    insert(1).priority(-5).execute(pool).await.unwrap();
    let earlier = std::time::SystemTime::now() - Duration::from_mins(1);
    insert(2).schedule_at(earlier).execute(pool).await.unwrap();
    let later = insert(6).priority(-9).schedule_in(Duration::from_hours(1));
    let later = later.execute(pool).await.unwrap();
    let log = Log::default();
    let engine = engine(&db)
        .machine::<Note>()
        .queue("default", 1)
        .resource(Arc::clone(&log))
        .start()
        .await
        .unwrap();
    eventually("five have run", async || (log.lock().unwrap().len() == 5).then_some(())).await;
    assert_eq!(*log.lock().unwrap(), [1, 2, 3, 4, 5]);
    assert_eq!(row(pool, later).await.status, "runnable", "it is scheduled for later");
    engine.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_runs_in_the_queue_that_it_was_inserted_into() {
    let db = database().await;
    let log = Log::default();
    let engine = engine(&db).machine::<Note>().resource(Arc::clone(&log)).start().await.unwrap();
    let elsewhere = Note::insert(1).queue("elsewhere").execute(&engine).await.unwrap();
    let here = Note::insert(2).execute(&engine).await.unwrap();
    engine.wait(here, WAIT_MAX).await.unwrap();
    assert_eq!(row(db.pool(), elsewhere).await.status, "runnable");
    let other = crate::support::engine(&db)
        .machine::<Note>()
        .queue("elsewhere", 1)
        .resource(Arc::clone(&log))
        .start()
        .await
        .unwrap();
    engine.wait(elsewhere, WAIT_MAX).await.unwrap();
    other.shutdown().await.unwrap();
    engine.shutdown().await.unwrap();
}

#[durable_fsm(state = Trail, output = ())]
pub enum Chain {
    Step,
}

#[durable_fsm]
impl Chain {
    async fn step(mut cx: Context<Self>, breakpoint: &Arc<Breakpoint>) -> Outcome<Self> {
        breakpoint.pass(cx.id()).await;
        cx.state.seen.push("x".to_owned());
        if cx.state.seen.len() == 3 { cx.done(()) } else { cx.next(Chain::Step) }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_is_committed_before_the_next_one_begins() {
    let db = database().await;
    let breakpoint = Arc::new(Breakpoint::new());
    let engine =
        engine(&db).machine::<Chain>().resource(Arc::clone(&breakpoint)).start().await.unwrap();
    let id = Chain::insert(Trail::default()).execute(&engine).await.unwrap();
    for done in 0..3 {
        breakpoint.arrival().await;
        let row = row(db.pool(), id).await;
        assert_eq!(row.state["seen"].as_array().unwrap().len(), done, "{row:?}");
        assert_eq!((row.status.as_str(), row.locked_by), ("executing", Some(engine.worker())));
        breakpoint.open(1);
    }
    until(db.pool(), id, "done").await;
    engine.shutdown().await.unwrap();
}

/// Runs ahead without end. In a queue of one slot, other instances must be able to run all the
/// same.
#[durable_fsm(state = bool, output = ())]
pub enum Greedy {
    Again,
}

#[durable_fsm]
impl Greedy {
    async fn again(cx: Context<Self>) -> Outcome<Self> {
        cx.next(Greedy::Again)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn running_ahead_lets_others_have_their_turn() {
    let db = database().await;
    let log = Log::default();
    let engine = engine(&db)
        .machine::<Greedy>()
        .machine::<Note>()
        .queue("default", 1)
        .resource(Arc::clone(&log))
        .start()
        .await
        .unwrap();
    Greedy::insert(true).execute(&engine).await.unwrap();
    for n in 0..5 {
        let id = Note::insert(n).execute(&engine).await.unwrap();
        engine.wait(id, WAIT_MAX).await.unwrap();
    }
    engine.shutdown().await.unwrap();
    let waiting: String =
        sqlx::query_scalar("select status from gen_durable.instances where fsm = 'greedy'")
            .fetch_one(db.pool())
            .await
            .unwrap();
    assert_eq!(waiting, "runnable", "a shutdown stops it between two steps");
}

#[durable_fsm(state = Vec<i64>, output = Vec<i64>)]
pub enum Parent {
    Spawn,
}

#[durable_fsm]
impl Parent {
    async fn spawn(cx: Context<Self>) -> Outcome<Self> {
        let children = cx.state.clone();
        cx.done(children.clone())
            .insert_many(children.iter().map(|n| Note::insert(*n).unique_key(format!("note {n}"))))
            .insert(Note::insert(99))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outcome_carries_inserts() {
    let db = database().await;
    let log = Log::default();
    let engine = engine(&db)
        .machine::<Parent>()
        .machine::<Note>()
        .resource(Arc::clone(&log))
        .start()
        .await
        .unwrap();
    // The second 1 has a unique key that is taken: the instance that holds the key does the work.
    let id = Parent::insert(vec![1, 2, 1]).execute(&engine).await.unwrap();
    engine.wait(id, WAIT_MAX).await.unwrap();
    eventually("the children have run", async || (log.lock().unwrap().len() == 3).then_some(()))
        .await;
    let mut ran = log.lock().unwrap().clone();
    ran.sort_unstable();
    assert_eq!(ran, [1, 2, 99]);
    engine.shutdown().await.unwrap();
}
