//! Counts and reports: `count_parked.sql`, `report.sql`, `lost_reporters.sql`, and the parts of
//! `deliver.sql`, `insert_or_signal.sql` and `reap.sql` that are about them.

use serde_json::{Value, json};
use sqlx::{PgConnection, Row};

use super::{FUTURE, PAST, each, rows, run, see, session, signals, without_indexes};
use crate::support::{database, sql, until_a_session_waits};

const REPORT: &str = include_str!("../../../gen_durable/src/storage/sql/report.sql");

/// A row that is parked for the signal `go`, and waits for this number of them.
fn parked(id: i64, more: Option<i32>) -> Value {
    json!({
        "id": id, "status": "awaiting_signal", "awaits": ["x", "go"], "awaits_more": more,
        "wake_at": FUTURE, "eligible_at": FUTURE, "updated_at": PAST, "queue": format!("q{id}"),
        "unique_key": format!("k{id}"), "unique_scope": ["awaiting_signal"],
    })
}

/// The columns that a delivery changes in a row that is parked.
const PARKED: &str =
    "json_build_array(i.status, i.awaits_more, i.awaits is null, i.wake_at is null,
    i.eligible_at < now() + interval '1 day', case when i.unique_released is null then i.unique_scope end is null, i.updated_at > '2021-01-01')";

fn woken() -> Value {
    json!(["runnable", null, true, true, true, true, true])
}

fn waits(more: i32) -> Value {
    json!(["awaiting_signal", more, false, false, false, false, true])
}

/// Delivers signals: the target and the name of each. Returns the queues that were woken.
async fn deliver(connection: &mut PgConnection, signals: &[(i64, &str)]) -> Vec<String> {
    let each = signals.len();
    let statement = include_str!("../../../gen_durable/src/storage/sql/deliver.sql");
    let rows = sqlx::query(statement)
        .bind(signals.iter().map(|signal| signal.0).collect::<Vec<_>>())
        .bind(vec![None::<&str>; each])
        .bind(signals.iter().map(|signal| signal.1).collect::<Vec<_>>())
        .bind(vec!["7"; each])
        .bind(vec![None::<&str>; each])
        .bind(false)
        .bind(None::<&str>)
        .bind(vec![None::<&str>; each])
        .bind(None::<Vec<Option<&str>>>)
        .fetch_all(connection)
        .await
        .unwrap();
    let mut woken: Vec<String> = rows.iter().filter_map(|row| row.get("woken_queue")).collect();
    woken.sort();
    woken.dedup();
    woken
}

#[tokio::test(flavor = "multi_thread")]
async fn p70_a_batch_of_deliveries_lowers_each_count_once() {
    let db = database().await;
    let pool = db.pool();
    let all = json!([
        parked(1, None),
        parked(2, Some(1)),
        parked(3, Some(2)),
        parked(4, Some(3)),
        parked(5, Some(9)),
        parked(6, Some(2)),
        { "id": 7, "status": "executing", "awaits_more": 1, "awaits": ["go"] },
    ]);
    rows(pool, all).await;
    let mut connection = without_indexes(pool).await;
    let sent = [
        (1, "go"),
        (2, "x"),
        (3, "go"),
        (3, "x"),
        (3, "go"),
        (4, "go"),
        (4, "other"),
        (4, "go"),
        (5, "go"),
        (6, "other"),
        (7, "go"),
    ];
    assert_eq!(deliver(&mut connection, &sent).await, ["q1", "q2", "q3"]);
    run(&mut connection, "delete from gen_durable.instances where id = 7").await;
    let mut untouched = waits(2);
    untouched[6] = false.into();
    let expected = json!([woken(), woken(), woken(), waits(1), waits(8), untouched]);
    assert_eq!(each(pool, PARKED).await, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn p70_a_signal_to_the_holder_of_a_key_lowers_its_count() {
    let db = database().await;
    let pool = db.pool();
    rows(pool, json!([parked(1, None), parked(2, Some(1)), parked(3, Some(3))])).await;
    let mut connection = without_indexes(pool).await;
    let statement = include_str!("../../../gen_durable/src/storage/sql/insert_or_signal.sql");
    for (key, queue) in [("k1", Some("q1")), ("k2", Some("q2")), ("k3", None)] {
        let row = sqlx::query(statement)
            .bind("m")
            .bind(1_i32)
            .bind("s")
            .bind("0")
            .bind("q")
            .bind(0_i16)
            .bind(0_i64)
            .bind(None::<i64>)
            .bind(None::<&str>)
            .bind(key)
            .bind("runnable")
            .bind("go")
            .bind("7")
            .bind(None::<&str>)
            .bind(None::<&str>)
            .bind(77_i64)
            .bind(None::<&str>)
            .fetch_one(&mut connection)
            .await
            .unwrap();
        assert_eq!(row.get::<Option<&str>, _>("woken_queue"), queue, "{key}");
    }
    assert_eq!(each(pool, PARKED).await, json!([woken(), woken(), waits(2)]));
    assert_eq!(each(pool, "i.report_to").await, json!([null, null, null]), "nobody is new");
}

#[tokio::test(flavor = "multi_thread")]
async fn p70_a_park_counts_what_is_there() {
    let db = database().await;
    let pool = db.pool();
    rows(pool, json!([parked(1, None), parked(2, None), parked(3, None), parked(4, None)])).await;
    signals(pool, &[(1, 1), (1, 2), (2, 3), (2, 4), (3, 5), (9, 6)]).await;
    sql(
        pool,
        "insert into gen_durable.signals (target_id, id, name, payload) overriding system value
         values (1, 7, 'x', '1'), (3, 8, 'x', '1'), (3, 9, 'x', '1')",
    )
    .await;
    let mut connection = without_indexes(pool).await;
    let count = include_str!("../../../gen_durable/src/storage/sql/count_parked.sql");
    let mut queues: Vec<String> = sqlx::query_scalar(count)
        .bind([1_i64, 2, 3, 4])
        .bind([3_i64, 2, 0, 5])
        .bind(["go", "go", "go", "go"])
        .fetch_all(&mut connection)
        .await
        .unwrap();
    queues.sort();
    assert_eq!(queues, ["q2", "q3"]);
    let unchanged = |mut row: Value| {
        row[6] = false.into();
        row
    };
    let expected = json!([waits(1), woken(), woken(), waits(5)].map(unchanged));
    assert_eq!(each(pool, PARKED).await, expected);
}

/// A row that has ended, and reports to another one.
fn ended(id: i64, receiver: Option<i64>, more: Value) -> Value {
    let mut row = json!({
        "id": id, "status": "done", "result": id, "last_error": "old", "finished_at": PAST,
        "report_to": receiver, "unique_key": format!("child {id}"),
    });
    row.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    row
}

/// A receiver that is parked for reports of the machine `m`.
fn receiver(id: i64, more: Option<i32>) -> Value {
    let mut row = parked(id, more);
    row["awaits"] = json!(["x", "ended(m)"]);
    row
}

/// Reports. Returns the queues that were woken, and the dropped reports.
async fn report(connection: &mut PgConnection, ended: &[i64]) -> Value {
    let row = sqlx::query(REPORT)
        .bind(ended)
        .bind(None::<Vec<Option<&str>>>)
        .fetch_one(connection)
        .await
        .unwrap();
    let mut queues: Vec<String> = row.get("queues");
    queues.sort();
    let dropped: Option<Vec<i64>> = row.get("dropped");
    let targets: Option<Vec<i64>> = row.get("targets");
    json!([queues, dropped, targets])
}

#[tokio::test(flavor = "multi_thread")]
async fn p70_an_end_is_reported_to_a_live_receiver() {
    let db = database().await;
    let pool = db.pool();
    let failed = json!({ "status": "failed", "result": null, "last_error": "why" });
    let all = json!([
        receiver(1, None),
        receiver(2, Some(2)),
        receiver(3, Some(5)),
        receiver(4, Some(1)),
        { "id": 5, "status": "executing" },
        { "id": 6, "status": "runnable" },
        { "id": 7, "status": "done" },
        { "id": 8, "status": "failed" },
        // The order of the rows on the pages is not that of the ids.
        ended(13, Some(2), json!({})),
        ended(12, Some(2), failed.clone()),
        ended(11, Some(1), json!({ "unique_key": null })),
        ended(14, Some(3), json!({})),
        // Another machine's: the receiver does not await it.
        ended(15, Some(4), json!({ "fsm": "n" })),
        ended(16, Some(5), json!({})),
        ended(17, Some(6), json!({})),
        ended(18, Some(7), json!({})),
        ended(19, Some(8), failed),
        ended(20, Some(99), json!({})),
        ended(21, None, json!({})),
        ended(22, Some(1), json!({})),
    ]);
    rows(pool, all).await;
    let mut connection = without_indexes(pool).await;
    // In the order of ids, whatever the order of the parameter is.
    let ids: Vec<i64> = (11..=21).rev().collect();
    assert_eq!(
        report(&mut connection, &ids).await,
        json!([["q1", "q2"], [18, 19, 20], [7, 8, 99]])
    );
    let sent = "select json_agg(json_build_array(target_id, name, payload, dedup_key) order by id)
                from gen_durable.signals";
    let done = |id: i64| json!({ "id": id, "key": format!("child {id}"), "status": "done", "result": id, "reason": null });
    assert_eq!(
        see(pool, sent).await,
        json!([
            [1, "ended(m)", { "id": 11, "key": null, "status": "done", "result": 11, "reason": null }, null],
            [2, "ended(m)", { "id": 12, "key": "child 12", "status": "failed", "result": null, "reason": "why" }, null],
            [2, "ended(m)", done(13), null],
            [3, "ended(m)", done(14), null],
            [4, "ended(n)", done(15), null],
            [5, "ended(m)", done(16), null],
            [6, "ended(m)", done(17), null],
        ])
    );
    let mut untouched = waits(1);
    untouched[6] = false.into();
    run(&mut connection, "delete from gen_durable.instances where id > 4").await;
    let expected = json!([woken(), woken(), waits(4), untouched]);
    assert_eq!(each(pool, PARKED).await, expected);
}

/// The statement locks the receivers in the order of their ids.
#[tokio::test(flavor = "multi_thread")]
async fn p70_receivers_are_locked_in_the_order_of_their_ids() {
    let db = database().await;
    let pool = db.pool();
    let all = json!([
        receiver(2, None),
        receiver(1, None),
        ended(11, Some(2), json!({})),
        ended(12, Some(1), json!({})),
    ]);
    rows(pool, all).await;
    let mut holder = pool.begin().await.unwrap();
    let lock = "select from gen_durable.instances where id = 1 for no key update";
    run(&mut holder, lock).await;
    let mut reporter = without_indexes(pool).await;
    let waiting = tokio::spawn(async move { report(&mut reporter, &[11, 12]).await });
    until_a_session_waits(pool, 1).await;
    let mut probe = session(pool, "set lock_timeout = '20s'").await;
    run(&mut probe, "select from gen_durable.instances where id = 2 for no key update nowait")
        .await;
    // The receiver has ended by then.
    run(&mut holder, "update gen_durable.instances set status = 'done' where id = 1").await;
    holder.commit().await.unwrap();
    assert_eq!(waiting.await.unwrap(), json!([["q2"], [12], [1]]));
}

#[tokio::test(flavor = "multi_thread")]
async fn p70_an_end_that_the_reaper_makes_is_owed_until_it_is_settled() {
    let db = database().await;
    let pool = db.pool();
    let held = |id: i64, crashes: i32, receiver: Option<i64>| {
        json!({ "id": id, "status": "executing", "locked_by": 3, "crashes": crashes,
                "report_to": receiver, "finished_at": null })
    };
    let all =
        json!([held(1, 2, Some(91)), held(2, 1, Some(92)), held(3, 2, None), held(4, 2, Some(94))]);
    rows(pool, all).await;
    let mut connection = session(pool, "").await;
    let reap = include_str!("../../../gen_durable/src/storage/sql/reap.sql");
    let mut reaped: Vec<(i64, String, bool)> = sqlx::query(reap)
        .bind(10_i64)
        .bind(3_i32)
        .fetch_all(&mut connection)
        .await
        .unwrap()
        .iter()
        .map(|row| (row.get("id"), row.get("status"), row.get("owes")))
        .collect();
    reaped.sort_unstable();
    let row = |id, status: &str, owes| (id, status.to_owned(), owes);
    assert_eq!(
        reaped,
        [
            row(1, "failed", true),
            row(2, "runnable", false),
            row(3, "failed", false),
            row(4, "failed", true)
        ]
    );
    let owed = include_str!("../../../gen_durable/src/storage/sql/owed.sql");
    let find = async |connection: &mut PgConnection, after: i64, most: i64| {
        let rows = sqlx::query(owed).bind(after).bind(most).fetch_all(connection).await.unwrap();
        let found = |row: &sqlx::postgres::PgRow| (row.get("id"), row.get("report_to"));
        rows.iter().map(found).collect::<Vec<(i64, i64)>>()
    };
    assert_eq!(find(&mut connection, 0, 10).await, [(1, 91), (4, 94)]);
    assert_eq!(find(&mut connection, 0, 1).await, [(1, 91)]);
    assert_eq!(find(&mut connection, 1, 10).await, [(4, 94)]);
    let owed_of = include_str!("../../../gen_durable/src/storage/sql/owed_of.sql");
    let query = sqlx::query_as::<_, (i64, i64)>(owed_of).bind([2_i64, 3, 4]);
    assert_eq!(query.fetch_all(&mut connection).await.unwrap(), [(4, 94)]);
    // Retention leaves an end alone that is still to be reported.
    run(&mut connection, "update gen_durable.instances set finished_at = now() - interval '1 day' where status = 'failed'").await;
    let prune = include_str!("../../../gen_durable/src/storage/sql/prune.sql");
    sqlx::query(prune).bind(1_i64).execute(&mut connection).await.unwrap();
    assert_eq!(each(pool, "i.id").await, json!([1, 2, 4]));
    let settle = include_str!("../../../gen_durable/src/storage/sql/settle_owed.sql");
    for (ids, expected) in [(vec![2_i64, 4], vec![4_i64]), (vec![4], vec![])] {
        let settled: Vec<i64> =
            sqlx::query_scalar(settle).bind(ids).fetch_all(&mut connection).await.unwrap();
        assert_eq!(settled, expected);
    }
    assert_eq!(find(&mut connection, 0, 10).await, [(1, 91)]);
}
