//! Inserting instances: `insert.sql`, `insert_plain.sql`, `insert_alike.sql`.

use serde_json::{Value, json};
use sqlx::{Acquire, PgConnection, PgPool};
use tokio::time::timeout;

use super::{each, run, session};
use crate::support::{WAIT_MAX, database, until_a_session_waits};

/// An instance to insert: its machine, its unique key, and the statuses in which it holds the key.
type Entry<'a> = (&'a str, Option<&'a str>, Option<&'a str>);

/// Inserts entries whose states are their places. Returns their ids, with none for a duplicate.
async fn insert(
    connection: &mut PgConnection,
    entries: &[Entry<'_>],
    scheduled_at: Option<i64>,
    lock_timeout: Option<&str>,
) -> Result<Vec<Option<i64>>, sqlx::Error> {
    let each = entries.len();
    let ids: Option<Vec<Option<i64>>> =
        sqlx::query_scalar(include_str!("../../../gen_durable/src/storage/sql/insert.sql"))
            .bind(entries.iter().map(|entry| entry.0).collect::<Vec<_>>())
            .bind(vec![1; each])
            .bind(vec!["s"; each])
            .bind((0..each).map(|place| place.to_string()).collect::<Vec<_>>())
            .bind(vec!["q"; each])
            .bind(vec![3_i16; each])
            .bind(vec![60_000_000_i64; each])
            .bind(vec![scheduled_at; each])
            .bind(vec!["p"; each])
            .bind(vec![true; each])
            .bind(entries.iter().map(|entry| entry.1).collect::<Vec<_>>())
            .bind(entries.iter().map(|entry| entry.2).collect::<Vec<_>>())
            .bind(lock_timeout)
            .fetch_one(connection)
            .await?;
    Ok(ids.unwrap_or_default())
}

const LIVE: Option<&str> = Some("runnable,executing");

/// Runs two inserts of the same keys in opposite orders. Both wait for the first key. Neither may
/// have inserted the other key by now, or each insert could wait for the other.
async fn opposite_inserts(pool: &PgPool, keys: [Entry<'static>; 2]) -> Vec<Vec<Option<i64>>> {
    let mut barrier = pool.acquire().await.unwrap();
    let mut barrier = barrier.begin().await.unwrap();
    insert(&mut barrier, &keys[..1], None, None).await.unwrap();
    let spawn = |mut connection: PgConnection, keys: [Entry<'static>; 2]| {
        tokio::spawn(async move { insert(&mut connection, &keys, None, None).await })
    };
    let first = spawn(session(pool, "").await, keys);
    until_a_session_waits(pool, 1).await;
    let second = spawn(session(pool, "").await, [keys[1], keys[0]]);
    until_a_session_waits(pool, 2).await;
    let mut probe = session(pool, "").await;
    let mut probe = probe.begin().await.unwrap();
    let free = insert(&mut probe, &keys[1..], None, Some("20s")).await;
    assert!(free.expect("nobody has it")[0].is_some());
    probe.rollback().await.unwrap();
    barrier.rollback().await.unwrap();
    vec![first.await.unwrap().unwrap(), second.await.unwrap().unwrap()]
}

#[tokio::test(flavor = "multi_thread")]
async fn p70_two_inserts_of_the_same_keys_do_not_wait_in_a_circle() {
    let db = database().await;
    for keys in [
        [("m", Some("a"), LIVE), ("m", Some("b"), LIVE)],
        [("m", Some("k"), LIVE), ("n", Some("k"), LIVE)],
    ] {
        let answers = opposite_inserts(db.pool(), keys).await;
        let inserted = answers.iter().flatten().filter(|id| id.is_some()).count();
        assert_eq!(inserted, 2, "one of them has both: {answers:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn p70_of_entries_with_the_same_key_the_first_one_is_inserted() {
    let db = database().await;
    let pool = db.pool();
    let keys: Vec<String> = (0..200).map(|place| format!("k{}", 9 - place * 7 % 10)).collect();
    let entries: Vec<Entry<'_>> = keys.iter().map(|key| ("m", Some(key.as_str()), LIVE)).collect();
    // The result does not depend on the way in which Postgres joins the entries with the inserted
    // rows.
    for settings in [
        "",
        "set enable_hashjoin = off; set enable_nestloop = off",
        "set enable_mergejoin = off; set enable_nestloop = off",
        "set enable_mergejoin = off; set enable_hashjoin = off",
    ] {
        let mut connection = session(pool, settings).await;
        let ids = insert(&mut connection, &entries, None, None).await.unwrap();
        let inserted: Vec<usize> = (0..200).filter(|place| ids[*place].is_some()).collect();
        assert_eq!(inserted, (0..10).collect::<Vec<_>>());
        // The order of ids is the order of places.
        assert_eq!(each(pool, "i.state").await, json!((0..10).collect::<Vec<_>>()));
        let found = each(pool, "i.id").await;
        assert_eq!(found, json!(ids[..10]));
        let again = insert(&mut connection, &entries, None, None).await.unwrap();
        assert_eq!(again, vec![None; 200]);
        run(&mut connection, "truncate gen_durable.instances").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn p70_an_insert_stores_what_it_is_given_and_waits_as_long_as_it_is_told() {
    let db = database().await;
    let pool = db.pool();
    let mut connection = session(pool, "set lock_timeout = '50s'").await;
    let show = "show lock_timeout";
    let entries = [("m", Some("a"), LIVE), ("n", Some("a"), LIVE), ("m", None, None)];
    insert(&mut connection, &entries, None, None).await.unwrap();
    insert(&mut connection, &[("m", None, None)], Some(1_577_836_800_000_000), None).await.unwrap();
    let seen = each(
        pool,
        "json_build_array(i.fsm, i.fsm_version, i.step, i.state, i.queue, i.priority, i.partition_key,
                          i.blocked, i.unique_key, i.unique_scope, i.eligible_at - i.inserted_at = interval '60 s',
                          i.eligible_at = timestamptz '2020-01-01 00:00:00+00')",
    );
    let scope = json!(["runnable", "executing"]);
    let row = |fsm, place, key: Value, scope: Value, in_a_minute: bool| {
        json!([fsm, 1, "s", place, "q", 3, "p", true, key, scope, in_a_minute, !in_a_minute])
    };
    let expected = json!([
        row("m", 0, "a".into(), scope.clone(), true),
        row("n", 1, "a".into(), scope, true),
        row("m", 2, Value::Null, Value::Null, true),
        row("m", 0, Value::Null, Value::Null, false),
    ]);
    assert_eq!(seen.await, expected);
    let mut transaction = connection.begin().await.unwrap();
    insert(&mut transaction, &[("m", Some("b"), LIVE)], None, None).await.unwrap();
    let lock_timeout: String = sqlx::query_scalar(show).fetch_one(&mut *transaction).await.unwrap();
    assert_eq!(lock_timeout, "50s", "it is the transaction's");
    // Another transaction is inserting the key.
    let mut other = session(pool, "set lock_timeout = '50s'").await;
    let waiting = insert(&mut other, &[("m", Some("b"), LIVE)], None, Some("10ms"));
    let error = timeout(WAIT_MAX / 2, waiting).await.expect("it gives up by itself").unwrap_err();
    assert_eq!(error.as_database_error().unwrap().code().as_deref(), Some("55P03"));
    insert(&mut other, &[("m", Some("c"), LIVE)], None, Some("10ms")).await.unwrap();
    let lock_timeout: String = sqlx::query_scalar(show).fetch_one(&mut other).await.unwrap();
    assert_eq!(lock_timeout, "50s", "it ended with the statement's transaction");
}

#[tokio::test(flavor = "multi_thread")]
async fn p70_inserts_without_unique_keys_store_the_rows_in_their_order() {
    let db = database().await;
    let pool = db.pool();
    let plain = async |scheduled_at: Option<i64>| -> Vec<i64> {
        sqlx::query_scalar(include_str!("../../../gen_durable/src/storage/sql/insert_plain.sql"))
            .bind(["m", "n"])
            .bind([1, 2])
            .bind(["s", "t"])
            .bind(["0", "1"])
            .bind(["q", "r"])
            .bind([3_i16, 4])
            .bind([60_000_000_i64, 0])
            .bind([scheduled_at, None])
            .bind([Some("p"), None])
            .bind([true, false])
            .fetch_one(pool)
            .await
            .unwrap()
    };
    assert_eq!(plain(None).await, [1, 2]);
    assert_eq!(plain(Some(1_577_836_800_000_000)).await, [3, 4]);
    let alike: Vec<i64> =
        sqlx::query_scalar(include_str!("../../../gen_durable/src/storage/sql/insert_alike.sql"))
            .bind("m")
            .bind(2)
            .bind("t")
            .bind((0..3).map(|place| place.to_string()).collect::<Vec<_>>())
            .bind("q")
            .bind(5_i16)
            .fetch_one(pool)
            .await
            .unwrap();
    assert_eq!(alike, [5, 6, 7]);
    let seen = each(
        pool,
        "json_build_array(i.fsm, i.fsm_version, i.step, i.state, i.queue, i.priority, i.partition_key,
                          i.blocked, i.eligible_at - i.inserted_at, i.eligible_at = timestamptz '2020-01-01 00:00:00+00')",
    );
    let past = "select to_json(timestamptz '2020-01-01 00:00:00+00' - min(inserted_at))
                from gen_durable.instances where id = 3";
    let past = super::see(pool, past).await;
    let other = json!(["n", 2, "t", 1, "r", 4, null, false, "00:00:00", false]);
    let alike = |place| json!(["m", 2, "t", place, "q", 5, null, false, "00:00:00", false]);
    let expected = json!([
        ["m", 1, "s", 0, "q", 3, "p", true, "00:01:00", false],
        other,
        ["m", 1, "s", 0, "q", 3, "p", true, past, true],
        other,
        alike(0),
        alike(1),
        alike(2),
    ]);
    assert_eq!(seen.await, expected);
}
