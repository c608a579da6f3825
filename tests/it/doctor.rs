//! The doctor: each illness is prepared, found and named, and its cure makes it vanish.

mod fleet;
mod rights;
mod schedules;
mod server;
mod waiting;

use std::time::Duration;

use gen_durable::{
    Limit,
    operate::{Count, Finding, Illness, Severity},
    prelude::*,
};
use gen_durable_postgres::Server;
use sqlx::PgPool;

use crate::support::{empty_database, sql, until};

/// An illness and its subject.
type Ill = (Illness, String);

/// Returns what is ill, but for the settings of the server of the tests, and what other tests of it
/// cause.
async fn illnesses(pool: &PgPool) -> Vec<Finding> {
    let mut findings = Client::new(pool.clone()).diagnose().await.unwrap();
    let of_server = [
        Illness::UnsafeSetting,
        Illness::FewConnections,
        Illness::OldTransaction,
        Illness::OldPreparedTransaction,
        Illness::ClockSkew,
    ];
    findings.retain(|finding| !of_server.contains(&finding.illness));
    for finding in &findings {
        let texts = [&finding.subject, &finding.explanation, &finding.cure];
        assert!(texts.iter().all(|text| !text.is_empty()), "{finding:?}");
    }
    findings
}

fn names(findings: &[Finding]) -> Vec<Ill> {
    findings.iter().map(|finding| (finding.illness, finding.subject.clone())).collect()
}

/// Finds one thing that is ill, and nothing else.
async fn only(pool: &PgPool, illness: Illness, subject: &str) -> Finding {
    let mut findings = illnesses(pool).await;
    assert_eq!(names(&findings), [(illness, subject.to_owned())], "{findings:#?}");
    findings.remove(0)
}

async fn is_healthy(pool: &PgPool) {
    let findings = illnesses(pool).await;
    assert!(findings.is_empty(), "{findings:#?}");
}

/// A worker that lives. It serves `default`, and runs version 2 of `order`.
const WORKER: &str = "
    insert into gen_durable.workers (id, name, lease_expires_at, queues, slots, fsms, fsm_versions)
    overriding system value
    values (1, 'w', now() + interval '1 hour', '{default}', '{10}', '{order}', '{2}')";

#[derive(Clone, Debug, DurableSignal)]
pub struct Go;

#[durable_fsm(state = u32, output = u32, timeout = "10s")]
pub enum Part {
    Run,
}

#[durable_fsm]
impl Part {
    #[step(limit = "parts")]
    async fn run(cx: Context<Self>) -> Outcome<Self> {
        let n = cx.state;
        if n.is_multiple_of(30) { cx.stop("a part is missing") } else { cx.done(n) }
    }
}

/// Uses what the library has: children, parks, delays, keys and limits.
#[durable_fsm(state = u32, output = (), signals(Go, Ended<Part>), history = "steps")]
pub enum Whole {
    Split,
    Join,
    Rest,
    Wait,
}

#[durable_fsm]
impl Whole {
    async fn split(cx: Context<Self>) -> Outcome<Self> {
        let n = cx.state;
        cx.next(Whole::Join).spawn([Part::insert(n), Part::insert(n + 1)])
    }

    async fn join(mut cx: Context<Self>) -> StepResult<Self> {
        if cx.gather::<Ended<Part>>(2)?.is_none() {
            return Ok(cx.await_count::<Ended<Part>>(2));
        }
        Ok(cx.next_in(Whole::Rest, Duration::from_millis(1)))
    }

    async fn rest(cx: Context<Self>) -> Outcome<Self> {
        cx.next(Whole::Wait)
    }

    async fn wait(mut cx: Context<Self>) -> StepResult<Self> {
        match cx.take_signal::<Go>()? {
            Some(Go) => Ok(cx.done(())),
            None => Ok(cx.await_signal::<Go>()),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn p76_a_busy_database_is_healthy() {
    // With all the settings of a server in use.
    let server = Server::builder().start().unwrap();
    let pool = PgPool::connect(&server.url("postgres")).await.unwrap();
    let client = Client::new(pool.clone());
    let absent = client.diagnose().await.unwrap();
    assert_eq!(names(&absent), [(Illness::NoSchema, "the schema".to_owned())]);
    assert_eq!((absent[0].severity, &*absent[0].cure), (Severity::Error, "gen-durable migrate up"));

    gen_durable_migrate::up(&pool).await.unwrap();
    let empty = client.diagnose().await.unwrap();
    assert_eq!(names(&empty), [(Illness::NoEngine, "the fleet".to_owned())]);
    assert_eq!((empty[0].severity, empty[0].count), (Severity::Info, None));

    let engine = Engine::builder(pool.clone())
        .machine::<Whole>()
        .machine::<Part>()
        .limit("parts", Limit::new().at_once(3))
        .start()
        .await
        .unwrap();
    let wholes = (0..100).map(|n| Whole::insert(n).partition_key(format!("key {}", n % 7)));
    // The rows of a key run one at a time, and wait for a signal while others go on.
    let ids = Whole::insert_many(wholes).execute(&client).await.unwrap();
    for (n, id) in ids.into_iter().enumerate() {
        let id = id.unwrap();
        Whole::signal_go(id, Go).execute(&client).await.unwrap();
        if n.is_multiple_of(5) {
            let findings = client.diagnose().await.unwrap();
            assert!(findings.is_empty(), "{findings:#?}");
        }
        until(&pool, id, "done").await;
    }
    let findings = client.diagnose().await.unwrap();
    // Each of the failed parts was meant to fail: they are few.
    assert!(findings.is_empty(), "{findings:#?}");
    engine.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn p76_an_empty_database_has_no_schema() {
    let db = empty_database().await;
    only(db.pool(), Illness::NoSchema, "the schema").await;
    gen_durable_migrate::up(db.pool()).await.unwrap();
    let found = only(db.pool(), Illness::NoEngine, "the fleet").await;
    assert_eq!(found.severity, Severity::Info);
    sql(db.pool(), WORKER).await;
    is_healthy(db.pool()).await;
}

/// The names are for tools: each is there once, and in `snake_case`.
#[test]
fn an_illness_has_a_stable_name() {
    let mut names: Vec<&str> = Illness::ALL.iter().map(|illness| illness.as_str()).collect();
    let plain =
        |name: &&str| name.chars().all(|letter| letter.is_ascii_lowercase() || letter == '_');
    assert!(names.iter().all(plain), "{names:?}");
    let all = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), all);
    assert_eq!(Illness::UnservedQueue.to_string(), "unserved_queue");
    assert_eq!(format!("{:>8}", Severity::Info), "    info");
    assert!(Severity::Error > Severity::Warning && Severity::Warning > Severity::Info);
}

/// The number and the ids of the instances that a finding is about.
fn affected(finding: &Finding) -> (Option<Count>, &[i64]) {
    (finding.count, &finding.instances)
}
