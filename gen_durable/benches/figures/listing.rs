//! Lists and counts beside many instances.

use std::time::Instant;

use gen_durable::{Client, Status, operate::Page};

use crate::bench::{Bench, Error, Figure, Sample, Target};

/// The number of calls of each kind.
const CALLS: usize = 9;

pub fn figures() -> Vec<Figure> {
    let figure = |name, run| Figure::new(name, "ms", "-", Target::AtMost(50.0), run).rounds(1);
    vec![
        figure("list_beside_1m", |bench| Box::pin(lists(bench, bench.rows(1_000_000)))),
        figure("list_beside_10m", |bench| Box::pin(lists(bench, 10_000_000))).long(),
    ]
}

/// Returns the time of the slowest kind of list or count, each by the median of its calls.
async fn lists(bench: &Bench, rows: i64) -> Result<Sample, Error> {
    bench.clear().await?;
    sqlx::query(
        "insert into gen_durable.instances
             (fsm, fsm_version, step, state, queue, status, awaits, result, finished_at)
         select 'm' || n % 7, 1, 's' || n % 5, '{}', 'q' || n % 3, k.status,
                case when k.status = 'awaiting_signal' then '{go}'::text[] end,
                case when k.status = 'done' then '1'::json end,
                case when k.status in ('done', 'failed') then now() end
         from generate_series(1, $1) as n
         cross join lateral (
             select (array['done', 'awaiting_signal', 'runnable', 'failed'])[1 + n % 4] as status
         ) as k",
    )
    .bind(rows)
    .execute(&bench.pool)
    .await?;
    bench.settle().await?;
    let client = Client::new(bench.pool.clone());
    let any = || client.all_instances();
    let kinds = [
        any(),
        any().machine("m1").step("s1"),
        any().machine("nobody"),
        any().status(Status::Done),
        any().status(Status::Failed),
        any().status(Status::Failed).step("none"),
        any().status(Status::Runnable).queue("q1"),
        any().status(Status::Executing),
        any().status(Status::AwaitingSignal).partition_key("none"),
    ];
    let mut slowest = 0.0_f64;
    for kind in kinds {
        for counts in [false, true] {
            let mut times = Vec::new();
            for _ in 0..CALLS {
                let began = Instant::now();
                if counts {
                    kind.count().await?;
                } else {
                    kind.list(Page::first()).await?;
                }
                times.push(began.elapsed().as_secs_f64() * 1_000.0);
            }
            times.sort_by(f64::total_cmp);
            slowest = slowest.max(times[CALLS / 2]);
        }
    }
    Ok(Sample::of(slowest))
}
