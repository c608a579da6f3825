//! The console in a browser, as a person uses it.

use std::time::Duration;

use gen_durable::operate::Page;
use sqlx::PgPool;

use crate::support::{Error, browser::Browser, engine, order, site::Site, until};

/// The paths of all pages, with an instance, a run and a machine.
fn pages(id: i64, run: i64) -> Vec<String> {
    let mut all: Vec<String> = ["", "/instances", "/machines", "/machine?name=order", "/queues"]
        .map(str::to_owned)
        .to_vec();
    all.extend(["/limits", "/schedules", "/workers", "/doctor", "/audit"].map(str::to_owned));
    all.extend([format!("/instances/{id}"), format!("/instances/{id}/{run}")]);
    all.extend([format!("/act?deed=cancel&on=instance&id={id}")]);
    all
}

#[gen_durable::test]
async fn somebody_filters_pages_inspects_and_cancels(pool: PgPool) -> Result<(), Error> {
    let engine = engine(&pool).await?;
    for number in 0..55 {
        order(1).unique_key(format!("order {number}")).execute(&engine).await?;
    }
    order(13).execute(&engine).await?;
    until(&pool, 55, "parked").await?;
    until(&pool, 1, "failed").await?;
    let site = Site::of(&pool).await?;
    let Some(browser) = Browser::start().await? else { return Ok(()) };
    let tab = browser.tab(&site, "ada").await?;
    tab.goto(&site.url("/instances")).await?;
    tab.sees("56").await?;
    tab.fill("[name=step]", "await_pay").await?;
    tab.click(".filter button.primary").await?;
    tab.wait("location.search.includes('step=await_pay')").await?;
    tab.wait("document.querySelectorAll('#list tbody tr').length === 50").await?;
    tab.click("a[rel=next]").await?;
    tab.wait("document.querySelectorAll('#list tbody tr').length === 5").await?;
    tab.sees("order 0").await?;
    tab.click("#list tbody tr:last-child .id").await?;
    tab.sees("Timeline").await?;
    tab.sees("4111-1111-secret").await?;
    tab.wait("document.querySelector('.graph .here text').textContent === 'await_pay'").await?;
    tab.click("a[href*='deed=cancel']").await?;
    tab.sees("for the audit").await?;
    tab.fill("[name=reason]", "changed his mind").await?;
    tab.click("button[type=submit]").await?;
    tab.sees("Cancelled.").await?;
    // The machine answers, and the open page shows it.
    tab.wait("document.querySelector('h1 .chip').textContent === 'done'").await?;
    tab.sees("changed his mind").await?;
    tab.close().await?;
    browser.end().await?;
    engine.shutdown().await?;
    Ok(())
}

#[gen_durable::test]
async fn somebody_retries_many_after_a_preview(pool: PgPool) -> Result<(), Error> {
    let engine = engine(&pool).await?;
    for _ in 0..4 {
        order(13).execute(&engine).await?;
    }
    until(&pool, 4, "failed").await?;
    let site = Site::of(&pool).await?;
    let Some(browser) = Browser::start().await? else { return Ok(()) };
    let tab = browser.tab(&site, "ada").await?;
    tab.goto(&site.url("/instances?machine=order&status=failed")).await?;
    tab.click("#list a[href*='deed=retry']").await?;
    tab.sees("4 fit the filter now").await?;
    tab.wait("document.querySelectorAll('tbody tr').length === 4").await?;
    tab.click("button[type=submit]").await?;
    tab.wait("location.pathname === '/bulk/1'").await?;
    tab.wait("document.querySelector('.tile.done .value').textContent === '4'").await?;
    tab.sees("finished").await?;
    tab.close().await?;
    let retries = "select count(*) from gen_durable.audit where action = 'retry' and actor = 'ada'";
    assert_eq!(sqlx::query_scalar::<_, i64>(retries).fetch_one(&pool).await?, 4);
    browser.end().await?;
    engine.shutdown().await?;
    Ok(())
}

#[gen_durable::test]
async fn somebody_pauses_a_step_and_watches_the_counts_move(pool: PgPool) -> Result<(), Error> {
    let engine = engine(&pool).await?;
    let site = Site::of(&pool).await?;
    let Some(browser) = Browser::start().await? else { return Ok(()) };
    let tab = browser.tab(&site, "ada").await?;
    tab.goto(&site.url("/machine?name=order")).await?;
    tab.click("#steps a[href*='step=charge'][href*='deed=pause']").await?;
    tab.fill("[name=reason]", "the bank is down").await?;
    tab.click("button[type=submit]").await?;
    tab.sees("the bank is down").await?;
    let node = |step: &str, words: &str| {
        format!(
            "document.querySelector(\".graph a[aria-label^='step {step}']\")
            .getAttribute('aria-label').includes('{words}')"
        )
    };
    tab.wait("!!document.querySelector('.graph .node.paused')").await?;
    // The page stays open, and is never loaded again.
    tab.eval::<bool>("window.same = true").await?;
    for _ in 0..3 {
        // The engine hears of the pause within a second.
        order(1).schedule_in(Duration::from_secs(2)).execute(&engine).await?;
    }
    tab.wait(&node("charge", "3 paused")).await?;
    engine
        .client()
        .machine::<crate::support::Order>()
        .resume_step(crate::support::Order::Charge)
        .execute(&engine)
        .await?;
    tab.wait(&node("await_pay", "3 awaiting")).await?;
    tab.wait("!document.querySelector('.graph .node.paused')").await?;
    assert!(tab.eval::<bool>("window.same === true").await?);
    tab.close().await?;
    browser.end().await?;
    engine.shutdown().await?;
    Ok(())
}

#[gen_durable::test]
async fn the_keyboard_is_enough(pool: PgPool) -> Result<(), Error> {
    let engine = engine(&pool).await?;
    let id = order(1).execute(&engine).await?;
    until(&pool, 1, "parked").await?;
    let site = Site::of(&pool).await?;
    let Some(browser) = Browser::start().await? else { return Ok(()) };
    let tab = browser.tab(&site, "ada").await?;
    tab.goto(&site.url(&format!("/instances/{id}"))).await?;
    let mut reached = Vec::new();
    loop {
        tab.press("Tab").await?;
        let (name, outline): (String, String) = tab
            .eval(
                "(() => { const e = document.activeElement; const s = getComputedStyle(e);
                  return [e.textContent.trim(), s.outlineStyle + s.outlineWidth]; })()",
            )
            .await?;
        assert!(outline != "none0px" && !outline.starts_with("none"), "{name}: no focus is seen");
        if name == "Cancel" {
            break;
        }
        reached.push(name);
        assert!(reached.len() < 60, "{reached:?}");
    }
    assert_eq!(reached[0], "Skip to the content");
    tab.press("Enter").await?;
    tab.wait("document.activeElement?.name === 'reason'").await?;
    tab.page.find_element("[name=reason]").await?.type_str("by keys").await?;
    tab.press("Enter").await?;
    tab.sees("Cancelled.").await?;
    tab.close().await?;
    browser.end().await?;
    engine.shutdown().await?;
    Ok(())
}

#[gen_durable::test]
async fn everything_but_freshness_works_without_scripts(pool: PgPool) -> Result<(), Error> {
    let engine = engine(&pool).await?;
    let id = order(1).execute(&engine).await?;
    until(&pool, 1, "parked").await?;
    let site = Site::of(&pool).await?;
    let Some(browser) = Browser::start().await? else { return Ok(()) };
    let tab = browser.tab(&site, "ada").await?;
    let plain = tab.without_scripts().await?;
    plain.goto(&site.url("/instances")).await?;
    plain.sees("Reload to see changes").await?;
    plain.focus("[name=step]").await?;
    plain.types("await_pay").await?;
    plain.press("Enter").await?;
    plain.sees("value=\"await_pay\"").await?;
    plain.focus("#list tbody .id").await?;
    plain.press("Enter").await?;
    plain.sees("Timeline").await?;
    plain.focus("a[href*='deed=cancel']").await?;
    plain.press("Enter").await?;
    plain.sees("for the audit").await?;
    plain.focus("[name=reason]").await?;
    plain.types("without scripts").await?;
    plain.press("Enter").await?;
    plain.sees("Cancelled.").await?;
    plain.sees("Reload to see changes").await?;
    until(&pool, 1, "done").await?;
    let audit = engine.client().audit().instance(id.get()).list(Page::first()).await?;
    assert_eq!(audit.entries[0].reason.as_deref(), Some("without scripts"));
    tab.close().await?;
    browser.end().await?;
    engine.shutdown().await?;
    Ok(())
}

#[gen_durable::test]
async fn pages_keep_their_policy_fit_a_narrow_window_and_are_dark(
    pool: PgPool,
) -> Result<(), Error> {
    let engine = engine(&pool).await?;
    let id = order(1).unique_key("k".repeat(120)).execute(&engine).await?.get();
    order(13).execute(&engine).await?;
    until(&pool, 1, "failed").await?;
    let site = Site::of(&pool).await?;
    let Some(browser) = Browser::start().await? else { return Ok(()) };
    let tab = browser.tab(&site, "ada").await?;
    let light = "(() => { const [r, g, b] = getComputedStyle(document.body).backgroundColor
        .match(/\\d+/g).map(Number); return r + g + b > 380; })()";
    let run = engine.client().instance_by_id(id).history().await?[0].id;
    for path in pages(id, run) {
        let mut titles = Vec::new();
        for scheme in ["light", "dark"] {
            tab.scheme(scheme).await?;
            tab.width(1440, 900).await?;
            tab.goto(&site.url(&path)).await?;
            assert_eq!(tab.eval::<bool>(light).await?, scheme == "light", "{path}");
            tab.width(400, 800).await?;
            let wide: i64 = tab.eval("document.documentElement.scrollWidth").await?;
            assert!(wide <= 400, "{path} is {wide} pixels wide");
            titles.push(tab.eval::<String>("document.title").await?);
        }
        assert!(titles[0].ends_with("gen_durable") && titles[0].len() > 13, "{titles:?}");
        // One heading of the first rank, a language, names for all that can be filled in.
        let named: bool = tab
            .eval(
                "document.querySelectorAll('h1').length === 1 && !!document.documentElement.lang &&
                 [...document.querySelectorAll('input:not([type=hidden]), select')]
                     .every(field => field.labels.length > 0) &&
                 [...document.querySelectorAll('a, button')]
                     .every(e => (e.getAttribute('aria-label') || e.textContent).trim() !== '')",
            )
            .await?;
        assert!(named, "{path}");
    }
    tab.close().await?;
    browser.end().await?;
    engine.shutdown().await?;
    Ok(())
}

/// Somebody is about to press Enter on a link, or reads what is folded open, and rows come and go.
#[gen_durable::test]
async fn rows_that_come_and_go_move_neither_the_focus_nor_what_is_open(
    pool: PgPool,
) -> Result<(), Error> {
    let engine = engine(&pool).await?;
    let mut ids = Vec::new();
    for _ in 0..3 {
        ids.push(order(1).execute(&engine).await?.get());
    }
    until(&pool, 3, "parked").await?;
    let site = Site::of(&pool).await?;
    let Some(browser) = Browser::start().await? else { return Ok(()) };
    let tab = browser.tab(&site, "ada").await?;
    tab.goto(&site.url("/instances")).await?;
    let focus = format!("#list a[href='/instances/{}']", ids[1]);
    tab.eval::<bool>(&format!("document.querySelector(\"{focus}\").focus(); true")).await?;
    let count =
        |count: usize| format!("document.querySelectorAll('#list tbody tr').length === {count}");
    let has_focus = format!("document.activeElement.textContent === '{}'", ids[1]);
    for _ in 0..2 {
        order(1).execute(&engine).await?;
    }
    tab.wait(&count(5)).await?;
    assert!(tab.eval::<bool>(&has_focus).await?, "newer rows have come");
    sqlx::query("delete from gen_durable.instances where id = any ($1)")
        .bind([ids[0], ids[2]].as_slice())
        .execute(&pool)
        .await?;
    tab.wait(&count(3)).await?;
    assert!(tab.eval::<bool>(&has_focus).await?, "its neighbours are gone");

    let signals: Vec<i64> = sqlx::query_scalar(
        "insert into gen_durable.signals (target_id, name, payload)
         select $1, 'other', to_json('payload ' || n) from generate_series(1, 3) as n
         returning id",
    )
    .bind(ids[1])
    .fetch_all(&pool)
    .await?;
    tab.goto(&site.url(&format!("/instances/{}", ids[1]))).await?;
    tab.click("#inbox tbody tr:nth-child(2) summary").await?;
    sqlx::query("delete from gen_durable.signals where id = $1")
        .bind(signals[0])
        .execute(&pool)
        .await?;
    tab.wait("document.querySelectorAll('#inbox tbody tr').length === 2").await?;
    let open: Vec<bool> =
        tab.eval("[...document.querySelectorAll('#inbox details')].map(d => d.open)").await?;
    assert_eq!(open, [true, false]);

    // The doctor lists warnings by name, and information after them. The second one moves up.
    sqlx::raw_sql(
        "insert into gen_durable.pauses (id, queue, actor) overriding system value
         values (901, 'a', 'ada'), (902, 'b', 'ada');
         insert into gen_durable.instances
             (id, fsm, fsm_version, step, state, queue, status, blocked_by, paused_by)
         values (9001, 'order', 1, 'charge', '{}', 'a', 'runnable', 4, 901),
                (9002, 'order', 1, 'charge', '{}', 'b', 'runnable', 4, 902)",
    )
    .execute(&pool)
    .await?;
    tab.goto(&site.url("/doctor")).await?;
    let order = |first: i64, second: i64| {
        format!(
            "[...document.querySelectorAll('#findings .id')].map(a => a.textContent)
                 .filter(id => id.startsWith('900')).join() === '{first},{second}'"
        )
    };
    tab.wait(&order(9001, 9002)).await?;
    let focus = "document.querySelector(\"#findings a[href='/instances/9002']\").focus(); true";
    tab.eval::<bool>(focus).await?;
    sqlx::query("update gen_durable.pauses set until = now() + interval '1 h' where id = 901")
        .execute(&pool)
        .await?;
    tab.wait(&order(9002, 9001)).await?;
    assert!(tab.eval::<bool>("document.activeElement.textContent === '9002'").await?);
    tab.close().await?;
    browser.end().await?;
    engine.shutdown().await?;
    Ok(())
}

/// Checks what the other tests rely on: a violation of the policy reaches the test.
#[gen_durable::test]
async fn a_page_that_breaks_its_policy_is_heard(pool: PgPool) -> Result<(), Error> {
    let site = Site::of(&pool).await?;
    let Some(browser) = Browser::start().await? else { return Ok(()) };
    for script in [
        "{ const s = document.createElement('style'); s.textContent = 'b{}'; document.head.append(s); 1 }",
        "{ const i = new Image(); i.src = 'http://127.0.0.2:9/x.png'; 1 }",
        "try { document.body.innerHTML = '<b>x</b>' } catch { 1 }",
    ] {
        let tab = browser.tab(&site, "ada").await?;
        tab.goto(&site.url("")).await?;
        assert!(tab.complaints().is_empty());
        tab.eval::<serde_json::Value>(script).await.ok();
        let began = std::time::Instant::now();
        while tab.complaints().is_empty() {
            assert!(began.elapsed() < crate::support::SOON, "nobody heard of {script}");
            tokio::task::yield_now().await;
        }
    }
    browser.end().await
}

#[gen_durable::test]
async fn a_hidden_tab_closes_its_stream_and_opens_it_again(pool: PgPool) -> Result<(), Error> {
    let site = Site::of(&pool).await?;
    let Some(browser) = Browser::start().await? else { return Ok(()) };
    let tab = browser.tab(&site, "eve").await?;
    tab.goto(&site.url("/queues")).await?;
    let state = "document.getElementById('live').className";
    tab.wait(&format!("{state} === 'fresh'")).await?;
    let hide = |hidden: bool| {
        format!(
            "Object.defineProperty(document, 'hidden', {{ value: {hidden}, configurable: true }});
             document.dispatchEvent(new Event('visibilitychange'))"
        )
    };
    tab.eval::<bool>(&hide(true)).await?;
    tab.wait("document.getElementById('live').textContent === 'Paused'").await?;
    tab.eval::<bool>(&hide(false)).await?;
    tab.wait(&format!("{state} === 'fresh'")).await?;
    tab.close().await?;
    browser.end().await
}
