//! Measures the engine's costs besides time: statements while idle, memory, WAL, dead rows.

use std::time::Duration;

use crate::{
    bare::{LISTENER, TEN_STEPS},
    bench::{Bench, Error, Figure, Row, Sample, Target, until_steps},
    floor::{self, Work},
    machines::{Listener, OneStep, TenSteps},
    proc::cpu_time,
    processes::memory_per_step,
};

const PARKED: i64 = 1_000_000;

pub fn figures() -> Vec<Figure> {
    let row = |name, unit, baseline, target| Row { name, unit, baseline, target };
    let idle = |statements, cpu, run| {
        let rows = vec![
            row(statements, "statements/s", "-", Target::AtMost(1.0)),
            row(cpu, "ms of CPU/s", "-", Target::None),
        ];
        Figure::several(rows, run).rounds(1)
    };
    let memory = |name, run| Figure::new(name, "KiB/step", "-", Target::AtMost(4.0), run).rounds(1);
    vec![
        idle("idle", "idle_cpu", |bench| Box::pin(idle_beside(bench, 0))),
        idle("idle_beside_1m_parked", "idle_cpu_beside_1m_parked", |bench| {
            Box::pin(idle_beside(bench, bench.rows(PARKED)))
        }),
        memory("memory_of_1000_in_flight", |bench| Box::pin(memory_of(bench, 1_000))),
        memory("memory_of_10000_in_flight", |bench| Box::pin(memory_of(bench, 10_000))),
        memory("memory_of_100000_in_flight", |bench| Box::pin(memory_of(bench, 100_000))),
        Figure::several(
            vec![
                row("hot_share_of_chained_commits", "share", "-", Target::AtLeast(0.95)),
                row("dead_tuples_per_step", "tuples", "bare loop", Target::None),
                row("wal_per_step", "bytes", "bare loop", Target::None),
            ],
            |bench| Box::pin(chained(bench)),
        )
        .rounds(2),
    ]
}

async fn memory_of(bench: &Bench, steps: i64) -> Result<Sample, Error> {
    Ok(Sample::of(memory_per_step(bench, bench.rows(steps)).await?))
}

/// Measures an idle engine: the transactions that the server counts, and the processor time of this
/// process and the server.
async fn idle_beside(bench: &Bench, parked: i64) -> Result<Vec<Sample>, Error> {
    bench.clear().await?;
    // The parked rows have timeouts, so the search for the next timeout has a million candidates.
    sqlx::query(
        "insert into gen_durable.instances
             (fsm, fsm_version, step, state, queue, status, awaits, wake_at)
         select $1, 1, $2, $3::text::json, 'checkout', 'awaiting_signal', '{go}', now() + interval '1 day'
         from generate_series(1, $4)",
    )
    .bind(LISTENER.fsm)
    .bind(LISTENER.step)
    .bind(LISTENER.state)
    .bind(parked)
    .execute(&bench.pool)
    .await?;
    bench.settle().await?;
    bench.execute("checkpoint").await?;
    let engine = bench.engine().machine::<OneStep>().machine::<Listener>().start().await?;
    // The poll backs off from 50 ms to 5 s.
    tokio::time::sleep(bench.time(Duration::from_secs(12), Duration::from_secs(1))).await;
    let time = bench.time(Duration::from_secs(20), Duration::from_secs(2));
    let (before, cpu) = (statements(bench).await?, cpu_time(bench)?);
    tokio::time::sleep(time).await;
    let cpu = cpu_time(bench)?.saturating_sub(cpu);
    let after = statements(bench).await?;
    engine.shutdown().await?;
    // The first call of `statements` is counted by the second.
    let seen = (after - before - 2).max(0) as f64;
    Ok(vec![
        Sample::of(seen / time.as_secs_f64()),
        Sample::of(cpu.as_secs_f64() * 1000.0 / time.as_secs_f64()),
    ])
}

async fn statements(bench: &Bench) -> Result<i64, Error> {
    // A session reports its transactions with a delay of up to a second.
    bench.execute("select pg_stat_force_next_flush()").await?;
    Ok(sqlx::query_scalar(
        "select xact_commit + xact_rollback from pg_stat_database where datname = current_database()",
    )
    .fetch_one(&bench.pool)
    .await?)
}

/// Counts of updates, dead rows and WAL bytes that chained commits leave behind.
#[derive(Clone, Copy)]
struct Left {
    updates: i64,
    hot: i64,
    dead: i64,
    wal: f64,
}

/// Measures these counts for an engine and for the bare loop, on the same rows.
async fn chained(bench: &Bench) -> Result<Vec<Sample>, Error> {
    let rows = bench.rows(20_000);
    // Autovacuum would remove dead rows before they are counted.
    bench.execute("alter table gen_durable.instances set (autovacuum_enabled = off)").await?;
    let floor = floor::best(bench, Work::Drain, TEN_STEPS, rows).await?;
    let before = load(bench, rows).await?;
    floor::drain(bench, TEN_STEPS, floor).await?;
    let bare = left(bench, rows, before).await?;
    let before = load(bench, rows).await?;
    let engine = bench.engine().machine::<TenSteps>().start().await?;
    until_steps(&engine, rows as u64 * 10).await?;
    engine.shutdown().await?;
    let left = left(bench, rows, before).await?;
    bench.execute("alter table gen_durable.instances reset (autovacuum_enabled)").await?;
    let steps = (rows * 10) as f64;
    Ok(vec![
        // The claim and the last commit change indexed columns, and cannot be heap-only.
        Sample::of(left.hot as f64 / (left.updates - 2 * rows) as f64),
        Sample::against(left.dead as f64 / steps, bare.dead as f64 / steps),
        Sample::against(left.wal / steps, bare.wal / steps),
    ])
}

const WAL: &str = "select (pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::float8";

/// Loads instances of ten steps. Returns the position of the WAL after that.
async fn load(bench: &Bench, rows: i64) -> Result<f64, Error> {
    bench.load_shape(TEN_STEPS, rows).await?;
    bench.execute("select pg_stat_reset()").await?;
    Ok(sqlx::query_scalar(WAL).fetch_one(&bench.pool).await?)
}

async fn left(bench: &Bench, rows: i64, before: f64) -> Result<Left, Error> {
    let after: f64 = sqlx::query_scalar(WAL).fetch_one(&bench.pool).await?;
    loop {
        let (updates, hot, dead) = sqlx::query_as(
            "select n_tup_upd, n_tup_hot_upd, n_dead_tup from pg_stat_user_tables
             where schemaname = 'gen_durable' and relname = 'instances'",
        )
        .fetch_one(&bench.pool)
        .await?;
        // Each row has a claim and ten commits. Sessions report them with a delay.
        if updates >= 11 * rows {
            return Ok(Left { updates, hot, dead, wal: after - before });
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
