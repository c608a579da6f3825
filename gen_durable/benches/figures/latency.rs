//! Measures the time of instances that run one at a time, beside the same statements on one
//! connection.

use std::time::{Duration, Instant};

use gen_durable::prelude::{Client, InstanceId};
use sqlx::PgConnection;

use crate::{
    bare::{self, LISTENER, ONE_STEP, Outcome, Shape, Watermarks},
    bench::{Bench, Error, Figure, Row, Sample, Target, WAIT_MAX},
    machines::{Go, Listener, OneStep, Parent, Small, Worker},
};

/// A series of single measurements ends after this time, even if it has not reached its count. In a
/// growing queue each instance takes longer than the last, and the series would not end.
const LIMIT: Duration = Duration::from_secs(10);

pub fn figures() -> Vec<Figure> {
    let row = |name, target| Row { name, unit: "ms", baseline: "bare statements", target };
    vec![
        Figure::several(
            vec![
                row("insert_to_done_p50", Target::AtMost(1.5)),
                row("insert_to_done_p99", Target::None),
            ],
            |bench| Box::pin(insert_to_done(bench)),
        ),
        Figure::several(
            vec![
                row("signal_to_done_p50", Target::AtMost(1.5)),
                row("signal_to_done_p99", Target::None),
            ],
            |bench| Box::pin(signal_to_done(bench)),
        ),
        Figure::several(
            vec![
                Row { baseline: "the model's", ..row("fan_out_1000", Target::AtMost(0.25)) },
                row("fan_out_1000_bare", Target::None),
                Row { baseline: "fan_out_1000", ..row("fan_out_10000", Target::AtMost(12.0)) },
            ],
            |bench| Box::pin(fan_out(bench)),
        ),
    ]
}

/// Returns this quantile of the times, in milliseconds.
pub fn quantile(times: &[Duration], quantile: f64) -> f64 {
    let mut times = times.to_vec();
    times.sort_unstable();
    let index = ((times.len() - 1) as f64 * quantile).round() as usize;
    times[index].as_secs_f64() * 1000.0
}

/// Inserts instances one at a time and waits for the end of each. Returns the time of each.
pub async fn inserts(client: &Client, count: i64) -> Result<Vec<Duration>, Error> {
    let (since, mut times) = (Instant::now(), Vec::new());
    for n in 0..count {
        if since.elapsed() > LIMIT {
            break;
        }
        let began = Instant::now();
        let id = OneStep::insert(Small { n, ..Small::default() }).execute(client).await?;
        client.wait(id, WAIT_MAX).await?;
        times.push(began.elapsed());
    }
    Ok(times)
}

/// Inserts instances that wait for a signal, and returns once all are parked.
pub async fn park(
    bench: &Bench,
    client: &Client,
    count: i64,
) -> Result<Vec<InstanceId<Listener>>, Error> {
    let rows = vec![Small::default(); count as usize];
    let ids = Listener::insert_many(rows).execute(client).await?;
    loop {
        let parked: i64 = sqlx::query_scalar(
            "select count(*) from gen_durable.instances where status = 'awaiting_signal'",
        )
        .fetch_one(&bench.pool)
        .await?;
        if parked == count {
            return Ok(ids.into_iter().collect::<Result<_, _>>()?);
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Signals instances one at a time and waits for the end of each. Returns the time of each.
pub async fn signals(
    client: &Client,
    parked: Vec<InstanceId<Listener>>,
) -> Result<Vec<Duration>, Error> {
    let (since, mut times) = (Instant::now(), Vec::new());
    for id in parked {
        if since.elapsed() > LIMIT {
            break;
        }
        let began = Instant::now();
        Listener::signal_go(id, Go { n: 1 }).execute(client).await?;
        client.wait(id, WAIT_MAX).await?;
        times.push(began.elapsed());
    }
    Ok(times)
}

/// Returns the median and the 99th percentile, each beside that of the baseline.
pub fn compared(times: &[Duration], baseline: &[Duration]) -> Vec<Sample> {
    let at = |share| Sample::against(quantile(times, share), quantile(baseline, share));
    vec![at(0.5), at(0.99)]
}

async fn insert_to_done(bench: &Bench) -> Result<Vec<Sample>, Error> {
    let count = bench.rows(2_000);
    bench.clear().await?;
    bench.settle().await?;
    let mut bare = Vec::new();
    let mut connection = bench.pool.acquire().await?;
    let worker = bare::register(&mut connection).await?;
    for _ in 0..count {
        let began = Instant::now();
        bare::insert(&mut connection, ONE_STEP, 1).await?;
        finish_one(&mut connection, worker, ONE_STEP).await?;
        bare.push(began.elapsed());
    }
    drop(connection);
    let engine = bench.engine().machine::<OneStep>().start().await?;
    let times = inserts(engine.client(), count).await?;
    engine.shutdown().await?;
    Ok(compared(&times, &bare))
}

async fn signal_to_done(bench: &Bench) -> Result<Vec<Sample>, Error> {
    let count = bench.rows(1_000);
    bench.clear().await?;
    let engine = bench.engine().machine::<Listener>().start().await?;
    let ids = park(bench, engine.client(), count).await?;
    bench.settle().await?;
    let times = signals(engine.client(), ids).await?;
    let ids = park(bench, engine.client(), count).await?;
    engine.shutdown().await?;
    bench.settle().await?;
    let mut bare = Vec::new();
    let mut connection = bench.pool.acquire().await?;
    let worker = bare::register(&mut connection).await?;
    for id in ids {
        let began = Instant::now();
        bare::deliver(&mut connection, &[id.get()]).await?;
        finish_one(&mut connection, worker, LISTENER).await?;
        bare.push(began.elapsed());
    }
    Ok(compared(&times, &bare))
}

/// Claims the only runnable row and commits its end.
async fn finish_one(connection: &mut PgConnection, worker: i64, shape: Shape) -> Result<(), Error> {
    let mut held =
        bare::claim(connection, worker, shape, 1, &mut Watermarks::default()).await?.held;
    bare::commit(connection, worker, shape, &mut held, Outcome::Done).await
}

/// Measures one parent that inserts a thousand children and joins them, beside the 140 ms that the
/// Elixir model takes for the same.
async fn fan_out(bench: &Bench) -> Result<Vec<Sample>, Error> {
    let children = bench.rows(1_000);
    bench.clear().await?;
    bench.settle().await?;
    let engine = bench.engine().machine::<Parent>().machine::<Worker>().start().await?;
    let join = async |children: i64| {
        let began = Instant::now();
        let id = Parent::insert(Small { n: children, ..Small::default() }).execute(&engine).await?;
        let joined: i64 = engine.wait(id, WAIT_MAX).await?;
        if joined != children {
            return Err(format!("{joined} of {children} children joined").into());
        }
        Ok::<f64, Error>(began.elapsed().as_secs_f64() * 1000.0)
    };
    // The first join warms the engine up: it opens connections, prepares statements and grows their
    // memory to batches of this size.
    join(children).await?;
    let thousand = join(children).await?;
    let ten_thousand = join(10 * children).await?;
    engine.shutdown().await?;

    let parent = Shape { fsm: "parent", step: "join", steps: 2, state: "{}", ..ONE_STEP };
    let child = Shape { fsm: "worker", step: "work", state: "0", ..ONE_STEP };
    let children = usize::try_from(children)?;
    let mut connection = bench.pool.acquire().await?;
    let worker = bare::register(&mut connection).await?;
    bare::fan_out(&mut connection, worker, parent, child, children).await?;
    let began = Instant::now();
    bare::fan_out(&mut connection, worker, parent, child, children).await?;
    let bare = began.elapsed().as_secs_f64() * 1000.0;
    Ok(vec![
        Sample::against(thousand, 140.0),
        Sample::against(thousand, bare),
        Sample::against(ten_thousand, thousand),
    ])
}
