//! Reports: an instance hears once of each end of its children, whatever ends them.

use std::{sync::Arc, time::Duration};

use gen_durable::prelude::*;
use gen_durable_tests::proxy::{Direction, Effect};

use crate::{
    networks::behind,
    support::{
        Breakpoint, WAIT_MAX, database, deadlocks, engine, eventually, log, lose_worker, proxy,
        row, sql, until,
    },
};

/// The way in which a child ends.
#[derive(Clone, Debug, PartialEq, DurableState)]
pub enum Deed {
    Done(i64),
    Stop,
    Fail,
    Panic,
    /// Fails, and `handle` fails too.
    FailTwice,
    /// Is done in a transaction of its own.
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

/// The reaper fails a child that has lost too many workers. If the receiver's row is locked, the
/// report comes later.
#[tokio::test(flavor = "multi_thread")]
async fn p37_a_child_that_loses_its_workers_is_reported() {
    let db = database().await;
    let pool = db.pool();
    let breakpoint = Arc::new(Breakpoint::new());
    let start = async |name: &str| {
        let builder = engine(&db).machine::<Parcel>().machine::<Parent>().crashes_max(1).name(name);
        let builder = builder.resource(Arc::clone(&breakpoint));
        builder.start().await.unwrap()
    };
    let first = start("first").await;
    let parent = Parent::insert(vec![Deed::Stand, Deed::Done(3)]).execute(&first).await.unwrap();
    let child = breakpoint.arrival().await;
    until(pool, parent, "awaiting_signal").await;
    let second = start("second").await;
    let mut holder = pool.begin().await.unwrap();
    sqlx::query("select from gen_durable.instances where id = $1 for update")
        .bind(parent.get())
        .execute(&mut *holder)
        .await
        .unwrap();
    let worker = row(pool, child).await.locked_by.unwrap();
    lose_worker(pool, worker, &second, child).await;
    assert_eq!(row(pool, child).await.status, "failed");
    assert_eq!(row(pool, parent).await.inbox, 1, "the receiver is locked");
    holder.commit().await.unwrap();
    second.maintain().await.unwrap();
    let heard = results(&second, parent).await;
    let why = "step act: its worker was lost 1 times in a row";
    assert_eq!(heard, [Err(format!("instance {child} failed: {why}")), Ok(3)]);
    breakpoint.open(1);
    first.shutdown().await.unwrap();
    second.shutdown().await.unwrap();
}

/// A receiver may be younger than the instances that report to it. Its row is locked in the order
/// of ids all the same.
#[tokio::test(flavor = "multi_thread")]
async fn p37_a_receiver_is_named_by_its_id_or_its_unique_key() {
    let db = database().await;
    let pool = db.pool();
    let engine = machines(engine(&db)).start().await.unwrap();
    let error = Parcel::insert(Deed::Done(1)).report_to(Parent::by_key("k")).execute(pool).await;
    let nobody = |error: &dyn std::fmt::Display| {
        assert_eq!(
            error.to_string(),
            "no instance of machine `parent` holds the unique key `k`, so there is nobody to report to"
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

#[tokio::test(flavor = "multi_thread")]
async fn p37_an_insert_cannot_report_to_itself_or_to_two() {
    let db = database().await;
    let own = Nest::insert(Nested::Rest).unique_key("k").report_to(Nest::by_key("k"));
    let error = own.execute(db.pool()).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "an instance cannot report to itself; name another receiver in report_to"
    );
    let other = Nest::insert(Nested::Rest).unique_key("k").report_to(Nest::by_key(""));
    let error = other.execute(db.pool()).await.unwrap_err();
    assert_eq!(error.to_string(), "report_to is empty; give it a value, or leave it out");
}

/// The way in which an instance of [`Nest`] spawns.
#[derive(Clone, Debug, PartialEq, DurableState)]
pub enum Nested {
    /// Is done at once.
    Rest,
    /// Spawns a child of this kind and goes on.
    Next(Box<Nested>),
    NextIn(Box<Nested>),
    /// Spawns a child and awaits its report in the same step.
    Await(Box<Nested>),
    Replay,
    Snooze,
    Done,
    Stop,
    /// Spawns a child that names another receiver.
    Two,
    /// Spawns a child that cannot be stored.
    Unstored,
    /// Spawns a child whose unique key is taken, and takes the report.
    Taken,
    /// Refuses to spawn such a child.
    Refuse,
    /// Does the same in a transaction.
    RefuseInside,
    /// Carries an insert that reports to the holder of a key, which nobody has.
    Nobody,
}

/// Spawns instances of its own machine, and is done with their results.
#[durable_fsm(state = Nested, output = String, signals(Ended<Nest>))]
pub enum Nest {
    Spawn,
    Inside,
    Join,
}

fn refused() -> Insert<Nest> {
    Nest::insert(Nested::Rest).unique_key("taken").refuse_if_taken()
}

#[durable_fsm]
impl Nest {
    async fn spawn(mut cx: Context<Self>) -> StepResult<Self> {
        let id = cx.id();
        let rest = || vec![Nest::insert(Nested::Rest)];
        Ok(match cx.state.clone() {
            Nested::Rest => cx.done("rest".to_owned()),
            Nested::Next(inner) => cx.next(Nest::Join).spawn([Nest::insert(*inner)]),
            Nested::NextIn(inner) => {
                let second = Duration::from_millis(1);
                cx.next_in(Nest::Join, second).spawn([Nest::insert(*inner)])
            }
            Nested::Await(inner) => match cx.take_signal::<Ended<Nest>>()? {
                Some(report) => cx.done(format!("await {}", report.result()?)),
                None => cx.await_signal::<Ended<Nest>>().spawn([Nest::insert(*inner)]),
            },
            Nested::Replay => cx.replay(Duration::ZERO).spawn(rest()),
            Nested::Snooze => cx.snooze(Duration::ZERO).spawn(rest()),
            Nested::Done => cx.done("done".to_owned()).spawn(rest()),
            Nested::Stop => cx.stop("stop").spawn(rest()),
            Nested::Two => {
                let child = Nest::insert(Nested::Rest).report_to(id);
                cx.next(Nest::Join).spawn([child])
            }
            Nested::Unstored => {
                let child = Nest::insert(Nested::Rest).unique_key("");
                cx.next(Nest::Join).spawn([child])
            }
            Nested::Taken => {
                let child = Nest::insert(Nested::Rest).unique_key("taken");
                cx.next(Nest::Join).spawn([child])
            }
            Nested::Refuse => cx.next(Nest::Join).spawn([refused()]),
            Nested::RefuseInside => cx.next(Nest::Inside),
            Nested::Nobody => {
                let child = Nest::insert(Nested::Rest).report_to(Nest::by_key("nobody"));
                cx.next(Nest::Join).insert(child)
            }
        })
    }

    async fn inside(cx: Context<Self>, _tx: &mut PgConnection) -> Outcome<Self> {
        cx.next(Nest::Join).spawn([refused()])
    }

    async fn join(mut cx: Context<Self>) -> StepResult<Self> {
        let Some(report) = cx.take_signal::<Ended<Nest>>()? else {
            return Ok(cx.await_signal::<Ended<Nest>>());
        };
        Ok(match report.result() {
            Ok(result) => cx.done(format!("join {result}")),
            Err(EndError::Taken { key, holder }) => {
                let text = format!("{key} is held by {holder}, {}", report.id());
                cx.done(text)
            }
            Err(why) => cx.stop(why),
        })
    }

    async fn handle(cx: Context<Self>, error: StepError) -> Outcome<Self> {
        let holder = error.downcast_ref::<Duplicate>().map(|duplicate| duplicate.id);
        let kind = error.kind();
        cx.done(format!("{kind:?} {holder:?}: {error}"))
    }
}

async fn nest(engine: &Engine, nested: Nested) -> String {
    let id = Nest::insert(nested).execute(engine).await.unwrap();
    engine.wait(id, WAIT_MAX).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn p37_an_outcome_spawns_if_its_instance_goes_on_to_hear_of_it() {
    let db = database().await;
    let engine = engine(&db).machine::<Nest>().start().await.unwrap();
    let boxed = |nested| Box::new(nested);
    assert_eq!(nest(&engine, Nested::Next(boxed(Nested::Rest))).await, "join rest");
    assert_eq!(nest(&engine, Nested::NextIn(boxed(Nested::Rest))).await, "join rest");
    let deep = Nested::Next(boxed(Nested::Await(boxed(Nested::Next(boxed(Nested::Rest))))));
    assert_eq!(nest(&engine, deep).await, "join await join rest");
    for nested in [Nested::Replay, Nested::Snooze, Nested::Done, Nested::Stop] {
        let answer = nest(&engine, nested).await;
        let expected = "Rejected None: only `next` and the awaits can `spawn`";
        assert!(answer.starts_with(expected), "{answer}");
    }
    let answer = nest(&engine, Nested::Two).await;
    assert!(answer.starts_with("Rejected None: a spawned insert reports to"), "{answer}");
    let answer = nest(&engine, Nested::Unstored).await;
    assert!(answer.starts_with("Rejected None: unique_key is empty"), "{answer}");
    let children: i64 = sqlx::query_scalar(
        "select count(*) from gen_durable.instances where report_to is not null",
    )
    .fetch_one(db.pool())
    .await
    .unwrap();
    assert_eq!(children, 5, "what was rejected has inserted nothing");
    engine.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn p37_a_child_whose_unique_key_is_taken_keeps_nobody_waiting() {
    let db = database().await;
    let pool = db.pool();
    let engine = engine(&db).machine::<Nest>().start().await.unwrap();
    let holder = Nest::insert(Nested::Rest).unique_key("taken").queue("nobody's");
    let holder = holder.execute(&engine).await.unwrap();
    let answer = nest(&engine, Nested::Taken).await;
    assert_eq!(answer, format!("taken is held by {holder}, {holder}"));
    for nested in [Nested::Refuse, Nested::RefuseInside] {
        let answer = nest(&engine, nested).await;
        assert_eq!(
            answer,
            format!(
                "Rejected Some({holder}): instance {holder} of machine `nest` holds the unique key already"
            )
        );
    }
    let answer = nest(&engine, Nested::Nobody).await;
    assert_eq!(
        answer,
        "Rejected None: an insert is to report to the instance of machine `nest` that holds the unique key `nobody`, and no instance holds it"
    );
    // Once the key is free, the same children are inserted.
    sql(pool, "update gen_durable.instances set status = 'done', unique_scope = null where status = 'runnable'").await;
    for nested in [Nested::Taken, Nested::Refuse, Nested::RefuseInside] {
        assert_eq!(nest(&engine, nested).await, "join rest");
    }
    engine.shutdown().await.unwrap();
}

/// A refused outcome does not take the others of its batch with it.
#[tokio::test(flavor = "multi_thread")]
async fn p37_a_refused_outcome_is_refused_alone() {
    let db = database().await;
    let builder = engine(&db).queue("default", 50).machine::<Nest>();
    let holder = Nest::insert(Nested::Rest).unique_key("taken").queue("nobody's");
    holder.execute(db.pool()).await.unwrap();
    let nested = (0..40).map(|n| match n % 4 {
        0 => Nested::Refuse,
        1 => Nested::Taken,
        _ => Nested::Next(Box::new(Nested::Rest)),
    });
    let ids = Nest::insert_many(nested).execute(db.pool()).await.unwrap();
    let engine = builder.start().await.unwrap();
    for (n, id) in ids.into_iter().enumerate() {
        let answer = engine.wait(id.unwrap(), WAIT_MAX).await.unwrap();
        let expected = ["Rejected Some(1)", "taken is held by 1", "join rest", "join rest"];
        assert!(answer.starts_with(expected[n % 4]), "{n}: {answer}");
    }
    engine.shutdown().await.unwrap();
}

/// Sends on a report that it got.
#[durable_fsm(output = String, signals(Ended<Nest>))]
pub enum Forger {
    Wait,
}

#[durable_fsm]
impl Forger {
    async fn wait(mut cx: Context<Self>) -> StepResult<Self> {
        let id = cx.id();
        match cx.take_signal::<Ended<Nest>>()? {
            Some(report) => Ok(cx.next(Forger::Wait).signal(Forger::signal(id, report))),
            None => Ok(cx.await_signal::<Ended<Nest>>()),
        }
    }

    async fn handle(cx: Context<Self>, error: StepError) -> Outcome<Self> {
        cx.done(error.to_string())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn p37_only_the_engine_reports() {
    let db = database().await;
    let engine = engine(&db).machine::<Nest>().machine::<Forger>().start().await.unwrap();
    let forger = Forger::insert(()).execute(&engine).await.unwrap();
    let payload = serde_json::json!({ "id": 1, "key": null, "status": "done", "result": "x" });
    let by_name = |name: &'static str, key: Option<&'static str>| {
        let (engine, payload) = (&engine, &payload);
        async move {
            let sent = engine.client().signal_by_name(forger.get(), name, payload, key).await;
            sent.unwrap_err().to_string()
        }
    };
    let reserved =
        "begins with `ended(`, as only the names of the engine's reports do; choose another one";
    assert_eq!(by_name("ended(nest)", None).await, format!("signal name {reserved}"));
    assert_eq!(by_name("x", Some("ended(1)")).await, format!("dedup_key {reserved}"));
    Nest::insert(Nested::Rest).report_to(forger).execute(&engine).await.unwrap();
    assert_eq!(engine.wait(forger, WAIT_MAX).await.unwrap(), format!("signal name {reserved}"));
    engine.shutdown().await.unwrap();
}

/// Children whose insert has free slots are claimed by it.
#[tokio::test(flavor = "multi_thread")]
async fn p37_children_are_claimed_at_birth() {
    let db = database().await;
    let pool = db.pool();
    let engine = machines(engine(&db)).queue("default", 100).start().await.unwrap();
    sql(
        pool,
        "create table public.born (status text, report_to bigint);
         create function public.note_birth() returns trigger language plpgsql as $$
         begin
             insert into public.born values (new.status, new.report_to);
             return null;
         end $$;
         create trigger note_birth after insert on gen_durable.instances
         for each row execute function public.note_birth()",
    )
    .await;
    // A claim that is under way leaves the children to itself.
    eventually("all children are born claimed", async || {
        let parent = Parent::insert((0..60).map(Deed::Done).collect());
        let parent = parent.execute(&engine).await.unwrap();
        let all: Vec<_> = (0..60).map(Ok).collect();
        assert_eq!(results(&engine, parent).await, all);
        let born: Vec<(String, i64)> = sqlx::query_as(
            "select status, count(*) from public.born where report_to = $1 group by status",
        )
        .bind(parent.get())
        .fetch_all(pool)
        .await
        .unwrap();
        assert_eq!(born.iter().map(|(_, count)| count).sum::<i64>(), 60);
        (born == [("executing".to_owned(), 60)]).then_some(())
    })
    .await;
    engine.shutdown().await.unwrap();
}

/// The commit that spawns children and claims them, and the commit that reports an end, are cut off
/// or lose their answers.
#[tokio::test(flavor = "multi_thread")]
async fn p37_a_lost_commit_spawns_and_reports_once() {
    for effect in [Effect::CutBefore, Effect::LoseAnswer] {
        let db = database().await;
        let pool = db.pool().clone();
        let proxy = proxy().await;
        let at = Arc::new(Breakpoint::new());
        let engine = behind(&proxy, &db)
            .machine::<Parcel>()
            .machine::<Parent>()
            .resource(Arc::clone(&at))
            .maintenance(false)
            .poll_interval(Duration::from_mins(1))
            .start()
            .await
            .unwrap();
        let parent = Parent::insert(vec![Deed::Stand; 4]).step(Parent::Wait);
        let parent = parent.execute(&pool).await.unwrap();
        assert_eq!(at.arrival().await, parent.get());
        let spawned = proxy.trap(Direction::Request, "COMMIT", effect);
        at.open(1);
        spawned.await.expect("the commit that spawns goes by");
        until(&pool, parent, "awaiting_signal").await;
        for _ in 0..3 {
            at.arrival().await;
            at.open(1);
        }
        at.arrival().await;
        let parked = "select awaits_more from gen_durable.instances where id = $1";
        eventually("three have been reported", async || {
            let more: Option<i32> =
                sqlx::query_scalar(parked).bind(parent.get()).fetch_one(&pool).await.unwrap();
            (more == Some(1)).then_some(())
        })
        .await;
        let reported = proxy.trap(Direction::Request, "COMMIT", effect);
        at.open(1);
        reported.await.expect("the commit that reports goes by");
        assert_eq!(results(&engine, parent).await, vec![Ok(1); 4]);
        let all: (i64, i64) = sqlx::query_as(
            "select count(*), count(*) filter (where status = 'done') from gen_durable.instances",
        )
        .fetch_one(&pool)
        .await
        .unwrap();
        assert_eq!(all, (5, 5));
        engine.shutdown().await.unwrap();
    }
}

/// Children whose snapshots are older than each other's reports do not conflict: the report follows
/// the commit of each.
#[tokio::test(flavor = "multi_thread")]
async fn p37_isolated_children_of_one_parent_do_not_conflict() {
    let db = database().await;
    let pool = db.pool();
    let at = Arc::new(Breakpoint::new());
    let builder = engine(&db).machine::<Parcel>().machine::<Parent>().resource(Arc::clone(&at));
    let engine = builder.queue("default", 30).max_transactions(8).start().await.unwrap();
    let parent = Parent::insert(vec![Deed::Isolated; 8]).execute(&engine).await.unwrap();
    for _ in 0..8 {
        at.arrival().await;
    }
    until(pool, parent, "awaiting_signal").await;
    // Serializable transactions may conflict for reasons of their own, and run again.
    at.open(1_000);
    assert_eq!(results(&engine, parent).await, vec![Ok(3); 8]);
    // If such a child is killed between its commit and its report, the service reports it.
    let parent =
        Parent::insert(vec![Deed::Wait]).step(Parent::Join).execute(&engine).await.unwrap();
    until(pool, parent, "awaiting_signal").await;
    sqlx::query(
        "insert into gen_durable.instances
             (fsm, fsm_version, step, state, status, result, report_to, owes_report, finished_at)
         values ('parcel', 1, 'isolated', '\"Isolated\"', 'done', '4', $1, true, now())",
    )
    .bind(parent.get())
    .execute(pool)
    .await
    .unwrap();
    engine.maintain().await.unwrap();
    assert_eq!(results(&engine, parent).await, [Ok(4)]);
    engine.shutdown().await.unwrap();
}

/// Two steps in transactions signal each other's instance at their ends. Both lock the two rows in
/// the order of their ids.
#[tokio::test(flavor = "multi_thread")]
async fn p37_transactions_that_send_to_each_other_do_not_deadlock() {
    let db = database().await;
    let pool = db.pool();
    let at = Arc::new(Breakpoint::new());
    let builder = engine(&db).machine::<Parcel>().machine::<Parent>().resource(Arc::clone(&at));
    let engine = builder.start().await.unwrap();
    for round in 0..10 {
        let first = 1 + 2 * round;
        let one = Parcel::insert(Deed::Signal(first + 1)).execute(&engine).await.unwrap();
        let two = Parcel::insert(Deed::Signal(first)).execute(&engine).await.unwrap();
        assert_eq!((one.get(), two.get()), (first, first + 1));
        at.arrival().await;
        at.arrival().await;
        at.open(2);
        until(pool, one, "done").await;
        until(pool, two, "done").await;
    }
    engine.shutdown().await.unwrap();
    assert_eq!(deadlocks(&db).await, 0);
}
