//! Claiming heads of partition keys: `claim_partitions.sql`.

use serde_json::{Value, json};
use sqlx::{Acquire, PgConnection, Row};
use tokio::time::timeout;

use super::{
    FUTURE, PAST, each, inbox,
    keys::{blocked, holder, january, keyed, locking},
    rows, run, session, without_indexes, worker,
};
use crate::support::{WAIT_MAX, database};

/// Claims heads of the keys for the worker. Returns the rows of the answer.
async fn claim(
    connection: &mut PgConnection,
    worker: i64,
    candidates: &[i64],
    keys: &[&str],
    listening: &[&str],
    light: bool,
) -> Vec<sqlx::postgres::PgRow> {
    claim_within(i64::MAX, connection, worker, candidates, keys, listening, light).await
}

/// Claims heads whose states weigh no more than `bytes`.
async fn claim_within(
    bytes: i64,
    connection: &mut PgConnection,
    worker: i64,
    candidates: &[i64],
    keys: &[&str],
    listening: &[&str],
    light: bool,
) -> Vec<sqlx::postgres::PgRow> {
    let claim =
        sqlx::query(include_str!("../../../gen_durable/src/storage/sql/claim_partitions.sql"))
            .bind(worker)
            .bind(candidates)
            .bind(keys)
            .bind(["m", "n"])
            .bind([1, 1])
            .bind(listening)
            .bind(["default", "r"])
            .bind(bytes)
            .bind(light)
            .fetch_all(connection);
    timeout(WAIT_MAX / 2, claim).await.expect("a claim waits for nobody").unwrap()
}

fn ids(answer: &[sqlx::postgres::PgRow]) -> Vec<Option<i64>> {
    answer.iter().map(|row| row.get("id")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn p70_the_head_of_a_key_is_claimed_and_who_waits_is_blocked() {
    let db = database().await;
    let pool = db.pool();
    worker(pool).await;
    let all = json!([
        keyed(1, "a", json!({ "priority": 1 })),
        keyed(2, "a", json!({ "eligible_at": january(4) })),
        keyed(3, "b", json!({ "eligible_at": january(3) })),
        keyed(4, "b", json!({ "eligible_at": january(2) })),
        keyed(6, "c", json!({})),
        keyed(5, "c", json!({})),
        holder(7, "d"),
        keyed(8, "d", json!({})),
        // These rows of the busy key are due later, blocked, ended, locked, or only referred to.
        keyed(21, "d", json!({ "eligible_at": FUTURE })),
        keyed(22, "d", json!({ "blocked_by": 1 })),
        keyed(23, "d", json!({ "status": "done" })),
        keyed(27, "d", json!({})),
        keyed(28, "d", json!({})),
        // Another transaction has locked the head. The first row of each kind stays in the claim's
        // index.
        keyed(9, "e", json!({ "priority": -1 })),
        keyed(10, "e", json!({})),
        keyed(11, "e", json!({ "queue": "r" })),
        keyed(25, "e", json!({ "fsm": "n" })),
        keyed(26, "e", json!({ "fsm_version": 2 })),
        keyed(24, "e", json!({})),
        // The row ahead has a queue, machine or version that is not asked for, or is not runnable,
        // or is scheduled for later.
        keyed(30, "g", json!({ "priority": -1, "queue": "x" })),
        keyed(31, "g", json!({ "priority": -1, "fsm": "x" })),
        keyed(32, "g", json!({ "priority": -1, "fsm_version": 2 })),
        keyed(33, "g", json!({ "priority": -1, "status": "awaiting_signal" })),
        keyed(34, "g", json!({ "priority": -1, "eligible_at": FUTURE })),
        keyed(13, "g", json!({ "eligible_at": january(5) })),
        // Row 35 is not a candidate, but it comes before row 36, which is one.
        keyed(35, "h", json!({ "blocked_by": 1, "priority": 1 })),
        keyed(36, "h", json!({ "eligible_at": january(5), "priority": 2 })),
        // The claim does not have the lock of this key.
        keyed(20, "n", json!({ "priority": -3 })),
        keyed(19, "n", json!({})),
        keyed(12, "k", json!({ "eligible_at": january(5) })),
        // The head is blocked for another reason, in the second key also for this one.
        keyed(40, "p", json!({ "blocked_by": 2 })),
        keyed(41, "p", json!({ "eligible_at": january(5) })),
        keyed(42, "p", json!({ "eligible_at": january(5), "queue": "r" })),
        keyed(43, "q", json!({ "blocked_by": 3 })),
        keyed(44, "q", json!({ "eligible_at": january(5) })),
    ]);
    rows(pool, all).await;
    let somebody = locking(pool, &[9, 27], &[28, 4]).await;
    let mut connection = without_indexes(pool).await;
    let candidates =
        [1, 2, 3, 4, 6, 5, 8, 21, 22, 23, 27, 28, 10, 11, 25, 26, 24, 13, 36, 20, 19, 41, 42, 44];
    let keys = ["a", "b", "c", "d", "e", "g", "h", "k", "p", "q"];
    let mut transaction = connection.begin().await.unwrap();
    let answer = claim(&mut transaction, 7, &candidates, &keys, &[], false).await;
    // The heads come by priority, time and id.
    assert_eq!(ids(&answer), [5, 4, 2, 12, 13, 35].map(Some));
    assert_eq!(answer[0].get::<i64, _>("blocked"), 10);
    transaction.commit().await.unwrap();
    assert_eq!(blocked(pool).await, json!([1, 3, 6, 8, 22, 24, 28, 36, 41, 42, 44]));
    let others =
        "select json_object_agg(id, blocked_by) from gen_durable.instances where blocked_by > 1";
    assert_eq!(super::see(pool, others).await, json!({ "40": 2, "43": 2 }));
    let executing =
        "select json_agg(id order by id) from gen_durable.instances where status = 'executing'";
    assert_eq!(super::see(pool, executing).await, json!([2, 4, 5, 7, 12, 13, 35]));
    somebody.rollback().await.unwrap();
    // An answer has the number of blocked rows even if nothing is claimed.
    let answer = claim(&mut connection, 7, &[27], &["d"], &[], false).await;
    assert_eq!((ids(&answer), answer[0].get::<i64, _>("blocked")), (vec![None], 1));
    // A worker claims nothing if its lease has run out or if it does not exist, although another
    // worker has a lease.
    run(
        &mut connection,
        "insert into gen_durable.workers (id, name, lease_expires_at)
         overriding system value values (8, 'w', now() - interval '1 hour')",
    )
    .await;
    for worker in [8, 9] {
        assert_eq!(ids(&claim(&mut connection, worker, &[20], &["n"], &[], false).await), [None]);
    }
    assert_eq!(ids(&claim(&mut connection, 7, &[20], &["n"], &[], false).await), [Some(20)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn p70_a_barred_head_weighs_nothing() {
    let db = database().await;
    let pool = db.pool();
    worker(pool).await;
    let all = json!([
        keyed(1, "a", json!({ "blocked_by": 2 })),
        keyed(2, "b", json!({ "priority": 1 })),
        keyed(3, "c", json!({ "priority": 2 })),
    ]);
    rows(pool, all).await;
    crate::support::sql(pool, "update gen_durable.instances set state = to_json(repeat('x', 100))")
        .await;
    let mut connection = session(pool, "").await;
    let keys = ["a", "b", "c"];
    let answer = claim_within(50, &mut connection, 7, &[1, 2, 3], &keys, &[], false).await;
    assert_eq!(ids(&answer), [Some(2)], "the third begins beyond 50 bytes");
}

#[tokio::test(flavor = "multi_thread")]
async fn p70_a_claim_of_heads_moves_them_to_executing_and_answers_what_they_are() {
    let db = database().await;
    let pool = db.pool();
    worker(pool).await;
    let row = |id: i64, more: Value| {
        let mut row = keyed(
            id,
            &format!("k{id}"),
            json!({
                "updated_at": PAST, "attempt": id, "failures": id + 1, "blocked_by": 1,
                "revision": id + 2, "state": id, "step": "t", "unique_key": format!("u{id}"),
            }),
        );
        row.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        row
    };
    let all = json!([
        row(1, json!({ "unique_scope": ["runnable", "executing"], "awaits": [], "queue": "r" })),
        row(
            2,
            json!({ "unique_scope": ["runnable", "awaiting_signal"],
                       "revision": 4_611_686_018_427_387_904_i64 })
        ),
    ]);
    rows(pool, all).await;
    let mut connection = without_indexes(pool).await;
    let answer = claim(&mut connection, 7, &[1, 2], &["k1", "k2"], &[], false).await;
    let answer: Vec<Value> = answer
        .iter()
        .map(|row| {
            json!([
                [row.get::<i64, _>("id"), row.get::<String, _>("partition_key")],
                [row.get::<String, _>("fsm"), row.get::<i32, _>("fsm_version")],
                [
                    row.get::<String, _>("step"),
                    row.get::<String, _>("state"),
                    row.get::<String, _>("queue")
                ],
                [
                    row.get::<i32, _>("attempt"),
                    row.get::<i64, _>("revision"),
                    row.get::<i32, _>("failures")
                ],
                row.get::<Option<bool>, _>("timed_out"),
            ])
        })
        .collect();
    let expected = json!([
        [[1, "k1"], ["m", 1], ["t", "1", "r"], [1, 4, 2], true],
        [[2, "k2"], ["m", 1], ["t", "2", "default"], [2, 1, 3], null],
    ]);
    assert_eq!(json!(answer), expected);
    let seen = each(
        pool,
        "json_build_array(i.status, i.locked_by, i.revision, case when i.unique_released is null then i.unique_scope end, i.blocked_by,
                          i.updated_at > now() - interval '1 hour')",
    );
    let expected = json!([
        ["executing", 7, 4, ["runnable", "executing"], 0, true],
        ["executing", 7, 1, null, 0, true]
    ]);
    assert_eq!(seen.await, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn p70_a_claim_of_heads_loads_states_up_to_256_mib() {
    let db = database().await;
    let pool = db.pool();
    worker(pool).await;
    rows(pool, json!([keyed(1, "a", json!({})), keyed(2, "b", json!({ "priority": 1 }))])).await;
    crate::support::sql(
        pool,
        "update gen_durable.instances
         set state = (select to_json(string_agg(md5(n::text), '')) from generate_series(1, 40000) as n)
         where id = 1;
         update gen_durable.instances set state = to_json(repeat('x', 268435456)) where id = 2",
    )
    .await;
    let mut connection = session(pool, "").await;
    let answer = claim(&mut connection, 7, &[1, 2], &["a", "b"], &[], false).await;
    let states: Vec<Option<String>> = answer.iter().map(|row| row.get("state")).collect();
    let bytes: Vec<Option<usize>> =
        states.iter().map(|state| Some(state.as_ref()?.len())).collect();
    assert_eq!(bytes, [Some(1_280_002), None]);
}

#[tokio::test(flavor = "multi_thread")]
async fn p70_a_claim_of_heads_brings_the_oldest_signals_to_machines_that_listen() {
    let db = database().await;
    let pool = db.pool();
    worker(pool).await;
    let keys: Vec<String> = (1..=8).map(|id| format!("k{id}")).collect();
    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    rows(pool, (1..).zip(&keys).map(|(id, key)| keyed(id, key, json!({}))).collect()).await;
    inbox::fill(pool).await;
    let mut connection = without_indexes(pool).await;
    for listens in [&["n", "m"][..], &["n"]] {
        let mut transaction = connection.begin().await.unwrap();
        let answer = claim(&mut transaction, 7, &[1], &keys, listens, false).await;
        assert_eq!(answer.len(), 8);
        let inboxes = answer.iter().filter_map(|row| {
            let inbox: Option<String> = row.get("inbox");
            Some((row.get("id"), serde_json::from_str(&inbox?).unwrap()))
        });
        let inboxes: Vec<(i64, Value)> = inboxes.collect();
        let expected = if listens.len() > 1 { inbox::expected() } else { vec![] };
        assert_eq!(inboxes.iter().map(inbox::summary).collect::<Vec<_>>(), expected);
        transaction.rollback().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn p70_a_light_claim_of_heads_loads_small_states_and_no_signals() {
    let db = database().await;
    let pool = db.pool();
    worker(pool).await;
    let keyed = |id: i64, key: &str| keyed(id, key, json!({ "priority": id }));
    rows(pool, json!([keyed(1, "a"), keyed(2, "b")])).await;
    inbox::large_state(pool, 1).await;
    super::signals(pool, &[(1, 7), (1, 8)]).await;
    let mut connection = session(pool, "").await;
    let answer = claim(&mut connection, 7, &[1, 2], &["a", "b"], &["m"], true).await;
    let states: Vec<Option<String>> = answer.iter().map(|row| row.get("state")).collect();
    let inboxes: Vec<Option<String>> = answer.iter().map(|row| row.get("inbox")).collect();
    assert_eq!(states, [None, Some("\"old\"".to_owned())]);
    assert_eq!(inboxes, [Some("[[],true]".to_owned()), None]);
}
