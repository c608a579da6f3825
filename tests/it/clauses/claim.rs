//! Claiming: `claim.sql`.

use serde_json::{Value, json};
use sqlx::{Acquire, PgConnection, PgPool, Row};
use tokio::time::timeout;

use super::{FUTURE, PAST, each, is_locked, rows, run, session, without_indexes, worker};
use crate::support::{WAIT_MAX, database};

/// A request of a claim: its worker, the rows that it asks for, and its bounds.
#[derive(Clone, Debug)]
pub(super) struct Request<'a> {
    pub(super) worker: i64,
    /// The kinds to claim: queue, number of rows, machine and version.
    pub(super) kinds: &'a [(&'a str, i64, &'a str, i32)],
    pub(super) listening: &'a [&'a str],
    pub(super) without_lock: &'a [&'a str],
    pub(super) keyed: bool,
    /// The watermarks: the place of a kind, a priority, and a time in microseconds since 1970.
    pub(super) known: &'a [(i64, i16, i64)],
    pub(super) bytes: i64,
    /// True for a claim without large states and signals.
    pub(super) light: bool,
}

/// A request of the worker 7 for ten rows of the machine `m` in the queue `default`.
pub(super) fn ten() -> Request<'static> {
    Request {
        worker: 7,
        kinds: &[("default", 10, "m", 1)],
        listening: &[],
        without_lock: &[],
        keyed: true,
        known: &[],
        bytes: 2_097_152,
        light: false,
    }
}

pub(super) async fn answer(
    connection: &mut PgConnection,
    request: &Request<'_>,
) -> sqlx::postgres::PgRow {
    let kinds = request.kinds;
    let claim = sqlx::query(include_str!("../../../gen_durable/src/storage/sql/claim.sql"))
        .bind(request.worker)
        .bind(kinds.iter().map(|kind| kind.0).collect::<Vec<_>>())
        .bind(kinds.iter().map(|kind| kind.1).collect::<Vec<_>>())
        .bind(kinds.iter().map(|kind| kind.2).collect::<Vec<_>>())
        .bind(kinds.iter().map(|kind| kind.3).collect::<Vec<_>>())
        .bind(request.listening)
        .bind(request.without_lock)
        .bind(request.keyed)
        .bind(request.known.iter().map(|known| known.0).collect::<Vec<_>>())
        .bind(request.known.iter().map(|known| known.1).collect::<Vec<_>>())
        .bind(request.known.iter().map(|known| known.2).collect::<Vec<_>>())
        .bind(request.bytes)
        .bind(request.light)
        .fetch_one(connection);
    timeout(WAIT_MAX / 2, claim).await.expect("a claim waits for nobody").unwrap()
}

/// Returns the ids in the order of the answer. The id is negative if the row is only a candidate.
pub(super) fn ids(answer: &sqlx::postgres::PgRow) -> Vec<i64> {
    let ids: Option<Vec<i64>> = answer.get("ids");
    let steps: Option<Vec<Option<String>>> = answer.get("steps");
    let pairs = ids.unwrap_or_default().into_iter().zip(steps.unwrap_or_default());
    pairs.map(|(id, step)| if step.is_some() { id } else { -id }).collect()
}

async fn claim(connection: &mut PgConnection, request: &Request<'_>) -> Vec<i64> {
    ids(&answer(connection, request).await)
}

/// Opens a session for claims that finds rows in the order of the table's pages.
pub(super) async fn claimer(pool: &PgPool) -> PgConnection {
    let mut connection = without_indexes(pool).await;
    run(&mut connection, "set statement_timeout = '25s'").await;
    connection
}

fn january(day: u32) -> String {
    format!("2020-01-{day:02}T00:00:00+00:00")
}

#[tokio::test(flavor = "multi_thread")]
async fn p70_a_claim_takes_what_is_due_of_what_it_asks_for_by_priority_time_and_id() {
    let db = database().await;
    let pool = db.pool();
    worker(pool).await;
    let row = |id, queue, fsm, version, priority, day| {
        json!({ "id": id, "queue": queue, "fsm": fsm, "fsm_version": version, "priority": priority,
                "eligible_at": january(day) })
    };
    let mut all = vec![
        row(101, "x", "m", 1, 0, 1),
        row(102, "q", "x", 1, 0, 1),
        row(103, "q", "m", 2, 0, 1),
        row(104, "q", "n", 1, 0, 1),
        row(105, "q", "m", 1, 0, 1),
        row(106, "q", "m", 1, 0, 1),
        row(107, "q", "m", 1, 0, 1),
        row(108, "q", "m", 1, 0, 1),
        row(6, "q", "n", 2, 32767, 1),
        row(4, "q", "m", 1, 5, 1),
        row(7, "r", "m", 1, 0, 5),
        row(8, "r", "m", 1, 0, 4),
        row(9, "q", "n", 2, 0, 3),
        row(1, "q", "m", 1, 0, 4),
        row(3, "q", "m", 1, 0, 2),
        row(2, "q", "n", 2, 0, 2),
        row(5, "q", "m", 1, -32768, 9),
    ];
    let change = |row: &mut Value, more: Value| {
        row.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    };
    change(&mut all[4], json!({ "status": "awaiting_signal" }));
    change(&mut all[5], json!({ "partition_key": "k", "blocked_by": 2 }));
    change(&mut all[6], json!({ "eligible_at": FUTURE }));
    change(&mut all[7], json!({ "status": "executing", "locked_by": 8 }));
    rows(pool, all.into()).await;
    let mut connection = claimer(pool).await;
    let expected: [(i64, i64, &[i64]); 4] =
        [(2, 1, &[5, 2, 8]), (2, 0, &[3, 9]), (3, 20, &[1, 7, 4, 6]), (20, 20, &[])];
    for (wanted, of_r, ids) in expected {
        let kinds = [("q", wanted, "m", 1), ("q", wanted, "n", 2), ("r", of_r, "m", 1)];
        let request = Request { kinds: &kinds, ..ten() };
        assert_eq!(claim(&mut connection, &request).await, ids, "{wanted}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn p70_a_claim_takes_the_oldest_of_a_group() {
    let db = database().await;
    let pool = db.pool();
    worker(pool).await;
    // Three rows have the same time: they come by id.
    rows(
        pool,
        [5, 3, 4].map(|id| json!({ "id": id, "eligible_at": january(2) })).into_iter().collect(),
    )
    .await;
    rows(pool, json!([{ "id": 6, "eligible_at": january(1) }])).await;
    let mut connection = claimer(pool).await;
    for expected in [[6, 3], [4, 5]] {
        let request = Request { kinds: &[("default", 2, "m", 1)], ..ten() };
        let mut transaction = connection.begin().await.unwrap();
        assert_eq!(claim(&mut transaction, &request).await, expected);
        // The row that the claim leaves is not locked.
        assert!(expected[1] == 5 || !is_locked(pool, 5).await);
        transaction.commit().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn p70_machines_share_what_is_asked_for_by_time_and_id() {
    let db = database().await;
    let pool = db.pool();
    worker(pool).await;
    let row = |id| {
        let fsm = if [5, 7, 8, 9, 10].contains(&id) { "m" } else { "n" };
        json!({ "id": id, "fsm": fsm, "eligible_at": january(1) })
    };
    rows(pool, (1..=12).rev().map(row).collect()).await;
    let mut connection = claimer(pool).await;
    let kinds = [("default", 5, "m", 1), ("default", 5, "n", 1)];
    let claimed = claim(&mut connection, &Request { kinds: &kinds, ..ten() }).await;
    assert_eq!(claimed, [1, 2, 3, 4, 5]);
    run(&mut connection, "truncate gen_durable.instances").await;
    let row = |id, fsm, day| json!({ "id": id, "fsm": fsm, "eligible_at": january(day) });
    let all = [(1, "m", 9), (2, "m", 9), (3, "n", 5), (4, "m", 2), (5, "m", 1)];
    rows(pool, all.into_iter().map(|(id, fsm, day)| row(id, fsm, day)).collect()).await;
    let kinds = [("default", 2, "m", 1), ("default", 2, "n", 1)];
    let claimed = claim(&mut connection, &Request { kinds: &kinds, ..ten() }).await;
    assert_eq!(claimed, [5, 4]);
}

#[tokio::test(flavor = "multi_thread")]
async fn p70_a_claim_without_a_lease_takes_nothing() {
    let db = database().await;
    let pool = db.pool();
    worker(pool).await;
    rows(pool, json!([{ "id": 1 }])).await;
    let mut connection = claimer(pool).await;
    run(
        &mut connection,
        "insert into gen_durable.workers (id, name, lease_expires_at)
         overriding system value values (8, 'w', now() - interval '1 hour')",
    )
    .await;
    for worker in [8, 9] {
        assert_eq!(claim(&mut connection, &Request { worker, ..ten() }).await, [0_i64; 0]);
    }
    assert_eq!(claim(&mut connection, &ten()).await, [1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn p70_a_claim_skips_what_is_locked_and_says_so() {
    let db = database().await;
    let pool = db.pool();
    worker(pool).await;
    let at = |id, day| json!({ "id": id, "eligible_at": january(day) });
    rows(pool, json!([at(1, 1), at(2, 2), at(3, 3), { "id": 4, "eligible_at": FUTURE }])).await;
    let mut somebody = pool.begin().await.unwrap();
    run(
        &mut somebody,
        "select from gen_durable.instances where id = 1 for no key update;
         select from gen_durable.instances where id = 2 for key share",
    )
    .await;
    let mut connection = claimer(pool).await;
    let two = Request { kinds: &[("default", 2, "m", 1)], ..ten() };
    let mut transaction = connection.begin().await.unwrap();
    let claimed = answer(&mut transaction, &two).await;
    assert_eq!(ids(&claimed), [2, 3]);
    assert_eq!(
        claimed.get::<Option<bool>, _>("left_out"),
        Some(false),
        "another one came in its place"
    );
    // The claim lock is taken. Another claim of the queue is refused, and names the queue once. It
    // gets rows only if it may go without the lock.
    let kinds = [("default", 1, "m", 1), ("default", 1, "n", 1), ("other", 1, "m", 1)];
    let mut other = claimer(pool).await;
    let request = Request { kinds: &kinds, ..ten() };
    let refused = answer(&mut other, &request).await;
    assert_eq!(refused.get::<Vec<String>, _>("refused"), ["default"]);
    assert_eq!(refused.get::<Option<bool>, _>("left_out"), None);
    transaction.rollback().await.unwrap();
    let mut transaction = connection.begin().await.unwrap();
    answer(&mut transaction, &Request { kinds: &[("default", 1, "n", 1)], ..ten() }).await;
    assert_eq!(claim(&mut other, &request).await, [0_i64; 0]);
    let request = Request { without_lock: &["default"], ..request };
    assert_eq!(claim(&mut other, &request).await, [2]);
    transaction.rollback().await.unwrap();
    assert_eq!(claim(&mut other, &two).await, [3]);
    let left = answer(&mut other, &two).await;
    assert_eq!((ids(&left), left.get::<Option<bool>, _>("left_out")), (vec![], Some(true)));
}

#[tokio::test(flavor = "multi_thread")]
async fn p70_a_claim_moves_rows_to_executing_and_answers_what_they_are() {
    let db = database().await;
    let pool = db.pool();
    worker(pool).await;
    let row = |id, more: Value| {
        let mut row = json!({ "id": id, "updated_at": PAST, "attempt": id, "failures": id + 1, "queue": "q",
                              "revision": id + 2, "state": id, "step": "t", "unique_key": format!("u{id}") });
        row.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        row
    };
    let all = json!([
        row(1, json!({ "unique_scope": ["runnable", "executing"], "awaits": [] })),
        row(
            2,
            json!({ "unique_scope": ["runnable", "awaiting_signal"], "awaits": null,
                       "revision": 4_611_686_018_427_387_904_i64 })
        ),
    ]);
    rows(pool, all).await;
    let mut connection = claimer(pool).await;
    let kinds = [("default", 10, "m", 1), ("q", 10, "m", 1)];
    let row = answer(&mut connection, &Request { kinds: &kinds, ..ten() }).await;
    assert_eq!(ids(&row), [1, 2]);
    assert_eq!(row.get::<Vec<i64>, _>("kinds"), [2, 2]);
    assert_eq!(row.get::<Vec<String>, _>("states"), ["1", "2"]);
    assert_eq!(row.get::<Vec<String>, _>("steps"), ["t", "t"]);
    assert_eq!(row.get::<Vec<i32>, _>("attempts"), [1, 2]);
    assert_eq!(row.get::<Vec<i32>, _>("failures"), [2, 3]);
    assert_eq!(row.get::<Vec<i64>, _>("revisions"), [4, 1]);
    assert_eq!(row.get::<Vec<Option<bool>>, _>("timed_out"), [Some(true), None]);
    let seen = each(
        pool,
        "json_build_array(i.status, i.locked_by, i.revision, case when i.unique_released is null then i.unique_scope end, i.updated_at > now() - interval '1 hour')",
    );
    let expected = json!([
        ["executing", 7, 4, ["runnable", "executing"], true],
        ["executing", 7, 1, null, true]
    ]);
    assert_eq!(seen.await, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn p70_a_claim_takes_a_plain_head_of_a_free_key() {
    let db = database().await;
    let pool = db.pool();
    worker(pool).await;
    let row = |id, key, priority, more: Value| {
        let mut row = json!({ "id": id, "partition_key": key, "priority": priority, "eligible_at": january(1) });
        row.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        row
    };
    let all = json!([
        // The head is the first of two rows: by priority, by time, by id.
        row(2, "a", 2, json!({})),
        row(1, "a", 1, json!({ "eligible_at": january(2) })),
        row(4, "b", 0, json!({})),
        row(3, "b", 0, json!({ "eligible_at": january(2) })),
        row(6, "c", 0, json!({})),
        row(5, "c", 0, json!({})),
        // An executing row holds the key.
        row(8, "d", 0, json!({})),
        row(7, "d", 0, json!({ "status": "executing", "locked_by": 8 })),
        // Another transaction has locked the head.
        row(10, "e", 1, json!({})),
        row(9, "e", 0, json!({})),
        // Another transaction has the key's lock, as it is about to take or free the key.
        row(11, "f", 0, json!({})),
        // The row ahead is in a queue that the claim does not ask for, scheduled for later, or not
        // runnable.
        row(13, "g", 1, json!({})),
        row(12, "g", 0, json!({ "queue": "x" })),
        row(15, "h", 1, json!({})),
        row(14, "h", 0, json!({ "eligible_at": FUTURE })),
        row(17, "i", 1, json!({})),
        row(16, "i", 0, json!({ "status": "awaiting_signal" })),
        // The claim asks for the queues of both rows of the key, so the first row is the head.
        row(19, "j", 1, json!({})),
        row(18, "j", 0, json!({ "queue": "r", "fsm": "n", "fsm_version": 2 })),
        row(20, "", 0, json!({ "partition_key": null })),
    ]);
    rows(pool, all).await;
    let mut somebody = pool.begin().await.unwrap();
    run(
        &mut somebody,
        "select from gen_durable.instances where id = 9 for no key update;
         select pg_advisory_xact_lock(hashtextextended('f', 5297))",
    )
    .await;
    let mut connection = claimer(pool).await;
    let kinds = [("default", 30, "m", 1), ("r", 0, "n", 2)];
    let request = Request { kinds: &kinds, ..ten() };
    let in_order = |claimed: Vec<i64>| {
        let mut claimed = claimed;
        claimed.sort_unstable_by_key(|id| id.abs());
        claimed
    };
    let mut transaction = connection.begin().await.unwrap();
    let claimed = answer(&mut transaction, &request).await;
    let expected = [1, -2, -3, 4, 5, -6, -8, -10, -11, 13, 15, 17, -19, 20];
    assert_eq!(in_order(ids(&claimed)), expected);
    // A machine of which rows with keys were found gets no watermark.
    assert!(claimed.get::<Vec<Option<i64>>, _>("first_since").iter().all(Option::is_none));
    let lock_timeout: String =
        sqlx::query_scalar("show lock_timeout").fetch_one(&mut *transaction).await.unwrap();
    assert_eq!(lock_timeout, "100ms", "it waits no longer for a holder that has just come");
    // Other transactions may take the locks of keys for which the claim has no use.
    let free = "select count(*) filter (where pg_try_advisory_xact_lock(hashtextextended(k, 5297)))
                from unnest('{a,b,c,d,e,g,h,i,j}'::text[]) as k";
    let free: i64 = sqlx::query_scalar(free).fetch_one(pool).await.unwrap();
    assert_eq!(free, 3, "d, e and j");
    transaction.rollback().await.unwrap();
    let unkeyed = claim(&mut connection, &Request { keyed: false, ..request }).await;
    let expected = [-1, -2, -3, -4, -5, -6, -8, -10, -11, -13, -15, -17, -19, 20];
    assert_eq!(in_order(unkeyed), expected);
    let lock_timeout: String =
        sqlx::query_scalar("show lock_timeout").fetch_one(&mut connection).await.unwrap();
    assert_eq!(lock_timeout, "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn p70_a_claim_takes_the_heads_of_the_first_250_keys() {
    let db = database().await;
    let pool = db.pool();
    worker(pool).await;
    crate::support::sql(
        pool,
        "insert into gen_durable.instances (id, fsm, fsm_version, step, state, partition_key)
         select n, 'm', 1, 's', '{}', 'key ' || 1000 - n from generate_series(1, 300) as n",
    )
    .await;
    let mut connection = session(pool, "").await;
    let request = Request { kinds: &[("default", 300, "m", 1)], ..ten() };
    let expected: Vec<i64> = (1..=250).chain((251..=300).map(|id| -id)).collect();
    assert_eq!(claim(&mut connection, &request).await, expected);
    let lock_timeout: String =
        sqlx::query_scalar("show lock_timeout").fetch_one(&mut connection).await.unwrap();
    assert_eq!(lock_timeout, "0", "it ended with the transaction");
}

/// The first of January and the first of February 2020, in microseconds since 1970.
const JANUARY: i64 = 1_577_836_800_000_000;
const FEBRUARY: i64 = 1_580_515_200_000_000;

#[tokio::test(flavor = "multi_thread")]
async fn p70_a_claim_looks_from_its_watermarks_on_and_makes_new_ones() {
    let db = database().await;
    let pool = db.pool();
    worker(pool).await;
    let february = "2020-02-01T00:00:00+00:00";
    let all = json!([
        { "id": 1, "eligible_at": january(1) },
        { "id": 2, "eligible_at": february },
        { "id": 3, "eligible_at": january(1), "priority": 3 },
        { "id": 4, "eligible_at": january(1), "fsm": "n" },
        { "id": 5, "eligible_at": january(1), "priority": 9 },
        { "id": 6, "eligible_at": "-infinity", "priority": 4 },
    ]);
    rows(pool, all).await;
    let mut connection = claimer(pool).await;
    let kinds = [("default", 10, "m", 1), ("default", 10, "n", 1)];
    let mut take = async |known: &[(i64, i16, i64)]| {
        let mut transaction = connection.begin().await.unwrap();
        let answer = answer(&mut transaction, &Request { kinds: &kinds, known, ..ten() }).await;
        transaction.rollback().await.unwrap();
        let mut claimed = ids(&answer);
        claimed.sort_unstable();
        let kinds: Vec<i64> = answer.get("first_kinds");
        let priorities: Vec<i16> = answer.get("first_priorities");
        let since: Vec<Option<i64>> = answer.get("first_since");
        let watermarks = kinds.into_iter().zip(priorities).zip(since);
        let mut watermarks: Vec<_> =
            watermarks.map(|((kind, priority), since)| (kind, priority, since)).collect();
        watermarks.sort_unstable();
        (claimed, watermarks)
    };
    let others = [(1, 3, Some(JANUARY)), (1, 9, Some(JANUARY)), (2, 0, Some(JANUARY))];
    let (claimed, watermarks) = take(&[]).await;
    assert_eq!(claimed, [1, 2, 3, 4, 5, 6]);
    assert_eq!(watermarks, [&[(1, 0, Some(JANUARY))], &others[..]].concat());
    // A claim begins a quarter of a second before the watermark. It does not matter if a group has
    // no watermark, or a watermark no rows.
    let (claimed, watermarks) =
        take(&[(1, 0, FEBRUARY + 200_000), (1, 5, JANUARY), (2, 3, JANUARY)]).await;
    assert_eq!(claimed, [2, 3, 4, 5, 6]);
    assert_eq!(watermarks, [&[(1, 0, Some(FEBRUARY))], &others[..]].concat());
    let (claimed, _) = take(&[(1, 0, FEBRUARY + 300_000)]).await;
    assert_eq!(claimed, [3, 4, 5, 6]);
    // The earliest of several watermarks of one group counts.
    let (claimed, _) = take(&[(1, 0, FEBRUARY + 300_000), (1, 0, JANUARY)]).await;
    assert_eq!(claimed, [1, 2, 3, 4, 5, 6]);
}
