//! Programs that declare other schedules than each other: deployments, forwards and rolled back,
//! and schedules that no program has any more.

use std::time::Duration;

use gen_durable::{Engine, EngineBuilder, Missed, Overlap, Schedule, prelude::*, testing::Lab};
use sqlx::PgPool;

use super::{Note, at, minutes, note, ticks};
use crate::support::{database, engine, eventually, expire_lease, log, sql};

/// A program whose schedule `s` says this.
fn program(pool: &PgPool, schedule: Schedule) -> EngineBuilder {
    log();
    Engine::builder(pool.clone())
        .machine::<Note>()
        .poll_interval(Duration::from_millis(50))
        .lease_ttl(Duration::from_secs(3))
        .schedule("s", schedule, note)
}

fn cron(expression: &str) -> Schedule {
    Schedule::cron(expression).overlap(Overlap::Allow)
}

async fn in_force(pool: &PgPool, expression: &str) {
    eventually("another declaration is in force", async || {
        let client = Client::new(pool.clone());
        let seen = client.schedule("s").get().await.unwrap();
        seen.filter(|seen| seen.declaration.contains(expression))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p45_the_declaration_that_appeared_last_is_in_force_until_its_programs_end() {
    let db = database().await;
    let pool = db.pool();
    let (old, new) = ("0 3 1 1 *", "0 4 1 1 *");
    let first = program(pool, cron(old)).start().await.unwrap();
    in_force(pool, old).await;
    let second = program(pool, cron(new)).start().await.unwrap();
    in_force(pool, new).await;
    // Further processes of the older program change nothing. They see that the newer one is there.
    let third = program(pool, cron(old)).start().await.unwrap();
    let declared =
        async || Client::new(pool.clone()).schedule("s").get().await.unwrap().unwrap().declared_by;
    assert_eq!(declared().await[0], second.worker());
    assert_eq!(declared().await.len(), 3);
    // An operator asks for a run: the newer program meets that, and the older ones do not.
    let client = Client::new(pool.clone());
    client.schedule("s").run_now().execute(&client).await.unwrap();
    eventually("it has run", async || {
        client.schedule("s").get().await.unwrap().unwrap().last_instance
    })
    .await;
    in_force(pool, new).await;
    // It is rolled back.
    second.shutdown().await.unwrap();
    in_force(pool, old).await;
    assert_eq!(ticks(pool, "s").await.len(), 1);
    // Forwards again. This process dies, and its lease runs out.
    let second = program(pool, cron(new)).start().await.unwrap();
    in_force(pool, new).await;
    let worker = second.worker();
    drop(second);
    expire_lease(pool, worker).await;
    in_force(pool, old).await;
    // A worker of the older program that is lost for a while does not appear as the newest one.
    let second = program(pool, cron(new)).start().await.unwrap();
    in_force(pool, new).await;
    let remove = "delete from gen_durable.workers where id = any (select d.worker
                  from gen_durable.declarations d where d.body like '%0 3 1 1%')";
    sql(pool, remove).await;
    eventually("both have registered anew", async || (declared().await.len() == 3).then_some(()))
        .await;
    assert_eq!(declared().await[0], second.worker());
    in_force(pool, new).await;
    for engine in [first, second, third] {
        engine.shutdown().await.unwrap();
    }
}

/// A program with another text comes and goes between two looks of the older one, which then sees
/// the same workers as before. The older text is in force again all the same.
#[tokio::test(flavor = "multi_thread")]
async fn p45_a_program_that_comes_and_goes_unseen_leaves_the_schedule_to_the_others() {
    let db = database().await;
    let pool = db.pool();
    let (old, new) = ("0 3 1 1 *", "0 4 1 1 *");
    let rare = Duration::from_mins(10);
    let first = program(pool, cron(old)).poll_interval(rare).start().await.unwrap();
    in_force(pool, old).await;
    let second = program(pool, cron(new)).start().await.unwrap();
    in_force(pool, new).await;
    second.shutdown().await.unwrap();
    // This wakes the first one.
    let client = Client::new(pool.clone());
    client.schedule("s").run_now().execute(&client).await.unwrap();
    eventually("it has run", async || {
        client.schedule("s").get().await.unwrap().unwrap().last_instance
    })
    .await;
    in_force(pool, old).await;
    first.shutdown().await.unwrap();
}

/// Two programs with different expressions run at once. Each tick is fired by the declaration in
/// force, and no tick of both twice.
#[tokio::test(flavor = "multi_thread")]
async fn p45_programs_of_different_expressions_fire_no_tick_twice() {
    let db = database().await;
    let pool = db.pool();
    let every = |seconds| {
        let schedule = Schedule::every(Duration::from_secs(seconds)).overlap(Overlap::Allow);
        schedule.missed(Missed::All { max: 100 })
    };
    let fired = async || ticks(pool, "s").await.len();
    let mut running = vec![program(pool, every(1)).start().await.unwrap()];
    for round in 0..4 {
        let seen = fired().await;
        eventually("it fires", async || (fired().await > seen).then_some(())).await;
        running.push(program(pool, every(1 + round % 2)).start().await.unwrap());
        let seen = fired().await;
        eventually("it fires", async || (fired().await > seen).then_some(())).await;
        running.remove(0).shutdown().await.unwrap();
    }
    for engine in running {
        engine.shutdown().await.unwrap();
    }
    let mut all = ticks(pool, "s").await;
    let count = all.len();
    all.sort();
    all.dedup();
    assert_eq!(all.len(), count);
}

/// A program that begins anew takes up what was missed, by its own declaration.
#[tokio::test]
async fn p45_a_new_declaration_goes_on_where_the_former_one_was() {
    let db = database().await;
    let pool = db.pool();
    let lab = async |expression: &str, time| {
        let builder = Lab::new(pool).machine::<Note>().schedule("s", cron(expression), note);
        builder.starts_at(time).start().await.unwrap()
    };
    let mut first = lab("0 * * * *", at(30)).await;
    first.advance(minutes(60)).await.unwrap();
    first.close().await.unwrap();
    // At the end of its lease: the tick of 02:00 was missed, and the new declaration knows it too.
    sql(pool, "delete from gen_durable.workers").await;
    let mut second = lab("0,30 * * * *", at(125)).await;
    second.run_until_idle().await.unwrap();
    assert_eq!(ticks(pool, "s").await, ["2026-01-05T01:00:00", "2026-01-05T02:00:00"]);
    second.advance(minutes(30)).await.unwrap();
    assert_eq!(ticks(pool, "s").await.last().unwrap(), "2026-01-05T02:30:00");
    second.close().await.unwrap();
    // Nothing is missed: the new declaration begins with its next tick.
    sql(pool, "delete from gen_durable.workers").await;
    let mut third = lab("40 * * * *", at(155)).await;
    third.advance(minutes(10)).await.unwrap();
    assert_eq!(ticks(pool, "s").await.last().unwrap(), "2026-01-05T02:40:00");
    assert_eq!(ticks(pool, "s").await.len(), 4);
}

/// A schedule is gone from the code. It stays visible, fires no more, and is logged.
#[tokio::test(flavor = "multi_thread")]
async fn p45_a_schedule_that_no_program_declares_is_reported_and_fires_no_more() {
    let db = database().await;
    let pool = db.pool();
    let schedule = Schedule::every(Duration::from_secs(1)).overlap(Overlap::Allow);
    let old = program(pool, schedule).start().await.unwrap();
    eventually("it fires", async || (!ticks(pool, "s").await.is_empty()).then_some(())).await;
    old.shutdown().await.unwrap();
    let fired = ticks(pool, "s").await;
    let new = engine(&db)
        .machine::<Note>()
        .schedule("other", Schedule::every(Duration::from_secs(1)), note)
        .start()
        .await
        .unwrap();
    eventually("the other one fires", async || {
        (ticks(pool, "other").await.len() >= 2).then_some(())
    })
    .await;
    assert_eq!(ticks(pool, "s").await, fired);
    let seen = new.client().schedules(None).await.unwrap();
    let declared: Vec<_> =
        seen.iter().map(|seen| (&*seen.name, seen.declared_by.clone())).collect();
    assert_eq!(declared, [("other", vec![new.worker()]), ("s", vec![])]);
    let undeclared: Vec<String> = sqlx::query_scalar(include_str!(
        "../../../gen_durable/src/storage/sql/undeclared_schedules.sql"
    ))
    .fetch_all(pool)
    .await
    .unwrap();
    assert_eq!(undeclared, ["s"]);
    new.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn p45_a_wrong_schedule_is_an_error_at_start() {
    let db = database().await;
    let start = async |name: &str, schedule| {
        let error = engine(&db).machine::<Note>().schedule(name, schedule, note).start().await;
        error.expect_err("a mistake").to_string()
    };
    for (schedule, told) in [
        (cron("0 25 * * *"), "is no cron expression"),
        (cron("0 0 30 2 *"), "never fires"),
        (cron("0 3 * * *").zone("Europe/Nowhere"), "is no time zone"),
        (Schedule::every(Duration::ZERO), "an interval is"),
        (cron("0 3 * * *").missed(Missed::All { max: 0 }), "1 to 1000"),
    ] {
        let error = start("s", schedule).await;
        assert!(error.contains("the schedule `s`") && error.contains(told), "{error}");
    }
    for name in ["", "\0", &"x".repeat(300)] {
        start(name, cron("0 3 * * *")).await;
    }
    let twice = engine(&db).machine::<Note>().schedule("s", cron("@daily"), note);
    let error = twice.schedule("s", cron("@daily"), note).start().await.unwrap_err();
    assert!(error.to_string().contains("declared twice"), "{error}");
}
