//! Measures what limits cost: the processor time of limited runs, and the work beside a full
//! bucket.

use std::time::{Duration, Instant};

use gen_durable::{Engine, Limit};

use crate::{
    bench::{Bench, Error, Figure, Row, Sample, Target},
    machines::{Limited, OneStep, Small, TenLimited, TenSteps},
    proc::cpu_time,
};

/// The bounds that no run meets.
fn wide() -> Limit {
    Limit::new().at_once(10_000).per(1_000_000, Duration::from_secs(1)).burst(10_000)
}

/// The inserts of the paced figure, in a second.
const PACE: u32 = 10_000;
/// The starts that the figure at the rate allows, in a second.
const RATE: u32 = 500;

pub fn figures() -> Vec<Figure> {
    let rate = Row {
        name: "limited_to_the_rate",
        unit: "starts/s",
        baseline: "the rate",
        target: Target::AtLeast(0.9),
    };
    vec![
        Figure::new(
            "limited_10k_a_second_cpu",
            "µs/run",
            "unlimited",
            Target::AtMost(1.5),
            |bench| Box::pin(paced(bench)),
        ),
        Figure::new("limited_at_full_speed_cpu", "µs/run", "unlimited", Target::None, |bench| {
            Box::pin(at_full_speed(bench))
        })
        .rounds(3),
        Figure::new("limited_ten_steps_cpu", "µs/run", "unlimited", Target::None, |bench| {
            Box::pin(ten_steps(bench))
        })
        .rounds(3),
        Figure::new(
            "beside_a_full_bucket",
            "instances/s",
            "no limit",
            Target::AtLeast(0.9),
            |bench| Box::pin(beside_a_bucket(bench, Bucket::Full)),
        )
        .rounds(3),
        Figure::new(
            "beside_a_bucket_that_lets_in",
            "instances/s",
            "no limit",
            Target::None,
            |bench| Box::pin(beside_a_bucket(bench, Bucket::LetsIn)),
        )
        .rounds(3),
        Figure::several(vec![rate], |bench| Box::pin(to_the_rate(bench))).rounds(3),
    ]
}

async fn engine(bench: &Bench, limit: Limit) -> Result<Engine, Error> {
    let engine = bench.engine().machine::<OneStep>().machine::<TenSteps>();
    let engine = engine.machine::<Limited>().machine::<TenLimited>();
    Ok(engine.limit("limited", limit).start().await?)
}

fn per_run(began: Duration, ended: Duration, runs: i64) -> f64 {
    (ended.as_secs_f64() - began.as_secs_f64()) * 1e6 / runs as f64
}

/// Measures the processor time of runs that come at a steady pace, in a thousand buckets.
async fn paced(bench: &Bench) -> Result<Sample, Error> {
    let unlimited = pace(bench, false).await?;
    Ok(Sample::against(pace(bench, true).await?, unlimited))
}

async fn pace(bench: &Bench, limited: bool) -> Result<f64, Error> {
    let rows = bench.rows(50_000);
    bench.clear().await?;
    let engine = engine(bench, wide()).await?;
    let client = engine.client().clone();
    let began = cpu_time(bench)?;
    let (clock, mut inserted) = (Instant::now(), 0);
    let mut ticks = tokio::time::interval(Duration::from_millis(10));
    while inserted < rows {
        ticks.tick().await;
        let due = ((clock.elapsed().as_secs_f64() * f64::from(PACE)) as i64).min(rows);
        let states = (inserted..due).map(|n| Small { n, ..Small::default() });
        if limited {
            Limited::insert_many(states).execute(&client).await?;
        } else {
            OneStep::insert_many(states).execute(&client).await?;
        }
        inserted = due;
    }
    while engine.metrics().steps < rows as u64 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let ended = cpu_time(bench)?;
    engine.shutdown().await?;
    Ok(per_run(began, ended, rows))
}

/// Measures the processor time of runs that wait in a queue, in a thousand buckets.
async fn at_full_speed(bench: &Bench) -> Result<Sample, Error> {
    let unlimited = drained(bench, "one_step", "go", 1).await?;
    Ok(Sample::against(drained(bench, "limited", "go", 1).await?, unlimited))
}

/// The same for instances that run ten steps on one claim.
async fn ten_steps(bench: &Bench) -> Result<Sample, Error> {
    let unlimited = drained(bench, "ten_steps", "link", 10).await?;
    Ok(Sample::against(drained(bench, "ten_limited", "link", 10).await?, unlimited))
}

async fn drained(bench: &Bench, fsm: &str, step: &str, steps: i64) -> Result<f64, Error> {
    let rows = bench.rows(50_000) / steps;
    bench.clear().await?;
    let ballast = steps > 1;
    sqlx::query(
        "insert into gen_durable.instances (fsm, fsm_version, step, state, queue)
         select $1, 1, $2, case
                    when $4 then json_build_object('n', 0, 'ballast', 'k' || n % 1000)
                    else json_build_object('n', n)
                end, 'checkout'
         from generate_series(1, $3) as n",
    )
    .bind(fsm)
    .bind(step)
    .bind(rows)
    .bind(ballast)
    .execute(&bench.pool)
    .await?;
    bench.settle().await?;
    let began = cpu_time(bench)?;
    let engine = engine(bench, wide()).await?;
    while engine.metrics().steps < (rows * steps) as u64 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let ended = cpu_time(bench)?;
    engine.shutdown().await?;
    Ok(per_run(began, ended, rows * steps))
}

/// The bucket for which a hundred thousand rows wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bucket {
    /// A run has the only place all the time.
    Full,
    /// A hundred rows come in in each second.
    LetsIn,
}

/// Measures the throughput of unlimited work in the queue in which a hundred thousand rows wait for
/// one bucket.
async fn beside_a_bucket(bench: &Bench, bucket: Bucket) -> Result<Sample, Error> {
    let without = beside(bench, 0, bucket).await?;
    Ok(Sample::against(beside(bench, bench.rows(100_000), bucket).await?, without))
}

async fn beside(bench: &Bench, waiting: i64, bucket: Bucket) -> Result<f64, Error> {
    let rows = bench.rows(50_000);
    bench.clear().await?;
    sqlx::query(
        "insert into gen_durable.instances (fsm, fsm_version, step, state, queue, blocked_by, limited_by)
         select 'limited', 1, 'go', '{\"n\":1}', 'checkout', 16, 'limited' || chr(31) || '1'
         from generate_series(1, $1)",
    )
    .bind(waiting)
    .execute(&bench.pool)
    .await?;
    // The place is that of a worker elsewhere.
    bench
        .execute(
            "insert into gen_durable.workers (id, name, lease_expires_at)
             overriding system value values (1000000, 'elsewhere', now() + interval '1 hour')",
        )
        .await?;
    sqlx::query(
        "insert into gen_durable.limit_buckets (bucket, limit_name, wakes_at, workers, held, said)
         select 'limited' || chr(31) || '1', 'limited', 1, '{1000000}', '{1}', '{1}' where $1 > 0",
    )
    .bind(waiting)
    .execute(&bench.pool)
    .await?;
    bench.add("one_step", "go", r#"{"n":1}"#, rows, None).await?;
    bench.settle().await?;
    let limit = match bucket {
        Bucket::Full => Limit::new().at_once(1),
        Bucket::LetsIn => Limit::new().per(100, Duration::from_secs(1)),
    };
    let engine = engine(bench, limit).await?;
    let began = Instant::now();
    // Some of those that came in are among the steps.
    let done =
        "select count(*) from gen_durable.instances where fsm = 'one_step' and status = 'done'";
    while engine.metrics().steps < rows as u64 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    loop {
        if sqlx::query_scalar::<_, i64>(done).fetch_one(&bench.pool).await? == rows {
            break;
        }
    }
    let rate = rows as f64 / began.elapsed().as_secs_f64();
    engine.shutdown().await?;
    Ok(rate)
}

/// Measures how much of a rate is used while rows wait for it, with starts that are spaced evenly.
async fn to_the_rate(bench: &Bench) -> Result<Vec<Sample>, Error> {
    let rows = bench.rows(5_000);
    bench.clear().await?;
    sqlx::query(
        "insert into gen_durable.instances (fsm, fsm_version, step, state, queue)
         select 'limited', 1, 'go', '{\"n\":1}', 'checkout' from generate_series(1, $1)",
    )
    .bind(rows)
    .execute(&bench.pool)
    .await?;
    bench.settle().await?;
    let engine = engine(bench, Limit::new().per(RATE, Duration::from_secs(1)).burst(1)).await?;
    // The first ones find out that they have to wait.
    let warm = rows as u64 / 10;
    while engine.metrics().steps < warm {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let (began, first) = (Instant::now(), engine.metrics().steps);
    while engine.metrics().steps < rows as u64 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let starts = (rows as u64 - first) as f64 / began.elapsed().as_secs_f64();
    engine.shutdown().await?;
    Ok(vec![Sample::against(starts, f64::from(RATE))])
}
