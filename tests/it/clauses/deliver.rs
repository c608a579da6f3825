//! Delivering signals, and claiming whom they wake: `deliver.sql`, `claim_woken.sql`.

use serde_json::{Value, json};
use sqlx::{Acquire, PgConnection, Row, postgres::PgRow};
use tokio::time::timeout;

use super::{
    FUTURE, PAST, each, in_a_circle, inbox, is_locked, rows, run, see, session, without_indexes,
    worker,
};
use crate::support::{WAIT_MAX, database, sql};

/// A signal: its target, machine, name and deduplication key.
type Signal<'a> = (i64, Option<&'a str>, &'a str, Option<&'a str>);

const DELIVER: &str = include_str!("../../../gen_durable/src/storage/sql/deliver.sql");

/// Delivers signals whose payloads are their places. An answer has the machine and the status of
/// the target, and true if the signal is fresh. It has the queue of a target that woke, and true if
/// another transaction has the target locked.
async fn deliver(
    connection: &mut PgConnection,
    signals: &[Signal<'_>],
    skip: bool,
    lock_timeout: Option<&str>,
) -> Result<Value, sqlx::Error> {
    let payloads: Vec<String> = (0..signals.len()).map(|place| place.to_string()).collect();
    let answers = sqlx::query(DELIVER)
        .bind(signals.iter().map(|signal| signal.0).collect::<Vec<_>>())
        .bind(signals.iter().map(|signal| signal.1).collect::<Vec<_>>())
        .bind(signals.iter().map(|signal| signal.2).collect::<Vec<_>>())
        .bind(payloads)
        .bind(signals.iter().map(|signal| signal.3).collect::<Vec<_>>())
        .bind(skip)
        .bind(lock_timeout)
        .bind(vec![None::<&str>; signals.len()])
        .bind(None::<Vec<Option<&str>>>)
        .fetch_all(connection)
        .await?;
    let answers = answers.iter().map(|row| {
        assert!(!row.get::<bool, _>("released"));
        let fsm: Option<String> = row.get("fsm");
        let status: Option<String> = row.get("status");
        let woken: Option<String> = row.get("woken_queue");
        json!([fsm, status, row.get::<bool, _>("fresh"), woken, row.get::<bool, _>("held")])
    });
    Ok(answers.collect())
}

/// A query for all inboxes: target, name and payload, in the order of ids.
const INBOXES: &str = "select json_agg(json_build_array(target_id, name, payload) order by id) from gen_durable.signals";

#[tokio::test(flavor = "multi_thread")]
async fn p70_two_deliveries_to_the_same_targets_do_not_wait_in_a_circle() {
    let db = database().await;
    let answers = in_a_circle(db.pool(), |mut connection, ids| {
        tokio::spawn(async move {
            let signals = ids.map(|id| (id, None, "go", None));
            deliver(&mut connection, &signals, false, None).await
        })
    });
    for answer in answers.await {
        let delivered = json!(["m", "runnable", true, null, false]);
        assert_eq!(answer.unwrap(), json!([delivered, delivered]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn p70_a_delivery_reaches_live_targets_of_the_machine() {
    let db = database().await;
    let pool = db.pool();
    let targets = json!([
        { "id": 1, "status": "runnable" },
        { "id": 2, "status": "executing", "locked_by": 7 },
        { "id": 3, "status": "awaiting_signal", "awaits": ["other"] },
        { "id": 4, "status": "done" },
        { "id": 5, "status": "failed" },
        { "id": 6, "fsm": "n" },
    ]);
    rows(pool, targets).await;
    // This session joins in the order of ids, not of the signals.
    let mut connection =
        session(pool, "set enable_hashjoin = off; set enable_nestloop = off").await;
    let signals: Vec<Signal<'_>> =
        [99, 6, 5, 4, 3, 2, 1].into_iter().map(|id| (id, Some("m"), "go", None)).collect();
    let any: Signal<'_> = (6, None, "go", None);
    for skip in [false, true] {
        let answers =
            deliver(&mut connection, &[&signals[..], &[any]].concat(), skip, None).await.unwrap();
        let expected = json!([
            [null, null, false, null, false],
            ["n", "runnable", false, null, false],
            ["m", "failed", false, null, false],
            ["m", "done", false, null, false],
            ["m", "awaiting_signal", true, null, false],
            ["m", "executing", true, null, false],
            ["m", "runnable", true, null, false],
            ["n", "runnable", true, null, false],
        ]);
        assert_eq!(answers, expected, "skip: {skip}");
        let stored = json!([[3, "go", 4], [2, "go", 5], [1, "go", 6], [6, "go", 7]]);
        assert_eq!(see(pool, INBOXES).await, stored);
        run(&mut connection, "truncate gen_durable.signals").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn p70_a_delivery_by_key_reaches_a_target_that_still_holds_the_key() {
    let db = database().await;
    let pool = db.pool();
    let holds = |id: i64, scope: Value| json!({ "id": id, "unique_key": "k", "unique_scope": scope, "fsm": format!("m{id}") });
    rows(
        pool,
        json!([
            holds(1, json!(["runnable"])),
            holds(2, json!(["executing"])),
            holds(3, Value::Null),
            { "id": 4 },
        ]),
    )
    .await;
    let mut connection = session(pool, "").await;
    let signals = [
        (1, Some("k")),
        (1, Some("other")),
        (2, Some("k")),
        (3, Some("k")),
        (4, Some("k")),
        (4, None),
        (99, Some("k")),
    ];
    for skip in [false, true] {
        let answers = sqlx::query(DELIVER)
            .bind(signals.map(|signal| signal.0))
            .bind(vec![None::<&str>; signals.len()])
            .bind(vec!["go"; signals.len()])
            .bind((0..signals.len()).map(|place| place.to_string()).collect::<Vec<_>>())
            .bind(vec![None::<&str>; signals.len()])
            .bind(skip)
            .bind(None::<&str>)
            .bind(signals.map(|signal| signal.1))
            .bind(None::<Vec<Option<&str>>>)
            .fetch_all(&mut connection)
            .await
            .unwrap();
        let answers: Vec<(bool, bool)> =
            answers.iter().map(|row| (row.get("fresh"), row.get("released"))).collect();
        let released = (false, true);
        let expected =
            [(true, false), released, released, released, released, (true, false), released];
        assert_eq!(answers, expected, "skip: {skip}");
        assert_eq!(see(pool, INBOXES).await, json!([[1, "go", 0], [4, "go", 5]]));
        run(&mut connection, "truncate gen_durable.signals").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn p70_a_target_that_is_deleted_while_it_is_waited_for_is_gone() {
    let db = database().await;
    let pool = db.pool();
    rows(pool, json!([{ "id": 1 }])).await;
    let mut deleting = pool.begin().await.unwrap();
    run(&mut deleting, "delete from gen_durable.instances where id = 1").await;
    let mut connection = session(pool, "").await;
    let sent = tokio::spawn(async move {
        deliver(&mut connection, &[(1, Some("m"), "go", None)], false, None).await
    });
    crate::support::until_a_session_waits(pool, 1).await;
    deleting.commit().await.unwrap();
    assert_eq!(sent.await.unwrap().unwrap(), json!([[null, null, false, null, false]]));
}

#[tokio::test(flavor = "multi_thread")]
async fn p70_a_deduplication_key_counts_once_for_each_target() {
    let db = database().await;
    let pool = db.pool();
    rows(pool, json!([{ "id": 1 }, { "id": 2 }])).await;
    let mut connection =
        session(pool, "insert into gen_durable.signal_keys values (1, 'old')").await;
    let signals: Vec<Signal<'_>> = [
        (1, Some("b")),
        (1, Some("a")),
        (1, Some("a")),
        (2, Some("a")),
        (2, Some("old")),
        (1, Some("old")),
        (1, None),
        (1, None),
    ]
    .into_iter()
    .map(|(id, key)| (id, None, "go", key))
    .collect();
    let answers = deliver(&mut connection, &signals, false, None).await.unwrap();
    let fresh: Vec<&Value> = answers.as_array().unwrap().iter().map(|answer| &answer[2]).collect();
    assert_eq!(json!(fresh), json!([true, true, false, true, true, false, true, true]));
    let stored =
        json!([[1, "go", 0], [1, "go", 1], [2, "go", 3], [2, "go", 4], [1, "go", 6], [1, "go", 7]]);
    assert_eq!(see(pool, INBOXES).await, stored);
    let keys = see(
        pool,
        "select json_agg(concat(target_id, dedup_key) order by target_id, dedup_key)
         from gen_durable.signal_keys",
    );
    assert_eq!(keys.await, json!(["1a", "1b", "1old", "2a", "2old"]));
    let keys = "select json_agg(dedup_key order by id) from gen_durable.signals";
    assert_eq!(see(pool, keys).await, json!(["b", "a", "a", "old", null, null]));
}

#[tokio::test(flavor = "multi_thread")]
async fn p70_a_delivery_wakes_whoever_awaits_it_and_nobody_else() {
    let db = database().await;
    let pool = db.pool();
    let parked = json!({
        "status": "awaiting_signal", "awaits": ["go"], "wake_at": FUTURE, "eligible_at": FUTURE,
        "updated_at": FUTURE,
    });
    let with = |more: Value| {
        let mut row = parked.clone();
        row.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        row
    };
    let targets = json!([
        with(
            json!({ "id": 1, "queue": "q", "unique_key": "a", "unique_scope": ["awaiting_signal", "runnable"] })
        ),
        with(json!({ "id": 2, "unique_key": "b", "unique_scope": ["awaiting_signal"] })),
        with(json!({ "id": 3, "awaits": ["other"] })),
        with(json!({ "id": 4 })),
        with(json!({ "id": 5, "status": "runnable" })),
        // The signal for this row is not fresh, as its key was delivered before.
        with(json!({ "id": 6 })),
    ]);
    rows(pool, targets).await;
    let mut connection =
        session(pool, "insert into gen_durable.signal_keys values (6, 'old')").await;
    let signals = [
        (1, None, "go", None),
        (2, None, "go", None),
        (3, None, "go", None),
        (5, None, "go", None),
        (6, None, "go", Some("old")),
    ];
    let answers = deliver(&mut connection, &signals, false, None).await.unwrap();
    let woken: Vec<&Value> = answers.as_array().unwrap().iter().map(|answer| &answer[3]).collect();
    assert_eq!(json!(woken), json!(["q", "default", null, null, null]));
    let seen = each(
        pool,
        "json_build_array(i.status, i.awaits, i.wake_at is null, i.eligible_at <= now(),
                          i.updated_at <= now(), case when i.unique_released is null then i.unique_scope end)",
    );
    let as_it_was = |status, awaits| json!([status, [awaits], false, false, false, null]);
    let expected = json!([
        ["runnable", null, true, true, true, ["awaiting_signal", "runnable"]],
        ["runnable", null, true, true, true, null],
        as_it_was("awaiting_signal", "other"),
        as_it_was("awaiting_signal", "go"),
        as_it_was("runnable", "go"),
        as_it_was("awaiting_signal", "go"),
    ]);
    assert_eq!(seen.await, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn p70_a_delivery_locks_its_targets_alone_and_waits_as_long_as_it_is_told() {
    let db = database().await;
    let pool = db.pool();
    rows(pool, json!([{ "id": 1 }, { "id": 2 }, { "id": 3 }, { "id": 4 }])).await;
    let mut somebody = pool.begin().await.unwrap();
    run(
        &mut somebody,
        "select from gen_durable.instances where id in (1, 4) for no key update;
         select from gen_durable.instances where id = 2 for key share",
    )
    .await;
    let mut connection = session(pool, "set lock_timeout = '50s'").await;
    for skip in [false, true] {
        let mut transaction = connection.begin().await.unwrap();
        // Row 4 is not a target. Row 2 is only referred to by another transaction, which does not
        // delay the delivery.
        let answers =
            deliver(&mut transaction, &[(2, None, "go", None)], skip, None).await.unwrap();
        assert_eq!(answers, json!([["m", "runnable", true, null, false]]));
        assert_eq!([is_locked(pool, 2).await, is_locked(pool, 3).await], [true, false]);
        let lock_timeout: String =
            sqlx::query_scalar("show lock_timeout").fetch_one(&mut *transaction).await.unwrap();
        assert_eq!(lock_timeout, "50s", "it is the transaction's");
        transaction.rollback().await.unwrap();
    }
    // A delivery that is told to skip leaves out the locked target, and says so.
    let mut transaction = connection.begin().await.unwrap();
    let both = [(1, None, "go", None), (3, None, "go", None), (99, None, "go", None)];
    let answers = deliver(&mut transaction, &both, true, Some("10ms")).await.unwrap();
    let expected = json!([
        [null, null, false, null, true],
        ["m", "runnable", true, null, false],
        [null, null, false, null, false]
    ]);
    assert_eq!(answers, expected);
    let lock_timeout: String =
        sqlx::query_scalar("show lock_timeout").fetch_one(&mut *transaction).await.unwrap();
    assert_eq!(lock_timeout, "10ms");
    transaction.rollback().await.unwrap();
    let told = timeout(WAIT_MAX / 2, deliver(&mut connection, &both, false, Some("10ms")));
    let error = told.await.expect("it gives up by itself").unwrap_err();
    assert_eq!(error.as_database_error().unwrap().code().as_deref(), Some("55P03"));
    let lock_timeout: String =
        sqlx::query_scalar("show lock_timeout").fetch_one(&mut connection).await.unwrap();
    assert_eq!(lock_timeout, "50s", "it ended with the statement's transaction");
    somebody.rollback().await.unwrap();
    deliver(&mut connection, &both, false, Some("10ms")).await.unwrap();
    let lock_timeout: String =
        sqlx::query_scalar("show lock_timeout").fetch_one(&mut connection).await.unwrap();
    assert_eq!(lock_timeout, "50s", "it ended with the statement's transaction");
}

/// Claims woken instances for a worker of the machines `m` and `n`, and returns their ids and
/// inboxes.
async fn claim_woken(
    connection: &mut PgConnection,
    worker: i64,
    ids: &[i64],
) -> Vec<(i64, Option<Value>)> {
    let queues = ["q", "busy", "late"];
    let places = || queues.iter().flat_map(|queue| [(*queue, "m"), (*queue, "n")]);
    let statement = include_str!("../../../gen_durable/src/storage/sql/claim_woken.sql");
    let rows = sqlx::query(statement)
        .bind(worker)
        .bind(ids)
        .bind(places().map(|(queue, _)| queue).collect::<Vec<_>>())
        .bind(places().map(|(_, fsm)| fsm).collect::<Vec<_>>())
        .bind(vec![1; 6])
        .fetch_all(connection)
        .await
        .unwrap();
    let inbox = |text: String| serde_json::from_str(&text).unwrap();
    let claimed = |row: &PgRow| (row.get("id"), row.get::<Option<String>, _>("inbox").map(inbox));
    let mut claimed: Vec<_> = rows.iter().map(claimed).collect();
    claimed.sort_unstable_by_key(|(id, _)| *id);
    claimed
}

#[tokio::test(flavor = "multi_thread")]
async fn p71_a_woken_row_brings_its_oldest_signals() {
    let db = database().await;
    let pool = db.pool();
    worker(pool).await;
    rows(pool, (1..=8).map(|id| json!({ "id": id, "queue": "q" })).collect()).await;
    inbox::fill(pool).await;
    let mut connection = without_indexes(pool).await;
    let claimed = claim_woken(&mut connection, 7, &[1, 2, 3, 4, 5, 6, 7, 8]).await;
    assert_eq!(claimed.len(), 8);
    let inboxes: Vec<(i64, Value)> =
        claimed.into_iter().filter_map(|(id, inbox)| Some((id, inbox?))).collect();
    assert_eq!(inboxes.iter().map(inbox::summary).collect::<Vec<_>>(), inbox::expected());
}

#[tokio::test(flavor = "multi_thread")]
async fn p71_a_woken_row_is_claimed_if_no_other_row_waits() {
    let db = database().await;
    let pool = db.pool();
    worker(pool).await;
    let woken = |id: i64, more: serde_json::Value| {
        let mut row = json!({ "id": id, "queue": "q", "eligible_at": PAST, "revision": 5,
                              "unique_key": format!("u{id}"), "unique_scope": ["runnable"],
                              "updated_at": PAST });
        row.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        row
    };
    sql(pool, "alter table gen_durable.instances alter state set storage external").await;
    let large = "x".repeat(17_000);
    rows(
        pool,
        json!([
            woken(1, json!({ "unique_scope": ["runnable", "executing"] })),
            woken(2, json!({ "fsm": "n", "revision": 4_611_686_018_427_387_904_i64 })),
            // These are claimed as ever.
            woken(11, json!({ "fsm": "x" })),
            woken(12, json!({ "fsm_version": 2 })),
            woken(13, json!({ "queue": "unknown" })),
            woken(14, json!({ "partition_key": "k" })),
            woken(15, json!({ "state": large })),
            woken(16, json!({ "status": "done" })),
            woken(19, json!({ "blocked_by": 2 })),
            woken(17, json!({ "queue": "busy" })),
            woken(18, json!({ "queue": "late" })),
        ]),
    )
    .await;
    let ids: Vec<i64> = [1, 2].into_iter().chain(11..=19).collect();
    let mut connection = session(pool, "").await;
    // Among these, only the first two keep others from being claimed.
    rows(
        pool,
        json!([
            { "id": 101, "queue": "busy", "priority": 9, "fsm": "n" },
            { "id": 102, "queue": "late", "priority": -9, "fsm": "n" },
            { "id": 103, "queue": "late", "priority": -9, "fsm": "n", "eligible_at": FUTURE },
            { "id": 104, "queue": "q", "fsm_version": 2 },
            { "id": 105, "queue": "q", "fsm": "x" },
            { "id": 106, "queue": "q", "eligible_at": FUTURE },
            { "id": 107, "queue": "q", "priority": 9, "fsm": "n", "eligible_at": FUTURE },
            { "id": 112, "queue": "q", "blocked_by": 2 },
            { "id": 108, "queue": "q", "status": "executing" },
            { "id": 109, "queue": "q", "priority": 9, "fsm": "n", "status": "awaiting_signal" },
            { "id": 110, "queue": "x", "priority": 9, "fsm": "n" },
            { "id": 111, "queue": "x" },
        ]),
    )
    .await;
    for other in [8, 9] {
        run(
            &mut connection,
            "insert into gen_durable.workers (id, name, lease_expires_at)
             overriding system value values (8, 'w', now() - interval '1 hour')
             on conflict do nothing",
        )
        .await;
        assert_eq!(claim_woken(&mut connection, other, &ids).await, []);
    }
    let claimed = claim_woken(&mut connection, 7, &ids).await;
    assert_eq!(claimed.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [1, 2]);
    let seen = "select json_agg(json_build_array(i.id, i.locked_by, i.revision, case when i.unique_released is null then i.unique_scope end,
                                i.updated_at > now() - interval '1 hour') order by i.id)
                from gen_durable.instances i where i.status = 'executing' and i.id < 100";
    let expected = json!([[1, 7, 6, ["runnable", "executing"], true], [2, 7, 1, null, true]]);
    assert_eq!(see(pool, seen).await, expected);
}
