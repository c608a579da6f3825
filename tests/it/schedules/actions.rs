//! Looks at schedules, and pauses, resumes and runs of operators.

use std::time::Duration;

use gen_durable::{
    Engine, Schedule,
    operate::{Asked, OperateError, Resumed},
    prelude::*,
    testing::Lab,
};
use sqlx::PgPool;

use super::{Note, Visit, at, minutes, note, ticks, visit};
use crate::{
    roles::{APP, Login, OPERATOR, SUPERVISOR, WORKER},
    support::{WAIT_MAX, database, engine, eventually},
};

async fn audit(pool: &PgPool) -> Vec<String> {
    sqlx::query_scalar(
        "select concat_ws(' ', actor, action, schedule, fsm, reason) from gen_durable.audit
         where schedule is not null order by id",
    )
    .fetch_all(pool)
    .await
    .unwrap()
}

#[tokio::test]
async fn p45_operators_pause_resume_and_run_a_schedule() {
    let db = database().await;
    let pool = db.pool();
    let mut lab = Lab::new(pool)
        .machine::<Visit>()
        .schedule("nightly", Schedule::cron("0 1 * * *"), visit)
        .schedule("hourly", Schedule::every(Duration::from_hours(1)), visit)
        .starts_at(at(30))
        .start()
        .await
        .unwrap();
    let client = lab.client().clone();
    let nightly = client.schedule("nightly");
    let seen = nightly.get().await.unwrap().unwrap();
    assert_eq!((seen.next, seen.last, seen.last_instance), (Some(at(60)), None, None));
    assert_eq!(seen.declaration, "cron 0 1 * * *, zone UTC, missed once, overlap skip");
    assert_eq!((&*seen.machine, seen.declared_by.len(), seen.paused), ("visit", 1, None));

    nightly.pause().by("ada").reason("full disk").execute(&client).await.unwrap();
    lab.advance(minutes(60)).await.unwrap();
    let seen = nightly.get().await.unwrap().unwrap();
    let pause = seen.paused.unwrap();
    assert_eq!((&*pause.by, pause.reason.as_deref()), ("ada", Some("full disk")));
    assert_eq!((pause.until, pause.paused_at), (None, at(30)));
    assert_eq!((seen.next, seen.last), (Some(at(60)), None), "its tick is missed");
    assert_eq!(ticks(pool, "hourly").await.len(), 1, "the other one goes on");

    // A run is one of the pause's and of any overlap's, and leaves the ticks alone.
    let asked = nightly.run_now().by("bob").execute(&client).await.unwrap();
    assert_eq!(asked, Asked::Asked);
    assert_eq!(nightly.get().await.unwrap().unwrap().asked, Some(at(90)));
    nightly.run_now().by("bob").execute(&client).await.unwrap();
    lab.run_until_idle().await.unwrap();
    nightly.run_now().execute(&client).await.unwrap();
    lab.run_until_idle().await.unwrap();
    assert_eq!(ticks(pool, "nightly").await, ["2026-01-05T01:30:00"; 2]);
    let seen = nightly.get().await.unwrap().unwrap();
    assert_eq!((seen.next, seen.last, seen.asked), (Some(at(60)), Some(at(90)), None));
    assert!(seen.paused.is_some(), "it stays paused");

    assert_eq!(nightly.resume().by("ada").execute(&client).await.unwrap(), Resumed::Resumed);
    assert_eq!(nightly.resume().execute(&client).await.unwrap(), Resumed::NotPaused);
    lab.run_until_idle().await.unwrap();
    let seen = nightly.get().await.unwrap().unwrap();
    assert_eq!(seen.next, Some(at(25 * 60)));
    assert_eq!(seen.last, Some(at(90)), "the missed tick found the last run, which goes on");

    // A pause with an end.
    let hourly = client.schedule("hourly");
    hourly.pause().until(at(5 * 60 + 30)).execute(&client).await.unwrap();
    hourly.pause().until(at(4 * 60 + 30)).by("eve").execute(&client).await.unwrap();
    lab.advance(minutes(179)).await.unwrap();
    assert_eq!(ticks(pool, "hourly").await.len(), 1);
    assert_eq!(hourly.get().await.unwrap().unwrap().paused.unwrap().by, "eve");
    lab.advance(minutes(1)).await.unwrap();
    let seen = hourly.get().await.unwrap().unwrap();
    assert_eq!((seen.paused, seen.next), (None, Some(at(5 * 60))));
    let past = hourly.pause().until(at(0)).execute(&client).await.unwrap_err();
    assert!(matches!(past, OperateError::PastEnd), "{past}");

    let unknown = client.schedule("weekly");
    assert_eq!(unknown.get().await.unwrap(), None);
    for error in [
        unknown.pause().execute(&client).await.unwrap_err(),
        unknown.resume().execute(&client).await.unwrap_err(),
        unknown.run_now().execute(&client).await.unwrap_err(),
    ] {
        assert!(error.to_string().contains("no engine has declared the schedule `weekly`"));
    }
    let role: String = sqlx::query_scalar("select session_user").fetch_one(pool).await.unwrap();
    let expected = [
        "ada pause nightly visit full disk".to_owned(),
        "bob run_now nightly visit".to_owned(),
        "bob run_now nightly visit".to_owned(),
        format!("{role} run_now nightly visit"),
        "ada resume nightly visit".to_owned(),
        format!("{role} pause hourly visit"),
        "eve pause hourly visit".to_owned(),
    ];
    assert_eq!(audit(pool).await, expected);
}

#[tokio::test]
async fn p45_schedules_are_listed_page_by_page() {
    let db = database().await;
    let mut builder = Lab::new(db.pool()).machine::<Note>();
    for n in 0..1_003 {
        builder = builder.schedule(format!("{n:04}"), Schedule::cron("@yearly"), note);
    }
    let lab = builder.start().await.unwrap();
    let first = lab.client().schedules(None).await.unwrap();
    let (last, count) = (first.last().unwrap().name.clone(), first.len());
    let second = lab.client().schedules(Some(&last)).await.unwrap();
    assert_eq!((first[0].name.as_str(), count, &*last), ("0000", 1_000, "0999"));
    let names: Vec<_> = second.iter().map(|schedule| schedule.name.as_str()).collect();
    assert_eq!(names, ["1000", "1001", "1002"]);
    assert!(lab.client().schedules(Some("1002")).await.unwrap().is_empty());
}

/// An engine that listens fires at once what an operator asks for, and nothing that is rolled back.
#[tokio::test(flavor = "multi_thread")]
async fn p45_a_run_that_is_asked_for_comes_at_once() {
    let db = database().await;
    let pool = db.pool();
    let builder = engine(&db).machine::<Note>().poll_interval(WAIT_MAX * 10);
    let engine = builder.schedule("yearly", Schedule::cron("@yearly"), note).start().await.unwrap();
    let yearly = engine.client().schedule("yearly");
    eventually("it is declared", async || yearly.get().await.unwrap()).await;
    let mut tx = pool.begin().await.unwrap();
    yearly.run_now().execute(&mut *tx).await.unwrap();
    tx.rollback().await.unwrap();
    let mut tx = pool.begin().await.unwrap();
    yearly.run_now().by("ada").execute(&mut *tx).await.unwrap();
    tx.commit().await.unwrap();
    let id =
        eventually("it has run", async || yearly.get().await.unwrap().unwrap().last_instance).await;
    engine.wait(InstanceId::<Note>::from_raw(id), WAIT_MAX).await.unwrap();
    assert_eq!(ticks(pool, "yearly").await.len(), 1);
    assert_eq!(audit(pool).await, ["ada run_now yearly note"]);
    engine.shutdown().await.unwrap();
    // Nobody declares it any more.
    let client = Client::new(pool.clone());
    let yearly = client.schedule("yearly");
    assert_eq!(yearly.run_now().execute(&client).await.unwrap(), Asked::Undeclared);
    assert!(yearly.get().await.unwrap().unwrap().declared_by.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn p45_each_role_does_with_schedules_what_it_may() {
    let db = database().await;
    gen_durable_migrate::roles(db.pool()).await.unwrap();
    let worker = Login::of(&db, WORKER).await;
    let builder = Engine::builder(worker.pool.clone()).machine::<Note>();
    let often = Schedule::every(Duration::from_secs(1));
    let engine = builder.schedule("often", often, note).start().await.unwrap();
    eventually("it fires", async || {
        let seen = engine.client().schedule("often").get().await.unwrap();
        seen.and_then(|seen| seen.last)
    })
    .await;
    engine.maintain().await.unwrap();
    let supervisor = Login::of(&db, SUPERVISOR).await;
    let client = Client::new(supervisor.pool.clone());
    let often = client.schedule("often");
    often.run_now().by("ada").execute(&client).await.unwrap();
    often.pause().by("ada").execute(&client).await.unwrap();
    often.resume().by("ada").execute(&client).await.unwrap();
    let operator = Login::of(&db, OPERATOR).await;
    let client = Client::new(operator.pool.clone());
    assert_eq!(client.schedules(None).await.unwrap().len(), 1);
    let error = client.schedule("often").pause().execute(&client).await.unwrap_err();
    assert!(matches!(&error, OperateError::Database(error) if error.sqlstate() == Some("42501")));
    let app = Login::of(&db, APP).await;
    app.is_refused(&["select from gen_durable.schedules", "select from gen_durable.declarations"])
        .await;
    engine.shutdown().await.unwrap();
    for login in [worker, supervisor, operator, app] {
        login.remove(&db).await;
    }
}
