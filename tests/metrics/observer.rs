//! One engine at a time shows the database's view.

use std::time::{Duration, Instant};

use gen_durable::{Schedule, prelude::*};
use gen_durable_tests::proxy::Proxy;

use crate::{
    program::{Program, database, eventually, options, server_dir},
    scrape::Scrape,
};

#[durable_fsm(output = ())]
pub enum Idle {
    Run,
}

#[durable_fsm]
impl Idle {
    async fn run(cx: Context<Self>) -> Outcome<Self> {
        cx.done(())
    }
}

const INTERVAL: Duration = Duration::from_millis(200);

async fn program(db: &gen_durable_postgres::TestDb) -> Program {
    Program::start(options(db), |engine| {
        engine.machine::<Idle>().queue("default", 1).sample_interval(INTERVAL)
    })
    .await
}

fn workers(scrape: &Scrape) -> Option<f64> {
    scrape.get("gen_durable_workers", &[("lease", "alive")])
}

fn shows(scrape: &Scrape) -> bool {
    workers(scrape).is_some_and(|workers| !workers.is_nan())
}

fn observes(scrape: &Scrape) -> bool {
    scrape.get("gen_durable_observes", &[]) == Some(1.0)
}

/// Every value of the view is NaN, or was never set.
fn is_hidden(scrape: &Scrape) -> bool {
    let view = ["_depth", "_oldest_age_seconds", "_limit_", "_schedule_", "_workers"];
    let of_view = |name: &str| {
        view.iter().any(|part| name.starts_with(&format!("gen_durable{part}")))
            && !name.ends_with("_total")
    };
    let mut all = scrape.series.iter().filter(|(name, ..)| of_view(name));
    all.all(|(_, _, value)| value.is_nan()) && !observes(scrape)
}

#[tokio::test(flavor = "multi_thread")]
async fn p77_one_shows_and_another_follows_after_its_shutdown() {
    let db = database().await;
    let first = program(&db).await;
    eventually("it shows", async || shows(&first.scrape().await).then_some(())).await;
    let second = program(&db).await;
    eventually("it sees both", async || {
        (workers(&first.scrape().await) == Some(2.0)).then_some(())
    })
    .await;
    assert!(is_hidden(&second.scrape().await));
    first.engine.shutdown().await.unwrap();
    assert!(is_hidden(&first.scrape().await), "a shutdown hides the view");
    eventually("the other follows", async || {
        (workers(&second.scrape().await) == Some(1.0)).then_some(())
    })
    .await;
    assert!(is_hidden(&first.scrape().await));
    assert!(observes(&second.scrape().await));
    second.engine.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn p77_another_follows_after_a_crash() {
    let db = database().await;
    let first = program(&db).await;
    eventually("it shows", async || shows(&first.scrape().await).then_some(())).await;
    let second = program(&db).await;
    first.kill();
    let begin = Instant::now();
    eventually("the other follows", async || shows(&second.scrape().await).then_some(())).await;
    // It waits for the rest of the lease, of which at least two intervals are left as a rule.
    assert!(begin.elapsed() < Duration::from_secs(50));
    second.engine.shutdown().await.unwrap();
}

/// The first engine loses its connection to the database and hears nothing. Nobody tells it that
/// another one has taken over. Its values are gone before the other's appear.
#[tokio::test(flavor = "multi_thread")]
async fn p77_two_never_show_together_while_one_cannot_reach_the_database() {
    let db = database().await;
    let proxy = Proxy::start(&server_dir().await).unwrap();
    let through = options(&db).socket(proxy.dir());
    let first = Program::start(through, |engine| {
        engine.machine::<Idle>().queue("default", 1).sample_interval(INTERVAL)
    })
    .await;
    eventually("it shows", async || shows(&first.scrape().await).then_some(())).await;
    let second = program(&db).await;
    proxy.freeze();
    let mut overlaps = 0;
    eventually("the other follows", async || {
        let before = shows(&first.scrape().await);
        let other = shows(&second.scrape().await);
        let after = shows(&first.scrape().await);
        overlaps += u32::from(before && other && after);
        (other && !after).then_some(())
    })
    .await;
    assert_eq!(overlaps, 0, "both showed their views");
    assert!(is_hidden(&first.scrape().await));
    second.engine.shutdown().await.unwrap();
}

/// A sample that fails is logged, and the engine goes on.
#[tokio::test(flavor = "multi_thread")]
async fn p77_a_sample_that_fails_hides_the_view_and_hurts_nothing() {
    let db = database().await;
    let only = program(&db).await;
    eventually("it shows", async || shows(&only.scrape().await).then_some(())).await;
    let client = only.engine.client();
    sqlx::query("alter table gen_durable.schedules rename to away")
        .execute(db.pool())
        .await
        .unwrap();
    eventually("the view is hidden", async || {
        let scrape = only.scrape().await;
        let failed = scrape.get("gen_durable_samples_total", &[("result", "failed")]);
        (!shows(&scrape) && observes(&scrape) && failed > Some(0.0)).then_some(())
    })
    .await;
    let id = Idle::insert(()).execute(client).await.unwrap();
    client.wait(id, crate::program::WAIT_MAX).await.unwrap();
    sqlx::query("alter table gen_durable.away rename to schedules")
        .execute(db.pool())
        .await
        .unwrap();
    eventually("it shows again", async || shows(&only.scrape().await).then_some(())).await;
    only.engine.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn schedules_and_their_ticks_are_shown() {
    let db = database().await;
    let program = Program::start(options(&db), |engine| {
        let engine = engine.machine::<Idle>().queue("default", 1).sample_interval(INTERVAL);
        let often = Schedule::every(Duration::from_secs(1));
        engine.schedule("often", often, |_| Idle::insert(()))
    })
    .await;
    let often = [("schedule", "often")];
    eventually("a tick has fired", async || {
        let scrape = program.scrape().await;
        let next = scrape.get("gen_durable_schedule_next_timestamp_seconds", &often)?;
        let last = scrape.get("gen_durable_schedule_last_timestamp_seconds", &often)?;
        let failing = scrape.get("gen_durable_schedule_failing", &often)?;
        let fired = [("schedule", "often"), ("result", "fired")];
        let fired = scrape.get("gen_durable_schedule_ticks_total", &fired)?;
        (next > last && failing == 0.0 && fired >= 1.0).then_some(())
    })
    .await;
    program.engine.shutdown().await.unwrap();
}

/// A queue that is gone shows no old depth.
#[tokio::test(flavor = "multi_thread")]
async fn a_queue_that_is_gone_shows_nan() {
    let db = database().await;
    let sql = async |text: &'static str| sqlx::query(text).execute(db.pool()).await.unwrap();
    sql("insert into gen_durable.queues (name) values ('old')").await;
    sql("insert into gen_durable.instances (fsm, fsm_version, step, state, queue, eligible_at)
         values ('old', 1, 's', '{}', 'old', now() - interval '1 hour')")
    .await;
    let program = program(&db).await;
    let due = [("queue", "old"), ("waits", "due")];
    let shown = async |name: &str| program.scrape().await.get(name, &due);
    eventually("it is shown", async || {
        let age = shown("gen_durable_oldest_age_seconds").await?;
        (shown("gen_durable_depth").await == Some(1.0) && (3600.0..3700.0).contains(&age))
            .then_some(())
    })
    .await;
    sql("delete from gen_durable.instances").await;
    eventually("it is empty", async || {
        let age = shown("gen_durable_oldest_age_seconds").await?;
        (shown("gen_durable_depth").await == Some(0.0) && age.is_nan()).then_some(())
    })
    .await;
    sql("delete from gen_durable.queues where name = 'old'").await;
    eventually("it is gone", async || shown("gen_durable_depth").await?.is_nan().then_some(()))
        .await;
    program.engine.shutdown().await.unwrap();
}
