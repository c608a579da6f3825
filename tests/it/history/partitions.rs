//! The partitions of the history: they exist ahead, old ones are dropped, and no commit depends on
//! them.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use sqlx::{AssertSqlSafe, Connection, PgConnection, PgPool};

use super::{Go, states, steps};
use crate::support::{WAIT_MAX, database, engine, eventually, sql, until};

const KEEP_HISTORY: &str = include_str!("../../../gen_durable/src/storage/sql/keep_history.sql");
const DAY: i64 = 24 * 3600 * 1_000_000;

/// Returns the days that have a partition: how many days each is from today.
async fn days(pool: &PgPool) -> Vec<i32> {
    sqlx::query_scalar(
        "select to_date(right(c.relname, 8), 'YYYYMMDD') - (now() at time zone 'UTC')::date
         from pg_inherits i join pg_class c on c.oid = i.inhrelid
         where i.inhparent = 'gen_durable.history'::regclass and c.relname ~ '[0-9]{8}$'
         order by 1",
    )
    .fetch_all(pool)
    .await
    .unwrap()
}

async fn keep(connection: &mut PgConnection, keep_for: Option<i64>) -> String {
    sqlx::query_scalar(KEEP_HISTORY).bind(keep_for).fetch_one(connection).await.unwrap()
}

/// Adds the partition of a day before today, with a row.
async fn add_day(pool: &PgPool, ago: i32) {
    let statement = format!(
        "do $$
         declare
             day date := (now() at time zone 'UTC')::date - {ago};
         begin
             execute format('create table gen_durable.history_%s partition of gen_durable.history
                             for values from (%L) to (%L)', to_char(day, 'YYYYMMDD'), day, day + 1);
             insert into gen_durable.history (day, instance_id, fsm, fsm_version, step, attempt, outcome, started_at, ended_at)
             values (day, {ago}, 'm', 1, 's', 0, 'next', now(), day::timestamp at time zone 'UTC');
         end $$"
    );
    sqlx::raw_sql(AssertSqlSafe(statement)).execute(pool).await.unwrap();
}

async fn instances(pool: &PgPool) -> Vec<i64> {
    sqlx::query_scalar("select instance_id from gen_durable.history order by instance_id")
        .fetch_all(pool)
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn p73_days_get_partitions_ahead_and_lose_them_after_the_retention() {
    let db = database().await;
    let pool = db.pool();
    let week: Vec<i32> = (0..=7).collect();
    assert_eq!(days(pool).await, week, "the migration adds the first");
    for ago in [1, 2, 3, 4, 400] {
        add_day(pool, ago).await;
    }
    // Rows of the same days that have no partition.
    sql(
        pool,
        "insert into gen_durable.history (day, instance_id, fsm, fsm_version, step, attempt, outcome, started_at, ended_at)
         select kept.day, 1000 + ago, 'm', 1, 's', 0, 'next', now(), now() - ago * interval '1 day'
         from generate_series(1, 4) as ago, unnest('{-infinity,infinity}'::date[]) as kept (day)",
    )
    .await;
    let mut connection = pool.acquire().await.unwrap();
    assert_eq!(keep(&mut connection, None).await, "idle", "it is kept for ever");
    assert_eq!(days(pool).await.len(), 13);
    // Two and a half days reach into the third day before today, or into the second.
    let kept = 5 * DAY / 2;
    assert_eq!(keep(&mut connection, Some(kept)).await, "more");
    assert_eq!(days(pool).await[0], -4, "one at a time, the oldest first");
    while keep(&mut connection, Some(kept)).await == "more" {}
    let left = days(pool).await;
    assert!(left[0] == -3 || left[0] == -2, "{left:?}");
    let mut found = instances(pool).await;
    found.retain(|id| *id > 1000);
    assert_eq!(found, [1001, 1001, 1002, 1002]);
    // Whatever the engine is told, today's stays. A partition that somebody dropped comes back.
    sql(
        pool,
        "do $$
         begin
             execute (select string_agg(format('drop table gen_durable.%I;', c.relname), ' ')
                      from pg_class c where c.relname ~ '^history_[0-9]{8}$');
         end $$",
    )
    .await;
    let builder = engine(&db).history_retention(Duration::ZERO);
    let engine = builder.start().await.unwrap();
    engine.maintain().await.unwrap();
    assert_eq!(days(pool).await, week);
    assert_eq!(instances(pool).await, Vec::<i64>::new());
    engine.shutdown().await.unwrap();
}

/// A thousand old rows without a partition are deleted at a time.
#[tokio::test(flavor = "multi_thread")]
async fn p73_rows_without_a_partition_are_deleted_in_batches() {
    let db = database().await;
    let pool = db.pool();
    sql(
        pool,
        "insert into gen_durable.history (day, instance_id, fsm, fsm_version, step, attempt, outcome, started_at, ended_at)
         select '-infinity', n, 'm', 1, 's', 0, 'next', now(), now() - interval '3 days'
         from generate_series(1, 2500) as n",
    )
    .await;
    let mut connection = pool.acquire().await.unwrap();
    for left in [1500, 500, 0] {
        let answer = keep(&mut connection, Some(2 * DAY)).await;
        assert_eq!(answer, if left > 0 { "more" } else { "idle" });
        assert_eq!(instances(pool).await.len(), left);
    }
}

/// All partitions are dropped again and again while instances run, those that catch all others
/// included, and others are added. No commit fails or is lost.
#[tokio::test(flavor = "multi_thread")]
async fn p73_no_commit_depends_on_a_partition() {
    let db = database().await;
    let pool = db.pool();
    let engine = engine(&db).machine::<states::Course>().start().await.unwrap();
    let over = AtomicBool::new(false);
    let drops = async {
        let mut connection = pool.acquire().await.unwrap();
        let mut rounds = 0;
        while !over.load(Ordering::Relaxed) {
            // Today's partition, then all days, then what an engine does.
            for days in
                ["= 'history_' || to_char(now() at time zone 'UTC', 'YYYYMMDD')", "~ '[0-9]{8}$'"]
            {
                let drop = format!(
                    "do $$
                     begin
                         execute coalesce((
                             select string_agg(format('drop table gen_durable.%I;', c.relname), ' ')
                             from pg_inherits i join pg_class c on c.oid = i.inhrelid
                             where i.inhparent = 'gen_durable.history'::regclass and c.relname {days}
                         ), 'select');
                     end $$"
                );
                sqlx::raw_sql(AssertSqlSafe(drop)).execute(&mut *connection).await.unwrap();
                keep(&mut connection, None).await;
            }
            rounds += 1;
        }
        rounds
    };
    let runs = async {
        let began = std::time::Instant::now();
        let mut steps = 0;
        while began.elapsed() < Duration::from_secs(3) {
            let ids = states::Course::insert_many([2; 20]).execute(&engine).await.unwrap();
            for id in ids {
                let id = id.unwrap();
                until(pool, id, "awaiting_signal").await;
                states::Course::signal_go(id, Go).execute(&engine).await.unwrap();
                steps += 1;
            }
        }
        eventually("all have gone on", async || {
            let left: i64 = sqlx::query_scalar(
                "select count(*) from gen_durable.instances where status <> 'done'",
            )
            .fetch_one(pool)
            .await
            .unwrap();
            (left == 0).then_some(())
        })
        .await;
        over.store(true, Ordering::Relaxed);
        steps
    };
    let (rounds, steps) = tokio::join!(drops, runs);
    assert!(rounds > 3 && steps >= 20, "{rounds} rounds, {steps} instances");
    let failed: i64 = sqlx::query_scalar(
        "select count(*) from gen_durable.instances where last_error not like '%not yet%'
         and last_error not like '%nor now%' and last_error not like '%timeout%'",
    )
    .fetch_one(pool)
    .await
    .unwrap();
    assert_eq!(failed, 0, "no outcome was refused");
    engine.shutdown().await.unwrap();
}

/// Somebody reads the history in a transaction that stays open. No partition can be dropped then,
/// and the try holds commits up for no longer than it waits for its lock.
#[tokio::test(flavor = "multi_thread")]
async fn p73_a_drop_that_must_wait_gives_up_soon() {
    let db = database().await;
    let pool = db.pool();
    add_day(pool, 30).await;
    let engine = engine(&db).machine::<steps::Course>().maintenance(false).start().await.unwrap();
    let mut reader = pool.begin().await.unwrap();
    sqlx::query("select from gen_durable.history limit 1").execute(&mut *reader).await.unwrap();
    let mut connection = PgConnection::connect_with(&pool.connect_options()).await.unwrap();
    let (began, mut tries) = (std::time::Instant::now(), 0);
    while began.elapsed() < Duration::from_secs(1) {
        assert_eq!(keep(&mut connection, Some(DAY)).await, "locked");
        tries += 1;
        let id = steps::Course::insert(2).execute(&engine).await.unwrap();
        until(pool, id, "awaiting_signal").await;
    }
    assert!(tries >= 2, "{tries}");
    assert_eq!(days(pool).await[0], -30);
    reader.rollback().await.unwrap();
    assert_eq!(keep(&mut connection, Some(DAY)).await, "more");
    assert_eq!(keep(&mut connection, Some(DAY)).await, "idle");
    assert_eq!(days(pool).await[0], 0);
    engine.shutdown().await.unwrap();
}

/// Days are added while commits write: later ones beside a transaction that has inserted, and
/// today's as soon as there is none.
#[tokio::test(flavor = "multi_thread")]
async fn p73_partitions_of_later_days_are_added_beside_commits() {
    let db = database().await;
    let pool = db.pool();
    sql(
        pool,
        "do $$
         begin
             execute (select string_agg(format('drop table gen_durable.%I;', c.relname), ' ')
                      from pg_class c where c.relname ~ '^history_[0-9]{8}$');
         end $$",
    )
    .await;
    let mut writer = pool.begin().await.unwrap();
    sqlx::query(
        "insert into gen_durable.history (day, instance_id, fsm, fsm_version, step, attempt, outcome, started_at, ended_at)
         values ('-infinity', 1, 'm', 1, 's', 0, 'next', now(), now())",
    )
    .execute(&mut *writer)
    .await
    .unwrap();
    let mut connection = pool.acquire().await.unwrap();
    assert_eq!(keep(&mut connection, None).await, "locked");
    assert_eq!(days(pool).await, (1..=7).collect::<Vec<_>>());
    // While one session looks after the partitions, others leave it alone.
    let mut keeper = pool.begin().await.unwrap();
    sqlx::query("lock table gen_durable.history in share update exclusive mode")
        .execute(&mut *keeper)
        .await
        .unwrap();
    let locked = tokio::time::timeout(WAIT_MAX / 2, keep(&mut connection, None)).await;
    assert_eq!(locked.unwrap(), "locked");
    keeper.rollback().await.unwrap();
    writer.commit().await.unwrap();
    assert_eq!(keep(&mut connection, None).await, "idle");
    assert_eq!(days(pool).await, (0..=7).collect::<Vec<_>>());
    // A row in the default partition keeps its day from getting one, and nothing else.
    sql(
        pool,
        "do $$
         begin
             execute (select string_agg(format('drop table gen_durable.%I;', c.relname), ' ')
                      from pg_class c where c.relname ~ '^history_[0-9]{8}$');
         end $$;
         insert into gen_durable.history (day, instance_id, fsm, fsm_version, step, attempt, outcome, started_at, ended_at)
         values ((now() at time zone 'UTC')::date + 2, 1, 'm', 1, 's', 0, 'next', now(), now())",
    )
    .await;
    assert_eq!(keep(&mut connection, None).await, "idle");
    assert_eq!(days(pool).await, [0, 1, 3, 4, 5, 6, 7]);
}
