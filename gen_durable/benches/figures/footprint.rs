//! What the engine costs besides time: statements while idle, memory, WAL, heap-only updates.

use std::{sync::Arc, time::Duration};

use tokio::sync::Notify;

use crate::{
    bare::TEN_STEPS,
    bench::{Bench, Error, Figure, Sample, Target, until_steps},
    machines::{OneStep, Sleeper, TenSteps},
};

pub fn figures() -> Vec<Figure> {
    vec![
        Figure::new("idle", "statements/s", "-", Target::AtMost(1.0), |bench| {
            Box::pin(idle(bench))
        })
        .rounds(1),
        Figure::new("memory_of_10000_in_flight", "KiB/step", "-", Target::AtMost(4.0), |bench| {
            Box::pin(memory(bench, 10_000))
        })
        .rounds(1),
        Figure::new("hot_share_of_chained_commits", "share", "-", Target::AtLeast(0.95), |bench| {
            Box::pin(hot_share(bench))
        })
        .rounds(2),
        Figure::new("wal_per_chained_commit", "bytes", "-", Target::None, |bench| {
            Box::pin(wal(bench))
        })
        .rounds(2),
    ]
}

/// Transactions that the server counts while an engine has nothing to do.
async fn idle(bench: &Bench) -> Result<Sample, Error> {
    bench.clear().await?;
    let engine = bench.engine().machine::<OneStep>().start().await?;
    // The poll backs off from 50 ms to 3 s.
    tokio::time::sleep(Duration::from_secs(if bench.quick { 1 } else { 12 })).await;
    let seconds = if bench.quick { 2 } else { 20 };
    let before = statements(bench).await?;
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    let after = statements(bench).await?;
    engine.shutdown().await?;
    // The first look is counted in the second.
    Ok(Sample::of((after - before - 2).max(0) as f64 / seconds as f64))
}

async fn statements(bench: &Bench) -> Result<i64, Error> {
    // Sessions report what they did with a delay of up to a second.
    bench.execute("select pg_stat_force_next_flush()").await?;
    Ok(sqlx::query_scalar(
        "select xact_commit + xact_rollback from pg_stat_database where datname = current_database()",
    )
    .fetch_one(&bench.pool)
    .await?)
}

/// Growth of the resident set with these many steps in flight.
async fn memory(bench: &Bench, steps: i64) -> Result<Sample, Error> {
    let steps = bench.rows(steps);
    let awake = Arc::new(Notify::new());
    let engine = gen_durable::Engine::builder(bench.pool.clone())
        .queue("checkout", steps as usize)
        .machine::<Sleeper>()
        .resource(Arc::clone(&awake));
    bench.load("sleeper", "sleep", r#"{"n":1}"#, steps).await?;
    let before = resident_kib()?;
    let engine = engine.start().await?;
    while (engine.metrics().claimed as i64) < steps {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    let after = resident_kib()?;
    while engine.metrics().claimed > 0 {
        awake.notify_waiters();
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    engine.shutdown().await?;
    Ok(Sample::of((after - before) / steps as f64))
}

fn resident_kib() -> Result<f64, Error> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).ok_or("no VmRSS")?;
    Ok(line.split_whitespace().nth(1).ok_or("no number")?.parse()?)
}

async fn chain(bench: &Bench, rows: i64) -> Result<(), Error> {
    bench.load(TEN_STEPS.fsm, TEN_STEPS.step, r#"{"n":0}"#, rows).await?;
    bench.execute("select pg_stat_reset()").await?;
    let engine = bench.engine().machine::<TenSteps>().start().await?;
    until_steps(&engine, rows as u64 * 10).await?;
    engine.shutdown().await?;
    Ok(())
}

async fn hot_share(bench: &Bench) -> Result<Sample, Error> {
    let rows = bench.rows(20_000);
    chain(bench, rows).await?;
    loop {
        let (updates, hot): (i64, i64) = sqlx::query_as(
            "select n_tup_upd, n_tup_hot_upd from pg_stat_user_tables
             where schemaname = 'gen_durable' and relname = 'instances'",
        )
        .fetch_one(&bench.pool)
        .await?;
        // A claim and ten commits; the claim and the last commit change what indexes name.
        if updates >= 11 * rows {
            return Ok(Sample::of(hot as f64 / (updates - 2 * rows) as f64));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn wal(bench: &Bench) -> Result<Sample, Error> {
    let rows = bench.rows(20_000);
    bench.load(TEN_STEPS.fsm, TEN_STEPS.step, r#"{"n":0}"#, rows).await?;
    let position = "select (pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::float8";
    let before: f64 = sqlx::query_scalar(position).fetch_one(&bench.pool).await?;
    let engine = bench.engine().machine::<TenSteps>().start().await?;
    until_steps(&engine, rows as u64 * 10).await?;
    engine.shutdown().await?;
    let after: f64 = sqlx::query_scalar(position).fetch_one(&bench.pool).await?;
    Ok(Sample::of((after - before) / (rows * 10) as f64))
}
