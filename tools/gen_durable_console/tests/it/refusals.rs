//! The refusals of the server, whatever a page shows.

use sqlx::PgPool;

use crate::support::{Error, SECRET, engine, order, site::Site, until};

const CANCEL: &str = "deed=cancel&on=instance&id=";

async fn audit(pool: &PgPool) -> Result<i64, Error> {
    Ok(sqlx::query_scalar("select count(*) from gen_durable.audit").fetch_one(pool).await?)
}

#[gen_durable::test]
async fn every_action_of_a_read_only_user_is_refused(pool: PgPool) -> Result<(), Error> {
    let site = Site::of(&pool).await?;
    let form = site.get("ada", "/act?deed=pause&on=queue&name=default").await?;
    let token = form.field("token").ok_or("a token")?;
    let acts = [
        "deed=cancel&on=instance&id=1",
        "deed=kill&on=instance&id=1&sure=yes",
        "deed=retry&on=instance&id=1",
        "deed=run-now&on=instance&id=1",
        "deed=pause&on=instance&id=1",
        "deed=resume&on=instance&id=1",
        "deed=delete&on=instance&id=1&sure=yes",
        "deed=fork&on=entry&id=1&entry=1",
        "deed=retry&on=instances&status=failed",
        "deed=pause&on=queue&name=default",
        "deed=pause&on=machine&name=order",
        "deed=pause&on=step&name=order&step=charge",
        "deed=run-now&on=schedule&name=nightly",
        "deed=set&on=limit&name=bank&at_once=1",
        "deed=stop&on=bulk&id=1",
    ];
    for act in acts {
        // First a post with the token of somebody who may act, and then a request for the form.
        for (who, expected) in [("eve", "you may look"), ("nobody", "you may not see")] {
            let cookie = format!("who={who}; {}", form.cookies());
            let headers = [("Cookie", &*cookie), ("Sec-Fetch-Site", "same-origin")];
            let answer = site.post(&headers, &format!("token={token}&{act}")).await?;
            let text = answer.body.to_lowercase();
            assert!(answer.status == 403 && text.contains(expected), "{act}: {answer:?}");
            assert_eq!(site.get(who, &format!("/act?{act}")).await?.status, 403, "{act}");
        }
    }
    assert_eq!(audit(&pool).await?, 0);
    Ok(())
}

#[gen_durable::test]
async fn a_form_needs_its_token_its_cookie_and_its_operator(pool: PgPool) -> Result<(), Error> {
    let engine = engine(&pool).await?;
    let id = order(1).execute(&engine).await?;
    until(&pool, 1, "parked").await?;
    let site = Site::of(&pool).await?;
    let act = format!("{CANCEL}{id}");
    let ada = site.get("ada", &format!("/act?{act}")).await?;
    let bob = site.get("bob", &format!("/act?{act}")).await?;
    let (of_ada, of_bob) = (ada.field("token").ok_or("one")?, bob.field("token").ok_or("one")?);
    let wrong = [
        ("ada", ada.cookies(), String::new()),
        ("ada", ada.cookies(), "0".repeat(64)),
        ("ada", ada.cookies(), of_bob.to_owned()),
        ("ada", bob.cookies(), of_bob.to_owned()),
        ("bob", ada.cookies(), of_ada.to_owned()),
        ("ada", String::new(), of_ada.to_owned()),
        ("ada", "gen_durable_console_form=".to_owned(), of_ada.to_owned()),
    ];
    for (who, cookies, token) in wrong {
        let cookie = format!("who={who}; {cookies}");
        let headers = [("Cookie", &*cookie), ("Sec-Fetch-Site", "same-origin")];
        let answer = site.post(&headers, &format!("token={token}&{act}")).await?;
        assert_eq!(answer.status, 403, "{who} {cookies} {token}");
    }
    assert_eq!(audit(&pool).await?, 0);
    let answer = site.act("ada", &act, "reason=enough").await?;
    assert_eq!(answer.status, 303, "{answer:?}");
    assert_eq!(audit(&pool).await?, 1);
    engine.shutdown().await?;
    Ok(())
}

#[gen_durable::test]
async fn requests_of_other_sites_are_refused(pool: PgPool) -> Result<(), Error> {
    let site = Site::of(&pool).await?;
    let act = "deed=pause&on=queue&name=default";
    let form = site.get("ada", &format!("/act?{act}")).await?;
    let body = format!("token={}&{act}", form.field("token").ok_or("a token")?);
    let cookie = format!("who=ada; {}", form.cookies());
    let own = format!("http://{}", site.address);
    let refused: [&[(&str, &str)]; 8] = [
        &[],
        &[("Sec-Fetch-Site", "cross-site")],
        &[("Sec-Fetch-Site", "same-site")],
        &[("Sec-Fetch-Site", "none")],
        &[("Origin", "http://evil.example")],
        &[("Origin", "null")],
        &[("Sec-Fetch-Site", "same-origin"), ("Origin", "http://evil.example")],
        &[("Sec-Fetch-Site", "cross-site"), ("Origin", "null")],
    ];
    for headers in refused {
        let all: Vec<_> =
            [("Cookie", &*cookie)].into_iter().chain(headers.iter().copied()).collect();
        let answer = site.post(&all, &body).await?;
        assert!(answer.body.contains("another site"), "{headers:?}: {answer:?}");
        assert_eq!(answer.status, 403, "{headers:?}");
    }
    // The queue is not registered: the request came as far as the library.
    let answer = site.post(&[("Cookie", &cookie), ("Origin", &own)], &body).await?;
    assert_eq!(answer.status, 409, "{answer:?}");
    Ok(())
}

#[gen_durable::test]
async fn what_cannot_be_undone_needs_a_tick_and_many_need_a_filter(
    pool: PgPool,
) -> Result<(), Error> {
    let site = Site::of(&pool).await?;
    for act in [
        "deed=kill&on=instance&id=1",
        "deed=delete&on=instance&id=1",
        "deed=cancel&on=instances&machine=order",
        "deed=kill&on=instances&machine=order",
        "deed=delete&on=instances&machine=order",
        "deed=retry&on=instances",
    ] {
        let form = site.get("ada", "/act?deed=pause&on=queue&name=x").await?;
        let body = format!("token={}&{act}", form.field("token").ok_or("a token")?);
        let cookie = format!("who=ada; {}", form.cookies());
        let headers = [("Cookie", &*cookie), ("Sec-Fetch-Site", "same-origin")];
        assert_eq!(site.post(&headers, &body).await?.status, 400, "{act}");
    }
    Ok(())
}

#[gen_durable::test]
async fn wrong_addresses_are_errors_and_other_methods_are_refused(
    pool: PgPool,
) -> Result<(), Error> {
    let site = Site::of(&pool).await?;
    for (path, status) in [
        ("/nothing", 404),
        ("/instances/7", 404),
        ("/instances/x", 404),
        ("/instances?status=open", 400),
        ("/instances?queue=%00", 400),
        ("/machine?name=none", 404),
        ("/machine", 400),
        ("/bulk/1", 404),
        ("/limit?name=none", 404),
        ("/act?deed=fly&on=queue&name=x", 400),
        ("/session?token=x", 404),
        ("/live/nothing", 404),
        ("/assets/none.js", 404),
    ] {
        assert_eq!(site.get("ada", path).await?.status, status, "{path}");
    }
    let host = site.address.to_string();
    for method in ["PUT", "DELETE", "OPTIONS", "TRACE"] {
        let headers = [("Host", &*host), ("Cookie", "who=ada")];
        let answer = crate::support::http::ask(site.address, method, "/", &headers, "").await?;
        assert_eq!(answer.status, 405, "{method}");
    }
    Ok(())
}

#[gen_durable::test]
async fn states_stay_hidden_unless_they_are_permitted(pool: PgPool) -> Result<(), Error> {
    let engine = engine(&pool).await?;
    let id = order(1).execute(&engine).await?;
    until(&pool, 1, "parked").await?;
    let site = Site::of(&pool).await?;
    let path = format!("/instances/{id}");
    for (who, seen) in [("ada", true), ("bob", false), ("eve", false)] {
        let page = site.get(who, &path).await?;
        assert_eq!(page.status, 200);
        assert_eq!(page.body.contains(SECRET), seen, "{who}");
        assert_eq!(page.body.contains("Hidden: your access"), !seen, "{who}");
        let live = crate::live::first_events(&site, who, &path, "event: look").await?;
        assert_eq!(live.contains(SECRET), seen, "{who}");
        let timeline = page.body.split_once("id=\"timeline\"").ok_or("a timeline")?.1;
        let timeline = timeline.split_once("</section>").ok_or("its end")?.0;
        assert!(!timeline.contains(SECRET), "it has no states: {timeline}");
        let run = timeline.split_once(&format!("href=\"{path}/")).ok_or("a run")?.1;
        let run = run.split_once('"').ok_or("its end")?.0;
        let page = site.get(who, &format!("{path}/{run}")).await?;
        assert_eq!(page.status, 200, "{}", page.body);
        assert_eq!(page.body.contains(SECRET), seen, "{who}");
        assert_eq!(page.body.contains("Hidden: your access"), !seen, "{who}");
        // A recorded run does not change, so nobody watches it.
        assert_eq!(site.get(who, &format!("/live{path}/{run}")).await?.status, 404);
    }
    engine.shutdown().await?;
    Ok(())
}

#[gen_durable::test]
async fn payloads_stay_hidden_unless_states_are_permitted(pool: PgPool) -> Result<(), Error> {
    let engine = engine(&pool).await?;
    let id = order(1).execute(&engine).await?;
    until(&pool, 1, "parked").await?;
    engine.shutdown().await?;
    let site = Site::of(&pool).await?;
    let path = format!("/instances/{id}");
    let page = site.get("eve", &path).await?;
    assert!(page.body.contains("No signal waits for a step."), "{}", page.body);
    sqlx::query(
        "insert into gen_durable.signals (target_id, name, dedup_key, payload)
         values ($1, 'paid', 'evt-7', '{\"card\": \"5105-secret\"}'),
                ($1, 'long', null, to_json(repeat('5105-secret', 2000)))",
    )
    .bind(id.get())
    .execute(&pool)
    .await?;
    for (who, seen) in [("ada", true), ("bob", false), ("eve", false)] {
        let page = site.get(who, &path).await?;
        let live = crate::live::first_events(&site, who, &path, "event: look").await?;
        for text in [&page.body, &live] {
            assert_eq!(text.matches("5105-secret").count(), usize::from(seen), "{who}: {text}");
            assert_eq!(text.contains("too long for a page"), seen, "{who}: {text}");
            for shown in ["evt-7", "paid", "long", "data-label=\"Bytes\">23<"] {
                assert!(text.contains(shown), "{who}, {shown}: {text}");
            }
        }
    }
    sqlx::query(
        "insert into gen_durable.signals (target_id, name, payload)
         select $1, 'paid', '1' from generate_series(1, 99)",
    )
    .bind(id.get())
    .execute(&pool)
    .await?;
    let page = site.get("eve", &path).await?;
    assert!(page.body.contains("only the oldest are shown"), "{}", page.body);
    Ok(())
}

#[gen_durable::test]
async fn what_no_text_can_be_and_what_has_no_filter_is_refused_at_once(
    pool: PgPool,
) -> Result<(), Error> {
    let site = Site::of(&pool).await?;
    for path in
        ["/audit?actor=%00", "/schedules?after=a%00b", "/instances?queue=%00", "/live?x=%00"]
    {
        let page = site.get("ada", path).await?;
        assert!(page.status == 400 && page.body.contains("NUL"), "{path}: {page:?}");
    }
    for act in ["deed=kill&on=instances", "deed=retry&on=instances&statux=failed"] {
        let page = site.get("ada", &format!("/act?{act}")).await?;
        assert!(page.status == 400 && page.body.contains("without a filter"), "{act}: {page:?}");
    }
    let page = site.get("ada", "/machine?name=nope").await?;
    assert!(page.body.contains("No engine has registered machine nope."), "{}", page.body);
    Ok(())
}

#[gen_durable::test]
async fn the_timeout_of_the_console_itself_is_no_illness(pool: PgPool) -> Result<(), Error> {
    let doctor = Site::of(&pool).await?.get("eve", "/doctor").await?;
    assert_eq!(doctor.status, 200);
    assert!(!doctor.body.contains("statement_timeout"), "{}", doctor.body);
    Ok(())
}

#[gen_durable::test]
async fn a_missing_schema_and_a_missing_right_are_named(pool: PgPool) -> Result<(), Error> {
    let role = "create role console_without_rights; grant console_without_rights to current_user";
    sqlx::raw_sql(role).execute(&pool).await?;
    let options = (*pool.connect_options()).clone().options([("role", "console_without_rights")]);
    let without = Site::of(&PgPool::connect_with(options).await?).await?;
    let page = without.get("eve", "/queues").await?;
    assert!(page.status == 503 && page.body.contains("gen_durable_operator to look"), "{page:?}");
    without.close().await?;
    sqlx::query("drop role console_without_rights").execute(&pool).await?;
    let site = Site::of(&pool).await?;
    sqlx::query("drop schema gen_durable cascade").execute(&pool).await?;
    let page = site.get("eve", "/").await?;
    assert!(page.status == 503 && page.body.contains("gen-durable migrate up"), "{page:?}");
    Ok(())
}

#[gen_durable::test]
async fn every_answer_has_its_headers(pool: PgPool) -> Result<(), Error> {
    let site = Site::of(&pool).await?;
    let page = site.get("ada", "/").await?;
    let script = page.body.split_once("<script src=\"").ok_or("a script")?.1;
    let script = script.split_once('"').ok_or("a script")?.0;
    for (who, path) in [("ada", "/"), ("ada", "/nothing"), ("nobody", "/"), ("nobody", script)] {
        let answer = site.get(who, path).await?;
        let policy = answer.header("content-security-policy").ok_or("a policy")?;
        for part in ["default-src 'none'", "frame-ancestors 'none'", "base-uri 'none'"] {
            assert!(policy.contains(part), "{path}: {policy}");
        }
        assert!(!policy.contains("unsafe"), "{policy}");
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"), "{path}");
        assert_eq!(answer.header("referrer-policy"), Some("same-origin"), "{path}");
        let cache = answer.header("cache-control").ok_or("a rule")?;
        assert_eq!(cache.contains("immutable"), path == script, "{path}: {cache}");
        assert_eq!(cache.contains("no-store"), path != script, "{path}: {cache}");
    }
    let asset = site.get("nobody", script).await?;
    let etag = asset.header("etag").ok_or("a tag")?;
    let host = site.address.to_string();
    let headers = [("Host", &*host), ("If-None-Match", etag)];
    let again = crate::support::http::ask(site.address, "GET", script, &headers, "").await?;
    assert_eq!((again.status, &*again.body), (304, ""));
    Ok(())
}
