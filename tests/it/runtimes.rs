//! Clients and engines whose runtimes end, and waits that can never succeed.

use std::{future::pending, sync::Arc, time::Duration};

use gen_durable::{Engine, prelude::*};
use gen_durable_postgres::TestDb;
use sqlx::{AssertSqlSafe, PgPool, postgres::PgPoolOptions};
use tokio::runtime::{Builder, Runtime};

use crate::{
    births::{Short, stop_inserts, until_idle},
    secrets::Kept,
    support::{
        Breakpoint, WAIT_MAX, database, empty_database, engine, eventually, row, sql, until,
        until_a_session_waits,
    },
};

#[durable_fsm(state = u32, output = u32)]
pub enum Echo {
    Answer,
}

#[durable_fsm]
impl Echo {
    async fn answer(cx: Context<Self>, breakpoint: &Arc<Breakpoint>) -> Outcome<Self> {
        if cx.state == 0 {
            breakpoint.pass(cx.id()).await;
        }
        let n = cx.state;
        cx.done(n)
    }
}

fn runtime() -> Runtime {
    Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

fn single_runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

/// Starts an engine with a step under way, which never ends.
async fn at_work(db: &TestDb) -> (Engine, InstanceId<Echo>) {
    let breakpoint = Arc::new(Breakpoint::new());
    let engine = engine(db).machine::<Echo>().resource(Arc::clone(&breakpoint));
    let engine = engine.maintenance(false).drain_timeout(Duration::from_millis(10));
    let engine = engine.start().await.unwrap();
    let done = Echo::insert(1).execute(&engine).await.unwrap();
    engine.wait(done, WAIT_MAX).await.unwrap();
    let id = Echo::insert(0).execute(&engine).await.unwrap();
    breakpoint.arrival().await;
    (engine, id)
}

/// Polls a call until it is under way, and drops it.
async fn begin<T>(call: impl Future<Output = T>) {
    let gone = tokio::time::timeout(Duration::from_millis(20), call).await;
    assert!(gone.is_err(), "it has nothing to wait for");
}

/// The first wait of a client starts a task that looks for results. The runtime of that wait ends.
/// A later wait on another runtime must work all the same.
#[test]
fn p54_a_wait_works_after_the_runtime_of_the_first_call_has_ended() {
    let main = runtime();
    let (db, engine, held, client) = main.block_on(async {
        let db = database().await;
        let (engine, held) = at_work(&db).await;
        let client = Client::new(db.pool().clone());
        (db, engine, held, client)
    });
    for first in [runtime(), single_runtime()] {
        first.block_on(begin(client.wait(held, WAIT_MAX)));
        drop(first);
        let again = main.block_on(async {
            let id = Echo::insert(2).execute(&client).await.unwrap();
            client.wait(id, WAIT_MAX).await
        });
        assert_eq!(again.unwrap(), 2);
    }
    main.block_on(engine.shutdown()).unwrap();
    drop((engine, db));
}

/// Calls on two runtimes wait for one instance through one client. The runtime that waited first
/// ends. The call on the other one must still get its result.
#[test]
fn p54_a_wait_goes_on_when_the_runtime_that_looked_for_it_ends() {
    let main = runtime();
    let db = main.block_on(database());
    let (client, pool) = (Client::new(db.pool().clone()), db.pool().clone());
    let id = main.block_on(Echo::insert(1).execute(&client)).unwrap();
    let first = runtime();
    first.block_on(begin(client.wait(id, WAIT_MAX)));
    // A second call on the first runtime keeps that runtime's task alive.
    let beside = first.spawn({
        let client = client.clone();
        async move { client.wait(id, WAIT_MAX).await }
    });
    let wait = main.spawn(async move { client.wait(id, WAIT_MAX).await });
    main.block_on(begin(pending::<()>()));
    drop(first);
    main.block_on(async {
        sqlx::query("update gen_durable.instances set status = 'done', result = '7'")
            .execute(&pool)
            .await
            .unwrap();
        assert_eq!(wait.await.unwrap().unwrap(), 7);
        assert!(beside.await.unwrap_err().is_cancelled());
    });
    drop(db);
}

/// A runtime ends while its inserts are under way. A call on another runtime must not be in a batch
/// with them: it must succeed.
#[test]
fn p54_a_call_is_not_lost_with_another_runtime() {
    let main = runtime();
    let db = main.block_on(database());
    let (client, pool) = (Client::new(db.pool().clone()), db.pool().clone());
    let mut holder = main.block_on(async {
        sql(
            &pool,
            "create function hold() returns trigger language plpgsql as $$
             begin
                 perform pg_advisory_xact_lock_shared(54);
                 return new;
             end $$;
             create trigger hold before insert on gen_durable.instances
             for each row execute function hold();",
        )
        .await;
        let mut holder = pool.begin().await.unwrap();
        sqlx::query("select pg_advisory_xact_lock(54)").execute(&mut *holder).await.unwrap();
        holder
    });
    let first = runtime();
    // Two batches are the most that are under way at a time on a runtime.
    for sessions in 1..=2 {
        first.spawn({
            let client = client.clone();
            async move { Echo::insert(1).execute(&client).await }
        });
        main.block_on(until_a_session_waits(&pool, sessions));
    }
    let call = main.spawn(async move { Echo::insert(2).execute(&client).await });
    main.block_on(async {
        until_a_session_waits(&pool, 3).await;
        drop(tokio::task::spawn_blocking(move || drop(first)).await);
        sqlx::query("select pg_advisory_unlock_all()").execute(&mut *holder).await.unwrap();
        holder.rollback().await.unwrap();
        let id = call.await.unwrap().expect("its own runtime goes on");
        assert_eq!(row(&pool, id).await.state, 2);
    });
    drop(db);
}

/// A runtime that nobody drives any more has sent an insert. The row runs on the engine's runtime,
/// and the engine loses no slot.
#[test]
fn p54_a_runtime_that_stands_still_keeps_no_row() {
    let (main, still) = (runtime(), single_runtime());
    let (db, engine, test) = main.block_on(async {
        let db = database().await;
        let engine = engine(&db).machine::<Short>().resource(Arc::new(Breakpoint::new()));
        let engine = engine.queue("default", 1).start().await.unwrap();
        until_idle(&engine, db.pool()).await;
        let test = stop_inserts(db.pool()).await;
        (db, engine, test)
    });
    still.block_on(begin(Short::insert(()).execute(&engine)));
    main.block_on(async {
        until_a_session_waits(db.pool(), 1).await;
        test.rollback().await.unwrap();
        eventually("both rows have run", async || {
            let id = Short::insert(()).execute(&engine).await.unwrap();
            engine.wait(id, WAIT_MAX).await.unwrap();
            let open = "select from gen_durable.instances where status <> 'done'";
            sqlx::query(open).fetch_optional(db.pool()).await.unwrap().is_none().then_some(())
        })
        .await;
        engine.shutdown().await.unwrap();
    });
    drop((still, engine, db));
}

/// A client's call leaves a connection in the pool, and then its runtime ends. Nothing drives the
/// connection any more. A ping cannot tell for sure, as an answer that is there at once is read all
/// the same. Therefore the pool must not keep the connection.
#[test]
fn p54_a_runtime_that_ends_leaves_no_idle_connection() {
    let main = runtime();
    let db = main.block_on(database());
    let options = db.pool().connect_options().as_ref().clone();
    let pool = main.block_on(async { PgPoolOptions::new().connect_lazy_with(options) });
    let client = Client::new(pool.clone());
    for new in [runtime, single_runtime] {
        let other = new();
        other.block_on(async {
            assert!(client.find(1).await.unwrap().is_none());
            eventually("the connection is back", async || (pool.num_idle() == 1).then_some(()))
                .await;
        });
        drop(other);
        assert_eq!((pool.num_idle(), pool.size()), (0, 0));
    }
    main.block_on(client.find(1)).unwrap();
    drop(db);
}

/// A runtime ends and its engine is dropped, in several orders and at several places, while a step
/// is under way. Nothing may panic, and so nothing may abort the process.
#[test]
fn p54_an_engine_may_outlive_its_runtime() {
    type End = fn(Runtime, Engine);
    let ends: [End; 5] = [
        |runtime, engine| {
            drop(runtime);
            drop(engine);
        },
        |runtime, engine| {
            runtime.shutdown_background();
            drop(engine);
        },
        |runtime, engine| {
            drop(runtime);
            std::thread::spawn(move || drop(engine)).join().unwrap();
        },
        |runtime, engine| {
            drop(runtime);
            single_runtime().block_on(async move { drop(engine) });
        },
        |runtime, engine| {
            let client = engine.client().clone();
            drop(runtime);
            drop(engine);
            drop(client);
        },
    ];
    let main = runtime();
    let db = main.block_on(database());
    for end in ends {
        for new in [runtime, single_runtime] {
            let own = new();
            let (engine, _) = own.block_on(at_work(&db));
            end(own, engine);
        }
    }
    // Futures that hold a connection, of an engine and of a client, are dropped outside of the
    // runtime too.
    let own = runtime();
    let (engine, _) = own.block_on(at_work(&db));
    let holder = main.block_on(async {
        let mut holder = db.pool().begin().await.unwrap();
        sqlx::query("lock table gen_durable.instances").execute(&mut *holder).await.unwrap();
        holder
    });
    let client = Client::new(db.pool().clone());
    let mut calls: Vec<std::pin::Pin<Box<dyn Future<Output = ()>>>> = Vec::new();
    let maintained = &engine;
    calls.push(Box::pin(async move { drop(maintained.maintain().await) }));
    calls.push(Box::pin(async move { drop(client.find(1).await) }));
    for call in &mut calls {
        own.block_on(begin(call));
    }
    drop(calls);
    own.shutdown_background();
    drop(engine);
    main.block_on(async { holder.rollback().await.unwrap() });
    drop(db);
}

/// An engine with a step under way is dropped on a thread that has no runtime. The engine's own
/// runtime goes on, and must give the row back.
#[test]
fn p54_an_engine_that_is_dropped_on_a_thread_gives_its_rows_back() {
    let main = runtime();
    let db = main.block_on(database());
    let (engine, id) = main.block_on(at_work(&db));
    std::thread::spawn(move || drop(engine)).join().unwrap();
    let row = main.block_on(until(db.pool(), id, "runnable"));
    assert_eq!((row.attempt, row.crashes), (0, 0));
    drop(db);
}

async fn workers(pool: &PgPool) -> i64 {
    sqlx::query_scalar("select count(*) from gen_durable.workers").fetch_one(pool).await.unwrap()
}

/// An engine with a step under way is shut down on another runtime, before or after its own has
/// ended. The shutdown must cut the step off or find it cut off, give the row back, and remove the
/// worker.
#[test]
fn p54_a_shutdown_works_on_another_runtime_before_and_after_its_own_has_ended() {
    let main = runtime();
    let db = main.block_on(database());
    for (new, ended) in
        [(runtime as fn() -> Runtime, false), (runtime, true), (single_runtime, true)]
    {
        let own = new();
        let (engine, id) = own.block_on(async {
            let breakpoint = Arc::new(Breakpoint::new());
            let builder = engine(&db).machine::<Echo>().resource(Arc::clone(&breakpoint));
            // If the runtime has ended, a shutdown that waited for the step would never end.
            let drain = if ended { Duration::MAX } else { Duration::from_millis(10) };
            let engine = builder.maintenance(false).drain_timeout(drain).start().await.unwrap();
            let id = Echo::insert(0).partition_key("k").execute(&engine).await.unwrap();
            breakpoint.arrival().await;
            (engine, id)
        });
        let mut own = Some(own);
        if ended {
            drop(own.take());
        }
        main.block_on(async {
            let shutdown = tokio::time::timeout(WAIT_MAX, engine.shutdown());
            shutdown.await.expect("it ends").unwrap();
            let row = row(db.pool(), id).await;
            assert_eq!((row.status.as_str(), row.attempt, row.crashes), ("runnable", 0, 0));
            assert_eq!(workers(db.pool()).await, 0);
            engine.shutdown().await.expect("a second one does nothing");
            sql(db.pool(), "truncate gen_durable.instances").await;
        });
        drop((engine, own));
    }
    drop(db);
}

/// Two shutdowns of one engine begin at once. Both must wait for the step under way, and then
/// succeed.
#[tokio::test(flavor = "multi_thread")]
async fn p54_two_shutdowns_at_once_are_one() {
    let db = database().await;
    let breakpoint = Arc::new(Breakpoint::new());
    let engine =
        engine(&db).machine::<Echo>().resource(Arc::clone(&breakpoint)).start().await.unwrap();
    let id = Echo::insert(0).execute(&engine).await.unwrap();
    breakpoint.arrival().await;
    let shutdowns = [tokio::spawn(engine.shutdown()), tokio::spawn(engine.shutdown())];
    // A third one is dropped while it waits. That must not end the others.
    begin(engine.shutdown()).await;
    assert!(shutdowns.iter().all(|shutdown| !shutdown.is_finished()));
    breakpoint.open(1);
    for shutdown in shutdowns {
        shutdown.await.unwrap().unwrap();
    }
    assert_eq!(row(db.pool(), id).await.status, "done");
    assert_eq!(workers(db.pool()).await, 0);
}

/// An engine's runtime ends, and the engine's client still has the connections that it kept there.
/// The client must notice, and must work on another runtime.
#[test]
fn p54_an_engines_client_works_after_the_engines_runtime_has_ended() {
    let main = runtime();
    let db = main.block_on(database());
    let own = runtime();
    let (engine, _) = own.block_on(at_work(&db));
    drop(own);
    let elsewhere = main.block_on(async {
        let breakpoint = Arc::new(Breakpoint::new());
        let elsewhere = crate::support::engine(&db).machine::<Echo>().resource(breakpoint);
        // Its poll comes only once an hour, so it finds work only if it hears the announcement.
        let elsewhere = elsewhere.poll_interval(Duration::from_hours(1)).maintenance(false);
        elsewhere.start().await.unwrap()
    });
    main.block_on(async {
        for n in 1..20 {
            let id = Echo::insert(n).execute(&engine).await.expect("connections are tested");
            assert_eq!(engine.wait(id, WAIT_MAX).await.unwrap(), n);
        }
        elsewhere.shutdown().await.unwrap();
    });
    drop((engine, elsewhere, db));
}

/// A wait can never succeed: the schema is missing, the login has no right, the pool is closed, or
/// the database or the engine is gone. The wait must fail at once, and not when its time is up.
#[tokio::test(flavor = "multi_thread")]
async fn p54_a_wait_that_cannot_come_to_anything_is_an_error_at_once() {
    let fails = async |client: &Client, part: &str| {
        let error = client.wait(InstanceId::<Echo>::from_raw(1), Duration::MAX);
        let error = tokio::time::timeout(WAIT_MAX, error).await.expect("at once").unwrap_err();
        assert!(matches!(error, WaitError::Database(_)), "{error}");
        assert!(error.to_string().contains(part), "{error}");
    };
    let empty = empty_database().await;
    fails(&Client::new(empty.pool().clone()), "run `gen-durable migrate up`").await;

    let db = database().await;
    let role = format!("{}_stranger", db.name());
    let make = format!("create role {role} login password 'enter'");
    sqlx::raw_sql(AssertSqlSafe(make)).execute(db.pool()).await.unwrap();
    let options = db.pool().connect_options().as_ref().clone();
    let stranger = options.clone().username(&role).password("enter");
    let stranger = PgPoolOptions::new().connect_with(stranger).await.unwrap();
    fails(&Client::new(stranger.clone()), "grant the login").await;
    stranger.close().await;
    fails(&Client::new(stranger), "pool is closed").await;
    let drop_role = format!("drop role {role}");
    sqlx::raw_sql(AssertSqlSafe(drop_role)).execute(db.pool()).await.unwrap();
    let nobody = PgPoolOptions::new().connect_lazy_with(options.clone().username(&role));
    fails(&Client::new(nobody), &role).await;
    let nowhere = PgPoolOptions::new().connect_lazy_with(options.database("no_such_database"));
    fails(&Client::new(nowhere), "no_such_database").await;

    // The same must hold for a wait that is already under way.
    let (engine, id) = at_work(&db).await;
    let client = engine.client().clone();
    let wait = tokio::spawn({
        let client = client.clone();
        async move { client.wait(id, Duration::MAX).await }
    });
    engine.client().find(id).await.unwrap();
    let cut_off = crate::support::engine(&db).start().await.unwrap();
    cut_off.shutdown().await.unwrap();
    fails(cut_off.client(), "the engine was shut down").await;
    sql(db.pool(), "alter schema gen_durable rename to gone").await;
    let ended = tokio::time::timeout(WAIT_MAX, wait).await.expect("at once").unwrap();
    assert!(matches!(ended, Err(WaitError::Database(_))), "{ended:?}");
    sql(db.pool(), "alter schema gone rename to gen_durable").await;
}

/// A wait goes on during an outage. If the outage outlasts the wait, the error must name it.
#[tokio::test(flavor = "multi_thread")]
async fn p54_a_wait_that_is_over_says_what_was_in_the_way() {
    let pool = PgPoolOptions::new().connect_lazy("postgres://nobody@127.0.0.1:1/nothing").unwrap();
    let client = Client::new(pool);
    let id = InstanceId::<Echo>::from_raw(1);
    let error = eventually("it is known what is in the way", async || {
        let error = client.wait(id, Duration::from_secs(1)).await.unwrap_err();
        let WaitError::TimedOut { obstacle, .. } = &error else { panic!("{error}") };
        obstacle.is_some().then_some(error)
    })
    .await;
    let text = error.to_string();
    assert!(text.contains("did not end within 1s; it may still do so; could not"), "{text}");
    assert!(text.contains("Connection refused"), "{text}");

    // Without an outage, the error must name none.
    let db = database().await;
    let client = Client::new(db.pool().clone());
    let id = Echo::insert(1).execute(&client).await.unwrap();
    let error = client.wait(id, Duration::from_millis(50)).await.unwrap_err();
    assert!(matches!(error, WaitError::TimedOut { obstacle: None, .. }), "{error}");
}

/// Many calls fail because the database has no schema. The log must say what to do, and only once.
#[tokio::test]
async fn p54_a_client_on_a_database_without_the_schema_is_logged() {
    let (log, _here) = Kept::log("gen_durable=info");
    let db = empty_database().await;
    let client = Client::new(db.pool().clone());
    for _ in 0..3 {
        Echo::insert(1).execute(&client).await.unwrap_err();
        Echo::insert_many([1]).execute(&client).await.unwrap_err();
        client.find(1).await.unwrap_err();
        client.wait(InstanceId::<Echo>::from_raw(1), WAIT_MAX).await.unwrap_err();
        client.signal_by_name(1, "go", &serde_json::json!(1), None).await.unwrap_err();
    }
    let log = log.text();
    let lines: Vec<&str> =
        log.lines().filter(|line| line.contains("gen-durable migrate up")).collect();
    assert_eq!(lines.len(), 1, "{log}");
}
