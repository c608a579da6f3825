//! Measures how far the tables grow during half an hour at half load, and while another transaction
//! holds a snapshot.
//!
//! Ended instances are kept for a minute: seven days of them, the default, would not fit on a disk
//! at this rate. Growth therefore comes from dead rows and dead index entries, not from ended
//! instances.

use std::time::Duration;

use sqlx::Connection;

use crate::{
    bench::{Bench, Error, Figure, Row, Sample, Target},
    half_load::{Load, half_of_the_most},
    machines::OneStep,
};

const RETENTION: Duration = Duration::from_mins(1);

pub fn figures() -> Vec<Figure> {
    let size = |name, baseline, target| Row { name, unit: "MiB", baseline, target };
    let open = |name| Row { name, unit: "instances", baseline: "-", target: Target::None };
    let stable = Target::AtMost(1.1);
    vec![
        Figure::several(
            vec![
                size("table_after_30_min", "after 10 min", stable),
                size("indexes_after_30_min", "after 10 min", stable),
                open("open_after_30_min"),
            ],
            |bench| Box::pin(half_an_hour(bench)),
        )
        .rounds(1)
        .long(),
        Figure::several(
            vec![
                size("table_after_a_snapshot", "before it", Target::None),
                size("indexes_after_a_snapshot", "before it", Target::None),
                open("open_after_a_snapshot"),
            ],
            |bench| Box::pin(beside_a_snapshot(bench)),
        )
        .rounds(1)
        .long(),
    ]
}

/// Sizes in MiB, and the number of instances that have not ended.
struct Tables {
    table: f64,
    indexes: f64,
    open: f64,
}

impl Tables {
    async fn look(bench: &Bench) -> Result<Self, Error> {
        let (table, indexes, open) = sqlx::query_as(
            "select pg_table_size('gen_durable.instances') / 1048576.0::float8,
                    pg_indexes_size('gen_durable.instances') / 1048576.0::float8,
                    (select count(*)::float8 from gen_durable.instances
                     where status in ('runnable', 'executing'))",
        )
        .fetch_one(&bench.pool)
        .await?;
        Ok(Self { table, indexes, open })
    }

    fn against(&self, earlier: &Self) -> Vec<Sample> {
        vec![
            Sample::against(self.table, earlier.table),
            Sample::against(self.indexes, earlier.indexes),
            Sample::of(self.open),
        ]
    }
}

/// Waits for this many minutes; in a quick run, for a fifth of as many seconds.
async fn minutes(bench: &Bench, count: u64) {
    let full = Duration::from_mins(count);
    tokio::time::sleep(bench.time(full, full / 60 / 5)).await;
}

async fn half_an_hour(bench: &Bench) -> Result<Vec<Sample>, Error> {
    let rate = half_of_the_most(bench).await?;
    bench.clear().await?;
    let engine = bench.engine().retention(RETENTION).machine::<OneStep>().start().await?;
    let load = Load::start(engine.client().clone(), rate);
    minutes(bench, 10).await;
    let earlier = Tables::look(bench).await?;
    minutes(bench, 20).await;
    let later = Tables::look(bench).await?;
    load.stop().await?;
    engine.shutdown().await?;
    Ok(later.against(&earlier))
}

async fn beside_a_snapshot(bench: &Bench) -> Result<Vec<Sample>, Error> {
    let rate = half_of_the_most(bench).await?;
    bench.clear().await?;
    let engine = bench.engine().retention(RETENTION).machine::<OneStep>().start().await?;
    let load = Load::start(engine.client().clone(), rate);
    minutes(bench, 5).await;
    let earlier = Tables::look(bench).await?;
    let mut holder = bench.pool.acquire().await?;
    let mut snapshot = holder.begin_with("begin isolation level repeatable read").await?;
    sqlx::query("select from gen_durable.workers").execute(&mut *snapshot).await?;
    minutes(bench, 5).await;
    snapshot.rollback().await?;
    minutes(bench, 5).await;
    let later = Tables::look(bench).await?;
    load.stop().await?;
    engine.shutdown().await?;
    Ok(later.against(&earlier))
}
