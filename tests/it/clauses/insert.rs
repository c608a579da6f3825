//! Inserting instances: `insert.sql`, `insert_plain.sql`, `insert_alike.sql`.

use serde_json::{Value, json};
use sqlx::{Acquire, PgConnection, PgPool, Row};
use tokio::time::timeout;

use super::{FUTURE, each, rows, run, session, worker};
use crate::support::{WAIT_MAX, database, sql, until_a_session_waits};

/// An instance to insert: its machine, its unique key, and the statuses in which it holds the key.
type Entry<'a> = (&'a str, Option<&'a str>, Option<&'a str>);

/// The two statements that insert rows with unique keys.
#[derive(Clone, Copy, Debug, PartialEq)]
enum By {
    Insert,
    /// `insert_claimed.sql`, for a process without free slots.
    InsertClaimed,
}

const BOTH: [By; 2] = [By::Insert, By::InsertClaimed];

/// Inserts entries whose states are their places. Returns their ids, with none for a duplicate.
async fn insert(
    connection: &mut PgConnection,
    by: By,
    entries: &[Entry<'_>],
    scheduled_at: Option<i64>,
    lock_timeout: Option<&str>,
) -> Result<Vec<Option<i64>>, sqlx::Error> {
    let each = entries.len();
    let statement = match by {
        By::Insert => include_str!("../../../gen_durable/src/storage/sql/insert.sql"),
        By::InsertClaimed => {
            include_str!("../../../gen_durable/src/storage/sql/insert_claimed.sql")
        }
    };
    let query = sqlx::query(statement)
        .bind(entries.iter().map(|entry| entry.0).collect::<Vec<_>>())
        .bind(vec![1; each])
        .bind(vec!["s"; each])
        .bind((0..each).map(|place| place.to_string()).collect::<Vec<_>>())
        .bind(vec!["q"; each])
        .bind(vec![3_i16; each]);
    let keys = entries.iter().map(|entry| entry.1).collect::<Vec<_>>();
    let scopes = entries.iter().map(|entry| entry.2).collect::<Vec<_>>();
    let query = match by {
        By::Insert => query
            .bind(vec![60_000_000_i64; each])
            .bind(vec![scheduled_at; each])
            .bind(vec!["p"; each])
            .bind(vec![true; each])
            .bind(keys)
            .bind(scopes)
            .bind(lock_timeout)
            .bind((0..each).map(receiver).collect::<Vec<_>>())
            .bind(None::<Vec<Option<&str>>>),
        By::InsertClaimed => query
            .bind(keys)
            .bind(scopes)
            .bind(vec![false; each])
            .bind(lock_timeout)
            .bind(7_i64)
            .bind(["q", "q"])
            .bind(["m", "n"])
            .bind([1, 1])
            .bind((0..each).map(receiver).collect::<Vec<_>>())
            .bind(None::<Vec<Option<&str>>>),
    };
    let ids: Option<Vec<Option<i64>>> = query.fetch_one(connection).await?.get("ids");
    Ok(ids.unwrap_or_default())
}

/// Returns the receiver of the entry at this place. The second has none.
fn receiver(place: usize) -> Option<i64> {
    (place != 1).then(|| 70 + i64::try_from(place).unwrap())
}

const LIVE: Option<&str> = Some("runnable,executing");

/// Runs two inserts of the same keys in opposite orders. Both wait for the first key. Neither may
/// have inserted the other key by now, or each insert could wait for the other.
async fn opposite_inserts(
    pool: &PgPool,
    by: By,
    keys: [Entry<'static>; 2],
) -> Vec<Vec<Option<i64>>> {
    let mut barrier = pool.acquire().await.unwrap();
    let mut barrier = barrier.begin().await.unwrap();
    insert(&mut barrier, by, &keys[..1], None, None).await.unwrap();
    let spawn = |mut connection: PgConnection, keys: [Entry<'static>; 2]| {
        tokio::spawn(async move { insert(&mut connection, by, &keys, None, None).await })
    };
    let first = spawn(session(pool, "").await, keys);
    until_a_session_waits(pool, 1).await;
    let second = spawn(session(pool, "").await, [keys[1], keys[0]]);
    until_a_session_waits(pool, 2).await;
    let mut probe = session(pool, "").await;
    let mut probe = probe.begin().await.unwrap();
    let free = insert(&mut probe, by, &keys[1..], None, Some("20s")).await;
    assert!(free.expect("nobody has it")[0].is_some());
    probe.rollback().await.unwrap();
    barrier.rollback().await.unwrap();
    vec![first.await.unwrap().unwrap(), second.await.unwrap().unwrap()]
}

#[tokio::test(flavor = "multi_thread")]
async fn p70_two_inserts_of_the_same_keys_do_not_wait_in_a_circle() {
    let db = database().await;
    for by in BOTH {
        for keys in [
            [("m", Some("a"), LIVE), ("m", Some("b"), LIVE)],
            [("m", Some("k"), LIVE), ("n", Some("k"), LIVE)],
        ] {
            let answers = opposite_inserts(db.pool(), by, keys).await;
            let inserted = answers.iter().flatten().filter(|id| id.is_some()).count();
            assert_eq!(inserted, 2, "one of them has both: {answers:?}");
        }
        sql(db.pool(), "truncate gen_durable.instances cascade").await;
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
    let settings = [
        "",
        "set enable_hashjoin = off; set enable_nestloop = off",
        "set enable_mergejoin = off; set enable_nestloop = off",
        "set enable_mergejoin = off; set enable_hashjoin = off",
    ];
    for (by, settings) in BOTH.into_iter().flat_map(|by| settings.map(|settings| (by, settings))) {
        let mut connection = session(pool, settings).await;
        let ids = insert(&mut connection, by, &entries, None, None).await.unwrap();
        let inserted: Vec<usize> = (0..200).filter(|place| ids[*place].is_some()).collect();
        assert_eq!(inserted, (0..10).collect::<Vec<_>>());
        // The order of ids is the order of places.
        assert_eq!(each(pool, "i.state").await, json!((0..10).collect::<Vec<_>>()));
        let found = each(pool, "i.id").await;
        assert_eq!(found, json!(ids[..10]));
        let again = insert(&mut connection, by, &entries, None, None).await.unwrap();
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
    insert(&mut connection, By::Insert, &entries, None, None).await.unwrap();
    let past = Some(1_577_836_800_000_000);
    insert(&mut connection, By::Insert, &[("m", None, None)], past, None).await.unwrap();
    let seen = each(
        pool,
        "json_build_array(i.fsm, i.fsm_version, i.step, i.state, i.queue, i.priority, i.partition_key,
                          i.blocked_by, i.unique_key, case when i.unique_released is null then i.unique_scope end, i.eligible_at - i.inserted_at = interval '60 s',
                          i.eligible_at = timestamptz '2020-01-01 00:00:00+00', i.report_to)",
    );
    let scope = json!(["runnable", "executing"]);
    let row = |fsm, place: usize, key: Value, scope: Value, in_a_minute: bool| {
        let receiver = receiver(place);
        json!([fsm, 1, "s", place, "q", 3, "p", 1, key, scope, in_a_minute, !in_a_minute, receiver])
    };
    let expected = json!([
        row("m", 0, "a".into(), scope.clone(), true),
        row("n", 1, "a".into(), scope, true),
        row("m", 2, Value::Null, Value::Null, true),
        row("m", 0, Value::Null, Value::Null, false),
    ]);
    assert_eq!(seen.await, expected);
    for by in BOTH {
        let mut transaction = connection.begin().await.unwrap();
        insert(&mut transaction, by, &[("m", Some("b"), LIVE)], None, None).await.unwrap();
        let lock_timeout: String =
            sqlx::query_scalar(show).fetch_one(&mut *transaction).await.unwrap();
        assert_eq!(lock_timeout, "50s", "it is the transaction's");
        // Another transaction is inserting the key.
        let mut other = session(pool, "set lock_timeout = '50s'").await;
        let waiting = insert(&mut other, by, &[("m", Some("b"), LIVE)], None, Some("10ms"));
        let error =
            timeout(WAIT_MAX / 2, waiting).await.expect("it gives up by itself").unwrap_err();
        assert_eq!(error.as_database_error().unwrap().code().as_deref(), Some("55P03"));
        insert(&mut other, by, &[("m", Some("c"), LIVE)], None, Some("10ms")).await.unwrap();
        let lock_timeout: String = sqlx::query_scalar(show).fetch_one(&mut other).await.unwrap();
        assert_eq!(lock_timeout, "50s", "it ended with the statement's transaction");
        transaction.rollback().await.unwrap();
        run(&mut other, "delete from gen_durable.instances where unique_key = 'c'").await;
    }
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
            .bind([Some(71_i64), None])
            .bind(None::<Vec<Option<&str>>>)
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
            .bind(72_i64)
            .bind(None::<&str>)
            .fetch_one(pool)
            .await
            .unwrap();
    assert_eq!(alike, [5, 6, 7]);
    let seen = each(
        pool,
        "json_build_array(i.fsm, i.fsm_version, i.step, i.state, i.queue, i.priority, i.partition_key,
                          i.blocked_by, i.eligible_at - i.inserted_at, i.eligible_at = timestamptz '2020-01-01 00:00:00+00', i.report_to)",
    );
    let past = "select to_json(timestamptz '2020-01-01 00:00:00+00' - min(inserted_at))
                from gen_durable.instances where id = 3";
    let past = super::see(pool, past).await;
    let other = json!(["n", 2, "t", 1, "r", 4, null, 0, "00:00:00", false, null]);
    let alike = |place| json!(["m", 2, "t", place, "q", 5, null, 0, "00:00:00", false, 72]);
    let expected = json!([
        ["m", 1, "s", 0, "q", 3, "p", 1, "00:01:00", false, 71],
        other,
        ["m", 1, "s", 0, "q", 3, "p", 1, past, true, 71],
        other,
        alike(0),
        alike(1),
        alike(2),
    ]);
    assert_eq!(seen.await, expected);
}

/// Inserts an instance of the machine `m` into each of these queues, and asks for its claim by the
/// worker. Returns which of them were claimed.
async fn born(connection: &mut PgConnection, worker: i64, queues: &[&str]) -> Vec<bool> {
    let each = queues.len();
    let insert = include_str!("../../../gen_durable/src/storage/sql/insert_claimed.sql");
    let places = || queues.iter().flat_map(|queue| [(*queue, "m"), (*queue, "n")]);
    let row = sqlx::query(insert)
        .bind(vec!["m"; each])
        .bind(vec![1; each])
        .bind(vec!["s"; each])
        .bind((0..each).map(|place| place.to_string()).collect::<Vec<_>>())
        .bind(queues)
        .bind((0..each).map(|place| i16::try_from(place).unwrap()).collect::<Vec<_>>())
        .bind(vec![None::<&str>; each])
        .bind(vec![None::<&str>; each])
        .bind(vec![true; each])
        .bind(None::<&str>)
        .bind(worker)
        .bind(places().map(|(queue, _)| queue).collect::<Vec<_>>())
        .bind(places().map(|(_, fsm)| fsm).collect::<Vec<_>>())
        .bind(vec![1; 2 * each])
        .bind(vec![None::<i64>; each])
        .bind(None::<Vec<Option<&str>>>)
        .fetch_one(connection)
        .await
        .unwrap();
    assert!(row.get::<i64, _>("looked") > 0);
    row.get("claimed")
}

#[tokio::test(flavor = "multi_thread")]
async fn p71_a_birth_is_claimed_if_no_row_that_the_worker_could_claim_waits() {
    let db = database().await;
    let pool = db.pool();
    worker(pool).await;
    rows(
        pool,
        json!([
            // In `busy` a row of each known machine waits, in `other` one of an unknown version.
            { "id": 101, "queue": "busy", "priority": 9, "fsm": "n" },
            { "id": 102, "queue": "other", "fsm_version": 2 },
            { "id": 103, "queue": "other", "fsm": "x" },
            { "id": 104, "queue": "other", "eligible_at": FUTURE },
            { "id": 105, "queue": "other", "priority": -5, "eligible_at": FUTURE },
            { "id": 106, "queue": "other", "blocked_by": 1, "partition_key": "k" },
            { "id": 112, "queue": "other", "blocked_by": 2 },
            { "id": 107, "queue": "other", "status": "executing" },
            { "id": 108, "queue": "other", "status": "awaiting_signal" },
            { "id": 109, "queue": "late", "eligible_at": FUTURE },
            { "id": 110, "queue": "late", "priority": 3 },
            { "id": 111, "queue": "busy" },
        ]),
    )
    .await;
    let mut connection = session(pool, "").await;
    let queues = ["busy", "other", "idle", "late", "idle"];
    assert_eq!(born(&mut connection, 7, &queues).await, [false, true, true, false, true]);
    let seen = "select json_agg(json_build_array(queue, status, locked_by, revision, priority)
                                order by priority)
                from gen_durable.instances i where i.state::text ~ '^[0-4]$'";
    assert_eq!(
        super::see(pool, seen).await,
        json!([
            ["busy", "runnable", null, 0, 0],
            ["other", "executing", 7, 1, 1],
            ["idle", "executing", 7, 1, 2],
            ["late", "runnable", null, 0, 3],
            ["idle", "executing", 7, 1, 4],
        ])
    );
    let entry = [("m", Some("a"), LIVE), ("m", Some("a"), LIVE), ("m", Some("b"), LIVE)];
    let ids = insert(&mut connection, By::InsertClaimed, &entry, None, None).await.unwrap();
    assert_eq!(ids.iter().map(Option::is_some).collect::<Vec<_>>(), [true, false, true]);
    assert!(ids[0] < ids[2]);
    let scopes =
        "select json_agg(json_build_array(unique_key, unique_scope, status, report_to) order by id)
                  from gen_durable.instances where unique_key is not null";
    let scope = json!(["runnable", "executing"]);
    let expected = json!([["a", scope, "runnable", 70], ["b", scope, "runnable", 72]]);
    assert_eq!(super::see(pool, scopes).await, expected, "the process had no slot for them");
    // No worker, or one whose lease has run out, claims anything.
    assert_eq!(born(&mut connection, 8, &["idle"]).await, [false]);
    run(&mut connection, "update gen_durable.workers set lease_expires_at = now()").await;
    assert_eq!(born(&mut connection, 7, &["nobody"]).await, [false]);
}

/// Inserts three instances of the machine `m` into a queue, and asks for the claim of two. Returns
/// how many were claimed.
async fn born_alike(connection: &mut PgConnection, worker: i64, queue: &str) -> i64 {
    let insert = include_str!("../../../gen_durable/src/storage/sql/insert_born.sql");
    let row = sqlx::query(insert)
        .bind("m")
        .bind(1_i32)
        .bind("s")
        .bind(["0", "1", "2"])
        .bind(queue)
        .bind(3_i16)
        .bind(71_i64)
        .bind(worker)
        .bind(2_i64)
        .bind(["m", "n"])
        .bind([1, 1])
        .bind(None::<&str>)
        .fetch_one(connection)
        .await
        .unwrap();
    assert!(row.get::<i64, _>("looked") > 0 && row.get::<i64, _>("claimed_at") > 0);
    assert!(row.get::<Vec<i64>, _>("ids").is_sorted());
    row.get("claims")
}

#[tokio::test(flavor = "multi_thread")]
async fn p71_alike_births_are_claimed_if_no_row_that_the_worker_could_claim_waits() {
    let db = database().await;
    let pool = db.pool();
    worker(pool).await;
    let all = json!([
        { "id": 101, "queue": "busy", "priority": 9, "fsm": "n" },
        { "id": 102, "queue": "other", "fsm_version": 2 },
        { "id": 103, "queue": "other", "fsm": "x" },
        { "id": 104, "queue": "other", "eligible_at": FUTURE },
        { "id": 105, "queue": "other", "priority": -5, "eligible_at": FUTURE },
        { "id": 106, "queue": "other", "blocked_by": 1, "partition_key": "k" },
        { "id": 107, "queue": "other", "status": "executing" },
        { "id": 108, "queue": "other", "status": "awaiting_signal" },
        { "id": 111, "queue": "idle", "eligible_at": FUTURE },
        { "id": 109, "queue": "late", "eligible_at": FUTURE },
        { "id": 112, "queue": "nobody's" },
        { "id": 110, "queue": "late", "priority": 3 },
    ]);
    rows(pool, all).await;
    let mut connection = session(pool, "").await;
    for (queue, claims) in [("busy", 0), ("other", 2), ("idle", 2), ("late", 0)] {
        assert_eq!(born_alike(&mut connection, 7, queue).await, claims, "{queue}");
    }
    let seen =
        "select json_agg(json_build_array(queue, state, status, locked_by, revision, priority,
                                                 report_to, fsm, fsm_version, step) order by id)
                from gen_durable.instances i where i.id < 100 and queue in ('busy', 'other')";
    let row = |queue, place, claimed| {
        let (status, by) = if claimed { ("executing", Some(7)) } else { ("runnable", None) };
        json!([queue, place, status, by, i32::from(claimed), 3, 71, "m", 1, "s"])
    };
    assert_eq!(
        super::see(pool, seen).await,
        json!([
            row("busy", 0, false),
            row("busy", 1, false),
            row("busy", 2, false),
            row("other", 0, true),
            row("other", 1, true),
            row("other", 2, false),
        ])
    );
    // No worker, or one whose lease has run out, claims anything.
    assert_eq!(born_alike(&mut connection, 8, "none").await, 0);
    run(&mut connection, "update gen_durable.workers set lease_expires_at = now()").await;
    assert_eq!(born_alike(&mut connection, 7, "nobody").await, 0);
}
