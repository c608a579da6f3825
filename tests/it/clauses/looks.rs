//! The clauses of the statement that looks at buckets, and lets rows in.

use std::fmt::Write as _;

use serde_json::{Value, json};
use sqlx::{Connection, PgConnection, PgPool, Row};

use super::{
    buckets::{hold_back, next_look, waits},
    each, insert,
    limits::{NOW, buckets, clock, clock_alone, workers},
    rows, run, session, without_indexes,
};
use crate::support::{database, sql, until_a_session_waits};

/// The moment at which the clock of the tests stands, and the next one.
const AT_NOW: &str = "1970-01-12T13:46:40+00:00";
const SOON: &str = "1970-01-12T13:46:40.000001+00:00";

/// The microseconds by which a run may be admitted before its time.
const AHEAD: i64 = 50;

/// The findings of a look: the queues of the rows that came in, the number of buckets, the time,
/// and that until another one is due.
type Woken = (Vec<String>, i64, i64, Option<i64>);

async fn wake(connection: &mut PgConnection, most: i64, early: &[&str], late: i64) -> Woken {
    let row = sqlx::query(include_str!("../../../gen_durable/src/storage/sql/wake_buckets.sql"))
        .bind(most)
        .bind(early)
        .bind(AHEAD)
        .bind(late)
        .fetch_one(connection)
        .await
        .unwrap();
    let queues: Option<Vec<String>> = row.get("queues");
    let (fsms, versions): (Option<Vec<String>>, Option<Vec<i32>>) =
        (row.get("fsms"), row.get("versions"));
    let priorities: Option<Vec<i16>> = row.get("priorities");
    let mut queues = queues.unwrap_or_default();
    let groups = [fsms.map(|all| all.len()), versions.map(|all| all.len())];
    let wanted = Some(queues.len()).filter(|groups| *groups > 0);
    assert_eq!(groups, [wanted; 2]);
    assert_eq!(priorities.map(|all| all.len()), wanted);
    queues.sort_unstable();
    queues.dedup();
    (queues, row.get("looked"), row.get("now"), row.get("next"))
}

/// Has a worker declare limits.
async fn declare(pool: &PgPool, worker: i64, limits: &[&str]) {
    for limit in limits {
        let row = format!(
            "worker, kind, name, body, appeared_at: {worker}, 'limit', '{limit}', '', now()"
        );
        insert(pool, "declarations", &[&row]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn p70_the_first_rows_that_wait_come_in() {
    let db = database().await;
    let pool = db.pool();
    workers(pool).await;
    insert(pool, "limits", &["name, body, at_once: 'a', '', 3"]).await;
    declare(pool, 7, &["a"]).await;
    for (bucket, wakes_at) in [("a", NOW), ("b", NOW + 1), ("c", NOW), ("d", NOW)] {
        let row = format!("bucket, limit_name, wakes_at: '{bucket}', 'a', {wakes_at}");
        insert(pool, "limit_buckets", &[&row]).await;
    }
    let before = "1970-01-12T00:00:00+00:00";
    let all = json!([
        waits(1, "a", json!({})),
        waits(4, "a", json!({ "eligible_at": before })),
        waits(3, "a", json!({ "eligible_at": AT_NOW, "priority": -1, "queue": "r" })),
        waits(2, "a", json!({ "eligible_at": before })),
        waits(5, "a", json!({ "eligible_at": before, "blocked_by": 24, "priority": -2 })),
        waits(6, "a", json!({ "eligible_at": SOON, "priority": -2 })),
        waits(7, "a", json!({ "status": "executing", "priority": -2 })),
        waits(8, "b", json!({ "priority": -2 })),
        waits(9, "a", json!({ "priority": -2 })),
        waits(10, "c", json!({})),
        waits(11, "c", json!({ "blocked_by": 24 })),
        waits(12, "d", json!({})),
        waits(13, "d", json!({ "blocked_by": 0, "status": "executing" })),
    ]);
    rows(pool, all).await;
    let mut other = pool.begin().await.unwrap();
    run(&mut other, "select from gen_durable.instances where id = 9 for share").await;
    // In this session Postgres sorts the rows.
    let mut connection = without_indexes(pool).await;
    run(&mut connection, "set lock_timeout = '5s'").await;
    let woken = wake(&mut connection, 50, &[], 0).await;
    assert_eq!(woken, (vec!["q".to_owned(), "r".to_owned()], 3, NOW, Some(0)));
    let blocked = json!([16, 0, 0, 0, 24, 16, 16, 16, 16, 0, 24, 0, 0]);
    assert_eq!(each(pool, "i.blocked_by").await, blocked);
    let state = format!("bucket, let_in, let_in_at - {NOW}, wakes_at - {NOW}");
    // A row of `c` waits for something else too, and no other one of `d` waits.
    let expected = json!([
        ["a", [3, 2, 4], 0, 5_000_000],
        ["b", [], -NOW, 1],
        ["c", [10], 0, 5_000_000],
        ["d", [12], 0, null],
    ]);
    assert_eq!(buckets(pool, &state).await, expected);
    // No bucket is due now.
    assert_eq!(wake(&mut connection, 50, &[], 0).await, (vec![], 0, NOW, Some(1)));
}

/// A limit's bounds, the columns of its bucket, and the rows that wait for it; how many of them
/// come in, and when the next look is due.
type Fitting = (&'static str, &'static str, i64, usize, Option<i64>);

/// The row 1000 was let in, and executes.
const LET_IN: &str = "let_in, let_in_at: '{1000}', 1000000000000";
const RATE: &str = "starts, period, burst: 10, 1000000, 2";

const FITTING: &[Fitting] = &[
    // All come in.
    ("at_once: 3", "", 1, 1, None),
    // Others have places, if they are there, or were a moment ago.
    ("at_once: 5", "workers, held: '{8,9,5,4,6}', '{1,1,1,9,9}'", 3, 2, Some(5_000_000)),
    ("at_once: 5", "weight: 2", 3, 2, Some(5_000_000)),
    // The bound was lowered.
    ("at_once: 1", "workers, held: '{8}', '{3}'", 1, 0, Some(5_000_000)),
    // The third start of a burst has its time later. The look comes before it.
    (RATE, "", 3, 2, Some(100_000 - AHEAD)),
    (RATE, "used_until: 1000000000000 + 150000", 1, 0, Some(50_000 - AHEAD)),
    (RATE, "used_until: 1000000000000 + 100050", 2, 1, Some(100_000)),
    (RATE, "used_until: 1000000000000 + 100051", 1, 0, Some(1_020)),
    // The clock went back.
    (RATE, "used_until: 2000000000000", 1, 0, Some(100_000)),
    ("starts, period, burst: 3, 1000000, 1", "used_until: 2000000000000", 1, 0, Some(333_334)),
    ("starts, period, burst: 1, 90000, 3", "weight: 3", 2, 1, Some(270_000 - AHEAD)),
    // A look costs something, however fast the rate is.
    ("starts, period, burst: 1000, 100000, 1", "", 2, 1, Some(1_020)),
    // And more if the row that came in last does not ask.
    ("starts, period, burst: 1000, 100000, 1", LET_IN, 1, 1, Some(1_050)),
    ("starts, period, burst: 1000, 100000, 2", LET_IN, 2, 2, Some(1_020)),
    // The row is heavier than the bounds. They may be changed.
    (RATE, "weight: 3", 1, 0, Some(5_000_000)),
    ("at_once, starts, period, burst: 2, 10, 1000000, 5", "weight: 3", 1, 0, Some(5_000_000)),
    // The smaller bound holds.
    ("at_once, starts, period, burst: 1, 10, 1000000, 5", "", 3, 1, Some(5_000_000)),
    ("at_once, starts, period, burst: 5, 10, 1000000, 2", "", 3, 2, Some(100_000 - AHEAD)),
    ("at_once, starts, period, burst: 2, 10, 1000000, 2", "", 3, 2, Some(100_000 - AHEAD)),
    // There is less than no room.
    (
        "at_once, starts, period, burst: 1, 10, 1000000, 2",
        "workers, held, used_until: '{8}', '{3}', 1000000000000 + 200050",
        1,
        0,
        Some(100_000),
    ),
    // A limit that somebody has deleted bounds nothing.
    ("", "", 3, 3, None),
    ("", "weight: 3", 3, 3, None),
];

#[tokio::test(flavor = "multi_thread")]
async fn p70_as_many_rows_come_in_as_have_room() {
    let db = database().await;
    let pool = db.pool();
    workers(pool).await;
    let mut load = String::new();
    for (nth, (bounds, bucket, waiting, ..)) in (1..).zip(FITTING) {
        if let Some((columns, values)) = bounds.split_once(": ") {
            let limit = format!("name, body, {columns}: 'l{nth}', '', {values}");
            insert(pool, "limits", &[&limit]).await;
            declare(pool, 7, &[&format!("l{nth}")]).await;
        }
        let (columns, values) = bucket.split_once(": ").unwrap_or_default();
        let comma = if columns.is_empty() { "" } else { ", " };
        let row = format!(
            "bucket, limit_name, wakes_at{comma}{columns}: '{nth}', 'l{nth}', {NOW}{comma}{values}"
        );
        insert(pool, "limit_buckets", &[&row]).await;
        write!(
            load,
            "insert into gen_durable.instances (fsm, fsm_version, step, state, limited_by, blocked_by)
             select 'm', 1, 's', '1', '{nth}', 16 from generate_series(1, {waiting});"
        )
        .unwrap();
    }
    rows(pool, json!([{ "id": 1000, "status": "executing" }])).await;
    let mut connection = session(pool, "").await;
    run(&mut connection, load).await;
    let looked = wake(&mut connection, 50, &[], 0).await.1;
    assert_eq!(usize::try_from(looked).unwrap(), FITTING.len());
    let columns = format!("bucket::int, cardinality(let_in), wakes_at - {NOW}");
    let mut found = buckets(pool, &columns).await;
    found.as_array_mut().unwrap().sort_by_key(|row| row[0].as_i64());
    for (found, (nth, room)) in found.as_array().unwrap().iter().zip((1..).zip(FITTING)) {
        assert_eq!(*found, json!([nth, room.3, room.4]), "{room:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn p70_a_thousand_rows_come_in_by_one_look() {
    let db = database().await;
    let pool = db.pool();
    workers(pool).await;
    insert(pool, "limits", &["name, body, at_once: 'l', '', 5000"]).await;
    declare(pool, 7, &["l"]).await;
    for bucket in ["a", "b", "c", "d"] {
        let row = format!("bucket, limit_name, let_in, let_in_at: '{bucket}', 'l', '{{1}}', {NOW}");
        insert(pool, "limit_buckets", &[&row]).await;
    }
    rows(pool, json!([{ "id": 1, "status": "executing" }, waits(2, "d", json!({}))])).await;
    let mut connection = session(pool, "").await;
    let load =
        "insert into gen_durable.instances (fsm, fsm_version, step, state, limited_by, blocked_by)
                select 'm', 1, 's', '1', bucket, 16
                from unnest('{a,b,c}'::text[], '{1001,600,600}'::int[]) as b (bucket, waiting),
                     generate_series(1, waiting)";
    run(&mut connection, format!("alter sequence gen_durable.instances_id_seq restart 10; {load}"))
        .await;
    let mut other = pool.begin().await.unwrap();
    run(&mut other, "select from gen_durable.instances where id = 2 for share").await;
    let mut look = async |due: &str| {
        let due =
            format!("update gen_durable.limit_buckets set wakes_at = {NOW} where bucket ~ '{due}'");
        run(&mut pool.acquire().await.unwrap(), due).await;
        wake(&mut connection, 50, &[], 0).await;
        let columns = format!("bucket, cardinality(let_in), wakes_at - {NOW}");
        buckets(pool, &columns).await
    };
    // One of a thousand was let in before. Some room is left.
    assert_eq!(look("a").await[0], json!(["a", 1000, 250_000]));
    // Two buckets share the thousand.
    sql(pool, "update gen_durable.limit_buckets set wakes_at = null").await;
    let found = look("b|c").await;
    assert_eq!(found[1][1].as_i64().unwrap() + found[2][1].as_i64().unwrap(), 1002, "{found}");
    // Another transaction has the row that waits.
    assert_eq!(look("d").await[3], json!(["d", 1, 250_000]));
}

#[tokio::test(flavor = "multi_thread")]
async fn p70_a_limit_that_no_living_program_declares_bounds_nothing() {
    let db = database().await;
    let pool = db.pool();
    workers(pool).await;
    let mut all = Vec::new();
    for (nth, bucket) in (0..).zip(["a", "b", "c"]) {
        insert(pool, "limits", &[&format!("name, body, at_once: '{bucket}', '', 1")]).await;
        let row = format!("bucket, limit_name, wakes_at: '{bucket}', '{bucket}', {NOW}");
        insert(pool, "limit_buckets", &[&row]).await;
        all.extend((1..4).map(|id| waits(nth * 10 + id, bucket, json!({}))));
    }
    rows(pool, Value::Array(all)).await;
    declare(pool, 7, &["a"]).await;
    // The lease of this worker has run out, and the worker 6 is not there.
    declare(pool, 9, &["b"]).await;
    let schedule = "worker, kind, name, body, appeared_at: 7, 'schedule', 'c', '', now()";
    insert(pool, "declarations", &[schedule]).await;
    wake(&mut session(pool, "").await, 50, &[], 0).await;
    let found = buckets(pool, "bucket, cardinality(let_in)").await;
    assert_eq!(found, json!([["a", 1], ["b", 3], ["c", 3]]));
}

/// The weight of the bucket is that of the heaviest row that waits. When the first rows come in, it
/// is found out anew.
#[tokio::test(flavor = "multi_thread")]
async fn p70_a_weight_lasts_until_rows_come_in() {
    let db = database().await;
    let pool = db.pool();
    workers(pool).await;
    insert(pool, "limits", &["name, body, at_once: 'l', '', 5"]).await;
    declare(pool, 7, &["l"]).await;
    let cases = [
        ("a", "weight", "2", 1),
        // There is no room.
        ("b", "weight, workers, held", "2, '{8}', '{4}'", 2),
        // One that came in before may be as heavy.
        ("c", "weight, let_in, let_in_at", &format!("2, '{{1}}', {NOW}"), 2),
        // The heaviest one does not fit in the bounds. The others do.
        ("d", "weight", "6", 1),
    ];
    let mut all = vec![json!({ "id": 1, "status": "executing" })];
    for (id, (bucket, columns, values, _)) in (10..).zip(cases) {
        let row =
            format!("bucket, limit_name, wakes_at, {columns}: '{bucket}', 'l', {NOW}, {values}");
        insert(pool, "limit_buckets", &[&row]).await;
        all.push(waits(id, bucket, json!({})));
    }
    rows(pool, Value::Array(all)).await;
    wake(&mut session(pool, "").await, 50, &[], 0).await;
    let expected: Vec<_> = cases.iter().map(|case| json!([case.0, case.3])).collect();
    assert_eq!(buckets(pool, "bucket, weight").await, Value::Array(expected));
}

/// The look has waited for a millisecond, and others have used up the rate meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn p70_a_rate_counts_as_used_up_by_a_burst_from_the_clock_on() {
    let db = database().await;
    let pool = db.pool();
    workers(pool).await;
    clock_alone(pool, 1000).await;
    insert(pool, "limits", &[&format!("name, body, {}", RATE.replace(": ", ": 'l', '', "))]).await;
    declare(pool, 7, &["l"]).await;
    for (bucket, used) in [("a", -5), ("b", 201_050), ("c", 201_051)] {
        let row = format!(
            "bucket, limit_name, wakes_at, used_until: '{bucket}', 'l', {NOW}, {NOW} + {used}"
        );
        insert(pool, "limit_buckets", &[&row]).await;
    }
    wake(&mut session(pool, "").await, 50, &[], 0).await;
    let found = buckets(pool, &format!("bucket, used_until - {NOW}")).await;
    assert_eq!(found, json!([["a", -5], ["b", 201_050], ["c", 201_050]]));
}

/// Rows that were let in have room while they may still ask for their turns.
#[tokio::test(flavor = "multi_thread")]
async fn p70_rows_that_were_let_in_keep_their_room_for_a_while() {
    let db = database().await;
    let pool = db.pool();
    workers(pool).await;
    insert(pool, "limits", &["name, body, at_once: 'l', '', 4"]).await;
    declare(pool, 7, &["l"]).await;
    // The time since the first of the rows was let in, and those that keep their room. The instance
    // 80 was deleted.
    let times = [("a", 0, vec![2, 7]), ("b", 4_999_999, vec![2, 7]), ("c", 5_000_000, vec![])];
    let mut all = Vec::new();
    for (nth, (bucket, since, _)) in (0..).zip(&times) {
        let id = |last: i64| nth * 100 + last;
        let let_in: Vec<_> = [2, 3, 4, 5, 6, 7, 80].map(|last| id(last).to_string()).into();
        let row = format!(
            "bucket, limit_name, wakes_at, let_in, let_in_at: '{bucket}', 'l', {NOW}, '{{{}}}', {}",
            let_in.join(","),
            NOW - since
        );
        insert(pool, "limit_buckets", &[&row]).await;
        let asks = |last: i64, more: Value| {
            let mut row = waits(id(last), bucket, json!({ "blocked_by": 0 }));
            row.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            row
        };
        all.extend([
            asks(2, json!({ "eligible_at": AT_NOW })),
            asks(3, json!({ "blocked_by": 8 })),
            asks(4, json!({ "eligible_at": SOON })),
            asks(5, json!({ "status": "done" })),
            asks(6, json!({ "blocked_by": 16, "eligible_at": SOON })),
            asks(7, json!({ "status": "executing" })),
        ]);
        all.extend((20..25).map(|last| waits(id(last), bucket, json!({}))));
    }
    rows(pool, Value::Array(all)).await;
    let mut connection = session(pool, "").await;
    wake(&mut connection, 50, &[], 0).await;
    let mut expected = Vec::new();
    for (nth, (bucket, since, keep)) in (0..).zip(&times) {
        let new = 20..24 - i64::try_from(keep.len()).unwrap();
        let let_in: Vec<i64> = keep.iter().copied().chain(new).map(|id| nth * 100 + id).collect();
        let since = if keep.is_empty() { 0 } else { -since };
        expected.push(json!([bucket, let_in, since, 5_000_000]));
    }
    let state = format!("bucket, let_in, let_in_at - {NOW}, wakes_at - {NOW}");
    assert_eq!(buckets(pool, &state).await, Value::Array(expected.clone()));
    // A microsecond later those of `b` have been there for too long. No others fit in the buckets.
    clock(pool, 1).await;
    let still = wake(&mut connection, 50, &["a", "b", "c"], 0).await;
    assert_eq!((still.0.len(), still.1), (1, 3));
    let state = format!("let_in, let_in_at - {NOW}");
    let now = buckets(pool, &state).await;
    let expected =
        json!([[[2, 7, 20, 21], 0], [[122, 123, 124, 106], 1], [[220, 221, 222, 223], 0],]);
    assert_eq!(now, expected);
    // The bound is lowered. Those that were let in stay.
    sql(pool, "update gen_durable.limits set at_once = 1").await;
    assert_eq!(wake(&mut connection, 0, &["a", "c"], 0).await.1, 2);
    assert_eq!(buckets(pool, &state).await, now);
}

#[tokio::test(flavor = "multi_thread")]
async fn p70_buckets_that_are_due_are_looked_at() {
    let db = database().await;
    let pool = db.pool();
    workers(pool).await;
    for (bucket, wakes_at) in [("a", "-5"), ("b", "-10"), ("c", "5"), ("d", "null"), ("e", "0")] {
        let row = format!("bucket, limit_name, wakes_at: '{bucket}', 'l', {NOW} + {wakes_at}");
        insert(pool, "limit_buckets", &[&row]).await;
    }
    let mut connection = session(pool, "set lock_timeout = '5s'").await;
    let mut look = async |most, early: &[&str], late| {
        run(&mut connection, "begin").await;
        let woken = wake(&mut connection, most, early, late).await;
        let looked = "select coalesce(json_agg(bucket order by bucket), '[]')
                      from gen_durable.limit_buckets where wakes_at is null and bucket <> 'd'";
        let looked: Value = sqlx::query_scalar(looked).fetch_one(&mut connection).await.unwrap();
        run(&mut connection, "rollback").await;
        assert_eq!(woken.1, i64::try_from(looked.as_array().unwrap().len()).unwrap());
        (looked, woken.3)
    };
    assert_eq!(look(50, &[], 0).await, (json!(["a", "b", "e"]), Some(-10)));
    assert_eq!(look(1, &[], 0).await, (json!(["b"]), Some(-10)));
    assert_eq!(look(50, &[], 5).await, (json!(["a", "b"]), Some(-10)));
    // Something was given back in these buckets. No row waits for `d`, and `x` is not there.
    assert_eq!(look(0, &["d", "c", "x"], 0).await, (json!(["c"]), Some(-10)));
    let mut other = pool.begin().await.unwrap();
    run(&mut other, "select from gen_durable.limit_buckets where bucket = 'b' for update").await;
    assert_eq!(look(50, &["b"], 0).await, (json!(["a", "e"]), Some(-10)));
    other.rollback().await.unwrap();
    sql(pool, "update gen_durable.limit_buckets set wakes_at = null").await;
    assert_eq!(wake(&mut connection, 50, &[], 0).await, (vec![], 0, NOW, None));
}

/// A look has its snapshot when a row is held back, and does not see that row. The next look is due
/// at once.
#[tokio::test(flavor = "multi_thread")]
async fn p70_a_look_that_is_older_than_a_row_is_followed_by_another_one() {
    let db = database().await;
    let pool = db.pool();
    workers(pool).await;
    let now = format!(
        "create or replace function gen_durable.now() returns timestamptz language plpgsql stable
         as $$
         begin
             if current_setting('test.waits', true) = 'on' then
                 perform pg_advisory_xact_lock_shared(1);
             end if;
             return timestamptz 'epoch' + {NOW} * interval '1 microsecond';
         end $$"
    );
    run(&mut pool.acquire().await.unwrap(), now).await;
    insert(pool, "limits", &["name, body, at_once: 'l', '', 5"]).await;
    declare(pool, 7, &["l"]).await;
    for (bucket, waited) in [("a", 0), ("b", 5)] {
        let row = format!("bucket, limit_name, wakes_at, waits: '{bucket}', 'l', {NOW}, {waited}");
        insert(pool, "limit_buckets", &[&row]).await;
    }
    let executing = json!({ "id": 3, "status": "executing", "locked_by": 7 });
    rows(pool, json!([waits(1, "a", json!({})), waits(2, "b", json!({})), executing])).await;
    // Postgres has planned the statement before.
    let mut own = session(pool, "set plan_cache_mode = force_generic_plan").await;
    wake(&mut own, 0, &[], 0).await;
    run(&mut own, "set test.waits = on").await;
    let mut first = pool.acquire().await.unwrap().detach();
    run(&mut first, "select pg_advisory_lock(1)").await;
    let look = tokio::spawn(async move { wake(&mut own, 50, &[], 0).await });
    until_a_session_waits(pool, 1).await;
    assert_eq!(hold_back(&mut first, &[(3, 0, "a", 1)]).await, [(3, true)]);
    first.close().await.unwrap();
    assert_eq!(look.await.unwrap().1, 2);
    let looks = json!([["a", 0, [1]], ["b", null, [2]]]);
    assert_eq!(buckets(pool, &format!("{}, let_in", next_look())).await, looks);
}
