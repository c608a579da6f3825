//! The actions, by plain HTTP: each does what the library does, in the operator's name.

use std::time::Instant;

use gen_durable::{Engine, Limit, Schedule, Tick, operate::Count, prelude::*};
use sqlx::PgPool;

use crate::support::{Error, Order, Paid, SOON, engine, order, site::Site, until};

type Row = (String, String, Option<String>);

#[gen_durable::test]
async fn p80_a_form_acts_once(pool: PgPool) -> Result<(), Error> {
    let engine = engine(&pool).await?;
    let site = Site::of(&pool).await?;
    let id = order(1).execute(&engine).await?.get();
    until(&pool, 1, "parked").await?;
    let act = format!("deed=pause&on=instance&id={id}");
    let form = format!("once={}", "a".repeat(64));
    // A form that was refused may be sent again.
    let refused = site.act("ada", &format!("deed=kill&on=instance&id={id}"), &form).await?;
    assert_eq!(refused.status, 400, "{refused:?}");
    done(&site, &act, &form).await?;
    let again = site.act("ada", &act, &form).await?;
    assert_eq!(again.status, 409, "{again:?}");
    assert!(again.body.contains("was sent before"), "{}", again.body);
    assert_eq!(audit(&pool).await?.len(), 1);
    // Without an answer of the database, the action may have been done all the same.
    let (resume, form) = (format!("deed=resume&on=instance&id={id}"), "once=".to_owned());
    let form = form + &"b".repeat(64);
    sqlx::query(
        "alter table gen_durable.audit add constraint broken check (action = '') not valid",
    )
    .execute(&pool)
    .await?;
    let failed = site.act("ada", &resume, &form).await?;
    assert!(failed.status == 503 && failed.body.contains("look whether"), "{failed:?}");
    sqlx::query("alter table gen_durable.audit drop constraint broken").execute(&pool).await?;
    assert_eq!(site.act("ada", &resume, &form).await?.status, 409);
    engine.shutdown().await?;
    Ok(())
}

/// Returns the audit: action, operator, reason.
async fn audit(pool: &PgPool) -> Result<Vec<Row>, Error> {
    let all = "select action, actor, reason from gen_durable.audit order by id";
    Ok(sqlx::query_as(all).fetch_all(pool).await?)
}

async fn done(site: &Site, act: &str, more: &str) -> Result<String, Error> {
    let answer = site.act("ada", act, more).await?;
    assert_eq!(answer.status, 303, "{act}: {}", answer.body);
    Ok(answer.header("location").ok_or("a place")?.to_owned())
}

#[gen_durable::test]
async fn an_instance_is_paused_resumed_cancelled_retried_and_deleted(
    pool: PgPool,
) -> Result<(), Error> {
    let engine = engine(&pool).await?;
    let site = Site::of(&pool).await?;
    let id = order(1).execute(&engine).await?.get();
    until(&pool, 1, "parked").await?;
    let on = |deed: &str| format!("deed={deed}&on=instance&id={id}");
    assert_eq!(
        done(&site, &on("pause"), "reason=wait&until=1h").await?,
        format!("/instances/{id}?done=pause")
    );
    let page = site.get("ada", &format!("/instances/{id}?done=pause")).await?;
    assert!(page.body.contains("Paused.") && page.body.contains("paused by"), "{}", page.body);
    done(&site, &on("resume"), "").await?;
    done(&site, &on("kill"), "sure=yes").await?;
    // It goes on, at another step than before.
    done(&site, &on("retry"), "reason=again&at=ship&forget=yes").await?;
    until(&pool, 1, "done").await?;
    let id = order(1).execute(&engine).await?.get();
    until(&pool, 1, "parked").await?;
    let on = |deed: &str| format!("deed={deed}&on=instance&id={id}");
    done(&site, &on("cancel"), "reason=no+more").await?;
    until(&pool, 2, "done").await?;
    let again = site.act("ada", &on("cancel"), "").await?;
    assert_eq!(again.status, 409, "{again:?}");
    assert!(again.body.contains("has ended before"), "{}", again.body);
    let place = done(&site, &on("delete"), "sure=yes").await?;
    assert_eq!(place, format!("/audit?instance={id}&done=delete"));
    let page = site.get("ada", &place).await?;
    assert!(page.body.contains("Deleted.") && page.body.contains("no more"), "{}", page.body);
    let seen = audit(&pool).await?;
    let actions: Vec<&str> = seen.iter().map(|(action, ..)| action.as_str()).collect();
    assert_eq!(actions, ["pause", "resume", "kill", "retry", "cancel", "delete"]);
    assert!(seen.iter().all(|(_, actor, _)| actor == "ada"), "{seen:?}");
    assert_eq!(seen[4].2.as_deref(), Some("no more"));
    engine.shutdown().await?;
    Ok(())
}

#[gen_durable::test]
async fn an_instance_is_killed_and_forked(pool: PgPool) -> Result<(), Error> {
    let engine = engine(&pool).await?;
    let site = Site::of(&pool).await?;
    let id = order(1).execute(&engine).await?.get();
    until(&pool, 1, "parked").await?;
    let entry = engine.client().instance_by_id(id).history().await?[0].id;
    let page = site.get("ada", &format!("/instances/{id}")).await?;
    assert!(page.body.contains(&format!("entry={entry}")), "the timeline offers a fork");
    let place = done(&site, &format!("deed=fork&on=entry&id={id}&entry={entry}"), "").await?;
    let fork: i64 =
        place.trim_start_matches("/instances/").split('?').next().ok_or("an id")?.parse()?;
    assert!(fork > id, "{place}");
    until(&pool, 2, "parked").await?;
    done(&site, &format!("deed=kill&on=instance&id={id}"), "sure=yes&reason=stuck").await?;
    until(&pool, 1, "parked").await?;
    let none = site.act("ada", &format!("deed=fork&on=entry&id={id}&entry=0"), "").await?;
    assert_eq!(none.status, 404);
    engine.shutdown().await?;
    Ok(())
}

#[gen_durable::test]
async fn queues_machines_and_steps_are_paused(pool: PgPool) -> Result<(), Error> {
    let engine = engine(&pool).await?;
    let site = Site::of(&pool).await?;
    for (on, scope, page) in [
        ("on=queue&name=default", "queue default", "/queues"),
        ("on=machine&name=order", "machine order", "/machine?name=order"),
        ("on=step&name=order&step=charge", "order@charge", "/machine?name=order"),
    ] {
        done(&site, &format!("deed=pause&{on}"), "reason=bank+is+down&until=15m").await?;
        let pauses = engine.client().pauses().await?;
        assert_eq!((pauses.len(), &*pauses[0].scope.to_string()), (1, scope));
        assert_eq!((&*pauses[0].by, pauses[0].reason.as_deref()), ("ada", Some("bank is down")));
        assert!(pauses[0].until.is_some());
        let shown = site.get("ada", page).await?;
        assert!(shown.body.contains("bank is down"), "{page}: {}", shown.body);
        assert!(site.get("ada", "/").await?.body.contains(scope), "{scope}");
        done(&site, &format!("deed=resume&{on}"), "").await?;
        assert!(engine.client().pauses().await?.is_empty(), "{on}");
    }
    let unknown = site.act("ada", "deed=pause&on=queue&name=maik", "").await?;
    assert_eq!(unknown.status, 409);
    assert!(unknown.body.contains("default"), "it names those that are known: {}", unknown.body);
    engine.shutdown().await?;
    Ok(())
}

#[durable_job]
async fn stock(_cx: JobContext<Tick>) {}

#[gen_durable::test]
async fn schedules_are_run_and_limits_are_set(pool: PgPool) -> Result<(), Error> {
    let rare = Schedule::every(std::time::Duration::from_hours(9));
    let engine = Engine::builder(pool.clone())
        .machine::<Stock>()
        .limit("bank", Limit::new().at_once(2))
        .schedule("stock of \"all\"", rare, Stock::insert)
        .start()
        .await?;
    let site = Site::of(&pool).await?;
    let began = Instant::now();
    while engine.client().schedules(None).await?.is_empty() {
        assert!(began.elapsed() < SOON, "the engine has not declared it");
    }
    let on = "on=schedule&name=stock+of+%22all%22";
    done(&site, &format!("deed=pause&{on}"), "reason=full").await?;
    let page = site.get("ada", "/schedules").await?;
    assert!(page.body.contains("stock of &quot;all&quot;") && page.body.contains("full"));
    done(&site, &format!("deed=run-now&{on}"), "").await?;
    until(&pool, 1, "done").await?;
    done(&site, &format!("deed=resume&{on}"), "").await?;
    let form = site.get("ada", "/act?deed=set&on=limit&name=bank").await?;
    assert!(form.body.contains("value=\"2\""), "the bounds in force are filled in: {}", form.body);
    let set = "at_once=5&starts=10&period=1m&burst=3&reason=more";
    done(&site, "deed=set&on=limit&name=bank", set).await?;
    let limit = engine.client().limit("bank").get().await?.ok_or("a limit")?;
    assert_eq!(limit.in_force.to_string(), "5 at once, 10 per 60s, burst 3");
    for page in ["/limits", "/limit?name=bank"] {
        assert!(site.get("ada", page).await?.body.contains("5 at once"), "{page}");
    }
    let wrong = site.act("ada", "deed=set&on=limit&name=bank", "period=x&starts=1").await?;
    assert_eq!(wrong.status, 400);
    let empty = site.act("ada", "deed=set&on=limit&name=bank", "").await?;
    assert_eq!(empty.status, 409, "no bound at all is no limit");
    done(&site, "deed=reset&on=limit&name=bank", "").await?;
    let limit = engine.client().limit("bank").get().await?.ok_or("a limit")?;
    assert!(limit.set.is_none());
    engine.shutdown().await?;
    Ok(())
}

#[gen_durable::test]
async fn an_action_on_many_tells_its_progress_and_its_end(pool: PgPool) -> Result<(), Error> {
    let engine = engine(&pool).await?;
    let site = Site::of(&pool).await?;
    for _ in 0..3 {
        order(13).execute(&engine).await?;
    }
    let parked = order(1).execute(&engine).await?;
    until(&pool, 3, "failed").await?;
    let act = "deed=retry&on=instances&machine=order&status=failed&step=charge";
    let form = site.get("ada", &format!("/act?{act}")).await?;
    assert!(form.body.contains("<b>3</b> fit the filter now"), "{}", form.body);
    assert!(!form.body.contains(&format!("/instances/{parked}\"")), "only those that fit");
    let place = done(&site, act, "reason=the+bank+is+back").await?;
    assert_eq!(place, "/bulk/1?done=retry");
    let began = Instant::now();
    loop {
        let page = site.get("eve", "/bulk/1").await?;
        if page.body.contains("finished") {
            assert!(page.body.contains("<span class=\"value\">3</span>"), "{}", page.body);
            break;
        }
        assert!(began.elapsed() < SOON, "{}", page.body);
        tokio::task::yield_now().await;
    }
    let retries = audit(&pool).await?;
    assert_eq!(retries.len(), 3);
    assert!(retries.iter().all(|(_, _, why)| why.as_deref() == Some("the bank is back")));
    until(&pool, 3, "failed").await?;
    done(&site, "deed=cancel&on=instances&machine=order&status=awaiting_signal", "sure=yes")
        .await?;
    until(&pool, 1, "done").await?;
    let gone = "deed=delete&on=instances&status=failed";
    done(&site, gone, "sure=yes").await?;
    until(&pool, 0, "failed").await?;
    let all = engine.client().all_instances().count().await?;
    assert_eq!(all, Count::Exact(1));
    engine.shutdown().await?;
    Ok(())
}

#[gen_durable::test]
async fn filters_and_pages_are_in_the_url(pool: PgPool) -> Result<(), Error> {
    let engine = engine(&pool).await?;
    let site = Site::of(&pool).await?;
    for number in 0..60 {
        order(if number % 2 == 0 { 1 } else { 13 }).execute(&engine).await?;
    }
    until(&pool, 30, "failed").await?;
    until(&pool, 30, "parked").await?;
    let rows = |body: &str| body.matches("<th scope=\"row\"><a class=\"id\"").count();
    let first = site.get("eve", "/instances").await?;
    assert_eq!(rows(&first.body), 50);
    let next = first.body.split_once("rel=\"next\" href=\"").ok_or("a next page")?.1;
    let next = next.split_once('"').ok_or("its end")?.0;
    let second = site.get("eve", next).await?;
    assert_eq!(rows(&second.body), 10);
    assert!(!second.body.contains("rel=\"next\"") && second.body.contains("Newest"));
    let failed = site.get("eve", "/instances?machine=order&step=charge&status=failed").await?;
    assert_eq!(rows(&failed.body), 30);
    assert!(failed.body.contains("the bank refused the card"));
    let none = site.get("eve", "/instances?queue=none").await?;
    assert!(none.body.contains("No instance fits"), "{}", none.body);
    Order::signal_paid(InstanceId::<Order>::from_raw(first_id(&pool).await?), Paid {})
        .execute(&engine)
        .await?;
    until(&pool, 1, "done").await?;
    engine.shutdown().await?;
    Ok(())
}

async fn first_id(pool: &PgPool) -> Result<i64, Error> {
    let first = "select min(id) from gen_durable.instances where status = 'awaiting_signal'";
    Ok(sqlx::query_scalar(first).fetch_one(pool).await?)
}
