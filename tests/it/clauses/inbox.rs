//! The part of an inbox that claims and commits load, the rest, which `load_inbox.sql` loads, and
//! the part that `list_inbox.sql` shows to people.

use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, PgPool, Row};

use super::{rows, signals, without_indexes};
use crate::support::database;

/// Text of `$3` times 32 bytes that Postgres does not compress.
const DENSE: &str = "(select string_agg(md5(n::text), '') from generate_series(1, $3) as n)";
/// Text of `$3` times 32 bytes that Postgres compresses: a signal of a MiB takes a few KiB.
const THIN: &str = "repeat('x', 32 * $3)";

/// Inserts a signal of the target, whose payload is text of this kind.
async fn large(pool: &PgPool, target: i64, id: i64, text: &str, times: i32) {
    let insert = format!(
        "insert into gen_durable.signals (target_id, id, name, payload)
         overriding system value values ($1, $2, 'go', to_json({text}))"
    );
    let insert = sqlx::query(AssertSqlSafe(insert)).bind(target).bind(id).bind(times);
    insert.execute(pool).await.unwrap();
}

/// Gives the instance a state of some 30 KB on disk.
pub(super) async fn large_state(pool: &PgPool, id: i64) {
    sqlx::query(
        "update gen_durable.instances
         set state = (select to_json(string_agg(md5(n::text), '')) from generate_series(1, 1000) as n)
         where id = $1",
    )
    .bind(id)
    .execute(pool)
    .await
    .unwrap();
}

/// Fills the inboxes of the instances 1 to 7; others have none. The newest signals come first on
/// the table's pages.
pub(super) async fn fill(pool: &PgPool) {
    let ids = |target: i64, count: i64| {
        (1..=count)
            .rev()
            .map(move |n| (target, 1000 * target + n + if target == 1 { 100 } else { 0 }))
    };
    // The first inbox has a few signals, the second more than are loaded, and the third exactly as
    // many as are loaded.
    signals(pool, &ids(1, 20).chain([(1, 1005)]).collect::<Vec<_>>()).await;
    signals(pool, &ids(2, 130).collect::<Vec<_>>()).await;
    signals(pool, &ids(3, 100).collect::<Vec<_>>()).await;
    // Signals that begin within 64 KiB are loaded.
    for id in [4004, 4003, 4002, 4001] {
        large(pool, 4, id, DENSE, 1250).await;
    }
    // A compressed signal counts for eight times its size.
    for id in [5003, 5002] {
        large(pool, 5, id, DENSE, 1).await;
    }
    large(pool, 5, 5001, THIN, 32_768).await;
    // Once a signal is left out, all later ones are left out.
    large(pool, 6, 6003, DENSE, 1).await;
    large(pool, 6, 6002, DENSE, 1).await;
    large(pool, 6, 6001, DENSE, 3000).await;
    // The last signal begins just before the limit of 64 KiB, so it is loaded.
    large(pool, 7, 7002, DENSE, 3000).await;
    large(pool, 7, 7001, DENSE, 2000).await;
}

/// An inbox's owner, its first and last id, its length, and true if there are more signals.
pub(super) fn summary(inbox: &(i64, Value)) -> Value {
    let signals = inbox.1[0].as_array().unwrap();
    let sorted = signals.windows(2).all(|pair| pair[0][0].as_i64() < pair[1][0].as_i64());
    assert!(sorted, "by id: {signals:?}");
    assert_eq!(signals[0][1], "go");
    json!([inbox.0, signals[0][0], signals[signals.len() - 1][0], signals.len(), inbox.1[1]])
}

/// The summaries of all inboxes that have signals.
pub(super) fn expected() -> Vec<Value> {
    vec![
        json!([1, 1005, 1120, 21, false]),
        json!([2, 2001, 2100, 100, true]),
        json!([3, 3001, 3100, 100, false]),
        json!([4, 4001, 4002, 2, true]),
        json!([5, 5001, 5001, 1, true]),
        json!([6, 6001, 6001, 1, true]),
        json!([7, 7001, 7002, 2, false]),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn p70_an_inbox_is_loaded_from_a_signal_on_and_what_lies_beyond_is_counted() {
    let db = database().await;
    let pool = db.pool();
    fill(pool).await;
    crate::support::sql(
        pool,
        "update gen_durable.signals set name = 'a' where target_id = 3 and id % 2 = 0;
         update gen_durable.signals set payload = to_json(id) where target_id = 3",
    )
    .await;
    let mut connection = without_indexes(pool).await;
    let mut load =
        async |target: i64, after: i64, count: i64, bytes: i64, name: Option<&str>, loaded: i64| {
            let row =
                sqlx::query(include_str!("../../../gen_durable/src/storage/sql/load_inbox.sql"))
                    .bind(target)
                    .bind(after)
                    .bind(count)
                    .bind(bytes)
                    .bind(name)
                    .bind(loaded)
                    .fetch_one(&mut connection)
                    .await
                    .unwrap();
            let inbox: Option<String> = row.get("inbox");
            let inbox: Value =
                inbox.map_or(Value::Null, |inbox| serde_json::from_str(&inbox).unwrap());
            let ids = inbox
                .as_array()
                .map(|inbox| inbox.iter().map(|signal| signal[0].clone()).collect::<Vec<_>>());
            let names: Vec<String> = row.get("names");
            let counts: Vec<i64> = row.get("counts");
            json!([ids, names, counts, row.get::<Option<i64>, _>("last")])
        };
    // A number bounds what is loaded after a signal. The rest is counted by name.
    let loaded = load(3, 3010, 3, 1_000_000, None, 3010).await;
    assert_eq!(loaded, json!([[3011, 3012, 3013], ["a", "go"], [44, 43], 3100]));
    // Only signals of a name are loaded. The rest begins after the last signal that was loaded
    // before.
    let loaded = load(3, 3010, 3, 1_000_000, Some("a"), 3090).await;
    assert_eq!(loaded, json!([[3012, 3014, 3016], ["a", "go"], [5, 5], 3100]));
    let loaded = load(3, 3010, 3, 1_000_000, Some("a"), 3010).await;
    assert_eq!(loaded, json!([[3012, 3014, 3016], ["a", "go"], [45, 45], 3100]));
    // Bytes bound what is loaded.
    let loaded = load(4, 0, 100, 65_536, None, 0).await;
    assert_eq!(loaded, json!([[4001, 4002], ["go"], [2], 4004]));
    let loaded = load(5, 0, 100, 65_536, None, 0).await;
    assert_eq!(loaded, json!([[5001], ["go"], [2], 5003]));
    let loaded = load(5, 5001, 100, 65_536, None, 5001).await;
    assert_eq!(loaded, json!([[5002, 5003], [], [], null]));
    let loaded = load(8, 0, 100, 65_536, None, 0).await;
    assert_eq!(loaded, json!([null, [], [], null]));
}

#[tokio::test(flavor = "multi_thread")]
async fn p70_the_oldest_signals_of_an_inbox_are_listed_without_long_payloads() {
    let db = database().await;
    let pool = db.pool();
    rows(pool, json!([{ "id": 1 }, { "id": 2, "fsm": "n" }, { "id": 3 }])).await;
    // The newest signals come first on the table's pages.
    signals(pool, &[(1, 14), (1, 13), (1, 12), (2, 21), (1, 11)]).await;
    // 3,202 bytes of text, which are as many in the table; and a MiB, which is less there.
    large(pool, 2, 22, DENSE, 100).await;
    large(pool, 2, 23, THIN, 32_768).await;
    crate::support::sql(
        pool,
        "update gen_durable.signals set name = 'a', dedup_key = 'once', inserted_at = 'epoch' where id = 12",
    )
    .await;
    let mut connection = without_indexes(pool).await;
    let mut list = async |id: i64, limit: i64, bytes: i32| {
        let rows = sqlx::query(include_str!("../../../gen_durable/src/storage/sql/list_inbox.sql"))
            .bind(id)
            .bind(limit)
            .bind(bytes)
            .fetch_all(&mut connection)
            .await
            .unwrap();
        let row = |row: &sqlx::postgres::PgRow| {
            let payload: Option<String> = row.get("payload");
            json!([
                row.get::<String, _>("fsm"),
                row.get::<Option<i64>, _>("id"),
                row.get::<Option<i32>, _>("size"),
                payload.map(|payload| payload.len()),
            ])
        };
        let first = &rows[0];
        let (name, key): (Option<String>, Option<String>) =
            (first.get("name"), first.get("dedup_key"));
        let at: Option<i64> = first.get("arrived_at");
        (rows.iter().map(row).collect::<Vec<_>>(), name, key, at.map(|at| at > 0))
    };
    // The oldest are listed, up to a number.
    let (found, name, key, arrived) = list(1, 3, 1000).await;
    assert_eq!(found, [11, 12, 13].map(|id| json!(["m", id, 2, 2])));
    assert_eq!((name.as_deref(), key, arrived), (Some("go"), None, Some(true)));
    // An inbox may be empty.
    assert_eq!(list(3, 3, 1000).await, (vec![json!(["m", null, null, null])], None, None, None));
    // A payload is listed up to a number of bytes of its text, and its size is exact.
    let short = json!(["n", 21, 2, 2]);
    let (found, ..) = list(2, 3, 20_000).await;
    let thin = 1_048_578;
    assert_eq!(found, [short.clone(), json!(["n", 22, 3202, 3202]), json!(["n", 23, thin, null])]);
    assert_eq!(list(2, 3, 3202).await.0[1], json!(["n", 22, 3202, 3202]));
    // One that takes more in the table is not read.
    let (found, ..) = list(2, 3, 3201).await;
    assert_eq!(found[..2], [short, json!(["n", 22, 3202, null])]);
    let size = found[2][2].as_i64().unwrap();
    assert!((3202..thin).contains(&size) && found[2][3].is_null(), "{found:?}");
    // Each column is its own.
    crate::support::sql(pool, "delete from gen_durable.signals where id = 11").await;
    let (_, name, key, arrived) = list(1, 1, 1000).await;
    assert_eq!((name.as_deref(), key.as_deref(), arrived), (Some("a"), Some("once"), Some(false)));
}
