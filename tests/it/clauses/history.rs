//! The history: `record_history.sql`, `record_lost.sql`, `history.sql`, `delete_history.sql`, and
//! what `reap.sql` tells of lost runs.

use serde_json::{Value, json};
use sqlx::{PgConnection, Row};

use super::{PAST, rows, see, without_indexes};
use crate::support::{database, sql};

/// All columns of the history but the times, in the order of the ids. The day is today, or it is
/// none.
const ENTRIES: &str = "select coalesce(json_agg(json_build_array(
    h.instance_id, h.fsm, h.fsm_version, h.step, h.attempt, h.outcome, h.next_step, h.error, h.state,
    h.worker, case when h.day = '-infinity' then 'none'
                   when h.day = (h.ended_at at time zone 'UTC')::date then 'today' end
) order by h.instance_id), '[]') from gen_durable.history h";

/// Drops the partition of today. The second one leaves a table of its name, which is no partition.
const DROP_TODAY: &str = "truncate gen_durable.history;
    do $$
    begin
        execute format('drop table gen_durable.history_%s', to_char(now() at time zone 'UTC', 'YYYYMMDD'));
    end $$";
const IMITATE_TODAY: &str = "truncate gen_durable.history;
    do $$
    begin
        execute format('create table gen_durable.history_%s ()', to_char(now() at time zone 'UTC', 'YYYYMMDD'));
    end $$";

/// A zone in which it is another day than in UTC for most of the time.
const FAR_AWAY: &str = "set timezone = 'Pacific/Kiritimati'";

/// Records three runs: one that goes on, and has its state recorded, one that failed, and one that
/// was cancelled meanwhile.
async fn record(connection: &mut PgConnection) {
    sqlx::query(include_str!("../../../gen_durable/src/storage/sql/record_history.sql"))
        .bind([1_i64, 2, 3])
        .bind(["a", "b", "c"])
        .bind([1, 2, 3])
        .bind(["x", "y", "z"])
        .bind([4, 5, 6])
        .bind(["next", "failed", "failed"])
        .bind([Some("x2"), None, None])
        .bind([None, Some("why"), None])
        .bind([1_000_i64, 2_000_000, 3_000_000])
        .bind([7_i64, 8, 9])
        .bind([true, false, false])
        .execute(connection)
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn p70_runs_are_recorded_with_what_their_rows_say_now() {
    let db = database().await;
    let pool = db.pool();
    let all = json!([
        { "id": 1, "state": "one" },
        { "id": 2, "state": "two", "status": "failed" },
        { "id": 3, "state": "three", "status": "cancelled" },
        { "id": 4, "state": "four" },
    ]);
    rows(pool, all).await;
    let mut connection = without_indexes(pool).await;
    sqlx::raw_sql(FAR_AWAY).execute(&mut connection).await.unwrap();
    record(&mut connection).await;
    let expected = |day: &str| -> Value {
        json!([
            [1, "a", 1, "x", 4, "next", "x2", null, "one", 7, day],
            [2, "b", 2, "y", 5, "failed", null, "why", null, 8, day],
            [3, "c", 3, "z", 6, "cancelled", null, null, null, 9, day],
        ])
    };
    assert_eq!(see(pool, ENTRIES).await, expected("today"));
    let took =
        "select json_agg(round(extract(epoch from ended_at - started_at) * 1000) order by id)
                from gen_durable.history";
    assert_eq!(see(pool, took).await, json!([1, 2000, 3000]));
    sql(pool, DROP_TODAY).await;
    record(&mut connection).await;
    assert_eq!(see(pool, ENTRIES).await, expected("none"));
    sql(pool, IMITATE_TODAY).await;
    record(&mut connection).await;
    assert_eq!(see(pool, ENTRIES).await, expected("none"));
}

/// A transaction began an hour ago. The times are those of the statements.
#[tokio::test(flavor = "multi_thread")]
async fn p70_the_times_of_a_run_are_not_those_of_its_transaction() {
    let db = database().await;
    let pool = db.pool();
    sql(
        pool,
        "create or replace function gen_durable.now() returns timestamptz language sql stable
         as $$ select pg_catalog.now() - interval '1 hour' $$",
    )
    .await;
    rows(pool, json!([{ "id": 1 }, { "id": 2 }, { "id": 3 }])).await;
    let mut connection = without_indexes(pool).await;
    record(&mut connection).await;
    lose(&mut connection).await;
    let ended =
        "select json_build_array(count(*), bool_and(ended_at > now() - interval '1 minute'))
                 from gen_durable.history";
    assert_eq!(see(pool, ended).await, json!([6, true]));
}

async fn lose(connection: &mut PgConnection) {
    sqlx::query(include_str!("../../../gen_durable/src/storage/sql/record_lost.sql"))
        .bind([1_i64, 2, 3, 4, 5, 6, 7])
        .bind([11_i64, 12, 0, 14, 15, 16, 17])
        .bind([1_000_000_i64, 2_000_000, 3_000_000, 4_000_000, 5_000_000, 6_000_000, 7_000_000])
        .execute(connection)
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn p70_lost_runs_are_recorded_as_their_machine_says() {
    let db = database().await;
    let pool = db.pool();
    let row = |id: i64, fsm: &str, version: i64, more: Value| {
        let mut row = json!({ "id": id, "fsm": fsm, "fsm_version": version, "attempt": id + 1 });
        row.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        row
    };
    let all = json!([
        row(1, "a", 1, json!({ "last_error": "old" })),
        row(2, "a", 2, json!({})),
        row(3, "b", 1, json!({ "state": "three" })),
        row(4, "b", 2, json!({})),
        row(5, "c", 1, json!({ "status": "failed", "last_error": "too often" })),
        row(6, "c", 1, json!({ "status": "cancelled", "last_error": "as well" })),
        row(8, "c", 1, json!({})),
    ]);
    rows(pool, all).await;
    sql(
        pool,
        "insert into gen_durable.machines (fsm, fsm_version, initial, steps, history)
         values ('a', 2, 's', '{}', 'off'), ('b', 1, 's', '{}', 'states'), ('b', 2, 's', '{}', null)",
    )
    .await;
    let mut connection = without_indexes(pool).await;
    sqlx::raw_sql(FAR_AWAY).execute(&mut connection).await.unwrap();
    lose(&mut connection).await;
    let lost = "the worker was lost";
    let given_up = "the run ended without an outcome";
    let expected = |day: &str| {
        json!([
            [1, "a", 1, "s", 1, "lost", "s", lost, null, 11, day],
            [3, "b", 1, "s", 3, "lost", "s", given_up, "three", null, day],
            [4, "b", 2, "s", 4, "lost", "s", lost, null, 14, day],
            [5, "c", 1, "s", 5, "failed", null, "too often", null, 15, day],
            [6, "c", 1, "s", 6, "cancelled", null, "as well", null, 16, day],
        ])
    };
    assert_eq!(see(pool, ENTRIES).await, expected("today"));
    let started = "select json_agg(extract(epoch from started_at)::int order by instance_id)
                   from gen_durable.history";
    assert_eq!(see(pool, started).await, json!([1, 3, 4, 5, 6]));
    sql(pool, DROP_TODAY).await;
    lose(&mut connection).await;
    assert_eq!(see(pool, ENTRIES).await, expected("none"));
    sql(pool, IMITATE_TODAY).await;
    lose(&mut connection).await;
    assert_eq!(see(pool, ENTRIES).await, expected("none"));
}

/// A row whose cancel is not answered yet loses no run that counts.
#[tokio::test(flavor = "multi_thread")]
async fn p70_the_reaper_tells_whose_run_was_lost_and_since_when() {
    let db = database().await;
    let pool = db.pool();
    let executing = |id: i64, owes: Option<i16>| {
        json!({
            "id": id, "status": "executing", "locked_by": 70 + id, "updated_at": PAST, "owes": owes,
        })
    };
    rows(pool, json!([executing(1, None), executing(2, Some(4))])).await;
    let mut connection = without_indexes(pool).await;
    let mut reaped: Vec<(i64, Option<i64>, i64)> =
        sqlx::query(include_str!("../../../gen_durable/src/storage/sql/reap.sql"))
            .bind(10_i64)
            .bind(3)
            .map(|row| (row.get("id"), row.get("lost_by"), row.get("since")))
            .fetch_all(&mut connection)
            .await
            .unwrap();
    reaped.sort_unstable();
    let past = 1_577_836_800_000_000;
    assert_eq!(reaped, [(1, Some(71), past), (2, None, past)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn p70_the_newest_entries_of_an_instance_are_read_and_all_are_deleted() {
    let db = database().await;
    let pool = db.pool();
    // Those of an instance lie in several partitions, and not in their order.
    sql(
        pool,
        "insert into gen_durable.history
             (id, day, instance_id, fsm, fsm_version, step, attempt, outcome, next_step, error, state,
              started_at, ended_at, worker)
         overriding system value
         select id, day, 1 + id % 2, 'm', 2, 's', 3, 'next', 't', 'why', '{\"n\":7}',
                to_timestamp(id), to_timestamp(id + 1), 9
         from (values (5, '-infinity'::date), (1, 'infinity'), (2, 'infinity'), (7, 'infinity'),
                      (3, (now() at time zone 'UTC')::date), (9, '-infinity'), (4, '-infinity'))
              as h (id, day)",
    )
    .await;
    sql(pool, "update gen_durable.history set error = 'wh', state = null where id = 5").await;
    sql(pool, "update gen_durable.history set error = null, state = null where id = 3").await;
    let mut connection = without_indexes(pool).await;
    let history = include_str!("../../../gen_durable/src/storage/sql/history.sql");
    let newest = sqlx::query(history).bind(2_i64).bind(7_i64).bind(2_i64);
    let newest = newest.fetch_all(&mut connection).await.unwrap();
    assert_eq!(newest.iter().map(|row| row.get(0)).collect::<Vec<i64>>(), [5, 7]);
    let all = sqlx::query(history).bind(2_i64).bind(i64::MAX).bind(4_i64);
    let found = all.fetch_all(&mut connection).await.unwrap();
    let ids: Vec<i64> = found.iter().map(|row| row.get(0)).collect();
    assert_eq!(ids, [3, 5, 7, 9]);
    let of = &found[3];
    assert_eq!((of.get(1), of.get(2), of.get(3), of.get(4)), ("m", 2, "s", 3));
    assert_eq!((of.get(5), of.get(6), of.get(7)), ("next", "t", "why"));
    assert_eq!(
        (of.get(8), of.get(9), of.get(10), of.get(11)),
        (r#"{"n":7}"#, 9_000_000_i64, 10_000_000_i64, 9_i64)
    );
    runs_are_listed(&mut connection).await;
    let delete = include_str!("../../../gen_durable/src/storage/sql/delete_history.sql");
    sqlx::query(delete).bind([2_i64].as_slice()).execute(&mut connection).await.unwrap();
    let left = "select json_agg(id order by id) from gen_durable.history";
    assert_eq!(see(pool, left).await, json!([2, 4]));
}

async fn runs_are_listed(connection: &mut sqlx::PgConnection) {
    let list = include_str!("../../../gen_durable/src/storage/sql/list_runs.sql");
    let list = sqlx::query(list).bind(2_i64).bind(9_i64).bind(3_i64).bind(2_i32);
    let found = list.fetch_all(connection).await.unwrap();
    let ids: Vec<i64> = found.iter().map(|row| row.get("id")).collect();
    assert_eq!(ids, [7, 5, 3]);
    let of = &found[0];
    assert_eq!((of.get("fsm"), of.get("fsm_version"), of.get("step")), ("m", 2, "s"));
    assert_eq!((of.get("attempt"), of.get("outcome"), of.get("next_step")), (3, "next", "t"));
    assert_eq!((of.get("error"), of.get("error_cut")), ("wh", true));
    assert_eq!(
        (of.get("started_at"), of.get("ended_at"), of.get("worker")),
        (7_000_000_i64, 8_000_000_i64, 9_i64)
    );
    let size: i32 = of.get("state_size");
    assert!((7..=11).contains(&size), "{size}");
    for (id, error, cut, size) in
        [(5_i64, Some("wh"), false, None::<i32>), (3, None::<&str>, false, None)]
    {
        let of = found.iter().find(|row| row.get::<i64, _>("id") == id).unwrap();
        assert_eq!((of.get("error"), of.get("error_cut")), (error, cut), "{id}");
        assert_eq!(of.get::<Option<i32>, _>("state_size"), size, "{id}");
    }
}
