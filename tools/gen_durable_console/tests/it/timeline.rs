//! The timeline of an instance: bounded in rows and in bytes, and complete page by page.

use sqlx::PgPool;

use crate::support::{Error, engine, order, site::Site, until};

/// Runs with large errors and states, newer than all that the engine has recorded.
const LONG: &str = "
    insert into gen_durable.history
        (day, instance_id, fsm, fsm_version, step, attempt, outcome, next_step, error, state,
         started_at, ended_at)
    select '-infinity', $1, 'order', 1, 'charge', n, 'replay', 'charge', repeat('why ', 100000),
           to_json(repeat('4111 ', 100000)), now(), now()
    from generate_series(1, 150) as n";

#[gen_durable::test]
async fn a_long_timeline_of_large_states_is_a_small_page(pool: PgPool) -> Result<(), Error> {
    let engine = engine(&pool).await?;
    let id = order(1).execute(&engine).await?;
    until(&pool, 1, "parked").await?;
    engine.shutdown().await?;
    sqlx::query(LONG).bind(id.get()).execute(&pool).await?;
    let site = Site::of(&pool).await?;
    let newest = site.get("ada", &format!("/instances/{id}")).await?;
    assert!(newest.body.len() < 300_000, "{} bytes", newest.body.len());
    assert_eq!(newest.body.matches("is tried again").count(), 100);
    assert!(newest.body.contains("<b class=\"step\">await_pay</b>"), "where it stands");
    assert!(!newest.body.contains("Inserted</div>"), "the insert is on a later page");
    // The rest is one page back.
    let older = newest.body.split_once("rel=\"next\" href=\"").ok_or("an older page")?.1;
    let older = older.split_once('"').ok_or("its end")?.0;
    assert!(older.starts_with(&format!("/instances/{id}?before=")), "{older}");
    let older = site.get("ada", older).await?;
    assert_eq!(older.body.matches("is tried again").count(), 50);
    assert!(older.body.contains("Inserted</div>"), "{}", older.body);
    assert!(!older.body.contains("<b class=\"step\">await_pay</b>"), "{}", older.body);
    assert!(!older.body.contains("rel=\"next\"") && older.body.contains(">Newest</a>"));
    // A run's own page shows much of both, and says that it is not all.
    let run = newest.body.split_once(&format!("href=\"/instances/{id}/")).ok_or("a run")?.1;
    let run = run.split_once('"').ok_or("its end")?.0;
    let run = site.get("ada", &format!("/instances/{id}/{run}")).await?;
    assert!(run.body.len() < 300_000, "{} bytes", run.body.len());
    assert!(run.body.contains("4111 4111") && run.body.contains("why why"));
    assert_eq!(run.body.matches("The rest is not shown").count(), 2);
    for unknown in [format!("/instances/{id}/0"), format!("/instances/{}/1", id.get() + 1)] {
        let page = site.get("ada", &unknown).await?;
        assert!(page.status == 404 && page.body.contains("has no entry"), "{unknown}: {page:?}");
    }
    Ok(())
}
