//! Reports: an instance hears once of each end of its children, whatever ends them.

mod faults;
mod nests;

use std::sync::Arc;

use gen_durable::prelude::*;

use crate::support::{Breakpoint, WAIT_MAX, database, engine, eventually, log, row, sql};

/// The way in which a child ends.
#[derive(Clone, Debug, PartialEq, DurableState)]
pub enum Deed {
    Done(i64),
    Stop,
    Fail,
    Panic,
    /// Fails, and `handle` fails too.
    FailTwice,
    /// Ends with a result, in a transaction.
    DoneInside,
    /// Waits at the breakpoint in a serializable transaction, and is then done.
    Isolated,
    /// Waits at the breakpoint in a transaction, and ends with a signal to another child.
    Signal(i64),
    /// Fails in a transaction of its own.
    FailInside,
    /// Waits at the breakpoint, and is then done.
    Stand,
    /// Awaits a signal that never comes.
    Wait,
}

#[derive(Clone, Debug, DurableSignal)]
pub struct Word(String);

#[durable_fsm(state = Deed, output = i64, signals(Word))]
pub enum Parcel {
    Act,
    Inside,
    Isolated,
}

#[durable_fsm]
impl Parcel {
    async fn act(cx: Context<Self>, breakpoint: &Arc<Breakpoint>) -> StepResult<Self> {
        let id = cx.id();
        Ok(match cx.state.clone() {
            Deed::Done(result) => cx.done(result),
            Deed::Stop => cx.stop("stopped"),
            Deed::Fail | Deed::FailTwice => return Err("it fails".into()),
            Deed::Panic => panic!("it panics"),
            Deed::DoneInside | Deed::FailInside | Deed::Signal(_) => cx.next(Parcel::Inside),
            Deed::Isolated => cx.next(Parcel::Isolated),
            Deed::Stand => {
                breakpoint.pass(id).await;
                cx.done(1)
            }
            Deed::Wait => cx.await_signal::<Word>(),
        })
    }

    async fn inside(
        cx: Context<Self>,
        tx: &mut PgConnection,
        breakpoint: &Arc<Breakpoint>,
    ) -> StepResult<Self> {
        sqlx::query("select 1").execute(tx).await?;
        if let Deed::Signal(other) = cx.state {
            breakpoint.pass(cx.id()).await;
            let other = InstanceId::from_raw(other);
            return Ok(cx.done(2).signal(Parcel::signal_word(other, Word("hi".into()))));
        }
        if cx.state == Deed::FailInside {
            return Err("it fails inside".into());
        }
        Ok(cx.done(2))
    }

    #[step(isolation = "serializable")]
    async fn isolated(
        cx: Context<Self>,
        tx: &mut PgConnection,
        breakpoint: &Arc<Breakpoint>,
    ) -> StepResult<Self> {
        sqlx::query("select 1").execute(tx).await?;
        breakpoint.pass(cx.id()).await;
        Ok(cx.done(3))
    }

    async fn handle(cx: Context<Self>, error: StepError) -> StepResult<Self> {
        if cx.state == Deed::FailTwice {
            return Err("`handle` fails too".into());
        }
        Ok(cx.stop(error))
    }
}

/// A report, as the parent notes it: the child's id, its unique key, and its result or why there is
/// none.
pub type Heard = (i64, Option<String>, Result<i64, String>);

/// Spawns its children, and is done when it has heard of all of them.
#[durable_fsm(state = Vec<Deed>, output = Vec<Heard>, signals(Ended<Parcel>))]
pub enum Parent {
    Spawn,
    Join,
    /// Waits at the breakpoint, and then spawns.
    Wait,
}

#[durable_fsm]
impl Parent {
    async fn spawn(cx: Context<Self>) -> Outcome<Self> {
        let children = Parcel::insert_many(cx.state.clone());
        cx.next(Parent::Join).spawn(children)
    }

    #[step(entry)]
    async fn join(mut cx: Context<Self>) -> StepResult<Self> {
        let wanted = cx.state.len();
        let Some(reports) = cx.gather::<Ended<Parcel>>(wanted)? else {
            return Ok(cx.await_count::<Ended<Parcel>>(wanted));
        };
        Ok(cx.done(reports.iter().map(heard).collect()))
    }

    #[step(entry)]
    async fn wait(cx: Context<Self>, breakpoint: &Arc<Breakpoint>) -> Outcome<Self> {
        breakpoint.pass(cx.id()).await;
        let children = Parcel::insert_many(cx.state.clone());
        cx.next(Parent::Join).spawn(children)
    }
}

pub fn heard(report: &Ended<Parcel>) -> Heard {
    let result = report.result().map_err(|why| why.to_string());
    (report.id().get(), report.unique_key().map(str::to_owned), result)
}

/// Returns the results that a parent has heard of, in the order of its children.
async fn results(engine: &Engine, parent: InstanceId<Parent>) -> Vec<Result<i64, String>> {
    let mut all = engine.wait(parent, WAIT_MAX).await.unwrap();
    all.sort_by_key(|(id, ..)| *id);
    all.into_iter().map(|(_, _, result)| result).collect()
}

fn machines(builder: gen_durable::EngineBuilder) -> gen_durable::EngineBuilder {
    builder.machine::<Parcel>().machine::<Parent>().resource(Arc::new(Breakpoint::new()))
}

#[tokio::test(flavor = "multi_thread")]
async fn p37_each_way_to_end_is_reported_once() {
    let db = database().await;
    let engine = machines(engine(&db)).start().await.unwrap();
    let deeds = vec![
        Deed::Done(7),
        Deed::Stop,
        Deed::Fail,
        Deed::Panic,
        Deed::FailTwice,
        Deed::DoneInside,
        Deed::FailInside,
    ];
    let parent = Parent::insert(deeds).execute(&engine).await.unwrap();
    let failed = |n: i64, why: &str| Err(format!("instance {} failed: {why}", parent.get() + n));
    assert_eq!(
        results(&engine, parent).await,
        [
            Ok(7),
            failed(2, "stopped"),
            failed(3, "it fails"),
            failed(4, "panicked: it panics"),
            failed(5, "it fails; then `handle` failed: `handle` fails too"),
            Ok(2),
            failed(7, "it fails inside"),
        ]
    );
    assert_eq!(row(db.pool(), parent).await.attempt, 0);
    engine.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn p37_stored_data_that_does_not_decode_is_reported() {
    let db = database().await;
    let pool = db.pool();
    let parent = Parent::insert(vec![Deed::Wait; 3]).step(Parent::Join).execute(pool).await;
    let parent = parent.unwrap();
    for _ in 0..3 {
        Parcel::insert(Deed::Done(1)).report_to(parent).execute(pool).await.unwrap();
    }
    // A state that does not decode, a step that does not exist, and a result of another version.
    sql(
        pool,
        "update gen_durable.instances set state = '\"Dance\"' where id = 2;
         update gen_durable.instances set step = 'sing' where id = 3;
         create function odd() returns trigger language plpgsql as $$
         begin
             new.result = '\"odd\"';
             return new;
         end $$;
         create trigger odd before update on gen_durable.instances for each row
         when (new.id = 4 and new.status = 'done') execute function odd()",
    )
    .await;
    let engine = machines(engine(&db)).start().await.unwrap();
    let heard = results(&engine, parent).await;
    let is = |n: usize, text: &str| {
        let why = heard[n].as_ref().unwrap_err();
        assert!(why.contains(text), "{why}");
    };
    is(0, "instance 2 failed: state does not decode");
    is(1, "instance 3 failed: machine `parcel` version 1 has no step `sing`");
    is(2, "result does not decode");
    engine.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn p37_a_receiver_is_named_by_its_id_or_its_unique_key() {
    let db = database().await;
    let pool = db.pool();
    let engine = machines(engine(&db)).start().await.unwrap();
    let error = Parcel::insert(Deed::Done(1)).report_to(Parent::by_key("k")).execute(pool).await;
    let nobody = |error: &dyn std::fmt::Display| {
        assert_eq!(
            error.to_string(),
            "no instance of machine `parent` holds the unique key `k`, so there is nobody to report to; insert the receiver first, or name it by its id"
        );
    };
    nobody(&error.unwrap_err());
    let child = || Parcel::insert(Deed::Done(1)).report_to(Parent::by_key("k"));
    nobody(&child().execute(&engine).await.unwrap_err());
    nobody(&Parcel::insert_many([child()]).execute(&engine).await.unwrap_err());
    let mut transaction = pool.begin().await.unwrap();
    nobody(&child().execute(&mut *transaction).await.unwrap_err());
    let with_signal = child().unique_key("c").with_signal(Word("w".into()));
    let error = with_signal.execute(&engine).await.unwrap_err();
    assert!(
        matches!(&error, SignalError::NoHolder { machine, key } if machine == "parent" && key == "k")
    );
    drop(transaction);

    let parent = Parent::insert(vec![Deed::Wait; 6]).step(Parent::Join).unique_key("k");
    let parent = parent.execute(&engine).await.unwrap();
    let by_id = Parcel::insert(Deed::Done(2)).report_to(parent).unique_key("two");
    by_id.execute(&engine).await.unwrap();
    child().execute(pool).await.unwrap();
    child().execute(&engine).await.unwrap();
    Parcel::insert_many([child()]).execute(&engine).await.unwrap();
    let mut transaction = pool.begin().await.unwrap();
    child().execute(&mut *transaction).await.unwrap();
    transaction.commit().await.unwrap();
    let with_signal = child().unique_key("c").with_signal(Word("w".into()));
    with_signal.execute(&engine).await.unwrap();
    let mut heard = engine.wait(parent, WAIT_MAX).await.unwrap();
    heard.sort_by_key(|(id, ..)| *id);
    let keys: Vec<_> = heard.iter().map(|(_, key, _)| key.as_deref()).collect();
    assert_eq!(keys, [Some("two"), None, None, None, None, Some("c")]);
    let results: Vec<_> = heard.into_iter().map(|(.., result)| result).collect();
    assert_eq!(results, [Ok(2), Ok(1), Ok(1), Ok(1), Ok(1), Ok(1)]);
    engine.shutdown().await.unwrap();
}

/// Reports to an ended, a missing and the instance's own row are dropped, and logged.
#[tokio::test(flavor = "multi_thread")]
async fn p37_a_report_without_a_live_receiver_is_dropped() {
    log();
    let db = database().await;
    let pool = db.pool();
    let ended = Parent::insert(vec![]).step(Parent::Join).execute(pool).await.unwrap();
    sql(pool, "update gen_durable.instances set status = 'done', finished_at = now()").await;
    let own = InstanceId::<Parent>::from_raw(ended.get() + 1);
    let missing = InstanceId::<Parent>::from_raw(1000);
    let mut children = Vec::new();
    for receiver in [own, ended, missing] {
        for deed in [Deed::Done(1), Deed::DoneInside, Deed::Stop] {
            let child = Parcel::insert(deed).report_to(receiver).execute(pool).await.unwrap();
            children.push(child);
        }
    }
    let engine = machines(engine(&db)).start().await.unwrap();
    for child in children {
        eventually("it ends", async || {
            ["done", "failed"].contains(&&*row(pool, child).await.status).then_some(())
        })
        .await;
    }
    let signals: i64 = sqlx::query_scalar("select count(*) from gen_durable.signals")
        .fetch_one(pool)
        .await
        .unwrap();
    assert_eq!(signals, 0);
    engine.shutdown().await.unwrap();
}
