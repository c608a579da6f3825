//! Measures the throughput of a queue beside an action on many instances.

use std::time::Instant;

use gen_durable::{Client, Status};

use crate::{
    bare::ONE_STEP,
    bench::{Bench, Error, Figure, Sample, Target},
    machines::OneStep,
};

pub fn figures() -> Vec<Figure> {
    vec![
        Figure::new(
            "beside_a_bulk_retry",
            "instances/s",
            "no action",
            Target::AtLeast(0.9),
            |bench| Box::pin(beside_a_retry(bench)),
        )
        .rounds(3),
    ]
}

/// A million instances of another queue have failed, and are retried meanwhile.
async fn beside_a_retry(bench: &Bench) -> Result<Sample, Error> {
    let run = async |acts: bool| {
        let rows = bench.rows(200_000);
        bench.clear().await?;
        sqlx::query(
            "insert into gen_durable.instances
                 (fsm, fsm_version, step, state, queue, status, last_error, finished_at)
             select 'other', 1, 'work', '1', 'elsewhere', 'failed', 'why', now()
             from generate_series(1, $1)",
        )
        .bind(bench.rows(1_000_000))
        .execute(&bench.pool)
        .await?;
        bench.add(ONE_STEP.fsm, ONE_STEP.step, ONE_STEP.state, rows, None).await?;
        bench.settle().await?;
        let client = Client::new(bench.pool.clone());
        let engine = bench.engine().machine::<OneStep>().start().await?;
        let began = Instant::now();
        let retry = client.all_instances().machine("other").status(Status::Failed).retry();
        let acting = acts.then(|| tokio::spawn(async move { retry.execute(&client).await }));
        bench.until_drained().await?;
        let rate = rows as f64 / began.elapsed().as_secs_f64();
        if let Some(acting) = acting {
            acting.abort();
        }
        engine.shutdown().await?;
        Ok::<_, Error>(rate)
    };
    let without = run(false).await?;
    Ok(Sample::against(run(true).await?, without))
}
