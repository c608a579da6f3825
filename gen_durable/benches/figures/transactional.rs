//! Measures steps that run in a transaction, beside a loop of the same statements.

use std::time::{Duration, Instant};

use gen_durable::prelude::*;
use sqlx::{Connection, PgConnection};
use tokio::task::JoinSet;

use crate::{
    bare::TEN_STEPS,
    bench::{Bench, Error, Figure, Sample, Target, until_steps},
    machines::Small,
};

const BEGIN: &str = "begin; set local gen_durable.step = 'open'";
const COMMIT_STEP: &str = include_str!("../../src/storage/sql/commit_step.sql");
const UPDATE: &str = "update public.stock set n = n - 1 where id = $1";

/// The connections of the bare loop: as many as an engine opens for such steps.
const CONNECTIONS: usize = 10;
const STEPS: usize = 10;

/// Takes from the stock in each of its ten steps.
#[durable_fsm(name = "ten_steps", queue = "checkout", state = Small, output = ())]
pub enum TenTransactions {
    Link,
}

#[durable_fsm]
impl TenTransactions {
    async fn link(mut cx: Context<Self>, tx: &mut PgConnection) -> StepResult<Self> {
        sqlx::query(UPDATE).bind(cx.id().get()).execute(&mut *tx).await?;
        cx.state.n += 1;
        Ok(if cx.state.n == STEPS as i64 { cx.done(()) } else { cx.next(TenTransactions::Link) })
    }
}

pub fn figures() -> Vec<Figure> {
    let target = Target::AtLeast(0.8);
    let figure = Figure::new("transactional_step", "commits/s", "bare loop", target, |bench| {
        Box::pin(transactional_step(bench))
    });
    vec![figure.rounds(3)]
}

async fn transactional_step(bench: &Bench) -> Result<Sample, Error> {
    let rows = bench.rows(2_000);
    let steps = (rows * STEPS as i64) as f64;
    stock(bench, rows).await?;
    let bare = bare(bench).await?;
    bench.all_done().await?;
    stock(bench, rows).await?;
    let began = Instant::now();
    let engine = bench.engine().machine::<TenTransactions>().start().await?;
    until_steps(&engine, steps as u64).await?;
    let took = began.elapsed();
    engine.shutdown().await?;
    bench.all_done().await?;
    sqlx::raw_sql("drop table public.stock").execute(&bench.pool).await?;
    Ok(Sample::against(steps / took.as_secs_f64(), steps / bare.as_secs_f64()))
}

/// Loads the instances, and a row of the stock for each.
async fn stock(bench: &Bench, rows: i64) -> Result<(), Error> {
    bench.load_shape(TEN_STEPS, rows).await?;
    sqlx::raw_sql(
        "drop table if exists public.stock;
         create table public.stock (id bigint primary key, n int not null) with (fillfactor = 30);
         insert into public.stock select i.id, 100 from gen_durable.instances i;
         analyze public.stock",
    )
    .execute(&bench.pool)
    .await?;
    Ok(())
}

/// Runs the same transactions without an engine. The rows count as claimed.
async fn bare(bench: &Bench) -> Result<Duration, Error> {
    sqlx::raw_sql("update gen_durable.instances set status = 'executing', locked_by = 7")
        .execute(&bench.pool)
        .await?;
    let rows: Vec<(i64, i64)> =
        sqlx::query_as("select id, revision from gen_durable.instances order by id")
            .fetch_all(&bench.pool)
            .await?;
    let mut loops = JoinSet::new();
    let began = Instant::now();
    for rows in rows.chunks(rows.len().div_ceil(CONNECTIONS)) {
        let (mut connection, rows) = (PgConnection::connect(&bench.url).await?, rows.to_vec());
        loops.spawn(async move {
            for (id, revision) in rows {
                for step in 0..STEPS {
                    run(&mut connection, id, revision + step as i64, step).await?;
                }
            }
            Ok::<(), Error>(())
        });
    }
    while let Some(ended) = loops.join_next().await {
        ended??;
    }
    Ok(began.elapsed())
}

async fn run(
    connection: &mut PgConnection,
    id: i64,
    revision: i64,
    step: usize,
) -> Result<(), Error> {
    let ends = step + 1 == STEPS;
    let mut transaction = connection.begin_with(BEGIN).await?;
    sqlx::query(UPDATE).bind(id).execute(&mut *transaction).await?;
    let applied: bool = sqlx::query_scalar(COMMIT_STEP)
        .bind(id)
        .bind(7_i64)
        .bind(revision)
        .bind(if ends { "done" } else { "executing" })
        .bind((!ends).then_some("link"))
        .bind(format!(r#"{{"n":{}}}"#, step + 1))
        .bind(ends.then_some("null"))
        .bind(None::<&str>)
        .bind(0_i32)
        .bind(None::<i64>)
        .bind(None::<&str>)
        .bind(None::<i64>)
        .bind(None::<i32>)
        .bind(0_i32)
        .bind([0_i64; 0].as_slice())
        .bind("read committed")
        .bind(false)
        .fetch_one(&mut *transaction)
        .await?;
    if !applied {
        return Err(format!("instance {id} has another revision than {revision}").into());
    }
    transaction.commit().await?;
    Ok(())
}
