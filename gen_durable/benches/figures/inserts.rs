//! Measures inserts a second, each durable when its call returns.

use std::time::{Duration, Instant};

use gen_durable::prelude::*;
use sqlx::postgres::PgPoolOptions;
use tokio::task::JoinSet;

use crate::{
    bare::{self, ONE_STEP},
    bench::{Bench, Error, Figure, Sample, Target},
    machines::{OneStep, Small},
};

const TASKS: i64 = 64;
const BATCH: i64 = 1000;

pub fn figures() -> Vec<Figure> {
    vec![
        Figure::new(
            "insert_64_tasks",
            "inserts/s",
            "one statement each",
            Target::AtLeast(4.0),
            |bench| Box::pin(from_64_tasks(bench)),
        ),
        Figure::new("insert_many_1000", "rows/s", "bare unnest", Target::AtLeast(0.8), |bench| {
            Box::pin(in_thousands(bench))
        }),
        Figure::new(
            "insert_in_transaction",
            "inserts/s",
            "bare statements",
            Target::None,
            |bench| Box::pin(in_transaction(bench)),
        ),
    ]
}

fn rate(count: i64, took: Duration) -> f64 {
    count as f64 / took.as_secs_f64()
}

/// Waits until all tasks have ended. Returns the time since `began`.
async fn timed(mut tasks: JoinSet<Result<(), Error>>, began: Instant) -> Result<Duration, Error> {
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    Ok(began.elapsed())
}

async fn from_64_tasks(bench: &Bench) -> Result<Sample, Error> {
    let each = bench.rows(1_000).max(20);
    bench.clear().await?;
    // Each task has a connection of its own, which is the fastest way to run single statements.
    let pool = PgPoolOptions::new()
        .max_connections(TASKS as u32)
        .min_connections(TASKS as u32)
        .connect(&bench.url)
        .await?;
    let mut connections = Vec::new();
    for _ in 0..TASKS {
        connections.push(pool.acquire().await?);
    }
    let began = Instant::now();
    let mut tasks = JoinSet::new();
    for mut connection in connections {
        tasks.spawn(async move {
            for _ in 0..each / 4 {
                bare::insert(&mut connection, ONE_STEP, 1).await?;
            }
            Ok(())
        });
    }
    let bare = rate(TASKS * (each / 4), timed(tasks, began).await?);
    pool.close().await;
    bench.clear().await?;
    Ok(Sample::against(by_tasks(bench, each).await?, bare))
}

/// Measures the inserts a second of 64 tasks that share a client. Each task inserts `each`
/// instances, one by one.
pub async fn by_tasks(bench: &Bench, each: i64) -> Result<f64, Error> {
    let client = Client::new(bench.pool.clone());
    let began = Instant::now();
    let mut tasks = JoinSet::new();
    for _ in 0..TASKS {
        let client = client.clone();
        tasks.spawn(async move {
            for n in 0..each {
                OneStep::insert(Small { n, ..Small::default() }).execute(&client).await?;
            }
            Ok(())
        });
    }
    Ok(rate(TASKS * each, timed(tasks, began).await?))
}

async fn in_thousands(bench: &Bench) -> Result<Sample, Error> {
    let batches = bench.rows(10_000) / 100;
    bench.clear().await?;
    bench.settle().await?;
    let states = vec![r#"{"n":1}"#; BATCH as usize];
    let mut connection = bench.pool.acquire().await?;
    let began = Instant::now();
    for _ in 0..batches {
        sqlx::query(
            "insert into gen_durable.instances (fsm, fsm_version, step, state, queue)
             select 'one_step', 1, 'go', s::json, 'checkout' from unnest($1::text[]) as s
             returning id",
        )
        .bind(&states)
        .fetch_all(&mut *connection)
        .await?;
    }
    let bare = rate(batches * BATCH, began.elapsed());
    drop(connection);
    bench.clear().await?;
    bench.settle().await?;
    let client = Client::new(bench.pool.clone());
    let began = Instant::now();
    for _ in 0..batches {
        let rows = (0..BATCH).map(|_| Small { n: 1, ..Small::default() });
        OneStep::insert_many(rows).execute(&client).await?;
    }
    Ok(Sample::against(rate(batches * BATCH, began.elapsed()), bare))
}

async fn in_transaction(bench: &Bench) -> Result<Sample, Error> {
    const ORDER: &str = "insert into public.orders (item) values ($1)";
    let count = bench.rows(2_000);
    bench.clear().await?;
    bench
        .execute("create table if not exists public.orders (id serial primary key, item text)")
        .await?;
    bench.settle().await?;
    let mut connection = bench.pool.acquire().await?;
    let began = Instant::now();
    for _ in 0..count {
        let mut tx = sqlx::Connection::begin(&mut *connection).await?;
        sqlx::query(ORDER).bind("tea").execute(&mut *tx).await?;
        bare::insert(&mut tx, ONE_STEP, 1).await?;
        tx.commit().await?;
    }
    let bare = rate(count, began.elapsed());
    let began = Instant::now();
    for _ in 0..count {
        let mut tx = sqlx::Connection::begin(&mut *connection).await?;
        sqlx::query(ORDER).bind("tea").execute(&mut *tx).await?;
        OneStep::insert(Small::default()).execute(&mut *tx).await?;
        tx.commit().await?;
    }
    let took = began.elapsed();
    bench.execute("drop table public.orders").await?;
    Ok(Sample::against(rate(count, took), bare))
}
