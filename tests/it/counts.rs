//! Parks until several signals have come: `await_count`.

use std::{sync::Arc, time::Duration};

use gen_durable::prelude::*;
use gen_durable_postgres::TestDb;
use sqlx::PgPool;

use crate::support::{
    Breakpoint, WAIT_MAX, database, engine, eventually, row, sql, until, until_a_session_waits,
};

#[derive(Clone, Debug, DurableSignal)]
pub struct Vote(i64);

#[derive(Clone, Debug, DurableSignal)]
pub struct Noise;

/// The number of votes that are wanted, and of the runs so far.
#[derive(Clone, Copy, Debug, DurableState)]
pub struct Poll {
    wanted: usize,
    runs: u32,
}

fn wanted(wanted: usize) -> Poll {
    Poll { wanted, runs: 0 }
}

/// The votes, in their order, and the number of runs.
type Counted = (Vec<i64>, u32);

#[durable_fsm(state = Poll, output = Counted, signals(Vote, Noise))]
pub enum Ballot {
    Count,
    /// Gives up if the votes do not come in time.
    InTime,
    /// Takes one vote, and awaits the others.
    OneByOne,
    /// Waits at the breakpoint before it parks.
    Committed,
    Repeatable,
    Serializable,
    /// Awaits as many votes as it has seen.
    Seen,
}

fn count(mut cx: Context<Ballot>) -> StepResult<Ballot> {
    cx.state.runs += 1;
    let Poll { wanted, runs } = cx.state;
    let Some(votes) = cx.gather::<Vote>(wanted)? else {
        return Ok(cx.await_count::<Vote>(wanted));
    };
    Ok(cx.done((votes.into_iter().map(|vote| vote.0).collect(), runs)))
}

/// Takes the snapshot of the step's transaction, waits at the breakpoint if there is no vote yet,
/// and counts.
async fn count_inside(
    cx: Context<Ballot>,
    tx: &mut PgConnection,
    at: &Breakpoint,
) -> StepResult<Ballot> {
    sqlx::query("select count(*) from gen_durable.signals").execute(tx).await?;
    if cx.count_signals::<Vote>() == 0 {
        at.pass(cx.id()).await;
    }
    count(cx)
}

#[durable_fsm]
impl Ballot {
    async fn count(cx: Context<Self>) -> StepResult<Self> {
        count(cx)
    }

    #[step(entry)]
    async fn in_time(mut cx: Context<Self>) -> StepResult<Self> {
        let Poll { wanted, runs } = cx.state;
        if cx.timed_out() {
            let votes = cx.take_signals::<Vote>()?;
            return Ok(cx.done((votes.into_iter().map(|vote| vote.0).collect(), runs)));
        }
        Ok(cx.await_count_for::<Vote>(wanted, Duration::from_millis(300)))
    }

    #[step(entry)]
    async fn one_by_one(mut cx: Context<Self>) -> StepResult<Self> {
        cx.state.runs += 1;
        if cx.state.runs == 2 {
            let first = cx.take_signal::<Vote>()?;
            cx.state.wanted -= first.map_or(0, |_| 1);
        }
        let Poll { wanted, runs } = cx.state;
        let rest = if runs == 3 { cx.gather::<Vote>(wanted)? } else { None };
        Ok(match rest {
            Some(votes) => cx.done((votes.into_iter().map(|vote| vote.0).collect(), runs)),
            None if runs == 1 => cx.await_count::<Vote>(1),
            None => cx.await_count::<Vote>(wanted),
        })
    }

    #[step(entry)]
    async fn committed(
        cx: Context<Self>,
        tx: &mut PgConnection,
        at: &Arc<Breakpoint>,
    ) -> StepResult<Self> {
        count_inside(cx, tx, at).await
    }

    #[step(isolation = "repeatable read", entry)]
    async fn repeatable(
        cx: Context<Self>,
        tx: &mut PgConnection,
        at: &Arc<Breakpoint>,
    ) -> StepResult<Self> {
        count_inside(cx, tx, at).await
    }

    #[step(isolation = "serializable", entry)]
    async fn serializable(
        cx: Context<Self>,
        tx: &mut PgConnection,
        at: &Arc<Breakpoint>,
    ) -> StepResult<Self> {
        count_inside(cx, tx, at).await
    }

    #[step(entry)]
    async fn seen(cx: Context<Self>) -> Outcome<Self> {
        let (wanted, seen) = (cx.state.wanted, cx.count_signals::<Vote>());
        if wanted == 0 || seen < wanted {
            return cx.await_count::<Vote>(wanted);
        }
        cx.await_count_for::<Vote>(seen, Duration::from_secs(1))
    }

    async fn handle(cx: Context<Self>, error: StepError) -> Outcome<Self> {
        let kind = error.kind();
        cx.stop(format!("{kind:?}: {error}"))
    }
}

async fn start(db: &TestDb) -> Engine {
    let engine = engine(db).machine::<Ballot>().resource(Arc::new(Breakpoint::new()));
    engine.start().await.unwrap()
}

async fn vote(on: &PgPool, id: InstanceId<Ballot>, n: i64) {
    let delivery = Ballot::signal_vote(id, Vote(n)).execute(on).await.unwrap();
    assert_eq!(delivery, Delivery::Delivered);
}

/// Returns the number of votes that a parked instance waits for.
async fn more(pool: &PgPool, id: InstanceId<Ballot>) -> Option<i32> {
    let more = "select awaits_more from gen_durable.instances where id = $1";
    sqlx::query_scalar(more).bind(id.get()).fetch_one(pool).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn p37_the_last_of_the_awaited_signals_wakes_the_instance() {
    let db = database().await;
    let pool = db.pool();
    let engine = start(&db).await;
    let id = Ballot::insert(wanted(4)).unique_key("k").execute(&engine).await.unwrap();
    until(pool, id, "awaiting_signal").await;
    vote(pool, id, 1).await;
    // Others do not count, and duplicates count once.
    Ballot::signal_noise(id, Noise).execute(pool).await.unwrap();
    for _ in 0..2 {
        let sent = Ballot::signal_vote(Ballot::by_key("k"), Vote(2)).dedup_key("two");
        sent.execute(&engine).await.unwrap();
    }
    assert_eq!(more(pool, id).await, Some(2));
    let start = || Ballot::insert(wanted(1)).unique_key("k");
    start().with_signal(Vote(3)).execute(&engine).await.unwrap();
    start().with_signal(Noise).execute(&engine).await.unwrap();
    assert_eq!(more(pool, id).await, Some(1));
    assert_eq!(row(pool, id).await.status, "awaiting_signal");
    start().with_signal(Vote(4)).execute(&engine).await.unwrap();
    assert_eq!(engine.wait(id, WAIT_MAX).await.unwrap(), (vec![1, 2, 3, 4], 2));
    assert_eq!(more(pool, id).await, None);
    // The votes are there before the instance parks.
    let id = Ballot::insert(wanted(3)).queue("later").execute(pool).await.unwrap();
    for n in 0..3 {
        vote(pool, id, n).await;
    }
    sql(pool, "update gen_durable.instances set queue = 'default'").await;
    assert_eq!(engine.wait(id, WAIT_MAX).await.unwrap(), (vec![0, 1, 2], 1));
    engine.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn p37_a_count_may_time_out_and_leaves_the_signals() {
    let db = database().await;
    let pool = db.pool();
    let engine = start(&db).await;
    let id = Ballot::insert(wanted(3)).step(Ballot::InTime).execute(&engine).await.unwrap();
    until(pool, id, "awaiting_signal").await;
    vote(pool, id, 1).await;
    vote(pool, id, 2).await;
    assert_eq!(engine.wait(id, WAIT_MAX).await.unwrap(), (vec![1, 2], 0));
    assert_eq!(more(pool, id).await, None);
    engine.shutdown().await.unwrap();
}

/// A signal that a step has taken does not count.
#[tokio::test(flavor = "multi_thread")]
async fn p37_only_signals_that_are_not_consumed_count() {
    let db = database().await;
    let pool = db.pool();
    let engine = start(&db).await;
    let id = Ballot::insert(wanted(4)).step(Ballot::OneByOne).execute(&engine).await.unwrap();
    until(pool, id, "awaiting_signal").await;
    vote(pool, id, 1).await;
    // It took one, and awaits three more.
    eventually("it awaits three", async || (more(pool, id).await == Some(3)).then_some(())).await;
    for n in [2, 3, 4] {
        vote(pool, id, n).await;
    }
    assert_eq!(engine.wait(id, WAIT_MAX).await.unwrap(), (vec![2, 3, 4], 3));
    engine.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn p37_awaiting_what_was_seen_is_an_error() {
    let db = database().await;
    let pool = db.pool();
    let engine = start(&db).await;
    for (wants, votes, message) in [
        (0, 0, "`await_count` awaits 0 signals `vote`, and the step has seen 0"),
        (2, 2, "`await_count` awaits 2 signals `vote`, and the step has seen 2"),
        (3_000_000_000, 0, "`await_count` awaits 3000000000 signals `vote`"),
    ] {
        let id = Ballot::insert(wanted(wants)).step(Ballot::Seen).queue("later");
        let id = id.execute(pool).await.unwrap();
        for n in 0..votes {
            vote(pool, id, n).await;
        }
        sql(pool, "update gen_durable.instances set queue = 'default'").await;
        let error = engine.wait(id, WAIT_MAX).await.unwrap_err().to_string();
        assert!(error.contains(&format!("Rejected: {message}")), "{error}");
    }
    engine.shutdown().await.unwrap();
}

/// A step may gather more signals than come with its claim. Each portion is loaded on the same
/// claim.
#[tokio::test(flavor = "multi_thread")]
async fn p37_a_step_gathers_thousands() {
    const MANY: usize = 6_000;
    let db = database().await;
    let pool = db.pool();
    let engine = start(&db).await;
    let id = Ballot::insert(wanted(MANY)).execute(&engine).await.unwrap();
    until(pool, id, "awaiting_signal").await;
    sqlx::query(
        "insert into gen_durable.signals (target_id, name, payload)
         select $1, 'vote', n::text::json from generate_series(2, $2) as n",
    )
    .bind(id.get())
    .bind(i64::try_from(MANY).unwrap())
    .execute(pool)
    .await
    .unwrap();
    sql(pool, "update gen_durable.instances set awaits_more = 1").await;
    vote(pool, id, 1).await;
    let (votes, _) = engine.wait(id, WAIT_MAX).await.unwrap();
    assert_eq!(votes.len(), MANY);
    assert_eq!(votes.last(), Some(&1));
    engine.shutdown().await.unwrap();
}

/// Votes come after the snapshot of the step's transaction, before its outcome is applied.
#[tokio::test(flavor = "multi_thread")]
async fn p37_votes_that_a_transaction_does_not_see_count() {
    let db = database().await;
    let pool = db.pool();
    let at = Arc::new(Breakpoint::new());
    let engine = engine(&db).machine::<Ballot>().resource(Arc::clone(&at)).start().await.unwrap();
    for step in ["committed", "repeatable", "serializable"] {
        for early in 0..3 {
            let insert = Ballot::insert(wanted(2)).step(Ballot::from_name(step).unwrap());
            let id = insert.execute(&engine).await.unwrap();
            assert_eq!(at.arrival().await, id.get());
            for n in 0..early {
                vote(pool, id, n).await;
            }
            at.open(1);
            if early < 2 {
                until(pool, id, "awaiting_signal").await;
                assert_eq!(more(pool, id).await, Some(2 - i32::try_from(early).unwrap()));
            }
            for n in early..2 {
                vote(pool, id, n).await;
            }
            assert_eq!(engine.wait(id, WAIT_MAX).await.unwrap(), (vec![0, 1], 2), "{step} {early}");
        }
    }
    engine.shutdown().await.unwrap();
}

/// A delivery holds the instance's lock when it parks, and commits before the park or after it. In
/// either case each vote counts once.
#[tokio::test(flavor = "multi_thread")]
async fn p37_a_park_and_a_delivery_count_each_vote_once() {
    let db = database().await;
    let pool = db.pool();
    let at = Arc::new(Breakpoint::new());
    let engine = engine(&db).machine::<Ballot>().resource(Arc::clone(&at)).start().await.unwrap();
    for step in [Ballot::Committed, Ballot::Serializable] {
        let id = Ballot::insert(wanted(2)).step(step).execute(&engine).await.unwrap();
        assert_eq!(at.arrival().await, id.get());
        let mut delivery = pool.begin().await.unwrap();
        Ballot::signal_vote(id, Vote(0)).execute(&mut *delivery).await.unwrap();
        at.open(1);
        until_a_session_waits(pool, 1).await;
        delivery.commit().await.unwrap();
        eventually("it awaits one", async || (more(pool, id).await == Some(1)).then_some(())).await;
        vote(pool, id, 1).await;
        let (votes, _) = engine.wait(id, WAIT_MAX).await.unwrap();
        assert_eq!(votes, [0, 1]);
    }
    engine.shutdown().await.unwrap();
}
