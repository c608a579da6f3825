//! Postgres goes away and comes back: the engine goes on by itself.

use std::time::Duration;

use gen_durable::{Engine, prelude::*};
use gen_durable_test_postgres::{Mode, Server};
use sqlx::postgres::PgPoolOptions;

use crate::support::{PATIENCE, eventually, log};

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
