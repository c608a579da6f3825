//! Announcements to other processes: the calls and outcomes that send one, and those that send
//! none.

use std::{
    collections::BTreeSet,
    time::{Duration, SystemTime},
};

use gen_durable::{Insert, prelude::*};
use gen_durable_postgres::{Server, TestDb};
use sqlx::postgres::{PgListener, PgPoolOptions};

use crate::support::{WAIT_MAX, database, engine, log, until};

#[derive(Clone, Debug, DurableSignal)]
pub struct Go {
    n: u32,
}

#[durable_fsm(output = u32, signals(Go))]
pub enum Waiter {
    Wait,
}

#[durable_fsm]
impl Waiter {
    async fn wait(mut cx: Context<Self>) -> StepResult<Self> {
        Ok(match cx.take_signal::<Go>()? {
            Some(go) => cx.done(go.n),
            None => cx.await_signal::<Go>(),
        })
    }
}

/// Its outcome carries all inserts below, and a signal to each of the two targets in its state. The
/// first signal is silent.
#[durable_fsm(state = (i64, i64), output = ())]
pub enum Carrier {
    Carry,
}

#[durable_fsm]
impl Carrier {
    async fn carry(cx: Context<Self>) -> Outcome<Self> {
        let (silently, aloud) = cx.state;
        let mut outcome = cx.done(());
        for insert in unheard().into_iter().chain(heard()) {
            outcome = outcome.insert(insert);
        }
        outcome.signal(go(silently).silent()).signal(go(aloud)).insert(end())
    }
}

const HOUR: Duration = Duration::from_hours(1);

/// Inserts that are not announced: they are silent, or due after the next poll.
fn unheard() -> Vec<Insert<Waiter>> {
    vec![
        Waiter::insert(()).queue("t_in").schedule_in(HOUR),
        Waiter::insert(()).queue("t_at").schedule_at(SystemTime::now() + HOUR),
        Waiter::insert(()).queue("t_silent").silent(),
        Waiter::insert(()).queue("t_both").schedule_in(HOUR).silent(),
    ]
}

/// Inserts that are announced: they are due before the next poll, or were due in the past.
fn heard() -> Vec<Insert<Waiter>> {
    vec![
        Waiter::insert(()).queue("t_soon").schedule_in(Duration::from_secs(1)),
        Waiter::insert(()).queue("t_past").schedule_at(SystemTime::now() - HOUR),
    ]
}

const HEARD: [&str; 5] = ["t_many", "t_past", "t_signalled", "t_soon", "t_~end"];

/// The insert that is announced last. Queues that are announced together come in the order of their
/// names, and this name is the last one.
fn end() -> Insert<Waiter> {
    Waiter::insert(()).queue("t_~end")
}

fn go(target: i64) -> gen_durable::Signal<Waiter> {
    Waiter::signal_go(InstanceId::from_raw(target), Go { n: 1 })
}

/// Inserts an instance that waits for a signal, in a queue that no engine serves. Returns its id.
async fn parked(db: &TestDb, queue: &str) -> i64 {
    sqlx::query_scalar(
        "insert into gen_durable.instances (fsm, fsm_version, step, state, status, awaits, queue)
         values ('waiter', 1, 'wait', 'null', 'awaiting_signal', '{go}', $1) returning id",
    )
    .bind(queue)
    .fetch_one(db.pool())
    .await
    .unwrap()
}

/// Listens until the queue of `end` is announced. Returns the queues of these tests that were
/// announced until then.
async fn announced(listener: &mut PgListener) -> BTreeSet<String> {
    let mut queues = BTreeSet::new();
    let heard = tokio::time::timeout(WAIT_MAX, async {
        while !queues.contains("t_~end") {
            let queue = listener.recv().await.unwrap().payload().to_owned();
            if queue.starts_with("t_") {
                queues.insert(queue);
            }
        }
    });
    heard.await.expect("the end is announced");
    queues
}

/// Sends all inserts and signals, one by one and in bulk, on `$on`: a client, an engine, a pool or
/// a connection.
macro_rules! send {
    ($db:expr, $on:expr) => {
        for insert in unheard().into_iter().chain(heard()) {
            insert.execute($on).await.unwrap();
        }
        Waiter::insert_many(unheard()).execute($on).await.unwrap();
        let many = || [Waiter::insert(()).queue("t_hushed"), Waiter::insert(()).queue("t_hushed")];
        Waiter::insert_many(many()).silent().execute($on).await.unwrap();
        let mixed = [
            Waiter::insert(()).queue("t_far").schedule_in(HOUR),
            Waiter::insert(()).queue("t_many"),
        ];
        Waiter::insert_many(mixed).execute($on).await.unwrap();
        go(parked($db, "t_hushed").await).silent().execute($on).await.unwrap();
        go(parked($db, "t_signalled").await).execute($on).await.unwrap();
        end().execute($on).await.unwrap();
    };
}

#[tokio::test(flavor = "multi_thread")]
async fn p69_what_is_silent_or_due_after_the_next_poll_is_not_announced() {
    let db = database().await;
    let mut listener = PgListener::connect_with(db.pool()).await.unwrap();
    listener.listen("gen_durable").await.unwrap();
    let engine = engine(&db).machine::<Carrier>().start().await.unwrap();
    let client = Client::new(db.pool().clone());
    let all = HEARD.map(str::to_owned);

    send!(&db, &client);
    assert_eq!(announced(&mut listener).await, BTreeSet::from(all.clone()), "by a client");
    send!(&db, &engine);
    assert_eq!(announced(&mut listener).await, BTreeSet::from(all.clone()), "by an engine");
    send!(&db, db.pool());
    assert_eq!(announced(&mut listener).await, BTreeSet::from(all.clone()), "on a pool");
    let mut transaction = db.pool().begin().await.unwrap();
    send!(&db, &mut *transaction);
    transaction.commit().await.unwrap();
    assert_eq!(announced(&mut listener).await, BTreeSet::from(all), "in a transaction");

    let targets = (parked(&db, "t_hushed").await, parked(&db, "t_signalled").await);
    let id = Carrier::insert(targets).execute(&engine).await.unwrap();
    engine.wait(id, WAIT_MAX).await.unwrap();
    let by_outcome: BTreeSet<_> =
        HEARD.into_iter().filter(|queue| *queue != "t_many").map(str::to_owned).collect();
    assert_eq!(announced(&mut listener).await, by_outcome, "by an outcome");
    engine.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn p69_a_transaction_that_sends_silently_can_be_prepared() {
    log();
    let server = Server::builder().fast(true).setting("max_prepared_transactions", "5");
    let server = server.start().expect("a Postgres server");
    let pool = PgPoolOptions::new().connect(&server.url("postgres")).await.unwrap();
    gen_durable_migrate::up(&pool).await.unwrap();
    let engine = gen_durable::Engine::builder(pool.clone())
        .machine::<Waiter>()
        .poll_interval(Duration::from_millis(50))
        .start()
        .await
        .unwrap();
    let waits = Waiter::insert(()).execute(&engine).await.unwrap();
    until(&pool, waits, "awaiting_signal").await;

    let run = async |connection: &mut sqlx::PgConnection, statement: &'static str| {
        sqlx::raw_sql(statement).execute(connection).await.map(|_| ())
    };
    let connection: &mut sqlx::PgConnection = &mut pool.acquire().await.unwrap();
    run(connection, "begin").await.unwrap();
    Waiter::insert(()).execute(&mut *connection).await.unwrap();
    let error = run(connection, "prepare transaction 'aloud'").await.unwrap_err();
    assert!(error.to_string().contains("NOTIFY"), "{error}");

    run(connection, "begin").await.unwrap();
    let id = Waiter::insert(()).silent().execute(&mut *connection).await.unwrap();
    let many = Waiter::insert_many([(), ()]).silent().execute(&mut *connection).await.unwrap();
    Waiter::signal_go(waits, Go { n: 7 }).silent().execute(&mut *connection).await.unwrap();
    Waiter::signal_go(id, Go { n: 8 }).silent().execute(&mut *connection).await.unwrap();
    run(connection, "prepare transaction 'silent'").await.unwrap();
    run(connection, "commit prepared 'silent'").await.unwrap();
    assert_eq!(engine.wait(waits, WAIT_MAX).await.unwrap(), 7);
    assert_eq!(engine.wait(id, WAIT_MAX).await.unwrap(), 8);
    for one in many {
        until(&pool, one.unwrap(), "awaiting_signal").await;
    }
    engine.shutdown().await.unwrap();
}
