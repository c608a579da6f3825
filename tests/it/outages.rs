//! Postgres goes away and comes back: the engine goes on by itself.

use std::{fs, sync::Arc, time::Duration};

use gen_durable::{Engine, prelude::*};
use gen_durable_test_postgres::{Mode, Server};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};

use crate::support::{Gate, PATIENCE, eventually, log, sql, until};

/// Each step leaves a mark of its own in the state; a step that was committed twice would leave two.
#[durable_fsm(state = Vec<u32>, output = Vec<u32>)]
pub enum Marks {
    Mark,
}

#[durable_fsm]
impl Marks {
    async fn mark(mut cx: Context<Self>) -> Outcome<Self> {
        let n = u32::try_from(cx.state.len()).unwrap();
        cx.state.push(n);
        if n < 30 {
            cx.next(Marks::Mark)
        } else {
            let marks = cx.state.clone();
            cx.done(marks).insert(Child::insert(()))
        }
    }
}

#[durable_fsm(state = (), output = ())]
pub enum Child {
    Do,
}

#[durable_fsm]
impl Child {
    async fn r#do(cx: Context<Self>) -> Outcome<Self> {
        cx.done(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn p13_restarts_and_terminated_connections_lose_nothing_and_double_nothing() {
    const INSTANCES: usize = 300;
    log();
    // fsync is on: what was acknowledged must be there after an immediate stop.
    let mut server = Server::builder().start().expect("a Postgres server");
    let url = server.url("postgres");
    let options = PgPoolOptions::new().acquire_timeout(PATIENCE);
    let pool = options.connect(&url).await.unwrap();
    gen_durable_migrate::up(&pool).await.unwrap();
    let engine = Engine::builder(pool.clone())
        .machine::<Marks>()
        .machine::<Child>()
        .queue("default", 20)
        .lease_ttl(Duration::from_secs(20))
        .start()
        .await
        .unwrap();
    let ids = Marks::insert_many(vec![Vec::new(); INSTANCES]).execute(&pool).await.unwrap();
    let steps = async |count: u64| {
        eventually("some steps have run", async || (engine.metrics().steps >= count).then_some(()))
            .await;
    };
    steps(200).await;
    for mode in [Mode::Immediate, Mode::Fast] {
        server.stop(mode).unwrap();
        server.start_again().unwrap();
        steps(engine.metrics().steps + 200).await;
    }
    for _ in 0..5 {
        let mut admin = eventually("a connection", async || pool.acquire().await.ok()).await;
        sqlx::query(
            "select pg_terminate_backend(pid) from pg_stat_activity
             where backend_type = 'client backend' and pid <> pg_backend_pid()",
        )
        .execute(&mut *admin)
        .await
        .unwrap();
        steps(engine.metrics().steps + 200).await;
    }
    for id in ids {
        let marks = engine.wait(id.unwrap(), PATIENCE).await.unwrap();
        assert_eq!(marks, (0..=30).collect::<Vec<u32>>());
    }
    // Exactly one child each, and nothing is left under way.
    let done = eventually("the children are done", async || {
        let mut counts: Vec<(String, String, i64)> = sqlx::query_as(
            "select fsm, status, count(*) from gen_durable.instances group by 1, 2 order by 1",
        )
        .fetch_all(&pool)
        .await
        .ok()?;
        counts.retain(|(_, _, count)| *count > 0);
        (counts.len() == 2).then_some(counts)
    })
    .await;
    let all = i64::try_from(INSTANCES).unwrap();
    let expected = [("child", all), ("marks", all)];
    for ((fsm, status, count), (expected_fsm, expected_count)) in done.iter().zip(expected) {
        assert_eq!((fsm.as_str(), status.as_str(), *count), (expected_fsm, "done", expected_count));
    }
    engine.shutdown().await.unwrap();
}

#[durable_fsm(state = u32, output = u32)]
pub enum Careful {
    Work,
}

#[durable_fsm]
impl Careful {
    async fn work(mut cx: Context<Self>) -> Outcome<Self> {
        cx.state += 1;
        let n = cx.state;
        cx.done(n)
    }

    async fn handle(cx: Context<Self>, error: StepError) -> Outcome<Self> {
        cx.stop(error)
    }
}

/// Postgres refuses a commit for what is no fault of the outcome's: it is tried again, and `handle` does
/// not hear of it.
#[tokio::test(flavor = "multi_thread")]
async fn p13_a_commit_that_postgres_ends_for_its_own_reasons_is_tried_again() {
    // A silent and a long transaction, a deadlock, a conflict, a lock, a shutdown, a standby, no
    // memory, no room, an I/O error, a lost connection.
    const CODES: [&str; 11] = [
        "25P03", "25P04", "40P01", "40001", "55P03", "57P01", "25006", "53200", "53100", "58030",
        "08006",
    ];
    let db = crate::support::database().await;
    let pool = db.pool();
    crate::support::sql(
        pool,
        "create table codes (place serial, code text);
         create sequence refused;
         create function refuse() returns trigger language plpgsql as $$
         declare
             wrong text;
         begin
             -- A sequence goes on when its transaction is rolled back: each is raised once.
             select code into wrong from codes where place = nextval('refused');
             if wrong is not null then
                 raise exception 'refused' using errcode = wrong;
             end if;
             return null;
         end $$;
         create trigger refuse after update on gen_durable.instances for each row
         when (new.status = 'done') execute function refuse();",
    )
    .await;
    for code in CODES {
        sqlx::query("insert into codes (code) values ($1)").bind(code).execute(pool).await.unwrap();
    }
    let engine = crate::support::engine(&db).machine::<Careful>().start().await.unwrap();
    let id = Careful::insert(0).execute(pool).await.unwrap();
    assert_eq!(engine.wait(id, PATIENCE).await.unwrap(), 1);
    let refused: i64 =
        sqlx::query_scalar("select last_value from refused").fetch_one(pool).await.unwrap();
    assert!(refused > CODES.len() as i64, "each code was raised: {refused}");
    engine.shutdown().await.unwrap();
}

#[durable_fsm(state = (), output = ())]
pub enum Gated {
    Work,
}

#[durable_fsm]
impl Gated {
    async fn work(cx: Context<Self>, gate: &Arc<Gate>) -> Outcome<Self> {
        gate.pass(cx.id()).await;
        cx.done(())
    }

    async fn handle(cx: Context<Self>, error: StepError) -> Outcome<Self> {
        cx.stop(error)
    }
}

/// Postgres answers, and lets nobody in, as while a password is changed. That is no outcome's fault: it is tried
/// again, and `handle` does not hear of it.
#[tokio::test(flavor = "multi_thread")]
async fn p13_a_commit_without_a_connection_as_the_login_is_refused_is_tried_again() {
    const REFUSED: usize = 20;
    log();
    let server = Server::builder().fast(true).start().expect("a Postgres server");
    let url = server.url("postgres");
    let admin = PgPoolOptions::new().connect(&url).await.unwrap();
    gen_durable_migrate::up(&admin).await.unwrap();
    sql(&admin, "create role worker superuser login").await;
    let worker = url.parse::<PgConnectOptions>().unwrap().username("worker");
    let pool = PgPoolOptions::new().connect_with(worker).await.unwrap();
    let gate = Arc::new(Gate::new());
    let builder = Engine::builder(pool).machine::<Gated>().queue("default", 1);
    let engine = builder.resource(Arc::clone(&gate)).start().await.unwrap();
    let id = Gated::insert(()).execute(&admin).await.unwrap();
    assert_eq!(gate.arrival().await, id.get());
    sql(&admin, "alter role worker nologin").await;
    eventually("its sessions are gone", async || {
        let sessions: i64 = sqlx::query_scalar(
            "select count(pg_terminate_backend(pid)) from pg_stat_activity
             where usename = 'worker'",
        )
        .fetch_one(&admin)
        .await
        .unwrap();
        (sessions == 0).then_some(())
    })
    .await;
    let refused = || {
        let log = fs::read_to_string(server.socket_dir().join("log")).unwrap();
        log.matches("not permitted to log in").count()
    };
    let before = refused();
    gate.open(1);
    // The commit's are among them.
    let again = async || (refused() >= before + REFUSED).then_some(());
    eventually("logins are refused", again).await;
    sql(&admin, "alter role worker login").await;
    until(&admin, id, "done").await;
    let metrics = engine.metrics();
    assert_eq!((metrics.steps, metrics.lost_commits), (1, 0));
    engine.shutdown().await.unwrap();
}
