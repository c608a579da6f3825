//! Partition keys: their locks, the rows that wait for them, and how a freed key lets rows in.

use serde_json::{Value, json};
use sqlx::{Acquire, PgConnection, PgPool};
use tokio::time::timeout;

use super::{FUTURE, rows, run, session, without_indexes};
use crate::support::{WAIT_MAX, database, eventually};

const LOCK: &str = include_str!("../../../gen_durable/src/storage/sql/lock_partitions.sql");
const LOCK_FREE: &str =
    include_str!("../../../gen_durable/src/storage/sql/lock_free_partitions.sql");

pub(super) fn january(day: u32) -> String {
    format!("2020-01-{day:02}T00:00:00+00:00")
}

/// A row with a key, due since the first of January, with `more` columns.
pub(super) fn keyed(id: i64, key: &str, more: Value) -> Value {
    let mut row = json!({ "id": id, "partition_key": key, "eligible_at": january(1) });
    row.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    row
}

/// An executing row, which holds its key.
pub(super) fn holder(id: i64, key: &str) -> Value {
    keyed(id, key, json!({ "status": "executing", "locked_by": 8 }))
}

/// Begins a transaction that locks the rows `held`, and refers to the rows `referred` as a foreign
/// key does.
pub(super) async fn locking(
    pool: &PgPool,
    held: &[i64],
    referred: &[i64],
) -> sqlx::Transaction<'static, sqlx::Postgres> {
    let mut somebody = pool.begin().await.unwrap();
    for (ids, query) in [
        (held, "select from gen_durable.instances where id = any ($1) for no key update"),
        (referred, "select from gen_durable.instances where id = any ($1) for key share"),
    ] {
        sqlx::query(query).bind(ids).execute(&mut *somebody).await.unwrap();
    }
    somebody
}

/// The rows that wait for their key.
pub(super) async fn blocked(pool: &PgPool) -> Value {
    let waiting =
        "select json_agg(id order by id) from gen_durable.instances where blocked_by & 1 = 1";
    super::see(pool, waiting).await
}

async fn lock_timeout(connection: &mut PgConnection) -> String {
    sqlx::query_scalar("show lock_timeout").fetch_one(connection).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn p70_keys_are_locked_in_one_order_and_for_a_second_at_most() {
    let db = database().await;
    let pool = db.pool();
    let keys: Vec<String> = (0..20).map(|n| format!("key {n}")).collect();
    let first: String = sqlx::query_scalar(
        "select k from unnest($1::text[]) as k order by hashtextextended(k, 5297) limit 1",
    )
    .bind(&keys)
    .fetch_one(pool)
    .await
    .unwrap();
    let mut somebody = pool.begin().await.unwrap();
    sqlx::query("select pg_advisory_xact_lock(hashtextextended($1, 5297))")
        .bind(&first)
        .execute(&mut *somebody)
        .await
        .unwrap();
    // The statement gives up after a second, perhaps before the test looks. Then the test tries
    // once more.
    eventually("it waits for the first key", async || {
        // If the statement did not ask for an order, the keys would come in the order of a hash
        // table here.
        let mut waiting = session(pool, "set enable_sort = off").await;
        let pid: i32 =
            sqlx::query_scalar("select pg_backend_pid()").fetch_one(&mut waiting).await.unwrap();
        let keys = keys.clone();
        let task =
            tokio::spawn(async move { sqlx::query(LOCK).bind(keys).execute(&mut waiting).await });
        let mut seen = None;
        while seen.is_none() && !task.is_finished() {
            let (granted, waits): (i64, i64) = sqlx::query_as(
                "select count(*) filter (where granted), count(*) filter (where not granted)
                 from pg_locks where pid = $1 and locktype = 'advisory'",
            )
            .bind(pid)
            .fetch_one(pool)
            .await
            .unwrap();
            seen = (waits > 0).then_some(granted);
        }
        let error = timeout(WAIT_MAX / 2, task).await.expect("it gives up").unwrap().unwrap_err();
        assert_eq!(error.as_database_error().unwrap().code().as_deref(), Some("55P03"));
        assert!(seen.is_none_or(|granted| granted == 0), "it has {seen:?} others");
        seen
    })
    .await;
    somebody.rollback().await.unwrap();
    let mut connection = session(pool, "").await;
    sqlx::query(LOCK).bind(&keys).execute(&mut connection).await.unwrap();
    assert_eq!(lock_timeout(&mut connection).await, "0", "it ended with the transaction");
    let mut transaction = connection.begin().await.unwrap();
    sqlx::query(LOCK).bind(&keys).execute(&mut *transaction).await.unwrap();
    assert!(!is_free(pool, "key 7").await && is_free(pool, "key 20").await);
}

/// True if no other transaction has the lock of a key.
async fn is_free(pool: &PgPool, key: &str) -> bool {
    sqlx::query_scalar("select pg_try_advisory_xact_lock(hashtextextended($1, 5297))")
        .bind(key)
        .fetch_one(pool)
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn p70_the_keys_of_the_first_candidates_are_locked_if_they_are_free() {
    let db = database().await;
    let pool = db.pool();
    rows(pool, json!([{ "id": 999 }, keyed(1000, "other", json!({}))])).await;
    crate::support::sql(
        pool,
        "insert into gen_durable.instances (id, fsm, fsm_version, step, state, partition_key)
         select n, 'm', 1, 's', '{}', 'key ' || n / 2 from generate_series(0, 519) as n",
    )
    .await;
    let mut somebody = pool.begin().await.unwrap();
    sqlx::query(LOCK).bind(["key 200"]).execute(&mut *somebody).await.unwrap();
    // Each key has two rows. The candidates with the highest numbers come first.
    let candidates: Vec<i64> = [999].into_iter().chain((0..520).rev()).collect();
    let mut connection = session(pool, "").await;
    let mut transaction = connection.begin().await.unwrap();
    let lock = sqlx::query_scalar(LOCK_FREE).bind(&candidates).fetch_all(&mut *transaction);
    let mut keys: Vec<String> =
        timeout(WAIT_MAX / 2, lock).await.expect("it waits for nobody").unwrap();
    keys.sort();
    let mut expected: Vec<String> =
        (10..260).filter(|n| *n != 200).map(|n| format!("key {n}")).collect();
    expected.sort();
    assert_eq!(keys, expected);
    assert_eq!(lock_timeout(&mut transaction).await, "100ms");
    assert!(!is_free(pool, "key 10").await && is_free(pool, "key 9").await);
    assert!(is_free(pool, "other").await);
    transaction.rollback().await.unwrap();
    sqlx::query(LOCK_FREE).bind(&candidates).execute(&mut connection).await.unwrap();
    assert_eq!(lock_timeout(&mut connection).await, "0", "it ended with the transaction");
}

#[tokio::test(flavor = "multi_thread")]
async fn p70_a_freed_key_lets_the_first_of_each_kind_in() {
    let db = database().await;
    let pool = db.pool();
    let waits = |id, key, more: Value| {
        let mut row = keyed(id, key, more);
        row.as_object_mut().unwrap().insert("blocked_by".to_owned(), 1.into());
        row
    };
    let all = json!([
        waits(2, "a", json!({ "priority": 1 })),
        waits(7, "a", json!({ "eligible_at": january(2) })),
        waits(6, "a", json!({ "eligible_at": january(3) })),
        // The order of the rows on the pages is not the order of the kinds.
        waits(3, "a", json!({ "queue": "r" })),
        waits(4, "a", json!({ "fsm": "n" })),
        waits(5, "a", json!({ "fsm_version": 2 })),
        waits(13, "a", json!({ "queue": "r" })),
        keyed(1, "a", json!({ "priority": -1, "queue": "s" })),
        waits(8, "b", json!({})),
        holder(9, "b"),
        waits(10, "c", json!({})),
        waits(11, "d", json!({})),
        keyed(12, "e", json!({})),
        // This row holds a key that none of the others has.
        holder(14, "f"),
        waits(15, "h", json!({})),
        waits(16, "i", json!({ "queue": "z" })),
        waits(17, "i", json!({ "queue": "y" })),
        keyed(18, "i", json!({ "queue": "z", "priority": -1 })),
        keyed(19, "i", json!({ "queue": "x", "priority": -1 })),
        // One of these waits for another reason alone, the other one also for its key.
        keyed(22, "p", json!({ "blocked_by": 2, "priority": -1 })),
        keyed(23, "p", json!({ "blocked_by": 3 })),
    ]);
    rows(pool, all).await;
    let mut connection = without_indexes(pool).await;
    run(&mut connection, "set statement_timeout = '25s'").await;
    let unblock = async |connection: &mut PgConnection, keys: &[&str]| {
        let statement = include_str!("../../../gen_durable/src/storage/sql/unblock_partitions.sql");
        let mut rows: Vec<(Option<String>, Option<String>)> =
            sqlx::query_as(statement).bind(keys).fetch_all(connection).await.unwrap();
        rows.sort();
        json!(rows)
    };
    let somebody = locking(pool, &[10], &[15]).await;
    let answer = unblock(&mut connection, &["a", "b", "c", "e", "h", "i"]).await;
    let expected = json!([
        [null, "c"],
        ["default", null],
        ["default", null],
        ["default", null],
        ["default", null],
        ["r", null],
        ["y", null],
        ["z", null],
    ]);
    assert_eq!(answer, expected);
    assert_eq!(blocked(pool).await, json!([2, 6, 8, 10, 11, 13, 23]));
    assert_eq!(unblock(&mut connection, &["p"]).await, json!([["default", null]]));
    let others = "select json_agg(id order by id) from gen_durable.instances where blocked_by = 2";
    assert_eq!(super::see(pool, others).await, json!([22, 23]), "the other reason stays");
    somebody.rollback().await.unwrap();
    assert_eq!(unblock(&mut connection, &["c"]).await, json!([["default", null]]));
    // If rows have the same time, the one with the lowest id is let in.
    rows(pool, json!([waits(21, "j", json!({})), waits(20, "j", json!({}))])).await;
    assert_eq!(unblock(&mut connection, &["j"]).await, json!([["default", null]]));
    assert_eq!(blocked(pool).await, json!([2, 6, 8, 11, 13, 21]));
}

const BLOCK_AHEAD: &str = include_str!("../../../gen_durable/src/storage/sql/block_ahead.sql");

#[tokio::test(flavor = "multi_thread")]
async fn p70_what_comes_after_a_candidate_and_waits_for_a_held_key_is_blocked() {
    let db = database().await;
    let pool = db.pool();
    let at = |id, day, key, more: Value| {
        let mut row = keyed(id, key, more);
        row.as_object_mut().unwrap().entry("eligible_at").and_modify(|time| {
            if *time == json!(january(1)) {
                *time = january(day).into();
            }
        });
        row
    };
    let all = json!([
        holder(2, "a"),
        holder(3, "c"),
        at(10, 5, "a", json!({})),
        at(1, 4, "a", json!({})),
        at(11, 5, "a", json!({})),
        at(9, 5, "a", json!({})),
        at(12, 6, "a", json!({})),
        at(13, 6, "a", json!({ "queue": "x" })),
        at(14, 6, "a", json!({ "fsm": "x" })),
        at(15, 6, "a", json!({ "fsm_version": 2 })),
        at(16, 6, "a", json!({ "priority": 1 })),
        at(17, 6, "a", json!({ "status": "awaiting_signal" })),
        at(18, 6, "a", json!({ "blocked_by": 1 })),
        at(19, 6, "a", json!({ "eligible_at": FUTURE })),
        at(20, 6, "b", json!({})),
        at(21, 6, "c", json!({})),
        at(22, 6, "a", json!({})),
        at(23, 6, "a", json!({})),
    ]);
    rows(pool, all).await;
    let somebody = locking(pool, &[22], &[23]).await;
    let mut connection = without_indexes(pool).await;
    let block = sqlx::query(BLOCK_AHEAD).bind(10_i64).bind(["a", "b"]).execute(&mut connection);
    let done = timeout(WAIT_MAX / 2, block).await.expect("it waits for nobody").unwrap();
    assert_eq!(blocked(pool).await, json!([11, 12, 18, 23]));
    assert_eq!(done.rows_affected(), 3);
    somebody.rollback().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn p70_two_thousand_rows_are_blocked_ahead_at_most() {
    let db = database().await;
    let pool = db.pool();
    rows(pool, json!([holder(1, "a"), keyed(2, "a", json!({}))])).await;
    crate::support::sql(
        pool,
        "insert into gen_durable.instances (id, fsm, fsm_version, step, state, partition_key, eligible_at)
         select 5000 - n, 'm', 1, 's', '{}', 'a', timestamptz '2021-01-01' - n * interval '1 second'
         from generate_series(1, 2100) as n",
    )
    .await;
    let mut connection = without_indexes(pool).await;
    let done = sqlx::query(BLOCK_AHEAD).bind(2_i64).bind(["a"]).execute(&mut connection).await;
    assert_eq!(done.unwrap().rows_affected(), 2000);
    let seen = "select json_build_array(min(id), max(id)) from gen_durable.instances where blocked_by & 1 = 1";
    assert_eq!(super::see(pool, seen).await, json!([2900, 4899]), "the oldest");
}

/// Rows of keys of which some are stranded.
fn rows_of_keys() -> Value {
    let waits = |id, key, queue: &str| keyed(id, key, json!({ "blocked_by": 1, "queue": queue }));
    json!([
        // The order of the rows on the pages is not the order of the kinds.
        waits(1, "i", "z"),
        waits(2, "i", "default"),
        waits(3, "i", "a"),
        keyed(4, "i", json!({})),
        keyed(5, "i", json!({ "queue": "a" })),
        waits(6, "a", "default"),
        waits(7, "b", "default"),
        holder(8, "b"),
        waits(9, "c", "default"),
        keyed(10, "c", json!({})),
        waits(11, "d", "default"),
        keyed(12, "d", json!({ "queue": "x" })),
        waits(13, "e", "default"),
        keyed(14, "e", json!({ "fsm": "x" })),
        waits(15, "f", "default"),
        keyed(16, "f", json!({ "fsm_version": 2 })),
        waits(17, "g", "default"),
        keyed(18, "g", json!({ "eligible_at": FUTURE })),
        waits(19, "h", "default"),
        keyed(20, "h", json!({ "status": "awaiting_signal" })),
        keyed(21, "k", json!({})),
        // Each kind that waits has a row that can be claimed.
        waits(22, "l", "z"),
        waits(23, "l", "a"),
        keyed(24, "l", json!({ "queue": "z" })),
        keyed(25, "l", json!({ "queue": "a" })),
        // The kinds of rows that do not wait do not count.
        waits(26, "m", "a"),
        keyed(27, "m", json!({ "queue": "a" })),
        keyed(28, "m", json!({ "queue": "b", "eligible_at": FUTURE })),
        keyed(29, "m", json!({ "queue": "A", "eligible_at": FUTURE })),
        // Only the first of three kinds that wait is stranded, or only the second.
        waits(30, "n", "z"),
        waits(31, "n", "default"),
        waits(32, "n", "a"),
        keyed(33, "n", json!({ "queue": "z" })),
        keyed(34, "n", json!({})),
        waits(35, "o", "z"),
        waits(36, "o", "default"),
        waits(37, "o", "a"),
        keyed(38, "o", json!({ "queue": "z" })),
        keyed(39, "o", json!({ "queue": "a" })),
        keyed(40, "A", json!({})),
        // The row that goes next is blocked for another reason, in the last key also for this one.
        keyed(41, "p", json!({ "blocked_by": 2, "priority": -1 })),
        waits(42, "p", "default"),
        keyed(43, "q", json!({ "blocked_by": 3 })),
        waits(44, "q", "default"),
        // A row that is blocked for another reason does not go next: another one does, or it is due
        // later, or it is not runnable.
        keyed(45, "r", json!({ "blocked_by": 2, "eligible_at": january(2) })),
        waits(46, "r", "default"),
        keyed(47, "s", json!({ "blocked_by": 2, "priority": -1, "eligible_at": FUTURE })),
        waits(48, "s", "default"),
        keyed(49, "t", json!({ "blocked_by": 2, "priority": -1, "status": "awaiting_signal" })),
        waits(50, "t", "default"),
        // The first row is told by its priority, then by its time, then by its id.
        keyed(52, "u", json!({ "blocked_by": 2, "priority": -1, "eligible_at": january(2) })),
        waits(51, "u", "default"),
        waits(54, "v", "default"),
        keyed(53, "v", json!({ "blocked_by": 2, "eligible_at": january(2) })),
        waits(55, "w", "default"),
        keyed(56, "w", json!({ "blocked_by": 2 })),
        keyed(58, "x", json!({ "blocked_by": 2 })),
        waits(57, "x", "default"),
    ])
}

#[tokio::test(flavor = "multi_thread")]
async fn p70_a_key_is_stranded_if_of_a_kind_that_waits_nobody_can_be_claimed() {
    let db = database().await;
    let pool = db.pool();
    rows(pool, rows_of_keys()).await;
    let mut connection = without_indexes(pool).await;
    run(&mut connection, "set statement_timeout = '25s'").await;
    let mut look = async |after: Option<&str>, limit: i64| {
        let statement =
            include_str!("../../../gen_durable/src/storage/sql/stranded_partitions.sql");
        let rows: Vec<(String, bool)> = sqlx::query_as(statement)
            .bind(after)
            .bind(limit)
            .fetch_all(&mut connection)
            .await
            .unwrap();
        json!(rows)
    };
    let all = [
        ("a", true),
        ("b", false),
        ("c", false),
        ("d", true),
        ("e", true),
        ("f", true),
        ("g", true),
        ("h", true),
        ("i", true),
        ("l", false),
        ("m", false),
        ("n", true),
        ("o", true),
        ("p", false),
        ("q", false),
        ("r", true),
        ("s", true),
        ("t", true),
        ("u", false),
        ("v", true),
        ("w", true),
        ("x", true),
    ];
    assert_eq!(look(None, 100).await, json!(all));
    assert_eq!(look(Some("b"), 3).await, json!(all[2..5]));
}
