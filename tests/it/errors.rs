//! Errors keep their type and their causes: those of steps, whatever type carries them, and the
//! library's own.

use std::{io, sync::Arc, time::Duration};

use anyhow::Context as _;
use gen_durable::{Error, prelude::*};
use gen_durable_migrate::Error as MigrateError;
use sqlx::{AssertSqlSafe, PgPool, postgres::PgPoolOptions};

use crate::{
    secrets::Kept,
    support::{WAIT_MAX, database, empty_database, engine, eventually},
};

#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("no stock of {0}")]
pub struct NoStock(String);

/// Another error, with `NoStock` as its cause.
#[derive(Debug, thiserror::Error)]
#[error("order refused")]
pub struct Refused(#[source] NoStock);

fn no_stock() -> NoStock {
    NoStock("tea".to_owned())
}

fn through_anyhow() -> anyhow::Result<()> {
    Err(no_stock())?
}

fn through_eyre() -> eyre::Result<()> {
    Err(no_stock())?
}

fn in_a_box() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    Err(no_stock().into())
}

/// Each step fails in a different way.
#[durable_fsm(state = (), output = String)]
pub enum Fails {
    Plain,
    Anyhow,
    AnyhowContext,
    AnyhowErrorAsContext,
    AnyhowOfABox,
    AnyhowInAStepResult,
    Eyre,
    EyreContext,
    EyreInAStepResult,
    Boxed,
    BoxedInAStepResult,
    InABox,
    InAnArc,
    AsACause,
    Text,
}

#[durable_fsm]
impl Fails {
    async fn plain(_: Context<Self>) -> Result<Outcome<Self>, NoStock> {
        Err(no_stock())
    }

    #[step(entry)]
    async fn anyhow(_: Context<Self>) -> anyhow::Result<Outcome<Self>> {
        through_anyhow()?;
        anyhow::bail!("not reached")
    }

    #[step(entry)]
    async fn anyhow_context(_: Context<Self>) -> anyhow::Result<Outcome<Self>> {
        through_anyhow().context("reserving").with_context(|| "ordering")?;
        anyhow::bail!("not reached")
    }

    #[step(entry)]
    async fn anyhow_error_as_context(_: Context<Self>) -> anyhow::Result<Outcome<Self>> {
        Err(io::Error::other("the shelf is gone")).context(no_stock())
    }

    #[step(entry)]
    async fn anyhow_of_a_box(_: Context<Self>) -> anyhow::Result<Outcome<Self>> {
        in_a_box().map_err(|error| anyhow::anyhow!(error)).context("ordering")?;
        anyhow::bail!("not reached")
    }

    #[step(entry)]
    async fn anyhow_in_a_step_result(_: Context<Self>) -> StepResult<Self> {
        through_anyhow()?;
        Err("not reached".into())
    }

    #[step(entry)]
    async fn eyre(_: Context<Self>) -> eyre::Result<Outcome<Self>> {
        through_eyre()?;
        eyre::bail!("not reached")
    }

    #[step(entry)]
    async fn eyre_context(_: Context<Self>) -> eyre::Result<Outcome<Self>> {
        eyre::WrapErr::wrap_err(through_eyre(), "ordering")?;
        eyre::bail!("not reached")
    }

    #[step(entry)]
    async fn eyre_in_a_step_result(_: Context<Self>) -> StepResult<Self> {
        through_eyre()?;
        Err("not reached".into())
    }

    #[step(entry)]
    async fn boxed(
        _: Context<Self>,
    ) -> Result<Outcome<Self>, Box<dyn std::error::Error + Send + Sync>> {
        Err(no_stock().into())
    }

    #[step(entry)]
    async fn boxed_in_a_step_result(_: Context<Self>) -> StepResult<Self> {
        in_a_box()?;
        Err("not reached".into())
    }

    #[step(entry)]
    async fn in_a_box(_: Context<Self>) -> Result<Outcome<Self>, Box<NoStock>> {
        Err(Box::new(no_stock()))
    }

    #[step(entry)]
    async fn in_an_arc(_: Context<Self>) -> Result<Outcome<Self>, Arc<NoStock>> {
        Err(Arc::new(no_stock()))
    }

    #[step(entry)]
    async fn as_a_cause(_: Context<Self>) -> anyhow::Result<Outcome<Self>> {
        Err(Refused(no_stock())).context("ordering")
    }

    #[step(entry)]
    async fn text(cx: Context<Self>) -> StepResult<Self> {
        let text = || -> Result<(), String> { Err(format!("no {}", "stock")) };
        text()?;
        Ok(cx.done("not reached".to_owned()))
    }

    async fn handle(cx: Context<Self>, error: StepError) -> Outcome<Self> {
        match error.downcast_ref::<NoStock>() {
            Some(found) => {
                let text = format!("{}: found {found}", error.kind() == StepErrorKind::Failed);
                cx.done(text)
            }
            None => cx.stop(error),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn p51_a_steps_error_is_found_by_its_type_however_it_came() {
    let db = database().await;
    let engine = engine(&db).machine::<Fails>().start().await.unwrap();
    for name in Fails::STEPS.iter().filter(|name| **name != "text") {
        let step = Fails::from_name(name).unwrap();
        let id = Fails::insert(()).step(step).execute(&engine).await.unwrap();
        let found = engine.wait(id, WAIT_MAX).await;
        assert_eq!(found.unwrap(), "true: found no stock of tea", "{name}");
    }
    let id = Fails::insert(()).step(Fails::Text).execute(&engine).await.unwrap();
    let error = engine.wait(id, WAIT_MAX).await.unwrap_err();
    assert!(matches!(&error, WaitError::Failed { reason, .. } if reason == "no stock"), "{error}");
    engine.shutdown().await.unwrap();
}

/// The text of an error has all of its causes, and each of them once.
#[test]
fn p51_a_steps_error_says_each_cause_once() {
    let error = through_anyhow().context("ordering").unwrap_err();
    assert_eq!(StepError::from(error).to_string(), "ordering: no stock of tea");
    let error = StepError::from(Refused(no_stock()));
    assert_eq!(error.to_string(), "order refused: no stock of tea");
    assert_eq!(error.source().to_string(), "order refused");
    assert!(error.downcast_ref::<Refused>().is_some());
    assert!(error.downcast_ref::<io::Error>().is_none());
    // The text of this error is its cause's text, and it returns the cause as well.
    let error = sqlx::Error::Io(io::Error::other("refused"));
    assert_eq!(StepError::from(anyhow::Error::new(error)).to_string(), "refused");
    assert_eq!(StepError::from("no stock").to_string(), "no stock");
    assert_eq!(StepError::from(String::from("no stock")).to_string(), "no stock");
}

/// Checks that an error's text has each part once, and that printing its whole chain of causes adds
/// nothing.
#[track_caller]
fn says(error: impl std::error::Error + Send + Sync + 'static, parts: &[&str]) {
    let text = error.to_string();
    for part in parts {
        assert_eq!(text.matches(part).count(), 1, "`{part}` in `{text}`");
    }
    // sqlx adds the place in Postgres's own source code at which an error was raised.
    assert!(!text.contains("at line"), "{text}");
    assert_eq!(format!("{:#}", anyhow::Error::new(error)), text);
}

#[durable_fsm(state = (), output = ())]
pub enum Nothing {
    Do,
}

#[durable_fsm]
impl Nothing {
    async fn r#do(cx: Context<Self>, pool: &PgPool) -> StepResult<Self> {
        sqlx::query("select 1 / 0").execute(pool).await?;
        Ok(cx.done(()))
    }
}

/// A pool for an address at which no server answers. It tries for a while before it says so.
fn refused() -> PgPool {
    PgPoolOptions::new()
        .acquire_timeout(Duration::from_millis(100))
        .connect_lazy("postgres://nobody@127.0.0.1:1/nothing")
        .unwrap()
}

#[tokio::test]
async fn p51_a_refused_connection_is_named() {
    let refusal = "Connection refused";
    let error = Engine::builder(refused()).start().await.unwrap_err();
    says(error, &["could not connect to the database: ", refusal]);
    says(gen_durable_migrate::up(&refused()).await.unwrap_err(), &["connect", refusal]);
    let error = Nothing::insert(()).execute(&refused()).await.unwrap_err();
    says(error, &["could not insert instances: ", refusal]);
    let client = Client::new(refused());
    // Calls that ask at the same time get the same error.
    let (one, other) =
        tokio::join!(client.find(1), client.find(InstanceId::<Nothing>::from_raw(2)));
    says(one.unwrap_err(), &["could not look an instance up: ", refusal]);
    says(other.unwrap_err(), &["could not look an instance up: ", refusal]);
    let error = client.signal_by_name(1, "go", &serde_json::json!(null), None).await.unwrap_err();
    says(error, &["could not deliver a signal: ", refusal]);
}

/// A server refuses a login, as the role has reached its limit of connections. A pool tries again
/// until its timeout, and hides the reason. The library's error has the reason.
#[tokio::test]
async fn p51_a_refused_login_is_named() {
    let db = database().await;
    let role = format!("{}_full", db.name());
    let make = format!("create role {role} login connection limit 0");
    sqlx::raw_sql(AssertSqlSafe(make)).execute(db.pool()).await.unwrap();
    let options = db.pool().connect_options().as_ref().clone().username(&role);
    let pool =
        PgPoolOptions::new().acquire_timeout(Duration::from_millis(100)).connect_lazy_with(options);
    let parts = ["too many connections for role", "(SQLSTATE 53300)"];
    says(Client::new(pool.clone()).find(1).await.unwrap_err(), &parts);
    says(gen_durable_migrate::status(&pool).await.unwrap_err(), &parts);
    let error = Engine::builder(pool).start().await.unwrap_err();
    let Error::Database(error) = error else { panic!("{error}") };
    assert_eq!((error.sqlstate(), error.is_transient()), (Some("53300"), true));
    let drop = format!("drop role {role}");
    sqlx::raw_sql(AssertSqlSafe(drop)).execute(db.pool()).await.unwrap();
}

/// All connections of the pool are in use, and the server is well: the error says so.
#[tokio::test]
async fn p51_a_pool_that_is_in_use_is_named() {
    let db = database().await;
    let options = db.pool().connect_options().as_ref().clone();
    let pool = PgPoolOptions::new().max_connections(1).acquire_timeout(Duration::from_millis(50));
    let pool = pool.connect_with(options).await.unwrap();
    let _held = pool.acquire().await.unwrap();
    let error = Client::new(pool).find(1).await.unwrap_err();
    says(error, &["every connection of the pool was in use", "max_connections"]);
}

#[tokio::test]
async fn p51_what_postgres_says_is_said_once_and_without_its_own_source() {
    let db = empty_database().await;
    let cure = "run `gen-durable migrate up` or call `gen_durable_migrate::up(&pool)`";
    let error = Client::new(db.pool().clone()).find(1).await.unwrap_err();
    let missing = "relation \"gen_durable.instances\" does not exist (SQLSTATE 42P01)";
    says(error, &["could not look an instance up: ", missing, cure]);
    sqlx::raw_sql("create schema gen_durable; create type gen_durable.instances as enum ()")
        .execute(db.pool())
        .await
        .unwrap();
    let error = gen_durable_migrate::up(db.pool()).await.unwrap_err();
    let MigrateError::Migration { cause, .. } = &error else { panic!("{error}") };
    assert_eq!(cause.sqlstate(), Some("42710"));
    assert!(cause.driver_error().is::<sqlx::Error>());
    says(error, &["migration 1 (init) up failed: ", "type \"instances\" already exists"]);
}

/// A step's own query fails. The instance keeps the reason.
#[tokio::test(flavor = "multi_thread")]
async fn p51_a_steps_query_says_why_it_failed() {
    let db = database().await;
    let engine = engine(&db).machine::<Nothing>().resource(db.pool().clone());
    let engine = engine.start().await.unwrap();
    let id = Nothing::insert(()).execute(&engine).await.unwrap();
    let error = engine.wait(id, WAIT_MAX).await.unwrap_err();
    let WaitError::Failed { reason, .. } = &error else { panic!("{error}") };
    assert_eq!(reason, "division by zero (SQLSTATE 22012)");
    engine.shutdown().await.unwrap();
}

/// The log has the cause in the same words as the errors.
#[tokio::test]
async fn p51_the_log_names_the_cause() {
    let (log, _here) = Kept::log("gen_durable=info");
    let db = database().await;
    let engine = engine(&db).machine::<Nothing>().resource(db.pool().clone());
    let engine = engine.start().await.unwrap();
    sqlx::raw_sql("alter schema gen_durable rename to gone").execute(db.pool()).await.unwrap();
    Nothing::insert(()).execute(&engine).await.unwrap_err();
    let line = eventually("the claim fails", async || {
        let log = log.text();
        log.lines().find(|line| line.contains("could not claim work")).map(str::to_owned)
    })
    .await;
    assert!(line.contains("does not exist (SQLSTATE "), "{line}");
    assert!(!log.text().contains("at line"), "{}", log.text());
}
