//! Maintenance: ended instances are deleted after their retention, and blocked rows are found
//! again.

use std::time::Duration;

use gen_durable::{EngineBuilder, prelude::*};
use sqlx::PgPool;

use crate::support::{WAIT_MAX, count, database, engine, sql, until, until_a_session_waits};

const LOCK_RETENTIONS: &str = include_str!("../../gen_durable/src/storage/sql/lock_retentions.sql");

#[durable_fsm(state = (), output = ())]
pub enum Quick {
    Go,
}

#[durable_fsm]
impl Quick {
    async fn go(cx: Context<Self>) -> Outcome<Self> {
        cx.done(())
    }
}

#[derive(DurableSignal)]
pub struct Ping;

#[durable_fsm(state = (), output = (), signals(Ping))]
pub enum Listening {
    Go,
}

#[durable_fsm]
impl Listening {
    async fn go(cx: Context<Self>) -> Outcome<Self> {
        cx.done(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ended_instances_are_pruned_after_their_retention_and_live_ones_never() {
    let db = database().await;
    let pool = db.pool();
    let engine =
        engine(&db).machine::<Quick>().retention(Duration::from_hours(1)).start().await.unwrap();
    let ids = Quick::insert_many([(); 3]).execute(&engine).await.unwrap();
    for id in ids {
        engine.wait(id.unwrap(), WAIT_MAX).await.unwrap();
    }
    let later =
        Quick::insert(()).schedule_in(Duration::from_hours(1)).execute(&engine).await.unwrap();
    sqlx::query(
        "update gen_durable.instances
         set finished_at = finished_at - interval '2 hours', inserted_at = inserted_at - interval '2 hours'
         where id <> (select min(id) from gen_durable.instances)",
    )
    .execute(pool)
    .await
    .unwrap();
    engine.maintain().await.unwrap();
    assert_eq!((count(pool, "done").await, count(pool, "runnable").await), (1, 1));
    assert!(engine.client().find(later.get()).await.unwrap().is_some());
    engine.shutdown().await.unwrap();
}

#[durable_fsm(output = ())]
pub enum Audited {
    Go,
}

#[durable_fsm]
impl Audited {
    async fn go(cx: Context<Self>) -> Outcome<Self> {
        cx.done(())
    }
}

/// Inserts an instance of a machine, in a version, that ended some hours ago.
async fn ended(pool: &PgPool, machine: &str, version: i32, hours: i32) {
    sqlx::query(
        "insert into gen_durable.instances (fsm, fsm_version, step, state, status, result, finished_at)
         values ($1, $2, 'go', 'null', 'done', 'null', now() - $3 * interval '1 hour')",
    )
    .bind(machine)
    .bind(version)
    .bind(hours)
    .execute(pool)
    .await
    .unwrap();
}

/// Returns the instances that are left: the machine of each, and how many hours ago it ended.
async fn left(pool: &PgPool) -> Vec<(String, i32)> {
    sqlx::query_as(
        "select fsm, round(extract(epoch from now() - finished_at) / 3600)::int
         from gen_durable.instances order by 1, 2",
    )
    .fetch_all(pool)
    .await
    .unwrap()
}

/// Engines state retentions for machines, and engines that do not know these machines prune. Each
/// machine keeps the retention that was stated for it last; all others have the pruning engine's
/// default.
#[tokio::test(flavor = "multi_thread")]
async fn p57_each_machine_has_its_own_retention() {
    let db = database().await;
    let pool = db.pool();
    let hours = |hours| Duration::from_hours(hours);
    let keeps = |machines: &[(&str, i32)]| -> Vec<(String, i32)> {
        machines.iter().map(|(machine, hours)| ((*machine).to_owned(), *hours)).collect()
    };
    let fill = async || {
        sql(pool, "truncate gen_durable.instances").await;
        for machine in ["quick", "audited", "listening", "gone"] {
            for hours in [1, 3, 5] {
                // Each instance has another version: a machine's versions share its retention.
                ended(pool, machine, hours, hours).await;
            }
        }
    };
    let prune = async |engine: EngineBuilder| {
        let engine = engine.start().await.unwrap();
        fill().await;
        engine.maintain().await.unwrap();
        engine.shutdown().await.unwrap();
        left(pool).await
    };
    let several = || {
        engine(&db)
            .machine::<Quick>()
            .machine::<Audited>()
            .retention(hours(4))
            .retention_of::<Quick>(hours(2))
            .retention_of::<Audited>(None)
    };
    let by_default = [("gone", 1), ("gone", 3), ("listening", 1), ("listening", 3)];
    let kept = [("audited", 1), ("audited", 3), ("audited", 5)];
    let expected = keeps(&[&kept[..], &by_default, &[("quick", 1)]].concat());
    assert_eq!(prune(several()).await, expected);
    // Another engine knows neither machine and has a default of its own. It respects what was
    // stated.
    let strange = engine(&db).machine::<Listening>().retention(hours(2));
    let ones = [("gone", 1), ("listening", 1), ("quick", 1)];
    assert_eq!(prune(strange).await, keeps(&[&kept[..], &ones].concat()));
    // An engine keeps all other machines for ever, and states a retention of zero for one machine.
    let less = several().retention(None).retention_of::<Audited>(Duration::ZERO);
    let all = ["gone", "listening"].map(|machine| [1, 3, 5].map(|hours| (machine, hours)));
    assert_eq!(prune(less).await, keeps(&[&all.concat()[..], &[("quick", 1)]].concat()));
    // An engine runs both machines and states no retention for them, so its default applies to
    // them.
    let nothing = engine(&db).machine::<Quick>().machine::<Audited>().retention(hours(4));
    let default =
        ["audited", "gone", "listening", "quick"].map(|machine| [(machine, 1), (machine, 3)]);
    assert_eq!(prune(nothing).await, keeps(&default.concat()));
}

/// Three machines have more ended rows than one batch deletes. One call of `maintain` deletes them
/// all: no machine waits until another one is finished.
#[tokio::test(flavor = "multi_thread")]
async fn p57_all_that_is_due_is_pruned_batch_by_batch() {
    let db = database().await;
    let pool = db.pool();
    sql(
        pool,
        "insert into gen_durable.instances (fsm, fsm_version, step, state, status, result, finished_at)
         select 'm' || n % 3, 1, 's', 'null', 'done', 'null', now() - interval '2 hours'
         from generate_series(1, 4000) as n",
    )
    .await;
    let engine = engine(&db).retention(Duration::from_hours(1)).start().await.unwrap();
    engine.maintain().await.unwrap();
    assert_eq!(count(pool, "done").await, 0);
    engine.shutdown().await.unwrap();
}

/// Twelve engines start at once and state different retentions for two machines. Every start
/// succeeds, and the table has one row: the engine that starts last withdraws what it does not
/// state.
#[tokio::test(flavor = "multi_thread")]
async fn p57_engines_state_their_retentions_at_once() {
    let db = database().await;
    let mut starts = tokio::task::JoinSet::new();
    for n in 0..12 {
        let builder = engine(&db).machine::<Quick>().machine::<Audited>().maintenance(false);
        let builder = if n % 2 == 0 {
            builder.retention_of::<Quick>(Duration::from_secs(n))
        } else {
            builder.retention_of::<Audited>(Duration::from_secs(n))
        };
        starts.spawn(async move { builder.start().await });
    }
    while let Some(started) = starts.join_next().await {
        started.unwrap().unwrap().shutdown().await.unwrap();
    }
    let said: i64 = sqlx::query_scalar("select count(*) from gen_durable.retention")
        .fetch_one(db.pool())
        .await
        .unwrap();
    assert_eq!(said, 1);
}

/// An engine that forgets a machine's retention waits for another engine that is stating one.
/// Otherwise it would not see that retention, which is not committed yet.
#[tokio::test(flavor = "multi_thread")]
async fn p57_a_retention_that_is_being_stated_is_seen_by_the_next_engine() {
    let db = database().await;
    let mut other = db.pool().begin().await.unwrap();
    sqlx::query(LOCK_RETENTIONS).execute(&mut *other).await.unwrap();
    sqlx::query("insert into gen_durable.retention (fsm, keep_for) values ('quick', '1 hour')")
        .execute(&mut *other)
        .await
        .unwrap();
    let builder = engine(&db).machine::<Quick>().maintenance(false);
    let started = tokio::spawn(async move { builder.start().await });
    until_a_session_waits(db.pool(), 1).await;
    other.commit().await.unwrap();
    let engine = started.await.unwrap().unwrap();
    let stated: i64 = sqlx::query_scalar("select count(*) from gen_durable.retention")
        .fetch_one(db.pool())
        .await
        .unwrap();
    assert_eq!(stated, 0, "the engine runs the machine and states nothing of it");
    engine.shutdown().await.unwrap();
}

/// A row is blocked, as a claim left it, and no other row holds its key, so no commit unblocks it.
/// The maintenance finds the row, and it runs.
#[tokio::test(flavor = "multi_thread")]
async fn a_stranded_partition_key_is_freed() {
    let db = database().await;
    let engine = engine(&db).machine::<Quick>().start().await.unwrap();
    let id: i64 = sqlx::query_scalar(
        "insert into gen_durable.instances (fsm, fsm_version, step, state, partition_key, blocked_by)
         values ('quick', 1, 'go', 'null', 'k', 1) returning id",
    )
    .fetch_one(db.pool())
    .await
    .unwrap();
    engine.maintain().await.unwrap();
    until(db.pool(), id, "done").await;
    engine.shutdown().await.unwrap();
}

/// No foreign key ties an inbox to its instance, only a trigger. If instances are deleted, their
/// signals and deduplication keys must go with them, and those of other instances must stay.
#[tokio::test(flavor = "multi_thread")]
async fn an_instance_takes_its_inbox_with_it_when_it_is_deleted() {
    let db = database().await;
    let pool = db.pool();
    let later = Duration::from_hours(1);
    let mut ids = Vec::new();
    for _ in 0..3 {
        let id = Listening::insert(()).schedule_in(later).execute(pool).await.unwrap();
        Listening::signal_ping(id, Ping).dedup_key("once").execute(pool).await.unwrap();
        ids.push(id.get());
    }
    sqlx::query("delete from gen_durable.instances where id = any ($1)")
        .bind(&ids[..2])
        .execute(pool)
        .await
        .unwrap();
    let left: Vec<i64> = sqlx::query_scalar(
        "select target_id from gen_durable.signals
         union all select target_id from gen_durable.signal_keys",
    )
    .fetch_all(pool)
    .await
    .unwrap();
    assert_eq!(left, [ids[2], ids[2]]);
}

/// One row of a key is blocked although no row holds the key. Another row of the key is in the
/// claim's index, but due only in an hour. The maintenance must find the blocked row all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_scheduled_row_hides_no_stranded_key() {
    let db = database().await;
    let pool = db.pool();
    let later = Quick::insert(()).partition_key("k").schedule_in(Duration::from_hours(1));
    let later = later.execute(pool).await.unwrap();
    let stranded = Quick::insert(()).partition_key("k").execute(pool).await.unwrap();
    sqlx::query("update gen_durable.instances set blocked_by = 1 where id = $1")
        .bind(stranded.get())
        .execute(pool)
        .await
        .unwrap();
    let engine = engine(&db).machine::<Quick>().start().await.unwrap();
    engine.maintain().await.unwrap();
    engine.wait(stranded, WAIT_MAX).await.unwrap();
    assert_eq!(crate::support::row(pool, later).await.status, "runnable");
    engine.shutdown().await.unwrap();
}
