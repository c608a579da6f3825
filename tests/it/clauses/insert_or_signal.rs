//! Starting or signalling an instance: `insert_or_signal.sql`.

use serde_json::{Value, json};
use sqlx::{Acquire, PgConnection, Row};
use tokio::time::timeout;

use super::{PAST, each, is_locked, rows, run, see, session, without_indexes};
use crate::support::{WAIT_MAX, database};

/// Sends the signal `go` to the holder of a key, and inserts a row of the machine `m` if there is
/// none. Returns the answer: the id, true for a new row, the status, true if the signal was
/// delivered, and the queue if it woke the row.
async fn send(
    connection: &mut PgConnection,
    key: &str,
    dedup_key: Option<&str>,
    scheduled_at: Option<i64>,
    lock_timeout: Option<&str>,
) -> Result<Option<Value>, sqlx::Error> {
    let statement = include_str!("../../../gen_durable/src/storage/sql/insert_or_signal.sql");
    let answer = sqlx::query(statement)
        .bind("m")
        .bind(1_i32)
        .bind("s")
        .bind("\"new\"")
        .bind("q")
        .bind(3_i16)
        .bind(60_000_000_i64)
        .bind(scheduled_at)
        .bind(Some("p"))
        .bind(key)
        .bind("runnable,executing")
        .bind("go")
        .bind("7")
        .bind(dedup_key)
        .bind(lock_timeout)
        .bind(79_i64)
        .bind(None::<&str>)
        .fetch_optional(connection)
        .await?;
    Ok(answer.map(|row| {
        json!([
            row.get::<i64, _>("id"),
            row.get::<bool, _>("started"),
            row.get::<&str, _>("status"),
            row.get::<bool, _>("fresh"),
            row.get::<Option<&str>, _>("woken_queue"),
        ])
    }))
}

/// A row that holds a unique key in its status.
fn holds(id: i64, key: &str, more: Value) -> Value {
    let all = ["runnable", "executing", "awaiting_signal", "done", "failed"];
    let mut row = json!({ "id": id, "unique_key": key, "unique_scope": all, "queue": "r",
                          "updated_at": PAST, "eligible_at": PAST });
    row.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    row
}

const INBOXES: &str =
    "select json_agg(json_build_array(target_id, name, payload, dedup_key) order by id)
     from gen_durable.signals";

#[tokio::test(flavor = "multi_thread")]
async fn p70_a_new_row_has_what_it_is_given_and_the_signal() {
    let db = database().await;
    let pool = db.pool();
    // These hold other keys, or the key in another machine, or hold it no more.
    let others = json!([
        holds(101, "k", json!({ "fsm": "n" })),
        holds(102, "other", json!({})),
        holds(103, "k", json!({ "unique_scope": ["executing"] })),
    ]);
    rows(pool, others).await;
    let mut connection = without_indexes(pool).await;
    let past = Some(1_577_836_800_000_000);
    let answer = send(&mut connection, "k", Some("d"), None, None).await.unwrap();
    assert_eq!(answer, Some(json!([1, true, "runnable", true, null])));
    let answer = send(&mut connection, "l", None, past, None).await.unwrap();
    assert_eq!(answer, Some(json!([2, true, "runnable", true, null])));
    run(&mut connection, "delete from gen_durable.instances where id > 100").await;
    let seen = each(
        pool,
        "json_build_array(i.fsm, i.fsm_version, i.step, i.state, i.queue, i.priority,
                          i.partition_key, i.blocked_by, i.unique_key, case when i.unique_released is null then i.unique_scope end, i.status,
                          i.eligible_at - i.inserted_at = interval '60 s',
                          i.eligible_at = timestamptz '2020-01-01 00:00:00+00', i.report_to)",
    );
    let scope = json!(["runnable", "executing"]);
    let expected = json!([
        ["m", 1, "s", "new", "q", 3, "p", 0, "k", scope, "runnable", true, false, 79],
        ["m", 1, "s", "new", "q", 3, "p", 0, "l", scope, "runnable", false, true, 79],
    ]);
    assert_eq!(seen.await, expected);
    assert_eq!(see(pool, INBOXES).await, json!([[1, "go", 7, "d"], [2, "go", 7, null]]));
    let keys =
        "select json_agg(json_build_array(target_id, dedup_key)) from gen_durable.signal_keys";
    assert_eq!(see(pool, keys).await, json!([[1, "d"]]));
}

#[tokio::test(flavor = "multi_thread")]
async fn p70_the_holder_of_the_key_is_signalled_once_for_each_deduplication_key() {
    let db = database().await;
    let pool = db.pool();
    let parked = |id, key, awaits: Value| {
        holds(
            id,
            key,
            json!({ "status": "awaiting_signal", "awaits": awaits, "wake_at": PAST,
                    "unique_scope": ["awaiting_signal"] }),
        )
    };
    let all = json!([
        holds(1, "runnable", json!({ "awaits": ["go"] })),
        // Another machine's instance holds the same key, and another one has given it back.
        holds(8, "runnable", json!({ "fsm": "n" })),
        holds(9, "runnable", json!({ "unique_scope": ["executing"] })),
        holds(2, "executing", json!({ "status": "executing" })),
        parked(3, "parked", json!(["other", "go"])),
        parked(4, "for another", json!(["other"])),
        holds(5, "done", json!({ "status": "done" })),
        holds(6, "failed", json!({ "status": "failed" })),
        holds(7, "keeps", json!({ "status": "awaiting_signal", "awaits": ["go"] }),),
    ]);
    rows(pool, all).await;
    let mut connection = without_indexes(pool).await;
    run(&mut connection, "insert into gen_durable.signal_keys values (2, 'd'), (3, 'e')").await;
    let mut answers = Vec::new();
    let keys = ["runnable", "executing", "parked", "for another", "done", "failed", "keeps"];
    for key in keys {
        let answer = send(&mut connection, key, Some("d"), None, None).await.unwrap();
        answers.push(answer.unwrap());
    }
    let expected = json!([
        [1, false, "runnable", true, null],
        [2, false, "executing", false, null],
        [3, false, "awaiting_signal", true, "r"],
        [4, false, "awaiting_signal", true, null],
        [5, false, "done", false, null],
        [6, false, "failed", false, null],
        [7, false, "awaiting_signal", true, "r"],
    ]);
    assert_eq!(json!(answers), expected);
    let inboxes =
        json!([[1, "go", 7, "d"], [3, "go", 7, "d"], [4, "go", 7, "d"], [7, "go", 7, "d"]]);
    assert_eq!(see(pool, INBOXES).await, inboxes);
    let seen = each(
        pool,
        "json_build_array(i.id, i.status, i.awaits, i.wake_at is null, case when i.unique_released is null then i.unique_scope end is null,
                          i.eligible_at > now() - interval '1 hour',
                          i.updated_at > now() - interval '1 hour')",
    );
    let expected = json!([
        [1, "runnable", ["go"], true, false, false, false],
        [2, "executing", null, true, false, false, false],
        [3, "runnable", null, true, true, true, true],
        [4, "awaiting_signal", ["other"], false, false, false, false],
        [5, "done", null, true, false, false, false],
        [6, "failed", null, true, false, false, false],
        [7, "runnable", null, true, false, true, true],
        [8, "runnable", null, true, false, false, false],
        [9, "runnable", null, true, false, false, false],
    ]);
    assert_eq!(seen.await, expected);
    // Without a deduplication key, each signal counts.
    for _ in 0..2 {
        let answer = send(&mut connection, "runnable", None, None, None).await.unwrap();
        assert_eq!(answer, Some(json!([1, false, "runnable", true, null])));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn p70_start_or_signal_locks_the_holder_and_waits_as_long_as_it_is_told() {
    let db = database().await;
    let pool = db.pool();
    rows(pool, json!([holds(101, "k", json!({})), holds(102, "l", json!({}))])).await;
    let mut connection = session(pool, "set lock_timeout = '50s'").await;
    let mut transaction = connection.begin().await.unwrap();
    send(&mut transaction, "k", Some("d"), None, None).await.unwrap();
    assert!(is_locked(pool, 101).await, "the holder is locked to the end");
    assert!(!is_locked(pool, 102).await);
    // A foreign key of the caller's may refer to the row at the same time.
    run(&mut session(pool, "").await, "select from gen_durable.instances for key share nowait")
        .await;
    let show = "show lock_timeout";
    let lock_timeout: String = sqlx::query_scalar(show).fetch_one(&mut *transaction).await.unwrap();
    assert_eq!(lock_timeout, "50s", "it is the transaction's");
    // Another call waits for the holder, or for a key that is being inserted.
    send(&mut transaction, "new", None, None, None).await.unwrap();
    let mut other = session(pool, "set lock_timeout = '50s'").await;
    for key in ["k", "new"] {
        let waiting = send(&mut other, key, None, None, Some("10ms"));
        let error = timeout(WAIT_MAX / 2, waiting).await.expect("it gives up by itself");
        let error = error.unwrap_err();
        assert_eq!(error.as_database_error().unwrap().code().as_deref(), Some("55P03"));
    }
    send(&mut other, "l", None, None, Some("10ms")).await.unwrap();
    let lock_timeout: String = sqlx::query_scalar(show).fetch_one(&mut other).await.unwrap();
    assert_eq!(lock_timeout, "50s", "it ended with the statement's transaction");
    transaction.rollback().await.unwrap();
}
