//! Measures the time of a claim, and the throughput of a queue, beside many rows that the claim
//! must not read.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::Notify;

use crate::{
    bare::{self, ONE_STEP, Watermarks},
    bench::{Bench, Error, Figure, Sample, Target, until_steps},
    latency::quantile,
    machines::{OneStep, Sleeper, Slow, Small},
};

const MILLION: i64 = 1_000_000;
const KEYS: i64 = 1_000;

const DONE: &str = "insert into gen_durable.instances
        (fsm, fsm_version, step, state, queue, status, result, finished_at)
    select 'one_step', 1, 'go', '{\"n\":1}', 'checkout', 'done', 'null', now()
    from generate_series(1, $1)";
const PARKED: &str = "insert into gen_durable.instances
        (fsm, fsm_version, step, state, queue, status, awaits)
    select 'one_step', 1, 'go', '{\"n\":1}', 'checkout', 'awaiting_signal', '{go}'
    from generate_series(1, $1)";
const SCHEDULED: &str = "insert into gen_durable.instances
        (fsm, fsm_version, step, state, queue, priority, eligible_at)
    select 'one_step', 1, 'go', '{\"n\":1}', 'checkout', -1, now() + interval '1 day'
    from generate_series(1, $1)";

const PAUSED: &str = "insert into gen_durable.instances
        (fsm, fsm_version, step, state, queue, priority, blocked_by, paused_by)
    select 'one_step', 1, 'go', '{\"n\":1}', 'checkout', -1, 4, 1
    from generate_series(1, $1)";

pub fn figures() -> Vec<Figure> {
    let claim = |name, run| Figure::new(name, "ms", "nothing beside", Target::AtMost(1.2), run);
    vec![
        claim("claim_100_beside_1m_done", |bench| Box::pin(claim_beside(bench, DONE, MILLION)))
            .rounds(2),
        claim("claim_100_beside_1m_parked", |bench| Box::pin(claim_beside(bench, PARKED, MILLION)))
            .rounds(2),
        claim("claim_100_beside_1m_scheduled", |bench| {
            Box::pin(claim_beside(bench, SCHEDULED, MILLION))
        })
        .rounds(2),
        claim("claim_100_beside_1m_paused", |bench| Box::pin(claim_beside(bench, PAUSED, MILLION)))
            .rounds(2),
        claim("claim_100_beside_10m_done", |bench| {
            Box::pin(claim_beside(bench, DONE, 10 * MILLION))
        })
        .rounds(1)
        .long(),
        Figure::new(
            "beside_a_busy_key",
            "instances/s",
            "no busy key",
            Target::AtLeast(0.9),
            |bench| Box::pin(beside_a_busy_key(bench, Came::Together)),
        )
        .rounds(3),
        Figure::new(
            "beside_a_busy_key_one_by_one",
            "instances/s",
            "no busy key",
            Target::None,
            |bench| Box::pin(beside_a_busy_key(bench, Came::OneByOne)),
        )
        .rounds(3),
        Figure::new(
            "beside_unknown_machines",
            "instances/s",
            "none beside",
            Target::AtLeast(0.9),
            |bench| Box::pin(beside_unknown_machines(bench)),
        )
        .rounds(3),
        Figure::new(
            "beside_a_deep_backlog",
            "instances/s",
            "no backlog",
            Target::AtLeast(0.9),
            |bench| Box::pin(beside_a_deep_backlog(bench)),
        )
        .rounds(2),
    ]
}

/// Measures the median time of a claim of 100 rows, with many other rows and without.
async fn claim_beside(bench: &Bench, others: &'static str, count: i64) -> Result<Sample, Error> {
    bench.load(ONE_STEP.fsm, ONE_STEP.step, ONE_STEP.state, bench.rows(20_000)).await?;
    let alone = claims(bench).await?;
    bench.clear().await?;
    sqlx::query(others).bind(bench.rows(count)).execute(&bench.pool).await?;
    bench.add(ONE_STEP.fsm, ONE_STEP.step, ONE_STEP.state, bench.rows(20_000), None).await?;
    bench.settle().await?;
    Ok(Sample::against(claims(bench).await?, alone))
}

async fn claims(bench: &Bench) -> Result<f64, Error> {
    let mut connection = bench.pool.acquire().await?;
    let worker = bare::register(&mut connection).await?;
    let mut times: Vec<Duration> = Vec::new();
    for _ in 0..100 {
        let began = Instant::now();
        let held = bare::claim(&mut connection, worker, ONE_STEP, 100, &mut Watermarks::default())
            .await?
            .held;
        if held.is_empty() {
            break;
        }
        times.push(began.elapsed());
    }
    Ok(quantile(&times, 0.5))
}

/// The way in which the rows that wait for a busy key were inserted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Came {
    /// In one insert, which leaves one of them in the claim's index and blocks the others.
    Together,
    /// Each by itself, in effect: all are in the claim's index, and claims have to block them.
    OneByOne,
}

/// Measures the throughput of rows with a thousand keys, while a hundred thousand other rows wait
/// for a busy key.
async fn beside_a_busy_key(bench: &Bench, came: Came) -> Result<Sample, Error> {
    let without = keyed(bench, 0, came).await?;
    Ok(Sample::against(keyed(bench, bench.rows(100_000), came).await?, without))
}

async fn keyed(bench: &Bench, waiting: i64, came: Came) -> Result<f64, Error> {
    let rows = bench.rows(20_000);
    let awake = Arc::new(Notify::new());
    bench.clear().await?;
    match came {
        Came::Together => {
            let sleepers = (0..waiting)
                .map(|n| Sleeper::insert(Small { n, ..Small::default() }).partition_key("busy"));
            Sleeper::insert_many(sleepers).execute(&bench.pool).await?;
        }
        Came::OneByOne => {
            bench.add("sleeper", "sleep", r#"{"n":1}"#, waiting, Some("busy")).await?;
        }
    }
    let engine = bench.engine().machine::<OneStep>().machine::<Sleeper>();
    let engine = engine.resource(Arc::clone(&awake)).start().await?;
    if waiting > 0 {
        // One row holds the key, so the claimer has looked at the rows that wait for it.
        while engine.metrics().claimed == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    bench.settle().await?;
    let began = Instant::now();
    sqlx::query(
        "insert into gen_durable.instances (fsm, fsm_version, step, state, queue, partition_key)
         select 'one_step', 1, 'go', '{\"n\":1}', 'checkout', 'key ' || n % $2
         from generate_series(1, $1) as n",
    )
    .bind(rows)
    .bind(KEYS)
    .execute(&bench.pool)
    .await?;
    while engine.metrics().steps < rows as u64 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let rate = rows as f64 / began.elapsed().as_secs_f64();
    drop(engine);
    // The dropped engine gives its rows back in the background.
    tokio::time::sleep(Duration::from_millis(200)).await;
    Ok(rate)
}

async fn beside_unknown_machines(bench: &Bench) -> Result<Sample, Error> {
    let run = async |unknown: i64| {
        let rows = bench.rows(50_000);
        bench.clear().await?;
        bench.add("nobody_knows", "go", r#"{"n":1}"#, unknown, None).await?;
        bench.add(ONE_STEP.fsm, ONE_STEP.step, ONE_STEP.state, rows, None).await?;
        bench.settle().await?;
        let began = Instant::now();
        let engine = bench.engine().machine::<OneStep>().start().await?;
        until_steps(&engine, rows as u64).await?;
        let rate = rows as f64 / began.elapsed().as_secs_f64();
        engine.shutdown().await?;
        Ok::<_, Error>(rate)
    };
    let without = run(0).await?;
    Ok(Sample::against(run(bench.rows(100_000)).await?, without))
}

/// Measures the throughput of a queue, while another tenant's queue has a deep backlog and no free
/// slot.
async fn beside_a_deep_backlog(bench: &Bench) -> Result<Sample, Error> {
    let run = async |backlog: i64| {
        let rows = bench.rows(50_000);
        bench.clear().await?;
        sqlx::query(
            "insert into gen_durable.instances (fsm, fsm_version, step, state, queue)
             select 'slow', 1, 'work', '{\"n\":1}', 'tenant' from generate_series(1, $1)",
        )
        .bind(backlog)
        .execute(&bench.pool)
        .await?;
        bench.add(ONE_STEP.fsm, ONE_STEP.step, ONE_STEP.state, rows, None).await?;
        bench.settle().await?;
        let began = Instant::now();
        let engine = bench.engine().queue("tenant", 10).machine::<OneStep>().machine::<Slow>();
        let engine = engine.start().await?;
        bench.until_drained().await?;
        let rate = rows as f64 / began.elapsed().as_secs_f64();
        engine.shutdown().await?;
        Ok::<_, Error>(rate)
    };
    let without = run(0).await?;
    Ok(Sample::against(run(bench.rows(MILLION)).await?, without))
}
