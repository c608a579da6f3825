//! A console that is mounted under a prefix.

use gen_durable_console::Console;
use sqlx::PgPool;

use crate::support::{
    Error, engine,
    http::ask,
    order,
    site::{Site, console},
    until,
};

/// Returns all links, actions and sources of a page.
fn links(body: &str) -> Vec<&str> {
    let attributes = ["href=\"", "action=\"", "src=\"", "data-live=\""];
    let of = |attribute: &'static str| {
        body.split(attribute).skip(1).filter_map(|rest| rest.split('"').next())
    };
    attributes.into_iter().flat_map(of).filter(|link| !link.starts_with('#')).collect()
}

#[gen_durable::test]
async fn all_links_begin_with_the_prefix_and_lead_somewhere(pool: PgPool) -> Result<(), Error> {
    let engine = engine(&pool).await?;
    let id = order(1).unique_key("a/b").execute(&engine).await?;
    until(&pool, 1, "parked").await?;
    let site = Site::serve(console(&pool), "/ops/console").await?;
    let pages = ["", "/instances", "/machines", "/machine?name=order", "/queues"];
    let id = format!("/instances/{id}");
    let rest = ["/limits", "/schedules", "/workers", "/doctor", "/audit", &id, "/nothing"];
    for path in pages.into_iter().chain(rest) {
        let page = site.get("ada", path).await?;
        assert_eq!(page.status, if path == "/nothing" { 404 } else { 200 }, "{path}");
        let found = links(&page.body);
        assert!(found.len() > 5, "{path}: {found:?}");
        for link in found {
            assert!(link.starts_with("/ops/console"), "{path}: {link}");
            if link.contains("/live") || link.contains("/act") {
                continue;
            }
            let within = link.trim_start_matches("/ops/console").replace("&amp;", "&");
            let answer = site.get("ada", &within).await?;
            assert_eq!(answer.status, 200, "{path}: {link}");
        }
    }
    let cookie = site.get("ada", "").await?;
    let cookie = cookie.header("set-cookie").ok_or("a cookie")?;
    assert!(cookie.contains("; Path=/ops/console") && !cookie.contains("Secure"), "{cookie}");
    engine.shutdown().await?;
    Ok(())
}

#[gen_durable::test]
async fn an_action_leads_back_under_the_prefix(pool: PgPool) -> Result<(), Error> {
    let engine = engine(&pool).await?;
    let site = Site::serve(console(&pool), "/ops").await?;
    let answer = site.act("ada", "deed=pause&on=queue&name=default", "reason=x").await?;
    assert_eq!(answer.status, 303, "{answer:?}");
    assert_eq!(answer.header("location"), Some("/ops/queues?done=pause"));
    engine.shutdown().await?;
    Ok(())
}

#[gen_durable::test]
async fn a_prefix_that_a_proxy_has_cut_off_can_be_stated(pool: PgPool) -> Result<(), Error> {
    let site = Site::serve(console(&pool).prefix("/shop/"), "/ops").await?;
    let page = site.get("eve", "/queues").await?;
    assert!(links(&page.body).iter().all(|link| link.starts_with("/shop/ops")));
    Ok(())
}

#[gen_durable::test]
async fn without_a_word_about_access_it_only_reads_and_only_here(
    pool: PgPool,
) -> Result<(), Error> {
    let site = Site::serve(Console::new(pool), "/ops").await?;
    let ask =
        async |host: &str, path: &str| ask(site.address, "GET", path, &[("Host", host)], "").await;
    let page = ask("localhost", "/ops").await?;
    assert!(page.status == 200 && page.body.contains("Read only"), "{page:?}");
    assert_eq!(ask("ops.example.com", "/ops").await?.status, 421);
    assert_eq!(ask("localhost", "/ops/act?deed=pause&on=queue&name=x").await?.status, 403);
    Ok(())
}

#[gen_durable::test]
async fn an_origin_that_a_proxy_hides_can_be_allowed(pool: PgPool) -> Result<(), Error> {
    let engine = engine(&pool).await?;
    let site = Site::serve(console(&pool).origin("https://Ops.example.com"), "").await?;
    let act = "deed=pause&on=queue&name=default";
    let form = site.get("ada", &format!("/act?{act}")).await?;
    let body = format!("token={}&{act}", form.field("token").ok_or("a token")?);
    let cookie = format!("who=ada; {}", form.cookies());
    for (origin, status) in [("https://ops.example.com", 303), ("https://x.example.com", 403)] {
        let answer = site.post(&[("Cookie", &cookie), ("Origin", origin)], &body).await?;
        assert_eq!(answer.status, status, "{origin}");
    }
    engine.shutdown().await?;
    Ok(())
}

#[gen_durable::test]
async fn behind_a_proxy_with_https_the_cookie_is_sent_by_https_alone(
    pool: PgPool,
) -> Result<(), Error> {
    let site = Site::serve(console(&pool), "").await?;
    let host = site.address.to_string();
    for (scheme, is_secure) in
        [("https", true), ("HTTPS, http", true), ("http", false), ("http, https", false)]
    {
        let headers = [("Host", &*host), ("Cookie", "who=ada"), ("X-Forwarded-Proto", scheme)];
        let page = ask(site.address, "GET", "/", &headers, "").await?;
        let cookie = page.header("set-cookie").ok_or("a cookie")?;
        assert_eq!(cookie.ends_with("; Secure"), is_secure, "{scheme}: {cookie}");
    }
    Ok(())
}
