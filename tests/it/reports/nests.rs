//! Outcomes that spawn: which can, what becomes of a child whose unique key is taken, and who may
//! report.

use std::time::Duration;

use gen_durable::prelude::*;

use crate::support::{WAIT_MAX, database, engine, sql};

/// The way in which an instance of [`Nest`] spawns.
#[derive(Clone, Debug, PartialEq, DurableState)]
pub enum Nested {
    /// Ends at once.
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
        "Rejected None: an insert is to report to the instance of machine `nest` that holds the unique key `nobody`, and no instance holds it; insert the receiver first, or name it by its id"
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
