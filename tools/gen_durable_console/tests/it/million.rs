//! The pages beside a million instances. The test prints what each takes, and what an open one
//! takes of the database's time. It checks that no statement comes to its timeout.

use std::time::{Duration, Instant};

use sqlx::PgPool;
use tokio::net::TcpStream;

use crate::{
    live::{read_until, stream},
    support::{
        Error, engine,
        site::{Site, console},
    },
};

/// The looks of an open page that are measured. They are a second apart, or more.
const LOOKS: usize = 5;

/// Instances of all statuses, in twenty queues.
const MANY: &str = "
    insert into gen_durable.instances
        (fsm, fsm_version, step, state, queue, status, awaits, eligible_at, last_error, finished_at,
         locked_by, partition_key, unique_key)
    select case when n % 3 = 0 then 'order' else 'parcel' end, 1,
           (array['charge', 'await_pay', 'ship'])[1 + n % 3], '{}', 'queue ' || n % 20, k.status,
           case when k.status = 'awaiting_signal' then '{paid}'::text[] end,
           now() + (n % 7 - 3) * interval '1 hour',
           case when k.status = 'failed' then 'the bank refused the card' end,
           case when k.status in ('done', 'failed', 'cancelled') then now() end,
           case when k.status = 'executing' then 1 end, null, n::text
    from generate_series(1, 1000000) as n
    cross join lateral (
        select (array['done', 'done', 'done', 'done', 'runnable', 'runnable', 'awaiting_signal',
                      'failed', 'failed', 'cancelled'])[1 + n % 10] as status
    ) as k";

#[gen_durable::test]
async fn pages_are_bounded_beside_a_million_instances(pool: PgPool) -> Result<(), Error> {
    // The engine has registered the machine and its graph, and serves none of these queues.
    let engine = engine(&pool).await?;
    engine.shutdown().await?;
    sqlx::query(MANY).execute(&pool).await?;
    sqlx::query("analyze gen_durable.instances").execute(&pool).await?;
    let last: i64 =
        sqlx::query_scalar("select max(id) from gen_durable.instances").fetch_one(&pool).await?;
    // A statement that reads the whole table takes longer than that.
    let strict = console(&pool).statement_timeout(Duration::from_millis(400));
    let site = Site::serve(strict, "").await?;
    let instance = format!("/instances/{last}");
    let pages = [
        "",
        "/instances",
        "/instances?status=failed",
        "/instances?machine=order&status=failed&step=charge",
        "/instances?status=awaiting_signal",
        "/instances?queue=queue+7&status=runnable",
        "/instances?unique_key=17",
        "/instances?partition_key=none",
        "/instances?idle=30d",
        &instance,
        "/machines",
        "/machine?name=order",
        "/queues",
        "/limits",
        "/schedules",
        "/workers",
        "/doctor",
        "/audit",
        "/act?deed=retry&on=instances&status=failed",
    ];
    for path in pages {
        let mut times = Vec::new();
        for _ in 0..3 {
            let began = Instant::now();
            let page = site.get("ada", path).await?;
            times.push(began.elapsed());
            assert_eq!(page.status, 200, "{path}: {}", page.body);
        }
        times.sort();
        println!(
            "{:>6.1} ms  {}",
            times[1].as_secs_f64() * 1e3,
            if path.is_empty() { "/" } else { path }
        );
    }
    for path in ["", "/machine?name=order", "/instances?status=failed", &instance] {
        let share = share(&site, path).await?;
        println!(
            "{share:>6.2} % of the time, while {} is open",
            if path.is_empty() { "/" } else { path }
        );
    }
    Ok(())
}

/// Returns the hundredths of the time that the looks of an open page take. A look's time is that of
/// its statements, one after the other, with the ways there and back.
async fn share(site: &Site, path: &str) -> Result<f64, Error> {
    let mut page = stream(site, "ada", path).await?;
    look(&mut page).await?;
    let (began, mut looked) = (Instant::now(), 0.0);
    for _ in 0..LOOKS {
        looked += look(&mut page).await?;
    }
    Ok(looked / began.elapsed().as_secs_f64() / 10.0)
}

/// Waits for a look, and returns the milliseconds that it took.
async fn look(page: &mut TcpStream) -> Result<f64, Error> {
    let seen = read_until(page, "event: look\ndata: ").await?;
    let rest = seen.rsplit("event: look\ndata: ").next().unwrap_or_default().to_owned();
    let rest = if rest.contains('\n') { rest } else { rest + &read_until(page, "\n").await? };
    let line = rest.lines().next().unwrap_or_default();
    Ok(line.rsplit(' ').next().unwrap_or_default().parse()?)
}
