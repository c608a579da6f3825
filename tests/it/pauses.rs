//! Pauses of queues, machines, steps and instances.

mod faults;
mod races;

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use gen_durable::{
    operate::{OperateError, PauseScope, Resumed},
    prelude::*,
};
use sqlx::PgPool;

use crate::support::{
    Breakpoint, WAIT_MAX, database, engine, eventually, row, sql, until, until_a_session_waits,
};

#[derive(Clone, Debug, DurableSignal)]
pub struct Word(pub i64);

/// Stops at the breakpoint in each step, but for the last one.
#[durable_fsm(state = i64, output = i64, signals(Word))]
pub enum Order {
    Reserve,
    Charge,
    Listen,
    Ship,
}

#[durable_fsm]
impl Order {
    async fn reserve(cx: Context<Self>, breakpoint: &Arc<Breakpoint>) -> Outcome<Self> {
        breakpoint.pass(cx.id()).await;
        cx.next(Order::Charge)
    }

    async fn charge(cx: Context<Self>, breakpoint: &Arc<Breakpoint>) -> Outcome<Self> {
        breakpoint.pass(cx.id()).await;
        cx.next(Order::Ship)
    }

    #[step(entry)]
    async fn listen(mut cx: Context<Self>) -> StepResult<Self> {
        Ok(match cx.take_signal::<Word>()? {
            Some(Word(n)) => cx.done(n),
            None => cx.await_signal::<Word>(),
        })
    }

    async fn ship(cx: Context<Self>) -> Outcome<Self> {
        if cx.state < 0 {
            return cx.stop("nothing to ship");
        }
        let state = cx.state;
        cx.done(state)
    }
}

/// A machine that is never paused as such.
#[durable_fsm(output = ())]
pub enum Other {
    Work,
}

#[durable_fsm]
impl Other {
    async fn work(cx: Context<Self>) -> Outcome<Self> {
        cx.done(())
    }
}

async fn start(db: &gen_durable_postgres::TestDb, poll_only: bool) -> (Engine, Arc<Breakpoint>) {
    let breakpoint = Arc::new(Breakpoint::new());
    let builder = if poll_only { engine(db).poll_only() } else { engine(db) };
    let engine = builder
        .machine::<Order>()
        .machine::<Other>()
        .queue("default", 4)
        .queue("mail", 4)
        .resource(Arc::clone(&breakpoint))
        .start()
        .await
        .unwrap();
    (engine, breakpoint)
}

/// The instances that stand somewhere, marked or not, and executing or not.
async fn standing(pool: &PgPool, condition: &str) -> i64 {
    let query = format!("select count(*) from gen_durable.instances where {condition}");
    sqlx::query_scalar(sqlx::AssertSqlSafe(query)).fetch_one(pool).await.unwrap()
}

/// Waits until so many rows fit the condition.
async fn until_there_are(pool: &PgPool, count: i64, condition: &str) {
    eventually(&format!("{count} rows: {condition}"), async || {
        (standing(pool, condition).await == count).then_some(())
    })
    .await;
}

/// Each scope, with engines that listen and with those that only poll. Rows are claimed, found and
/// marked, and run after the resume.
#[tokio::test(flavor = "multi_thread")]
async fn p42_nothing_of_a_paused_scope_begins_before_it_is_resumed() {
    for poll_only in [false, true] {
        let db = database().await;
        let pool = db.pool();
        let (engine, breakpoint) = start(&db, poll_only).await;
        breakpoint.open(1_000_000);
        let client = engine.client().clone();
        for scope in ["queue", "machine", "step"] {
            let (queue, machine) = (client.queue("mail"), client.machine::<Order>());
            match scope {
                "queue" => queue.pause().by("ada").execute(&client).await,
                "machine" => machine.pause().by("ada").execute(pool).await,
                _ => machine.pause_step(Order::Charge).by("ada").execute(&engine).await,
            }
            .unwrap();
            assert_eq!(client.pauses().await.unwrap().len(), 1);
            // The engine knows of the pause.
            engine.maintain().await.unwrap();
            let mut orders = Vec::new();
            for n in 0..40 {
                let insert = Order::insert(n).step(Order::Charge).queue("mail");
                let insert = if n % 2 == 0 {
                    insert
                } else {
                    insert.partition_key(format!("{scope} {}", n % 7))
                };
                orders.push(insert.execute(&client).await.unwrap());
            }
            let ids = orders.iter().map(|id| id.get().to_string()).collect::<Vec<_>>().join(",");
            // Those that an engine has met are marked, and the others wait behind their keys.
            let held = format!("id in ({ids}) and status = 'runnable' and blocked_by <> 0");
            until_there_are(pool, 40, &held).await;
            // Others run beside them.
            let other = Other::insert(()).execute(&client).await.unwrap();
            engine.wait(other, WAIT_MAX).await.unwrap();
            assert_eq!(standing(pool, &held).await, 40);
            let listed =
                client.instances::<Order>().status(Status::Runnable).count().await.unwrap();
            assert_eq!(listed, gen_durable::operate::Count::Exact(40));
            let resumed = match scope {
                "queue" => queue.resume().execute(&client).await,
                "machine" => machine.resume().execute(pool).await,
                _ => machine.resume_step(Order::Charge).execute(&engine).await,
            };
            assert_eq!(resumed.unwrap(), Resumed::Resumed);
            for (n, id) in orders.into_iter().enumerate() {
                assert_eq!(engine.wait(id, WAIT_MAX).await.unwrap(), i64::try_from(n).unwrap());
            }
            let again = queue.resume().execute(&client).await.unwrap();
            assert_eq!(again, Resumed::NotPaused);
        }
        engine.shutdown().await.unwrap();
    }
}

/// Nobody tells the engine but a NOTIFY, or its own looks.
#[tokio::test(flavor = "multi_thread")]
async fn p42_an_engine_hears_of_a_pause_and_of_its_end() {
    for poll_only in [false, true] {
        let db = database().await;
        let pool = db.pool();
        let (engine, _) = start(&db, poll_only).await;
        let client = Client::new(pool.clone());
        let machine = client.machine::<Order>();
        machine.pause_step(Order::Ship).execute(&client).await.unwrap();
        let held = eventually("an order is held", async || {
            let order = Order::insert(1).step(Order::Ship).execute(&client).await.unwrap();
            eventually("the order runs, or is held", async || {
                let held = format!("id = {order} and blocked_by & 4 = 4");
                let done = format!("id = {order} and status = 'done'");
                let held = standing(pool, &held).await == 1;
                (held || standing(pool, &done).await == 1).then_some(held)
            })
            .await
            .then_some(order)
        })
        .await;
        machine.resume_step(Order::Ship).execute(&client).await.unwrap();
        assert_eq!(client.wait(held, WAIT_MAX).await.unwrap(), 1);
        engine.shutdown().await.unwrap();
    }
}

/// A step that is under way finishes, and the engine does not go on to the paused one. Rows that
/// wait for a slot are given back.
#[tokio::test(flavor = "multi_thread")]
async fn p42_a_step_under_way_finishes_and_claimed_rows_are_given_back() {
    for poll_only in [false, true] {
        let db = database().await;
        let pool = db.pool();
        let (engine, breakpoint) = start(&db, poll_only).await;
        let client = engine.client().clone();
        let order = Order::insert(1).execute(&client).await.unwrap();
        assert_eq!(breakpoint.arrival().await, order.get());
        client.machine::<Order>().pause_step(Order::Charge).execute(&client).await.unwrap();
        engine.maintain().await.unwrap();
        let seen = Order::insert(2).step(Order::Charge).execute(&client).await.unwrap();
        let marked = "status = 'runnable' and blocked_by & 4 = 4";
        until_there_are(pool, 1, marked).await;
        breakpoint.open(1);
        until_there_are(pool, 2, marked).await;
        assert_eq!(row(pool, order).await.step, "charge");
        client.machine::<Order>().resume_step(Order::Charge).execute(&client).await.unwrap();
        let arrived = [breakpoint.arrival().await, breakpoint.arrival().await];
        assert!(arrived.contains(&order.get()) && arrived.contains(&seen.get()), "{arrived:?}");

        // Both stand in their steps. Four slots: two more run, and the others wait for slots.
        for n in 0..30 {
            Order::insert(n).step(Order::Charge).execute(&client).await.unwrap();
        }
        breakpoint.arrival().await;
        breakpoint.arrival().await;
        client.machine::<Order>().pause().execute(&client).await.unwrap();
        engine.maintain().await.unwrap();
        until_there_are(pool, 4, "status = 'executing'").await;
        until_there_are(pool, 28, "status = 'runnable' and locked_by is null").await;
        client.machine::<Order>().resume().execute(&client).await.unwrap();
        breakpoint.open(1_000_000);
        until_there_are(pool, 32, "status = 'done'").await;
        engine.shutdown().await.unwrap();
    }
}

/// A paused row keeps its place: the rows behind it wait for it, of whatever machine they are.
#[tokio::test(flavor = "multi_thread")]
async fn p42_later_rows_of_the_partition_key_wait_for_a_paused_one() {
    let db = database().await;
    let pool = db.pool();
    let (engine, breakpoint) = start(&db, false).await;
    breakpoint.open(1_000_000);
    let client = engine.client().clone();
    client.machine::<Order>().pause_step(Order::Charge).execute(&client).await.unwrap();
    engine.maintain().await.unwrap();
    let first =
        Order::insert(1).step(Order::Charge).partition_key("k").execute(&client).await.unwrap();
    let marked = "status = 'runnable' and blocked_by & 4 = 4";
    until_there_are(pool, 1, marked).await;
    let second = Other::insert(()).partition_key("k").execute(&client).await.unwrap();
    let paused = Other::insert(()).partition_key("l").execute(&client).await.unwrap();
    engine.wait(paused, WAIT_MAX).await.unwrap();
    until_there_are(pool, 1, &format!("id = {second} and blocked_by = 1")).await;
    engine.maintain().await.unwrap();
    assert_eq!(row(pool, second).await.status, "runnable");
    client.machine::<Order>().resume_step(Order::Charge).execute(&client).await.unwrap();
    engine.wait(first, WAIT_MAX).await.unwrap();
    engine.wait(second, WAIT_MAX).await.unwrap();
    engine.shutdown().await.unwrap();
}

/// An instance is paused by itself, in each status.
#[tokio::test(flavor = "multi_thread")]
async fn p42_an_instance_is_paused_in_whatever_status_it_is() {
    for poll_only in [false, true] {
        let db = database().await;
        let pool = db.pool();
        let (engine, breakpoint) = start(&db, poll_only).await;
        let client = engine.client().clone();
        let pause = async |id: InstanceId<Order>| {
            client.instance(id).pause().by("ada").reason("why").execute(&client).await.unwrap();
            engine.maintain().await.unwrap();
        };
        // It runs: the step finishes.
        let running = Order::insert(1).execute(&client).await.unwrap();
        breakpoint.arrival().await;
        pause(running).await;
        breakpoint.open(1);
        until_there_are(
            pool,
            1,
            &format!("id = {running} and status = 'runnable' and step = 'charge'"),
        )
        .await;
        // It waits for a signal, which comes.
        let parked = Order::insert(2).step(Order::Listen).execute(&client).await.unwrap();
        until(pool, parked, "awaiting_signal").await;
        pause(parked).await;
        Order::signal_word(parked, Word(7)).execute(&client).await.unwrap();
        until(pool, parked, "runnable").await;
        // It is delayed, and paused twice.
        let delayed = Order::insert(3).step(Order::Ship).schedule_in(Duration::from_hours(1));
        let delayed = delayed.execute(&client).await.unwrap();
        pause(delayed).await;
        pause(delayed).await;
        client.instance(delayed).run_now().execute(&client).await.unwrap();
        let pauses = client.instance(delayed).pauses().await.unwrap();
        assert_eq!(pauses.len(), 1);
        assert_eq!(pauses[0].scope, PauseScope::Instance(delayed.get()));
        assert_eq!((&*pauses[0].by, pauses[0].reason.as_deref()), ("ada", Some("why")));
        // It fails, is paused no more by that, and is retried.
        let failing = Order::insert(-1).step(Order::Ship).schedule_in(Duration::from_hours(1));
        let failing = failing.execute(&client).await.unwrap();
        client.instance(failing).cancel("").execute(&client).await.unwrap();
        let ended = client.instance(failing).pause().execute(&client).await;
        assert!(matches!(ended, Err(OperateError::Ended { .. })), "{ended:?}");

        let other = Other::insert(()).execute(&client).await.unwrap();
        engine.wait(other, WAIT_MAX).await.unwrap();
        until_there_are(pool, 3, "status = 'runnable' and blocked_by = 8").await;
        assert_eq!(client.pauses().await.unwrap(), [], "they are no scopes");
        for id in [running, parked, delayed] {
            let resumed = client.instance(id).resume().execute(pool).await.unwrap();
            assert_eq!(resumed, Resumed::Resumed);
        }
        assert_eq!(breakpoint.arrival().await, running.get());
        breakpoint.open(1);
        assert_eq!(engine.wait(running, WAIT_MAX).await.unwrap(), 1);
        assert_eq!(engine.wait(parked, WAIT_MAX).await.unwrap(), 7);
        assert_eq!(engine.wait(delayed, WAIT_MAX).await.unwrap(), 3);
        let resumed = client.instance(running).resume().execute(pool).await.unwrap();
        assert_eq!(resumed, Resumed::NotPaused);
        engine.shutdown().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn p42_a_pause_ends_by_itself() {
    for maintenance in [true, false] {
        let db = database().await;
        let pool = db.pool();
        let (engine, breakpoint) = start(&db, false).await;
        breakpoint.open(1_000_000);
        let client = engine.client().clone();
        let order = Order::insert(1).step(Order::Charge).schedule_in(Duration::from_hours(1));
        let order = order.execute(&client).await.unwrap();
        let soon = || SystemTime::now() + Duration::from_secs(if maintenance { 2 } else { 3600 });
        client.instance(order).pause().until(soon()).execute(&client).await.unwrap();
        client.queue("mail").pause().until(soon()).execute(&client).await.unwrap();
        client.instance(order).run_now().execute(&client).await.unwrap();
        let mail = async || {
            let mail = Order::insert(2).step(Order::Ship).queue("mail");
            mail.execute(&client).await.unwrap()
        };
        let mail = if maintenance {
            mail().await
        } else {
            // The engine hears of a pause within a second. A row that comes before that runs.
            eventually("the engine holds one back", async || {
                let mail = mail().await;
                let held = "select blocked_by <> 0 from gen_durable.instances
                            where id = $1 and (status = 'done' or blocked_by <> 0)";
                let held: bool = eventually("it ends, or is held back", async || {
                    sqlx::query_scalar(held).bind(mail.get()).fetch_optional(pool).await.unwrap()
                })
                .await;
                held.then_some(mail)
            })
            .await
        };
        if !maintenance {
            // Another engine is to end it, and has died. Time passes.
            until_there_are(pool, 2, "status = 'runnable' and blocked_by <> 0").await;
            sql(pool, "update gen_durable.pauses set until = now()").await;
            engine.maintain().await.unwrap();
        }
        assert_eq!(engine.wait(order, WAIT_MAX).await.unwrap(), 1);
        assert_eq!(engine.wait(mail, WAIT_MAX).await.unwrap(), 2);
        until_no_pause_is_left(pool).await;
        engine.shutdown().await.unwrap();
    }
}

/// Nothing else is paused, and the instance does not run: an engine hears of it all the same.
#[tokio::test(flavor = "multi_thread")]
async fn p42_a_pause_of_one_instance_ends_by_itself() {
    let db = database().await;
    let pool = db.pool();
    let (engine, _) = start(&db, false).await;
    let client = engine.client().clone();
    let order = Order::insert(1).step(Order::Ship).schedule_in(Duration::from_hours(1));
    let order = order.execute(&client).await.unwrap();
    client.instance(order).pause().execute(&client).await.unwrap();
    client.instance(order).run_now().execute(&client).await.unwrap();
    let soon = SystemTime::now() + Duration::from_millis(300);
    client.instance(order).pause().until(soon).execute(&client).await.unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(30), until_no_pause_is_left(pool));
    ended.await.expect("a look in a minute would be too late");
    assert_eq!(engine.wait(order, WAIT_MAX).await.unwrap(), 1);
    engine.shutdown().await.unwrap();
}

async fn until_no_pause_is_left(pool: &PgPool) {
    eventually("no pause is left", async || {
        let left: i64 = sqlx::query_scalar("select count(*) from gen_durable.pauses")
            .fetch_one(pool)
            .await
            .unwrap();
        (left == 0).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p42_bad_input_gets_a_clear_answer() {
    let db = database().await;
    let pool = db.pool();
    let (engine, _) = start(&db, false).await;
    let client = engine.client().clone();
    let past = SystemTime::now() - Duration::from_secs(1);
    let order =
        Order::insert(1).schedule_in(Duration::from_hours(1)).execute(&client).await.unwrap();
    for error in [
        client.queue("mail").pause().until(past).execute(&client).await.unwrap_err(),
        client.instance(order).pause().until(past).execute(&client).await.unwrap_err(),
        client
            .instances::<Order>()
            .pause()
            .until(past)
            .execute(&client)
            .await
            .map(drop)
            .unwrap_err(),
    ] {
        let text = "the pause would end in the past; give a later time, or none";
        assert_eq!(error.to_string(), text);
    }
    let by_name = client.machine_by_name("order");
    let error = by_name.pause_step("fly").execute(&client).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "machine `order` has no step `fly`; it has charge, listen, reserve, ship"
    );
    let error = client.machine_by_name("nobody").pause().execute(&client).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "no engine has registered a machine `nobody`; there are order, other"
    );
    let error =
        client.machine_by_name("nobody").pause_step("fly").execute(&client).await.unwrap_err();
    assert!(matches!(error, OperateError::UnknownMachine { .. }), "{error}");
    let error = client.queue("none").pause().execute(&client).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "no engine has served a queue `none`; engines have served default, mail"
    );
    for error in [
        client.queue("").pause().execute(&client).await.unwrap_err(),
        client.queue("mail").pause().by("x".repeat(10_000)).execute(&client).await.unwrap_err(),
        client.queue("mail").pause().reason("x".repeat(5_000)).execute(&client).await.unwrap_err(),
        by_name.resume_step("x".repeat(300)).execute(&client).await.map(drop).unwrap_err(),
    ] {
        assert!(matches!(error, OperateError::Encode(_)), "{error}");
    }
    let nobody = client.instance_by_id(4_000_000);
    assert!(matches!(nobody.pause().execute(pool).await, Err(OperateError::Unknown { .. })));
    assert!(matches!(nobody.resume().execute(pool).await, Err(OperateError::Unknown { .. })));
    assert_eq!(audits(pool).await, 0);
    engine.shutdown().await.unwrap();
}

async fn audits(pool: &PgPool) -> i64 {
    sqlx::query_scalar("select count(*) from gen_durable.audit").fetch_one(pool).await.unwrap()
}

/// A pause in the caller's transaction holds from its commit on. The audit tells the scope.
#[tokio::test(flavor = "multi_thread")]
async fn p42_a_pause_commits_with_the_callers_transaction() {
    let db = database().await;
    let pool = db.pool();
    let (engine, breakpoint) = start(&db, false).await;
    breakpoint.open(1_000_000);
    let client = engine.client().clone();
    let mut transaction = pool.begin().await.unwrap();
    client.machine::<Order>().pause().execute(&mut *transaction).await.unwrap();
    client.queue("mail").pause().execute(&mut *transaction).await.unwrap();
    transaction.rollback().await.unwrap();
    let order = Order::insert(1).execute(&client).await.unwrap();
    assert_eq!(engine.wait(order, WAIT_MAX).await.unwrap(), 1);
    assert_eq!(audits(pool).await, 0);
    let mut transaction = pool.begin().await.unwrap();
    let machine = client.machine::<Order>();
    machine.pause_step(Order::Ship).by("ada").reason("r").execute(&mut *transaction).await.unwrap();
    client.queue("mail").pause().by("bob").execute(&mut *transaction).await.unwrap();
    transaction.commit().await.unwrap();
    machine.pause().by("cy").execute(&client).await.unwrap();
    let scopes: Vec<String> =
        client.pauses().await.unwrap().iter().map(|pause| pause.scope.to_string()).collect();
    assert_eq!(scopes, ["order@ship", "queue mail", "machine order"]);
    let noted: serde_json::Value = sqlx::query_scalar(
        "select json_agg(json_build_array(actor, action, reason, fsm, step, queue) order by id)
         from gen_durable.audit",
    )
    .fetch_one(pool)
    .await
    .unwrap();
    assert_eq!(
        noted,
        serde_json::json!([
            ["ada", "pause", "r", "order", "ship", null],
            ["bob", "pause", null, null, null, "mail"],
            ["cy", "pause", null, "order", null, null],
        ])
    );
    engine.shutdown().await.unwrap();
}
