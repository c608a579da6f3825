//! Postgres goes away and comes back. The engine must go on by itself and lose nothing.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use gen_durable::{Engine, prelude::*};
use gen_durable_postgres::{Mode, Server};
use gen_durable_tests::oracle;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};

use crate::support::{Breakpoint, WAIT_MAX, eventually, log, sql, until};

/// Counts the steps in `n`, where the oracle expects the count.
#[derive(Clone, Debug, Default, DurableState)]
pub struct Counted {
    n: u32,
}

/// True once the instances may end. Until then there is always a commit to interrupt, however fast
/// the machine is.
#[derive(Clone, Default)]
struct Over(Arc<AtomicBool>);

/// Counts its steps, so that the oracle sees a step that is committed twice. The outcome of every
/// third step inserts a child, and so does the last one.
#[durable_fsm(state = Counted, output = u32)]
pub enum Marks {
    Mark,
}

#[durable_fsm]
impl Marks {
    async fn mark(mut cx: Context<Self>, over: &Over) -> Outcome<Self> {
        let (parent, n) = (cx.id().get(), cx.state.n);
        let child = Child::insert(ChildState { n: 0, parent, at: n });
        if over.0.load(Relaxed) {
            return cx.done(n).insert(child);
        }
        cx.state.n += 1;
        let next = cx.next(Marks::Mark);
        if n.is_multiple_of(3) { next.insert(child) } else { next }
    }
}

/// The instance that inserted it, and the step at which it did.
#[derive(Clone, Debug, DurableState)]
pub struct ChildState {
    n: u32,
    parent: i64,
    at: u32,
}

#[durable_fsm(state = ChildState, output = ())]
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
    // This server runs with fsync: what it has acknowledged must survive an immediate stop.
    let mut server = Server::builder().start().expect("a Postgres server");
    let url = server.url("postgres");
    let options = PgPoolOptions::new().acquire_timeout(WAIT_MAX);
    let pool = options.connect(&url).await.unwrap();
    gen_durable_migrate::up(&pool).await.unwrap();
    oracle::install(&pool).await.unwrap();
    let ends = [("marks", "mark", "done"), ("child", "do", "done")];
    oracle::allow(&pool, &[("marks", "mark", "mark")], &ends).await.unwrap();
    let over = Over::default();
    let engine = Engine::builder(pool.clone())
        .machine::<Marks>()
        .machine::<Child>()
        .resource(over.clone())
        .queue("default", 20)
        .lease_ttl(Duration::from_secs(20))
        .start()
        .await
        .unwrap();
    let ids = Marks::insert_many(vec![Counted::default(); INSTANCES]).execute(&pool).await.unwrap();
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
        let mut run = async |statement: &'static str| -> i64 {
            let answer = sqlx::query_scalar(statement).fetch_optional(&mut *admin).await;
            answer.unwrap().unwrap_or_default()
        };
        // Commits now wait for a standby that does not exist: Postgres applies them, and no answer
        // comes.
        run("alter system set synchronous_standby_names = 'nobody'").await;
        run("select pg_reload_conf()::int::bigint").await;
        eventually("a commit waits", async || {
            let waiting = run("select count(*) from pg_stat_activity where wait_event = 'SyncRep'
                 and (query like '-- Applies the outcomes%' or query ilike 'commit%')");
            (waiting.await > 0).then_some(())
        })
        .await;
        run("select count(pg_terminate_backend(pid)) from pg_stat_activity
             where backend_type = 'client backend' and pid <> pg_backend_pid()")
        .await;
        run("alter system reset synchronous_standby_names").await;
        run("select pg_reload_conf()::int::bigint").await;
        steps(engine.metrics().steps + 200).await;
    }
    over.0.store(true, Relaxed);
    let mut children = 0;
    for id in ids {
        let steps = engine.wait(id.unwrap(), WAIT_MAX).await.unwrap();
        children += i64::from(steps.div_ceil(3) + 1);
    }
    // Each child exists once, and nothing is under way any more.
    let all = i64::try_from(INSTANCES).unwrap();
    let kinds = eventually("everything is done", async || {
        let kinds: Vec<(String, i64, i64)> = sqlx::query_as(
            "select fsm, count(*), count(distinct (state::text, case when fsm <> 'child' then id end))
             from gen_durable.instances
             group by fsm having bool_and(status = 'done') order by fsm",
        )
        .fetch_all(&pool)
        .await
        .ok()?;
        (kinds.len() == 2).then_some(kinds)
    })
    .await;
    let expected = [("child".to_owned(), children, children), ("marks".to_owned(), all, all)];
    assert_eq!(kinds, expected);
    assert_eq!(oracle::check(&pool).await.unwrap(), Vec::<String>::new());
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
        let child = Child::insert(ChildState { n: 0, parent: cx.id().get(), at: n });
        cx.done(n).insert(child)
    }

    async fn handle(cx: Context<Self>, error: StepError) -> Outcome<Self> {
        cx.stop(error)
    }
}

/// Postgres refuses a commit with an error that the outcome has not caused, once for each code. The
/// engine must try again, and `handle` must not hear of it.
#[tokio::test(flavor = "multi_thread")]
async fn p13_a_commit_that_postgres_ends_for_its_own_reasons_is_tried_again() {
    // One code for each of these: an idle transaction, a long transaction, a deadlock, a conflict,
    // a lock timeout, a shutdown, a standby, no memory, a full disk, an I/O error, a lost
    // connection.
    const CODES: [&str; 11] = [
        "25P03", "25P04", "40P01", "40001", "55P03", "57P01", "25006", "53200", "53100", "58030",
        "08006",
    ];
    let db = crate::support::database().await;
    let pool = db.pool();
    sql(
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
    let engine =
        crate::support::engine(&db).machine::<Careful>().machine::<Child>().start().await.unwrap();
    let id = Careful::insert(0).execute(pool).await.unwrap();
    assert_eq!(engine.wait(id, WAIT_MAX).await.unwrap(), 1);
    let children = "select count(*) from gen_durable.instances where fsm = 'child'";
    let children: i64 = sqlx::query_scalar(children).fetch_one(pool).await.unwrap();
    assert_eq!(children, 1, "what the refused commits carried is not there");
    let refused: i64 =
        sqlx::query_scalar("select last_value from refused").fetch_one(pool).await.unwrap();
    assert!(refused > CODES.len() as i64, "each code was raised: {refused}");
    engine.shutdown().await.unwrap();
}

#[durable_fsm(state = (), output = ())]
pub enum Stopped {
    Work,
}

#[durable_fsm]
impl Stopped {
    async fn work(cx: Context<Self>, breakpoint: &Arc<Breakpoint>) -> Outcome<Self> {
        breakpoint.pass(cx.id()).await;
        cx.done(())
    }

    async fn handle(cx: Context<Self>, error: StepError) -> Outcome<Self> {
        cx.stop(error)
    }
}

/// Postgres answers but refuses every login of the worker's role, as while a password is changed.
/// No outcome has caused this. The engine must try the commit again, and `handle` must not hear of
/// it.
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
    let breakpoint = Arc::new(Breakpoint::new());
    let builder = Engine::builder(pool).machine::<Stopped>().queue("default", 1);
    let engine = builder.resource(Arc::clone(&breakpoint)).start().await.unwrap();
    let id = Stopped::insert(()).execute(&admin).await.unwrap();
    assert_eq!(breakpoint.arrival().await, id.get());
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
    breakpoint.open(1);
    // Some of these logins are for the commit.
    let again = async || (refused() >= before + REFUSED).then_some(());
    eventually("logins are refused", again).await;
    sql(&admin, "alter role worker login").await;
    until(&admin, id, "done").await;
    let metrics = engine.metrics();
    assert_eq!((metrics.steps, metrics.lost_commits), (1, 0));
    engine.shutdown().await.unwrap();
}
