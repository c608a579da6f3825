//! Mistakes that an engine can see at its start: `start` returns an error that says what to do.

use std::time::Duration;

use gen_durable::{Engine, Error, prelude::*};

use crate::support::{database, empty_database, engine};

#[derive(Debug)]
pub struct Mailer;

#[durable_fsm(state = (), output = ())]
pub enum Mail {
    Send,
}

#[durable_fsm]
impl Mail {
    async fn send(cx: Context<Self>, _mailer: &Mailer) -> Outcome<Self> {
        cx.done(())
    }
}

#[durable_fsm(name = "mail", state = (), output = ())]
pub enum Impostor {
    Send,
}

#[durable_fsm]
impl Impostor {
    async fn send(cx: Context<Self>) -> Outcome<Self> {
        cx.done(())
    }
}

#[tokio::test]
async fn the_schema_must_fit() {
    let db = empty_database().await;
    let error = engine(&db).start().await.unwrap_err();
    assert!(matches!(error, Error::SchemaTooOld { found: 0, .. }), "{error}");
    assert!(error.to_string().contains("gen-durable migrate up"), "{error}");

    gen_durable_migrate::up(db.pool()).await.unwrap();
    sqlx::query(
        "insert into gen_durable.migrations (version, name, serves) values (999, 'future', 999)",
    )
    .execute(db.pool())
    .await
    .unwrap();
    let error = engine(&db).start().await.unwrap_err();
    assert!(matches!(error, Error::SchemaTooNew { found: 999, .. }), "{error}");
    assert!(error.to_string().contains("newer gen_durable"), "{error}");
}

#[tokio::test]
async fn a_missing_resource_is_named() {
    let db = database().await;
    let error = engine(&db).machine::<Mail>().start().await.unwrap_err();
    let text = error.to_string();
    for part in ["step `send` of machine `mail`", "start::Mailer", ".resource(…)"] {
        assert!(text.contains(part), "{text}");
    }
}

#[tokio::test]
async fn two_machines_of_one_name_and_version_are_refused() {
    let db = database().await;
    let error = engine(&db).machine::<Mail>().machine::<Impostor>().resource(Mailer).start().await;
    let error = error.unwrap_err();
    assert!(matches!(error, Error::DuplicateMachine { machine: "mail", version: 1 }), "{error}");
}

#[tokio::test]
async fn options_that_make_no_sense_are_refused() {
    let db = database().await;
    for (builder, part) in [
        (engine(&db).queue("mail", 0), "queue `mail`: it may run 0 steps at once"),
        (engine(&db).lease_ttl(Duration::from_millis(1)), "lease_ttl: shorter than 100 ms"),
        (engine(&db).poll_interval(Duration::ZERO), "poll_interval: shorter than 1 ms"),
        (engine(&db).connections_max(1), "connections_max: an engine needs at least 5"),
        (engine(&db).run_ahead(0, Duration::ZERO), "run_ahead_steps_max: it must be at least 1"),
        (engine(&db).crashes_max(0), "crashes_max: it must be at least 1"),
    ] {
        let error = builder.start().await.unwrap_err();
        assert!(error.to_string().contains(part), "{error}");
    }
}

#[tokio::test]
async fn a_database_that_is_not_there_is_a_clear_error() {
    let options = sqlx::postgres::PgPoolOptions::new().acquire_timeout(Duration::from_secs(2));
    let pool = options.connect_lazy("postgres://nobody@127.0.0.1:1/nothing").unwrap();
    let error = Engine::builder(pool).start().await.unwrap_err();
    let text = error.to_string();
    assert!(text.starts_with("could not connect to the database: Connection refused"), "{text}");
}
