//! Hostile names and large numbers, from the database to the page and back.

use sqlx::PgPool;

use crate::support::{Error, browser::Browser, site::Site};

/// An id that no number of a script can hold.
const ID: i64 = 9_007_199_254_740_993;

/// Makes a machine, a queue, an instance and a run of it, all of one hostile name. Returns the
/// name: it has quotes, tags, slashes, dots and percent signs.
async fn hostile(pool: &PgPool) -> Result<String, Error> {
    let name = "../\"'><script>window.hit=1</script><img src=x onerror=window.hit=2>&a=b?#%2F";
    let graph = serde_json::json!({
        "machine": name, "version": 1, "initial": name, "on_cancel": null, "handle": null,
        "steps": [{
            "name": name, "variant": null, "opaque": true, "entry": true, "transactional": true,
            "limit": { "name": name, "weight": 1, "keyed": false },
            "edges": [
                { "kind": "await", "signal": name, "timeout": false },
                { "kind": "spawns", "machine": name },
                { "kind": "done" },
            ],
        }],
    });
    sqlx::query(
        "insert into gen_durable.machines
             (fsm, fsm_version, queue, initial, steps, signals, graph, history)
         values ($1, 1, $1, $1, array[$1], array[$1], $2::json, 'failures')",
    )
    .bind(name)
    .bind(graph.to_string())
    .execute(pool)
    .await?;
    sqlx::query("insert into gen_durable.queues (name) values ($1)")
        .bind(name)
        .execute(pool)
        .await?;
    sqlx::query(
        "insert into gen_durable.instances
             (id, fsm, fsm_version, step, state, queue, status, unique_key, unique_scope, last_error, finished_at)
         values ($1, $2, 1, $2, '{\"n\": 9007199254740993, \"e\": 1.10}', $2, 'failed', $2,
                 '{}', $2, now())",
    )
    .bind(ID)
    .bind(name)
    .execute(pool)
    .await?;
    sqlx::query(
        "insert into gen_durable.signals (target_id, name, dedup_key, payload)
         values ($1, $2, $2, to_json($2))",
    )
    .bind(ID)
    .bind(name)
    .execute(pool)
    .await?;
    sqlx::query(
        "insert into gen_durable.history
             (id, day, instance_id, fsm, fsm_version, step, attempt, outcome, next_step, error, state,
              started_at, ended_at)
         overriding system value
         values ($1, '-infinity', $1, $2, 1, $2, 0, 'next', $2, $2, '{\"n\": 9007199254740993}',
                 now(), now())",
    )
    .bind(ID)
    .bind(name)
    .execute(pool)
    .await?;
    Ok(name.to_owned())
}

#[gen_durable::test]
async fn hostile_names_stay_text_and_links_lead_to_them(pool: PgPool) -> Result<(), Error> {
    let name = hostile(&pool).await?;
    let site = Site::of(&pool).await?;
    let Some(browser) = Browser::start().await? else { return Ok(()) };
    let tab = browser.tab(&site, "ada").await?;
    let quoted = serde_json::to_string(&name)?;
    let (instance, run) = (format!("/instances/{ID}"), format!("/instances/{ID}/{ID}"));
    let pages = ["", "/instances", "/machines", "/queues", &instance, &run];
    for path in pages {
        tab.goto(&site.url(path)).await?;
        if path != run {
            tab.wait("document.getElementById('live').className === 'fresh'").await?;
        }
        tab.wait(&format!("document.body.textContent.includes({quoted})")).await?;
        assert!(!tab.eval::<bool>("'hit' in window").await?, "{path}");
    }
    // Each link to the machine, and each of its graph, leads to what it names.
    tab.goto(&site.url("/machines")).await?;
    tab.click("#machines tbody th a").await?;
    tab.wait(&format!("document.querySelector('h1')?.textContent.includes({quoted})")).await?;
    tab.click(".graph a").await?;
    tab.wait("document.querySelectorAll('#list tbody tr').length === 1").await?;
    let step: String = tab.eval("document.querySelector('[name=step]').value").await?;
    assert_eq!(step, name);
    tab.click("#list .id").await?;
    tab.wait(&format!("document.querySelector('h1 .id')?.textContent === '{ID}'")).await?;
    // The instance can be acted on by this id, in a form that says it.
    tab.click("a[href*='deed=retry']").await?;
    tab.sees(&format!("instance {ID}")).await?;
    let id: String = tab.eval("document.querySelector('[name=id]').value").await?;
    assert_eq!(id, ID.to_string());
    assert!(!tab.eval::<bool>("'hit' in window").await?);
    tab.close().await?;
    browser.end().await
}

#[gen_durable::test]
async fn hostile_signals_are_escaped(pool: PgPool) -> Result<(), Error> {
    let name = hostile(&pool).await?;
    let page = Site::of(&pool).await?.get("ada", &format!("/instances/{ID}")).await?;
    let inbox = page.body.split_once(">Inbox<").ok_or("an inbox")?.1;
    let table = inbox.split_once("</table>").ok_or("a table")?.0;
    let escaped = name.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let escaped = escaped.replace('"', "&quot;");
    // The name and the key; the payload is JSON, which has a backslash before the quote.
    assert_eq!(table.matches(&escaped).count(), 2, "{table}");
    assert_eq!(table.matches("&lt;script&gt;window.hit=1").count(), 3, "{table}");
    assert!(!table.contains("<script") && !table.contains("<img"), "{table}");
    Ok(())
}

#[gen_durable::test]
async fn large_numbers_stay_exact(pool: PgPool) -> Result<(), Error> {
    hostile(&pool).await?;
    let site = Site::of(&pool).await?;
    let page = site.get("ada", &format!("/instances/{ID}")).await?;
    assert!(page.body.contains("&quot;n&quot;: 9007199254740993"), "{}", page.body);
    assert!(page.body.contains("&quot;e&quot;: 1.10"), "{}", page.body);
    let run = site.get("ada", &format!("/instances/{ID}/{ID}")).await?;
    assert!(run.body.contains("&quot;n&quot;: 9007199254740993"), "{}", run.body);
    for path in ["", "/instances"] {
        let page = site.get("ada", path).await?;
        assert!(page.body.contains(&format!("/instances/{ID}\"")), "{path}");
    }
    let answer = site.act("ada", &format!("deed=delete&on=instance&id={ID}"), "sure=yes").await?;
    assert_eq!(answer.status, 303, "{answer:?}");
    Ok(())
}
