//! How long one instance takes, one at a time, beside the same statements on one connection.

use std::time::{Duration, Instant};

use crate::{
    bare::{self, ONE_STEP, Shape},
    bench::{Bench, Error, Figure, PATIENCE, Sample, Target},
    machines::{Go, Listener, OneStep, Parent, Small, Worker},
};

const LISTENER: Shape =
    Shape { fsm: "listener", step: "listen", steps: 1, state: r#"{"n":1}"#, listens: true };

pub fn figures() -> Vec<Figure> {
    vec![
        Figure::new("insert_to_done_p50", "ms", "bare statements", Target::AtMost(1.5), |bench| {
            Box::pin(async move {
                let (engine, bare) = insert_to_done(bench).await?;
                Ok(Sample::against(quantile(&engine, 0.5), quantile(&bare, 0.5)))
            })
        }),
        Figure::new("insert_to_done_p99", "ms", "bare statements", Target::None, |bench| {
            Box::pin(async move {
                let (engine, bare) = insert_to_done(bench).await?;
                Ok(Sample::against(quantile(&engine, 0.99), quantile(&bare, 0.99)))
            })
        }),
        Figure::new("signal_to_done_p50", "ms", "bare statements", Target::AtMost(1.5), |bench| {
            Box::pin(async move {
                let (engine, bare) = signal_to_done(bench).await?;
                Ok(Sample::against(quantile(&engine, 0.5), quantile(&bare, 0.5)))
            })
        }),
        Figure::new("fan_out_1000", "ms", "the model's", Target::AtMost(0.25), |bench| {
            Box::pin(fan_out(bench))
        }),
    ]
}

/// In milliseconds.
pub fn quantile(times: &[Duration], quantile: f64) -> f64 {
    let mut times = times.to_vec();
    times.sort_unstable();
    let index = ((times.len() - 1) as f64 * quantile).round() as usize;
    times[index].as_secs_f64() * 1000.0
}

async fn insert_to_done(bench: &Bench) -> Result<(Vec<Duration>, Vec<Duration>), Error> {
    let count = bench.rows(2_000);
    bench.clear().await?;
    bench.settle().await?;
    let mut bare = Vec::new();
    let mut connection = bench.pool.acquire().await?;
    let worker = bare::register(&mut connection).await?;
    for _ in 0..count {
        let began = Instant::now();
        bare::insert(&mut connection, ONE_STEP, 1).await?;
        let mut held = bare::claim(&mut connection, worker, ONE_STEP, 1).await?;
        bare::commit(&mut connection, worker, ONE_STEP, &mut held, true).await?;
        bare.push(began.elapsed());
    }
    drop(connection);
    let engine = bench.engine().machine::<OneStep>().start().await?;
    let mut times = Vec::new();
    for n in 0..count {
        let began = Instant::now();
        let id = OneStep::insert(Small { n, ..Small::default() }).execute(&engine).await?;
        engine.wait(id, PATIENCE).await?;
        times.push(began.elapsed());
    }
    engine.shutdown().await?;
    Ok((times, bare))
}

async fn signal_to_done(bench: &Bench) -> Result<(Vec<Duration>, Vec<Duration>), Error> {
    let count = bench.rows(1_000);
    bench.clear().await?;
    let engine = bench.engine().machine::<Listener>().start().await?;
    let park = async || {
        let rows = vec![Small::default(); count as usize];
        let ids = Listener::insert_many(rows).execute(&engine).await?;
        loop {
            let parked: i64 = sqlx::query_scalar(
                "select count(*) from gen_durable.instances where status = 'awaiting_signal'",
            )
            .fetch_one(&bench.pool)
            .await?;
            if parked == count {
                return Ok::<_, Error>(ids);
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let ids = park().await?;
    bench.settle().await?;
    let mut times = Vec::new();
    for id in ids {
        let id = id?;
        let began = Instant::now();
        Listener::signal_go(id, Go { n: 1 }).execute(&engine).await?;
        engine.wait(id, PATIENCE).await?;
        times.push(began.elapsed());
    }
    let ids = park().await?;
    engine.shutdown().await?;
    bench.settle().await?;
    let mut bare = Vec::new();
    let mut connection = bench.pool.acquire().await?;
    let worker = bare::register(&mut connection).await?;
    for id in ids {
        let id = id?;
        let began = Instant::now();
        bare::deliver(&mut connection, id.get(), "go", r#"{"n":1}"#).await?;
        let mut held = bare::claim(&mut connection, worker, LISTENER, 1).await?;
        bare::commit(&mut connection, worker, LISTENER, &mut held, true).await?;
        bare.push(began.elapsed());
    }
    Ok((times, bare))
}

/// One parent, a thousand children, a join; beside the 140 ms of the Elixir model.
async fn fan_out(bench: &Bench) -> Result<Sample, Error> {
    let children = bench.rows(1_000);
    bench.clear().await?;
    bench.settle().await?;
    let engine = bench.engine().machine::<Parent>().machine::<Worker>().start().await?;
    let join = async |children| {
        let id = Parent::insert(Small { n: children, ..Small::default() }).execute(&engine).await?;
        Ok::<i64, Error>(engine.wait(id, PATIENCE).await?)
    };
    // An engine that has run before: its connections are open and its statements prepared.
    join(10).await?;
    let began = Instant::now();
    let joined = join(children).await?;
    let took = began.elapsed();
    engine.shutdown().await?;
    if joined != children {
        return Err(format!("{joined} of {children} children joined").into());
    }
    Ok(Sample::against(took.as_secs_f64() * 1000.0, 140.0))
}
