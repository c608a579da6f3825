//! Pictures of the pages, for a person who looks at them. One of them stands in the README.
//!
//! With `BLESS` it writes `docs/console.png`. With `GEN_DURABLE_CONSOLE_PICTURES=DIR` it writes
//! pictures of more pages, light, dark and narrow, to a directory.

use std::{env, path::Path};

use gen_durable::{Engine, Limit, Schedule, Tick, prelude::*};
use sqlx::PgPool;

use crate::support::{Error, Order, Paid, browser::Browser, order, site::Site, until};

#[durable_job(queue = "reports", history = "steps")]
async fn check_stock(_cx: JobContext<Tick>) {}

/// Instances that fail, wait and are done, a pause, a limit and a schedule.
async fn fleet(pool: &PgPool) -> Result<Engine, Error> {
    let often = Schedule::every(std::time::Duration::from_hours(1));
    let engine = Engine::builder(pool.clone())
        .machine::<Order>()
        .machine::<CheckStock>()
        .queue("default", 8)
        .queue("reports", 1)
        .limit("bank", Limit::new().at_once(4).per(20, std::time::Duration::from_mins(1)))
        .schedule("stock", often, CheckStock::insert)
        .start()
        .await?;
    for number in 0..40_u64 {
        let cents = if number % 8 == 3 { 13 } else { 199 * (number + 1) };
        let id = order(cents).unique_key(format!("order {number}")).execute(&engine).await?;
        if number % 2 == 0 {
            Order::signal_paid(id, Paid {}).execute(&engine).await?;
        }
    }
    until(pool, 5, "failed").await?;
    until(pool, 20, "done").await?;
    until(pool, 15, "parked").await?;
    let step = engine.machine::<Order>().pause_step(Order::Charge).by("grace");
    step.reason("the bank is down").execute(&engine).await?;
    for number in 40..52_u64 {
        let later = std::time::Duration::from_hours(3);
        let insert = order(199).unique_key(format!("order {number}"));
        // An engine hears of the pause within a second.
        let soon = std::time::Duration::from_secs(2);
        let insert = insert.schedule_in(if number % 3 == 0 { later } else { soon });
        insert.execute(&engine).await?;
    }
    until(pool, 8, "paused").await?;
    Ok(engine)
}

#[gen_durable::test]
async fn the_pages_have_their_pictures(pool: PgPool) -> Result<(), Error> {
    let engine = fleet(&pool).await?;
    let site = Site::of(&pool).await?;
    let Some(browser) = Browser::start().await? else { return Ok(()) };
    let tab = browser.tab(&site, "ada").await?;
    tab.scheme("light").await?;
    tab.width(1280, 800).await?;
    tab.goto(&site.url("/machine?name=order")).await?;
    tab.wait("document.getElementById('live').className === 'fresh'").await?;
    // The time that the look took is another one each time.
    tab.eval::<String>("document.getElementById('live').textContent = 'Live'").await?;
    let picture = tab.picture().await?;
    assert!(picture.starts_with(b"\x89PNG") && picture.len() < 400_000, "{} bytes", picture.len());
    if env::var_os("BLESS").is_some() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/console.png");
        std::fs::write(path, &picture)?;
    }
    if let Some(folder) = env::var_os("GEN_DURABLE_CONSOLE_PICTURES") {
        let failed: i64 =
            sqlx::query_scalar("select max(id) from gen_durable.instances where status = 'failed'")
                .fetch_one(&pool)
                .await?;
        let parked: i64 = sqlx::query_scalar(
            "select max(id) from gen_durable.instances where status = 'awaiting_signal'",
        )
        .fetch_one(&pool)
        .await?;
        let run: i64 =
            sqlx::query_scalar("select max(id) from gen_durable.history where instance_id = $1")
                .bind(parked)
                .fetch_one(&pool)
                .await?;
        for (name, path) in [
            ("run", format!("/instances/{parked}/{run}")),
            ("overview", "/".to_owned()),
            ("instances", "/instances?machine=order".to_owned()),
            ("failed", format!("/instances/{failed}")),
            ("parked", format!("/instances/{parked}")),
            ("machine", "/machine?name=order".to_owned()),
            ("confirm", "/act?deed=cancel&on=instances&machine=order&status=failed".to_owned()),
            ("limit", "/limit?name=bank".to_owned()),
            ("schedules", "/schedules".to_owned()),
            ("workers", "/workers".to_owned()),
            ("queues", "/queues".to_owned()),
            ("audit", "/audit".to_owned()),
            ("failure", "/instances/1234567".to_owned()),
        ] {
            for (look, scheme, width, height) in [
                ("light", "light", 1360, 1100),
                ("dark", "dark", 1360, 1100),
                ("narrow", "light", 400, 1400),
            ] {
                tab.scheme(scheme).await?;
                tab.width(width, height).await?;
                tab.goto(&site.url(&path)).await?;
                if !["confirm", "failure", "run"].contains(&name) {
                    tab.wait("document.getElementById('live').className === 'fresh'").await?;
                }
                let file = Path::new(&folder).join(format!("{name}-{look}.png"));
                std::fs::write(file, tab.picture().await?)?;
            }
        }
    }
    tab.close().await?;
    browser.end().await?;
    engine.shutdown().await?;
    Ok(())
}
