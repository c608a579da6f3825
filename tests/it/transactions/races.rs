//! Races of a step's transaction: with deliveries, at each isolation level; with a COMMIT whose
//! answer is lost; with the next row of its partition key.

use std::{sync::Arc, time::Duration};

use gen_durable::{Upgrade, UpgradeError, prelude::*};
use gen_durable_tests::proxy::{Direction, Effect};
use sqlx::PgPool;

use super::{Word, book, entries, write};
use crate::{
    networks::behind,
    support::{Breakpoint, WAIT_MAX, database, engine, eventually, proxy, row, sql, until},
};

/// The way in which a step of [`Late`] ends, if it has heard nothing.
#[derive(Clone, Copy, Debug, PartialEq, DurableState)]
pub enum End {
    Next,
    Await,
    Done,
    /// Signals itself in its own transaction, and parks.
    SignalSelf,
    /// Signals itself in its own transaction, and is done.
    SelfDone,
    /// Takes a signal, and parks for another one.
    Again,
    /// Ends, inserts an instance and signals the one that holds the key `ear`.
    Carry,
}

/// Takes its snapshot, waits at the breakpoint, and ends as its state says.
#[durable_fsm(state = End, output = String, signals(Word))]
pub enum Late {
    #[allow(dead_code, reason = "it is the initial step")]
    Committed,
    Repeatable,
    Serializable,
    Hear,
}

async fn late(
    mut cx: Context<Late>,
    breakpoint: &Breakpoint,
    tx: &mut PgConnection,
) -> StepResult<Late> {
    let (id, end) = (cx.id(), cx.state);
    let heard = cx.take_signal()?;
    if let Some(Word(word)) = heard.filter(|_| end != End::Again || cx.count_signals::<Word>() > 0)
    {
        return Ok(cx.done(word));
    }
    sqlx::query("select count(*) from public.book").execute(&mut *tx).await?;
    breakpoint.pass(id).await;
    write(&mut *tx, id.get(), "belated").await?;
    Ok(match end {
        End::Next => cx.next(Late::Hear),
        End::Await | End::Again => cx.await_signal::<Word>(),
        End::Done => cx.done("deaf".to_owned()),
        End::SignalSelf | End::SelfDone => {
            Late::signal_word(id, Word("own".into())).execute(&mut *tx).await?;
            if end == End::SelfDone {
                cx.done("deaf".to_owned())
            } else {
                cx.await_signal::<Word>()
            }
        }
        End::Carry => {
            let ear = Late::signal_word(Late::by_key("ear"), Word("carried".into()));
            let child = Late::insert(End::Done).step(Late::Hear).unique_key("child");
            cx.done("carried".to_owned()).insert(child).signal(ear)
        }
    })
}

#[durable_fsm]
impl Late {
    #[step(next(Hear), entry)]
    async fn committed(
        cx: Context<Self>,
        at: &Arc<Breakpoint>,
        tx: &mut PgConnection,
    ) -> StepResult<Self> {
        late(cx, at, tx).await
    }

    #[step(isolation = "repeatable read", next(Hear), entry)]
    async fn repeatable(
        cx: Context<Self>,
        tx: &mut PgConnection,
        at: &Arc<Breakpoint>,
    ) -> StepResult<Self> {
        late(cx, at, tx).await
    }

    #[step(isolation = "serializable", next(Hear), entry)]
    async fn serializable(
        cx: Context<Self>,
        at: &Arc<Breakpoint>,
        tx: &mut PgConnection,
    ) -> StepResult<Self> {
        late(cx, at, tx).await
    }

    /// Has to hear at once.
    async fn hear(mut cx: Context<Self>) -> StepResult<Self> {
        match cx.take_signal()? {
            Some(Word(word)) => Ok(cx.done(word)),
            None => Ok(cx.stop("nothing to hear")),
        }
    }
}

const STEPS: [Late; 3] = [Late::Committed, Late::Repeatable, Late::Serializable];

/// A signal comes after the step's snapshot. A park wakes for it, a next step sees it at once, and
/// an ended instance has no inbox.
#[tokio::test(flavor = "multi_thread")]
async fn p36_a_delivery_after_the_snapshot_is_seen_at_each_level() {
    let db = database().await;
    let pool = book(&db).await;
    let at = Arc::new(Breakpoint::new());
    let engine = engine(&db).machine::<Late>().resource(Arc::clone(&at)).start().await.unwrap();
    for step in STEPS {
        let name = step.name();
        let stale = !step_is_fresh(name);
        for end in [End::Next, End::Await, End::Done, End::SignalSelf, End::SelfDone] {
            let insert = Late::insert(end).step(Late::from_name(name).unwrap());
            let id = insert.execute(&engine).await.unwrap();
            assert_eq!(at.arrival().await, id.get());
            if end != End::SignalSelf {
                Late::signal_word(id, Word("heard".into())).execute(&engine).await.unwrap();
            }
            at.open(1);
            if matches!(end, End::Done | End::SelfDone) && stale {
                // Its snapshot does not show the signal, so it runs again.
                assert_eq!(at.arrival().await, id.get());
                at.open(1);
            }
            let heard = engine.wait(id, WAIT_MAX).await.unwrap();
            let expected = match end {
                End::Next | End::Await => "heard",
                End::Done | End::SelfDone => "deaf",
                End::SignalSelf => "own",
                End::Again | End::Carry => unreachable!("they have tests of their own"),
            };
            assert_eq!(heard, expected, "{name} {end:?}");
            assert_eq!(entries(&pool, id).await, ["belated"], "{name} {end:?}");
            let row = row(&pool, id).await;
            assert_eq!((row.inbox, row.attempt), (0, 0), "{name} {end:?}");
        }
    }
    engine.shutdown().await.unwrap();
}

/// A step takes a signal and parks for another one. It does not wake for the one that it has taken.
#[tokio::test(flavor = "multi_thread")]
async fn p36_a_park_does_not_wake_for_what_its_step_has_taken() {
    let db = database().await;
    let pool = book(&db).await;
    let at = Arc::new(Breakpoint::new());
    at.open(10);
    let engine = engine(&db).machine::<Late>().resource(Arc::clone(&at)).start().await.unwrap();
    for step in STEPS {
        let name = step.name();
        let insert = Late::insert(End::Again).step(step).schedule_in(Duration::from_millis(50));
        let id = insert.execute(&engine).await.unwrap();
        Late::signal_word(id, Word("taken".into())).execute(&engine).await.unwrap();
        until(&pool, id, "awaiting_signal").await;
        assert_eq!(at.arrival().await, id.get());
        let again = row(&pool, id).await;
        assert_eq!((&*again.status, again.inbox), ("awaiting_signal", 0), "{name}");
        assert_eq!(entries(&pool, id).await, ["belated"], "{name}: it ran once");
    }
    engine.shutdown().await.unwrap();
}

/// An outcome carries an insert and a signal. They take effect with the step's rows: not while the
/// worker has lost the row, and once after that.
#[tokio::test(flavor = "multi_thread")]
async fn p36_an_outcome_carries_inserts_and_signals_at_each_level() {
    let db = database().await;
    let pool = book(&db).await;
    for step in STEPS {
        let name = step.name();
        let at = Arc::new(Breakpoint::new());
        let engine = engine(&db).machine::<Late>().resource(Arc::clone(&at));
        let engine = engine.start().await.unwrap();
        let ear = Late::insert(End::Await).step(Late::Committed).unique_key("ear");
        let ear = ear.execute(&engine).await.unwrap();
        at.arrival().await;
        at.open(1);
        until(&pool, ear, "awaiting_signal").await;
        let id = Late::insert(End::Carry).step(step).execute(&engine).await.unwrap();
        assert_eq!(at.arrival().await, id.get());
        // This is what a reap does to the row of a lost worker.
        sqlx::query(
            "update gen_durable.instances set status = 'runnable', locked_by = null,
             revision = revision + 1, eligible_at = gen_durable.now() where id = $1",
        )
        .bind(id.get())
        .execute(&pool)
        .await
        .unwrap();
        at.open(1);
        // Another run has begun, and the first one has come to its end. Above `read committed` that
        // is a conflict, and it begins again.
        assert_eq!(at.arrival().await, id.get());
        let children = async || {
            let children = "select count(*) from gen_durable.instances where step = 'hear'";
            sqlx::query_scalar::<_, i64>(children).fetch_one(&pool).await.unwrap()
        };
        assert_eq!(children().await, 0, "{name}");
        assert_eq!(row(&pool, ear).await.status, "awaiting_signal", "{name}");
        at.open(100);
        assert_eq!(engine.wait(id, WAIT_MAX).await.unwrap(), "carried");
        assert_eq!(engine.wait(ear, WAIT_MAX).await.unwrap(), "carried", "{name}");
        eventually("the other run is dropped", async || {
            (engine.metrics().lost_commits == 1).then_some(())
        })
        .await;
        assert_eq!(children().await, 1, "{name}");
        assert_eq!(entries(&pool, id).await, ["belated"], "{name}");
        engine.shutdown().await.unwrap();
        sql(&pool, "delete from gen_durable.instances").await;
    }
}

/// True if a step of [`Late`] sees what was committed after it began.
fn step_is_fresh(name: &str) -> bool {
    name == Late::Committed.name()
}

/// The answer of COMMIT is lost, or COMMIT never arrives. Either way the entry is there once.
#[tokio::test(flavor = "multi_thread")]
async fn p36_a_commit_whose_answer_is_lost_takes_effect_once() {
    let db = database().await;
    let pool = book(&db).await;
    let proxy = proxy().await;
    let at = Arc::new(Breakpoint::new());
    for (effect, runs) in [(Effect::LoseAnswer, 1), (Effect::CutBefore, 2)] {
        for end in [End::Next, End::Await, End::Done] {
            for step in ["committed", "serializable"] {
                let engine = behind(&proxy, &db)
                    .machine::<Late>()
                    .resource(Arc::clone(&at))
                    .maintenance(false)
                    .poll_interval(Duration::from_mins(1));
                let engine = engine.start().await.unwrap();
                let insert = Late::insert(end).step(Late::from_name(step).unwrap());
                let id = insert.execute(&pool).await.unwrap();
                assert_eq!(at.arrival().await, id.get());
                let sprung = proxy.trap_commit(effect);
                at.open(1);
                sprung.await.expect("the commit goes by");
                if runs == 2 {
                    assert_eq!(at.arrival().await, id.get());
                    at.open(1);
                }
                let status = match end {
                    End::Next => "failed",
                    End::Await => "awaiting_signal",
                    _ => "done",
                };
                let row = until(&pool, id, status).await;
                assert_eq!((row.attempt, row.crashes), (0, 0), "{effect:?} {end:?} {step}");
                assert_eq!(entries(&pool, id).await, ["belated"], "{effect:?} {end:?} {step}");
                engine.shutdown().await.unwrap();
                sql(&pool, "delete from gen_durable.instances").await;
            }
        }
    }
}

/// The answer of COMMIT is lost, and the instance has a partition key. Its next row runs all the
/// same, without a look of maintenance.
#[tokio::test(flavor = "multi_thread")]
async fn p36_a_key_is_freed_if_the_answer_of_commit_is_lost() {
    let db = database().await;
    let pool = book(&db).await;
    let proxy = proxy().await;
    let at = Arc::new(Breakpoint::new());
    let engine = behind(&proxy, &db).machine::<Late>().resource(Arc::clone(&at));
    let engine = engine.maintenance(false).poll_interval(Duration::from_mins(10));
    let engine = engine.start().await.unwrap();
    for step in STEPS {
        let insert = |step| Late::insert(End::Done).step(step).partition_key("k");
        let first = insert(step).execute(&engine).await.unwrap();
        assert_eq!(at.arrival().await, first.get());
        let next = insert(Late::Hear).execute(&engine).await.unwrap();
        until_blocked(&pool, next).await;
        let sprung = proxy.trap_commit(Effect::LoseAnswer);
        at.open(1);
        sprung.await.expect("the commit goes by");
        until(&pool, first, "done").await;
        until(&pool, next, "failed").await;
    }
    engine.shutdown().await.unwrap();
}

async fn until_blocked(pool: &PgPool, id: InstanceId<Late>) {
    eventually("the claim has blocked the row", async || {
        let blocked = "select blocked_by <> 0 from gen_durable.instances where id = $1";
        let blocked: bool =
            sqlx::query_scalar(blocked).bind(id.get()).fetch_one(pool).await.unwrap();
        blocked.then_some(())
    })
    .await;
}

/// The connection is cut before the outcome arrives, or while the step runs its own statement.
#[tokio::test(flavor = "multi_thread")]
async fn p36_a_connection_that_breaks_reruns_the_step() {
    let db = database().await;
    let pool = book(&db).await;
    let proxy = proxy().await;
    let at = Arc::new(Breakpoint::new());
    let engine = behind(&proxy, &db).machine::<Late>().resource(Arc::clone(&at));
    let engine = engine.start().await.unwrap();
    let id = Late::insert(End::Done).step(Late::Committed).execute(&pool).await.unwrap();
    assert_eq!(at.arrival().await, id.get());
    for text in ["deaf", "belated"] {
        let sprung = proxy.trap(Direction::Request, text, Effect::CutBefore);
        at.open(1);
        sprung.await.expect("the outcome, or the step's own insert, goes by");
        assert_eq!(at.arrival().await, id.get());
    }
    at.open(1);
    assert_eq!(engine.wait(id, WAIT_MAX).await.unwrap(), "deaf");
    assert_eq!(entries(&pool, id).await, ["belated"]);
    assert_eq!(row(&pool, id).await.attempt, 0);
    engine.shutdown().await.unwrap();
}

/// The next row of the partition key is inserted after the step's snapshot. It runs without a look
/// of maintenance.
#[tokio::test(flavor = "multi_thread")]
async fn p36_a_key_is_freed_at_each_level() {
    let db = database().await;
    let pool = book(&db).await;
    let at = Arc::new(Breakpoint::new());
    let engine = engine(&db).machine::<Late>().resource(Arc::clone(&at)).maintenance(false);
    let engine = engine.poll_interval(Duration::from_mins(10)).start().await.unwrap();
    for step in STEPS {
        let insert = |end| Late::insert(end).partition_key("k");
        let first = insert(End::Done).step(step).execute(&engine).await.unwrap();
        assert_eq!(at.arrival().await, first.get());
        let next = insert(End::Done).step(Late::Hear).execute(&engine).await.unwrap();
        until_blocked(&pool, next).await;
        at.open(1);
        engine.wait(first, WAIT_MAX).await.unwrap();
        until(&pool, next, "failed").await;
    }
    engine.shutdown().await.unwrap();
}

/// A job that takes a transaction.
#[durable_job(isolation = "serializable", retry(max_attempts = 2, initial = "1ms"))]
async fn note_down(cx: JobContext<String>, tx: &mut PgConnection) -> Result<i64, StepError> {
    write(&mut *tx, cx.id().get(), &cx.state).await?;
    if cx.attempt() == 0 {
        return Err("not yet".into());
    }
    let level: String =
        sqlx::query_scalar("show transaction_isolation").fetch_one(&mut *tx).await?;
    assert_eq!(level, "serializable");
    Ok(sqlx::query_scalar("select count(*) from public.book").fetch_one(&mut *tx).await?)
}

#[tokio::test(flavor = "multi_thread")]
async fn p36_a_job_takes_a_transaction() {
    let db = database().await;
    let pool = book(&db).await;
    let engine = engine(&db).machine::<NoteDown>().start().await.unwrap();
    let id = NoteDown::insert("noted".to_owned()).execute(&engine).await.unwrap();
    assert_eq!(engine.wait(id, WAIT_MAX).await.unwrap(), 1, "the first run's entry is gone");
    assert_eq!(entries(&pool, id).await, ["noted"]);
    engine.shutdown().await.unwrap();
}

mod v1 {
    use gen_durable::prelude::*;

    #[durable_fsm(name = "grown", state = i32, output = i32)]
    pub enum Grown {
        Old,
    }

    #[durable_fsm]
    impl Grown {
        async fn old(cx: Context<Self>) -> Outcome<Self> {
            let n = cx.state;
            cx.done(n)
        }
    }
}

#[durable_fsm(name = "grown", version = 2, upgrades = v1::Grown, state = i64, output = i64)]
pub enum Grown {
    New,
}

impl Upgrade<v1::Grown> for Grown {
    fn upgrade(_: v1::Grown, state: i32) -> Result<(Self, i64), UpgradeError> {
        Ok((Grown::New, i64::from(state) + 1))
    }
}

#[durable_fsm]
impl Grown {
    async fn new(cx: Context<Self>, tx: &mut PgConnection) -> StepResult<Self> {
        write(&mut *tx, cx.id().get(), "grown").await?;
        let n = cx.state;
        Ok(cx.done(n))
    }
}

/// Only the upgrade tells that the instance stands at a step that takes a transaction.
#[tokio::test(flavor = "multi_thread")]
async fn p36_an_upgraded_instance_runs_in_a_transaction() {
    let db = database().await;
    let pool: PgPool = book(&db).await;
    let id = v1::Grown::insert(7).execute(&pool).await.unwrap();
    let engine = engine(&db).machine::<Grown>().start().await.unwrap();
    until(&pool, id.get(), "done").await;
    assert_eq!(row(&pool, id.get()).await.result, Some(8.into()));
    assert_eq!(entries(&pool, id.get()).await, ["grown"]);
    engine.shutdown().await.unwrap();
}
