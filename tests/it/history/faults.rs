//! Entries are written once, under faults: lost answers of COMMIT, lost workers, upgrades.

use std::{sync::Arc, time::Duration};

use gen_durable::{Engine, UpgradeError, prelude::*};
use gen_durable_tests::proxy::Effect;
use sqlx::{PgPool, postgres::PgPoolOptions};

use super::{Entry, Stands, entries, entry};
use crate::support::{
    Breakpoint, WAIT_MAX, database, engine, eventually, expire_lease, log, lose_worker, proxy, sql,
};

/// The answer of COMMIT is lost, or COMMIT never arrives. The step runs once or twice, and is
/// recorded once.
#[tokio::test(flavor = "multi_thread")]
async fn p73_a_commit_whose_answer_is_lost_is_recorded_once() {
    log();
    let db = database().await;
    let pool = db.pool();
    let proxy = proxy().await;
    let at = Arc::new(Breakpoint::new());
    for (effect, again) in [(Effect::LoseAnswer, false), (Effect::CutBefore, true)] {
        for (step, left) in [(Stands::Plain, 1), (Stands::Own, 0)] {
            let behind = PgPoolOptions::new().connect_lazy(&proxy.url(db.name())).unwrap();
            let engine = Engine::builder(behind)
                .machine::<Stands>()
                .resource(Arc::clone(&at))
                .maintenance(false)
                .lease_ttl(Duration::from_millis(1500))
                .poll_interval(Duration::from_mins(1));
            let engine = engine.start().await.unwrap();
            let name = step.name();
            let transactional = name == "own";
            let id = Stands::insert(()).step(step).execute(pool).await.unwrap();
            assert_eq!(at.arrival().await, id.get());
            let sprung = proxy.trap_commit(effect);
            at.open(1);
            sprung.await.expect("the commit goes by");
            // An outcome that its step's transaction commits is lost with it, and the step runs
            // again. The flusher keeps any other outcome, and commits it again.
            at.open(usize::from(again && transactional) + left);
            let client = Client::new(pool.clone());
            client.wait(id, WAIT_MAX).await.unwrap();
            let steps: Vec<String> =
                entries(pool, id).await.into_iter().map(|entry| entry.0).collect();
            let expected: &[&str] = if transactional { &["own"] } else { &["plain", "own"] };
            assert_eq!(steps, expected, "{effect:?} {name}");
            engine.shutdown().await.unwrap();
            while tokio::time::timeout(Duration::ZERO, at.arrival()).await.is_ok() {}
        }
    }
}

/// Inserts an instance that a lost worker holds, and returns its id.
async fn held(pool: &PgPool, fsm: &str, worker: i64, crashes: i32) -> i64 {
    sqlx::query_scalar(
        "insert into gen_durable.instances
             (fsm, fsm_version, step, state, status, locked_by, attempt, crashes, updated_at)
         values ($1, 1, 's', '7', 'executing', $2, 4, $3, '2020-01-01Z') returning id",
    )
    .bind(fsm)
    .bind(worker)
    .bind(crashes)
    .fetch_one(pool)
    .await
    .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn p73_a_run_that_is_lost_with_its_worker_is_recorded() {
    let db = database().await;
    let pool = db.pool();
    sql(
        pool,
        "insert into gen_durable.machines (fsm, fsm_version, initial, steps, history)
         select level, 1, 's', '{s}', level from unnest('{off,failures,steps,states}'::text[]) as level;
         insert into gen_durable.machines (fsm, fsm_version, initial, steps, history)
         values ('null', 1, 's', '{s}', null), ('failures', 2, 's', '{s}', 'off'), ('off', 2, 's', '{s}', 'steps');
         insert into gen_durable.workers (id, name, lease_expires_at)
         overriding system value values (1001, 'lost', now())",
    )
    .await;
    expire_lease(pool, 1001).await;
    let reaper = engine(&db).maintenance(false).crashes_max(3).start().await.unwrap();
    let mut ids = Vec::new();
    for fsm in ["off", "failures", "steps", "states", "null", "unregistered"] {
        ids.push((fsm, held(pool, fsm, 1001, 0).await));
    }
    let last = held(pool, "failures", 1001, 2).await;
    let abandoned = held(pool, "failures", 0, 0).await;
    reaper.maintain().await.unwrap();
    let lost = |error: &str, state: &str| vec![entry(("s", 4, "lost", "s"), error, state)];
    for (fsm, id) in ids {
        let expected = match fsm {
            "off" => Vec::new(),
            "states" => lost("the worker was lost", "7"),
            _ => lost("the worker was lost", ""),
        };
        assert_eq!(entries(pool, id).await, expected, "{fsm}");
    }
    let failed = entry(("s", 4, "failed", ""), "step s: its worker was lost 3 times in a row", "");
    assert_eq!(entries(pool, last).await, [failed]);
    assert_eq!(entries(pool, abandoned).await, lost("the run ended without an outcome", ""));
    let times: Vec<(i64, bool, Option<i64>)> = sqlx::query_as(
        "select instance_id, started_at = '2020-01-01Z', worker from gen_durable.history
         where ended_at > now() - interval '1 hour' and instance_id >= $1 order by instance_id",
    )
    .bind(last)
    .fetch_all(pool)
    .await
    .unwrap();
    assert_eq!(times, [(last, true, Some(1001)), (abandoned, true, None)]);
    reaper.shutdown().await.unwrap();
}

/// A worker loses its lease while its step runs. The step's outcome is refused, and only the loss
/// is recorded for this run.
#[tokio::test(flavor = "multi_thread")]
async fn p73_the_outcome_of_a_lost_run_is_not_recorded() {
    let db = database().await;
    let pool = db.pool();
    let at = Arc::new(Breakpoint::new());
    let builder = || engine(&db).machine::<Stands>().resource(Arc::clone(&at)).maintenance(false);
    let engine = builder().start().await.unwrap();
    let id = Stands::insert(()).step(Stands::Own).execute(&engine).await.unwrap();
    at.arrival().await;
    let worker: i64 =
        sqlx::query_scalar("select id from gen_durable.workers").fetch_one(pool).await.unwrap();
    lose_worker(pool, worker, &engine, id).await;
    at.open(2);
    Client::new(pool.clone()).wait(id, WAIT_MAX).await.unwrap();
    let found = eventually("both runs are recorded", async || {
        let found = entries(pool, id).await;
        (found.len() >= 2).then_some(found)
    })
    .await;
    let expected: [Entry; 2] = [
        entry(("own", 0, "lost", "own"), "the worker was lost", ""),
        entry(("own", 1, "done", ""), "", ""),
    ];
    assert_eq!(found, expected);
    engine.shutdown().await.unwrap();
}

mod v1 {
    use super::*;

    #[durable_fsm(version = 1, name = "grown", state = u32, output = (), retired)]
    pub enum Grown {
        Old,
    }
}

#[durable_fsm(version = 2, state = String, output = (), upgrades = v1::Grown, history = "states")]
pub enum Grown {
    New,
    End,
}

impl Upgrade<v1::Grown> for Grown {
    fn upgrade(_: v1::Grown, state: u32) -> Result<(Self, String), UpgradeError> {
        Ok((Self::New, state.to_string()))
    }
}

#[durable_fsm]
impl Grown {
    #[step(entry)]
    async fn new(cx: Context<Self>) -> StepResult<Self> {
        if cx.attempt() == 0 {
            return Err(std::io::Error::other("not yet").into());
        }
        Ok(cx.next(Grown::End))
    }

    async fn end(cx: Context<Self>) -> Outcome<Self> {
        cx.done(())
    }

    async fn handle(cx: Context<Self>, _error: StepError) -> Outcome<Self> {
        cx.replay(Duration::ZERO)
    }
}

/// The first outcome of an instance of an older version is recorded in the newer version, with the
/// step and the state that the upgrade gave it.
#[tokio::test(flavor = "multi_thread")]
async fn p73_an_upgraded_instance_is_recorded_in_its_new_version() {
    let db = database().await;
    let pool = db.pool();
    let id: i64 = sqlx::query_scalar(
        "insert into gen_durable.instances (fsm, fsm_version, step, state)
         values ('grown', 1, 'old', '7') returning id",
    )
    .fetch_one(pool)
    .await
    .unwrap();
    let engine = engine(&db).machine::<Grown>().start().await.unwrap();
    let typed = InstanceId::<Grown>::from_raw(id);
    engine.wait(typed, WAIT_MAX).await.unwrap();
    let state = r#""7""#;
    let expected = [
        entry(("new", 0, "replay", "new"), "not yet", state),
        entry(("new", 1, "next", "end"), "", state),
        entry(("end", 0, "done", ""), "", state),
    ];
    assert_eq!(entries(pool, id).await, expected);
    let versions: Vec<u32> = engine
        .client()
        .instance(typed)
        .history()
        .await
        .unwrap()
        .iter()
        .map(|entry| entry.version)
        .collect();
    assert_eq!(versions, [2, 2, 2]);
    engine.shutdown().await.unwrap();
}
