//! Claims from watermarks: they begin where the last claim saw the first waiting row of each group.
//! No row that lies before a watermark may be missed for long.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use gen_durable::{Engine, prelude::*};
use sqlx::{PgConnection, PgPool, Row, postgres::PgRow};
use tokio::task::JoinHandle;

use crate::support::{WAIT_MAX, database, engine, sql};

#[durable_fsm(state = (), output = ())]
pub enum Fresh {
    Go,
}

#[durable_fsm]
impl Fresh {
    async fn go(cx: Context<Self>) -> Outcome<Self> {
        cx.done(())
    }
}

const WORKER: &str = "insert into gen_durable.workers (name, lease_expires_at) values ('w', now() + interval '1 hour');";

/// A watermark: the number of the group's machine, the group's priority, and the time at which its
/// first row was due, in microseconds.
type Watermark = (i64, i16, i64);

/// Claims up to ten rows with these watermarks. Returns their steps, and the watermarks of the
/// answer.
async fn claim(
    connection: &mut PgConnection,
    watermarks: &[Watermark],
) -> (Vec<String>, Vec<Watermark>) {
    let row: PgRow = sqlx::query(include_str!("../../gen_durable/src/storage/sql/claim.sql"))
        .bind(1_i64)
        .bind(vec!["default"])
        .bind(vec![10_i64])
        .bind(vec!["m"])
        .bind(vec![1_i32])
        .bind(Vec::<String>::new())
        .bind(Vec::<String>::new())
        .bind(true)
        .bind(watermarks.iter().map(|watermark| watermark.0).collect::<Vec<_>>())
        .bind(watermarks.iter().map(|watermark| watermark.1).collect::<Vec<_>>())
        .bind(watermarks.iter().map(|watermark| watermark.2).collect::<Vec<_>>())
        .bind(2_097_152_i64)
        .bind(false)
        .fetch_one(connection)
        .await
        .unwrap();
    let steps: Option<Vec<String>> = row.get("steps");
    let kinds: Vec<i64> = row.get("first_kinds");
    let priorities: Vec<i16> = row.get("first_priorities");
    let since: Vec<Option<i64>> = row.get("first_since");
    let watermarks = kinds.into_iter().zip(priorities).zip(since);
    let watermarks = watermarks.filter_map(|(group, since)| Some((group, since?)));
    let mut watermarks: Vec<Watermark> =
        watermarks.map(|((kind, priority), since)| (kind, priority, since)).collect();
    watermarks.sort_unstable();
    (steps.unwrap_or_default(), watermarks)
}

/// Noon of the first of January 2026, in microseconds since 1970.
const NOON: i64 = 1_767_268_800_000_000;

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_finds_the_groups_that_it_has_no_watermark_of() {
    let db = database().await;
    let pool = db.pool();
    let mut connection = pool.acquire().await.unwrap();
    sql(pool, WORKER).await;
    let insert = "insert into gen_durable.instances (fsm, fsm_version, step, state, priority, eligible_at)
         select 'm', 1, 'p' || p, '0', p, '2026-01-01 12:00:00+00'::timestamptz + p * interval '1 second'
         from unnest($1::smallint[]) as p";
    sqlx::query(insert).bind(vec![0_i16, 10]).execute(pool).await.unwrap();
    let (steps, watermarks) = claim(&mut connection, &[]).await;
    assert_eq!(steps, ["p0", "p10"]);
    assert_eq!(watermarks, [(1, 0, NOON), (1, 10, NOON + 10_000_000)]);
    // The new groups lie before, between and after the known ones. One known group has a row, and
    // one has none.
    let later = vec![-32768_i16, 0, 5, 6, 20, 32767];
    sqlx::query(insert).bind(later).execute(pool).await.unwrap();
    let (steps, watermarks) = claim(&mut connection, &watermarks).await;
    assert_eq!(steps, ["p-32768", "p0", "p5", "p6", "p20", "p32767"]);
    assert_eq!(
        watermarks.iter().map(|watermark| watermark.1).collect::<Vec<_>>(),
        [-32768, 0, 5, 6, 20, 32767]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_lies_far_before_a_watermark_is_left_to_a_whole_claim() {
    let db = database().await;
    let pool = db.pool();
    let mut connection = pool.acquire().await.unwrap();
    sql(pool, WORKER).await;
    sql(
        pool,
        "insert into gen_durable.instances (fsm, fsm_version, step, state, eligible_at)
             values ('m', 1, 'long ago', '0', '2026-01-01 11:00:00+00'),
                    ('m', 1, 'infinitely', '0', '-infinity'),
                    ('m', 1, 'just before', '0', '2026-01-01 11:59:59.8+00'),
                    ('m', 1, 'at noon', '0', '2026-01-01 12:00:00+00')",
    )
    .await;
    let noon = (1, 0, NOON);
    let (steps, watermarks) = claim(&mut connection, &[noon]).await;
    assert_eq!(steps, ["just before", "at noon"]);
    assert_eq!(watermarks, [(1, 0, NOON - 200_000)]);
    let (steps, watermarks) = claim(&mut connection, &[]).await;
    assert_eq!(steps, ["infinitely", "long ago"]);
    // An infinite time cannot be a watermark.
    assert_eq!(watermarks, [(1, 0, NOON - 3_600_000_000)]);
}

/// A machine has rows with a partition key. The row that the key lets in next may have been due for
/// long, so a claim must give no watermark for this machine.
#[tokio::test(flavor = "multi_thread")]
async fn machines_with_partition_keys_have_no_watermarks() {
    let db = database().await;
    let pool = db.pool();
    let mut connection = pool.acquire().await.unwrap();
    sql(pool, WORKER).await;
    sql(
        pool,
        "insert into gen_durable.instances (fsm, fsm_version, step, state, partition_key)
             values ('m', 1, 'plain', '0', null), ('m', 1, 'keyed', '0', 'k')",
    )
    .await;
    let (steps, watermarks) = claim(&mut connection, &[]).await;
    assert_eq!((steps.len(), watermarks), (2, vec![]));
}

/// New rows come all the time, but no faster than the engine runs them. Each claim therefore finds
/// rows behind its watermarks. A row that has been due for long lies before them, and must run all
/// the same.
#[tokio::test(flavor = "multi_thread")]
async fn what_comes_to_lie_before_the_watermark_runs_while_others_come() {
    let db = database().await;
    let engine = engine(&db).machine::<Fresh>().start().await.unwrap();
    let (load, stop) = steady_load(&engine);
    for _ in 0..5 {
        let last = Fresh::insert(()).execute(&engine).await.unwrap();
        engine.wait(last, WAIT_MAX).await.unwrap();
        let old = insert_old(db.pool()).await;
        engine.wait(old, WAIT_MAX).await.unwrap();
    }
    stop.store(true, Ordering::Relaxed);
    load.await.unwrap();
    engine.shutdown().await.unwrap();
}

fn steady_load(engine: &Engine) -> (JoinHandle<()>, Arc<AtomicBool>) {
    let stop = Arc::new(AtomicBool::new(false));
    let (client, stopped) = (engine.client().clone(), Arc::clone(&stop));
    let load = tokio::spawn(async move {
        let mut before = None;
        while !stopped.load(Ordering::Relaxed) {
            let ids = Fresh::insert_many(vec![(); 50]).execute(&client).await.unwrap();
            let last = ids.into_iter().last().unwrap().unwrap();
            if let Some(id) = before.replace(last) {
                client.wait(id, WAIT_MAX).await.unwrap();
            }
        }
    });
    (load, stop)
}

async fn insert_old(pool: &PgPool) -> InstanceId<Fresh> {
    let id = sqlx::query_scalar(
        "insert into gen_durable.instances (fsm, fsm_version, step, state, eligible_at)
         values ('fresh', 1, 'go', 'null', '2000-01-01') returning id",
    );
    InstanceId::from_raw(id.fetch_one(pool).await.unwrap())
}

/// A row lies before the watermarks, and a claim finds nothing behind them. The engine must make a
/// whole claim next. The poll is no help: its pause has doubled with each look that found nothing,
/// and lasts hours.
#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_finds_nothing_behind_its_watermarks_looks_before_them() {
    let db = database().await;
    let pool = db.pool();
    let engine = engine(&db)
        .poll_interval(Duration::from_hours(100))
        .lease_ttl(Duration::from_hours(100))
        .machine::<Fresh>()
        .start()
        .await
        .unwrap();
    for _ in 0..40 {
        // A whole claim that finds a row leaves a watermark, and some time in which claims begin
        // there.
        let id = Fresh::insert(()).execute(&engine).await.unwrap();
        engine.wait(id, WAIT_MAX).await.unwrap();
        let old = insert_old(pool).await;
        sql(pool, "select pg_notify('gen_durable', 'default')").await;
        engine.wait(old, WAIT_MAX).await.unwrap();
    }
    engine.shutdown().await.unwrap();
}
