//! The maintenance services' statements: `reap.sql`, `wake_timed_out.sql`, and those of workers.

use serde_json::{Value, json};
use sqlx::{PgConnection, PgPool};
use tokio::time::timeout;

use super::{
    FUTURE, PAST, each, insert,
    limits::{NOW, clock, clock_alone},
    rows, run, see, without_indexes,
};
use crate::support::{WAIT_MAX, database};

/// Inserts worker 1, whose lease runs, and worker 2, whose lease has run out. Worker 3 does not
/// exist.
async fn workers(pool: &PgPool) {
    crate::support::sql(
        pool,
        "insert into gen_durable.workers (id, name, lease_expires_at)
         overriding system value
         values (1, 'w', now() + interval '1 hour'), (2, 'w', now() - interval '1 second')",
    )
    .await;
}

fn executing(id: i64, worker: i64, more: Value) -> Value {
    let mut row = json!({
        "id": id, "status": "executing", "locked_by": worker, "revision": 3, "attempt": 4,
        "eligible_at": PAST, "updated_at": PAST, "last_error": "old",
    });
    row.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    row
}

/// Reaps. Returns the id, queue, partition key and status of each reaped row, by id.
async fn reap(connection: &mut PgConnection, batch_max: i64, crashes_max: i32) -> Value {
    let reap = sqlx::query_as(include_str!("../../../gen_durable/src/storage/sql/reap.sql"))
        .bind(batch_max)
        .bind(crashes_max)
        .fetch_all(connection);
    let mut reaped: Vec<(i64, String, Option<String>, String)> =
        timeout(WAIT_MAX / 2, reap).await.expect("it waits for nobody").unwrap();
    reaped.sort();
    json!(reaped)
}

#[tokio::test(flavor = "multi_thread")]
async fn p70_rows_of_lost_workers_come_back_or_fail() {
    let db = database().await;
    let pool = db.pool();
    workers(pool).await;
    let live = json!(["runnable", "executing"]);
    let for_ever = json!(["executing", "failed"]);
    let all = json!([
        // The order of the rows on the pages is not the order of the workers.
        executing(5, 3, json!({ "crashes": 2, "unique_key": "d", "unique_scope": for_ever })),
        executing(1, 1, json!({})),
        executing(2, 2, json!({ "queue": "q", "unique_key": "a", "unique_scope": live })),
        executing(3, 3, json!({ "unique_key": "b", "unique_scope": for_ever })),
        executing(
            4,
            2,
            json!({ "crashes": 2, "unique_key": "c", "unique_scope": live, "partition_key": "k" })
        ),
        executing(6, 2, json!({ "crashes": 1, "partition_key": "p" })),
        executing(7, 2, json!({ "crashes": 1, "revision": 4_611_686_018_427_387_904_i64 })),
        executing(8, 2, json!({})),
        executing(9, 2, json!({ "attempt": 2_147_483_647, "crashes": 2_147_483_647 })),
    ]);
    rows(pool, all).await;
    let mut somebody = pool.begin().await.unwrap();
    run(
        &mut somebody,
        "select from gen_durable.instances where id = 8 for no key update;
         select from gen_durable.instances where id = 3 for key share",
    )
    .await;
    let mut connection = without_indexes(pool).await;
    run(&mut connection, "set statement_timeout = '25s'").await;
    let expected = json!([
        [2, "q", null, "runnable"],
        [3, "default", null, "runnable"],
        [4, "default", "k", "failed"],
        [5, "default", null, "failed"],
        [6, "default", "p", "runnable"],
        [7, "default", null, "runnable"],
        [9, "default", null, "failed"],
    ]);
    assert_eq!(reap(&mut connection, 100, 3).await, expected);
    let seen = each(
        pool,
        "json_build_array(i.status, i.locked_by, i.revision, i.attempt, i.crashes, i.last_error,
                          case when i.unique_released is null then i.unique_scope end is not null, i.finished_at is not null, i.eligible_at < i.updated_at,
                          i.updated_at > now() - interval '1 hour')",
    );
    let lost = |times: i64| format!("step s: its worker was lost {times} times in a row");
    let as_it_was =
        |worker| json!(["executing", worker, 3, 4, 0, "old", false, false, false, false]);
    let expected = json!([
        as_it_was(1),
        ["runnable", null, 4, 5, 1, "old", true, false, true, true],
        ["runnable", null, 4, 5, 1, "old", false, false, true, true],
        ["failed", null, 4, 5, 3, lost(3), false, true, true, true],
        ["failed", null, 4, 5, 3, lost(3), true, true, false, true],
        // A row with a key comes back at once, as no later row of its key may go before it. A row
        // without a key comes back a little later.
        ["runnable", null, 4, 5, 2, "old", false, false, true, true],
        ["runnable", null, 1, 5, 2, "old", false, false, false, true],
        as_it_was(2),
        [
            "failed",
            null,
            4,
            2_147_483_647,
            2_147_483_647,
            lost(2_147_483_648),
            false,
            true,
            false,
            true
        ],
    ]);
    assert_eq!(seen.await, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn p70_what_loses_workers_in_a_row_comes_back_at_random_moments_of_four_seconds() {
    let db = database().await;
    let pool = db.pool();
    rows(pool, (1..=40).map(|id| executing(id, 3, json!({ "crashes": 1000 }))).collect()).await;
    let mut connection = without_indexes(pool).await;
    reap(&mut connection, 100, 5000).await;
    let seen = "select json_build_array(count(distinct eligible_at) > 20,
                                        max(eligible_at - updated_at) <= interval '4 seconds',
                                        min(eligible_at - updated_at) >= interval '0 seconds')
                from gen_durable.instances";
    assert_eq!(see(pool, seen).await, json!([true, true, true]));
}

#[tokio::test(flavor = "multi_thread")]
async fn p70_a_batch_of_lost_workers_is_bounded() {
    let db = database().await;
    let pool = db.pool();
    workers(pool).await;
    let of =
        |ids: std::ops::Range<i64>, worker| ids.map(move |id| executing(id, worker, json!({})));
    let lost = of(1..4, 3).chain(of(4..7, 2)).chain(of(7..10, 5)).chain(of(10..13, 1));
    rows(pool, lost.collect()).await;
    let mut connection = without_indexes(pool).await;
    for expected in [4, 4, 1, 0] {
        assert_eq!(reap(&mut connection, 4, 3).await.as_array().unwrap().len(), expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn p70_lost_workers_are_removed_and_count_for_half_a_lease() {
    let db = database().await;
    let pool = db.pool();
    clock(pool, 0).await;
    for (id, lease) in [
        (1, "- interval '1 us'"),
        (2, ""),
        (3, "- interval '1 s'"),
        (4, "- interval '1 s'"),
        (5, "- interval '1 s'"),
    ] {
        let row = format!(
            "id, name, lease_ttl, lease_expires_at: {id}, 'w', 10000001, gen_durable.now() {lease}"
        );
        insert(pool, "workers", &[&row]).await;
    }
    rows(pool, json!([executing(1, 4, json!({}))])).await;
    for (id, until) in
        [(5, "+ interval '1 hour'"), (8, ""), (9, "- interval '1 us'"), (10, "- interval '1 us'")]
    {
        let row = format!("worker, counts_until: {id}, gen_durable.now() {until}");
        insert(pool, "lost_workers", &[&row]).await;
    }
    let mut other = pool.begin().await.unwrap();
    run(
        &mut other,
        "select from gen_durable.workers where id = 3 for no key update;
         select from gen_durable.lost_workers where worker = 10 for key share",
    )
    .await;
    let mut connection = without_indexes(pool).await;
    run(&mut connection, "set lock_timeout = '5s'").await;
    let remove = include_str!("../../../gen_durable/src/storage/sql/remove_lost_workers.sql");
    sqlx::query(remove).execute(&mut connection).await.unwrap();
    let left = "select json_agg(id order by id) from gen_durable.workers";
    assert_eq!(see(pool, left).await, json!([2, 3, 4]));
    let lost = "select json_agg(json_build_array(worker,
                    (extract(epoch from counts_until - gen_durable.now()) * 1000000)::bigint)
                    order by worker)
                from gen_durable.lost_workers";
    let expected = json!([[1, 5_000_000], [5, 3_600_000_000_i64], [8, 0], [10, -1]]);
    assert_eq!(see(pool, lost).await, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn p70_a_worker_is_registered_with_its_lease() {
    let db = database().await;
    let pool = db.pool();
    clock(pool, 0).await;
    clock_alone(pool, 7).await;
    let id: i64 = sqlx::query_scalar(include_str!(
        "../../../gen_durable/src/storage/sql/register_worker.sql"
    ))
    .bind("w")
    .bind(10_i64)
    .bind(["q"])
    .bind([3])
    .bind(["m"])
    .bind([2])
    .bind("host")
    .bind(4_i64)
    .bind("library")
    .fetch_one(pool)
    .await
    .unwrap();
    let seen = format!(
        "select json_build_array(id, name, (extract(epoch from lease_expires_at) * 1000000)::bigint - {NOW},
                lease_ttl, queues, slots, fsms, fsm_versions, host, pid, library)
         from gen_durable.workers"
    );
    let expected = json!([id, "w", 17, 10, ["q"], [3], ["m"], [2], "host", 4, "library"]);
    assert_eq!(see(pool, seen).await, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn p70_parked_rows_whose_time_is_up_are_woken_the_first_ones_first() {
    let db = database().await;
    let pool = db.pool();
    let parked = |id: i64, day: i64, more: Value| {
        let mut row = json!({
            "id": id, "status": "awaiting_signal", "awaits": ["go"], "eligible_at": FUTURE,
            "wake_at": format!("2020-01-{day:02}T00:00:00+00:00"), "updated_at": FUTURE,
        });
        row.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        row
    };
    let all = json!([
        parked(1, 9, json!({})),
        parked(2, 1, json!({ "queue": "q", "unique_key": "a", "unique_scope": ["runnable"] })),
        parked(3, 2, json!({ "unique_key": "b", "unique_scope": ["awaiting_signal"] })),
        parked(4, 1, json!({ "wake_at": FUTURE })),
        parked(5, 1, json!({ "wake_at": null })),
        parked(6, 1, json!({ "status": "runnable" })),
        parked(7, 1, json!({})),
    ]);
    rows(pool, all).await;
    let mut somebody = pool.begin().await.unwrap();
    run(
        &mut somebody,
        "select from gen_durable.instances where id = 7 for no key update;
         select from gen_durable.instances where id = 3 for key share",
    )
    .await;
    let mut connection = without_indexes(pool).await;
    let mut wake = async |limit: i64| -> Vec<String> {
        let wake = include_str!("../../../gen_durable/src/storage/sql/wake_timed_out.sql");
        let wake = sqlx::query_scalar(wake).bind(limit).fetch_all(&mut connection);
        let mut queues: Vec<String> =
            timeout(WAIT_MAX / 2, wake).await.expect("it waits for nobody").unwrap();
        queues.sort();
        queues
    };
    assert_eq!(wake(2).await, ["default", "q"]);
    let columns = "json_build_array(i.status, i.awaits, i.wake_at is null, i.eligible_at <= now(),
                                    case when i.unique_released is null then i.unique_scope end, i.updated_at <= now())";
    let as_it_was = |status, wakes: bool| json!([status, ["go"], !wakes, false, null, false]);
    let expected = json!([
        as_it_was("awaiting_signal", true),
        ["runnable", [], true, true, ["runnable"], true],
        ["runnable", [], true, true, null, true],
        as_it_was("awaiting_signal", true),
        as_it_was("awaiting_signal", false),
        as_it_was("runnable", true),
        as_it_was("awaiting_signal", true),
    ]);
    assert_eq!(each(pool, columns).await, expected);
    assert_eq!(wake(100).await, ["default"]);
    somebody.rollback().await.unwrap();
    assert_eq!(wake(100).await, ["default"]);
    assert_eq!(wake(100).await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn p70_the_kinds_of_runnable_and_of_cancelled_rows_are_listed() {
    let db = database().await;
    let pool = db.pool();
    let row = |fsm: &str, version: i32, queue: &str, blocked_by: i32, owes: Option<i32>| {
        serde_json::json!({
            "fsm": fsm, "fsm_version": version, "queue": queue, "blocked_by": blocked_by, "owes": owes,
        })
    };
    rows(
        pool,
        serde_json::json!([
            row("a", 1, "q", 0, None),
            row("a", 1, "q", 0, None),
            row("a", 2, "q", 0, None),
            row("b", 1, "q", 0, None),
            row("b", 1, "r", 0, None),
            row("c", 1, "q", 2, Some(4)),
            row("c", 1, "q", 3, Some(4)),
            row("d", 1, "other", 2, Some(4)),
            row("e", 1, "q", 1, None),
            row("f", 1, "q", 1, Some(2)),
            row("g", 1, "other", 0, None),
        ]),
    )
    .await;
    let kinds = include_str!("../../../gen_durable/src/storage/sql/unknown_kinds.sql");
    let mut found: Vec<(String, String, i32)> =
        sqlx::query_as(kinds).bind(vec!["q", "r"]).fetch_all(pool).await.unwrap();
    found.sort();
    let expected = [("q", "a", 1), ("q", "a", 2), ("q", "b", 1), ("q", "c", 1), ("r", "b", 1)];
    assert_eq!(found, expected.map(|(q, fsm, version)| (q.to_owned(), fsm.to_owned(), version)));
}
