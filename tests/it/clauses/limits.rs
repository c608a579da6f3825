//! The clauses of the statements that admit runs, and of those that declare limits.

use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, PgConnection, PgPool};
use tokio::task::JoinHandle;

use super::{insert, run, see};
use crate::support::{database, sql, until_a_session_waits};

macro_rules! statement {
    ($name:literal) => {
        include_str!(concat!("../../../gen_durable/src/storage/sql/", $name, ".sql"))
    };
}

/// The time at which the tests begin, in microseconds since 1970.
pub(super) const NOW: i64 = 1_000_000_000_000;

/// Stops the time of the statements this many microseconds after [`NOW`], and the clock too.
pub(super) async fn clock(pool: &PgPool, after: i64) {
    stop(pool, "now() returns timestamptz language sql stable", after).await;
    clock_alone(pool, after).await;
}

/// Stops only the clock, which goes on while a statement runs.
pub(super) async fn clock_alone(pool: &PgPool, after: i64) {
    stop(pool, "clock() returns timestamptz language sql volatile", after).await;
}

async fn stop(pool: &PgPool, function: &str, after: i64) {
    let stopped = format!(
        "create or replace function gen_durable.{function}
         as $$ select timestamptz 'epoch' + {} * interval '1 microsecond' $$",
        NOW + after
    );
    run(&mut pool.acquire().await.unwrap(), stopped).await;
}

/// Stops the clock, and inserts two workers that are alive, 7 and 8, and one whose lease has just
/// run out, 9. Two others were removed: 5 counts still, and 4 no more.
pub(super) async fn workers(pool: &PgPool) {
    clock(pool, 0).await;
    let rows = [
        "id, name, lease_expires_at: 7, 'w', gen_durable.now() + interval '1 s'",
        "id, name, lease_expires_at: 8, 'w', gen_durable.now() + interval '1 s'",
        "id, name, lease_expires_at: 9, 'w', gen_durable.now()",
    ];
    insert(pool, "workers", &rows).await;
    let lost = [
        "worker, counts_until: 5, gen_durable.now() + interval '1 microsecond'",
        "worker, counts_until: 4, gen_durable.now()",
    ];
    insert(pool, "lost_workers", &lost).await;
    // The clock went back meanwhile.
    let later = "worker, lost_at, counts_until: 2, gen_durable.now() + interval '1 microsecond',
                 gen_durable.now() + interval '1 s'";
    insert(pool, "lost_workers", &[later]).await;
}

/// The question of a worker about a bucket: the bucket and its limit, the weight of its runs there
/// besides those that ask, and the weight and the ids of those.
pub(super) type Ask = (&'static str, &'static str, i32, i32, &'static str);

/// Takes turns, and returns these columns of each answer.
pub(super) async fn answers(
    connection: &mut PgConnection,
    columns: &str,
    (worker, number): (i64, i64),
    asks: &[Ask],
    ahead: i64,
) -> Value {
    let query = format!(
        "with answers as ({})
         select coalesce(json_agg(json_build_array({columns}) order by nth), '[]') from answers",
        statement!("take_turns")
    );
    sqlx::query_scalar(AssertSqlSafe(query))
        .bind(worker)
        .bind(number)
        .bind(asks.iter().map(|ask| ask.0).collect::<Vec<_>>())
        .bind(asks.iter().map(|ask| ask.1).collect::<Vec<_>>())
        .bind(asks.iter().map(|ask| ask.2).collect::<Vec<_>>())
        .bind(asks.iter().map(|ask| ask.3).collect::<Vec<_>>())
        .bind(asks.iter().map(|ask| ask.4).collect::<Vec<_>>())
        .bind(ahead)
        .fetch_one(connection)
        .await
        .unwrap()
}

/// Takes turns by the statement of this worker and number. Each answer is the place of the bucket,
/// the instances that were admitted, and the weight of all runs in it.
async fn take(pool: &PgPool, by: (i64, i64), asks: &[Ask]) -> Value {
    let mut connection = pool.acquire().await.unwrap();
    answers(&mut connection, "nth, admitted, held", by, asks, 0).await
}

/// The same in a session of its own, which may have to wait.
pub(super) async fn take_later(pool: &PgPool, by: (i64, i64), ask: Ask) -> JoinHandle<Value> {
    let mut own = pool.acquire().await.unwrap();
    tokio::spawn(async move { answers(&mut own, "admitted, held, waited", by, &[ask], 0).await })
}

/// Returns these columns of all buckets.
pub(super) async fn buckets(pool: &PgPool, columns: &str) -> Value {
    let rows = format!(
        "select json_agg(json_build_array({columns}) order by bucket) from gen_durable.limit_buckets"
    );
    see(pool, rows).await
}

#[tokio::test(flavor = "multi_thread")]
async fn p70_runs_come_in_beside_those_of_all_living_workers() {
    let db = database().await;
    let pool = db.pool();
    workers(pool).await;
    insert(pool, "limits", &["name, body, at_once: 'a', '', 5"]).await;
    // Nobody knows the worker 6.
    let known = [
        "bucket, limit_name, workers, held, said: 'a', 'a', '{4,8,6}', '{4,2,1}', '{1,1,1}'",
        "bucket, limit_name, workers, held, said: 'b', 'a', '{9,5,4,6,2}', '{1,1,9,9,9}', '{1,1,1,1,1}'",
    ];
    insert(pool, "limit_buckets", &known).await;
    // The runs of a worker count until it was removed, and for a moment more.
    assert_eq!(
        take(pool, (7, 1), &[("b", "a", 0, 1, "{1,2,3,4}")]).await,
        json!([[1, [1, 2, 3], 5]])
    );
    assert_eq!(buckets(pool, "workers, held").await[1], json!([[9, 5, 7], [1, 1, 3]]));
    sql(pool, "delete from gen_durable.limit_buckets where bucket = 'b'").await;
    let states = "workers, held, said, admitted";
    assert_eq!(
        take(pool, (7, 2), &[("a", "a", 1, 1, "{13,11,12}")]).await,
        json!([[1, [13, 11], 5]])
    );
    assert_eq!(buckets(pool, states).await, json!([[[8, 7], [2, 3], [1, 2], [13, 11]]]));
    assert_eq!(take(pool, (7, 3), &[("a", "a", 0, 2, "{14,15}")]).await, json!([[1, [14], 4]]));
    // The worker stays in the list, though it has nothing.
    assert_eq!(take(pool, (7, 4), &[("a", "a", 0, 1, "{}")]).await, json!([[1, [], 2]]));
    let idle = json!([[[8, 7], [2, 0], [1, 4], []]]);
    assert_eq!(buckets(pool, states).await, idle);
    // A statement that comes late changes nothing, and neither does one of a worker that is lost.
    for by in [(7, 4), (7, 3), (9, 9), (6, 9), (5, 9)] {
        assert_eq!(take(pool, by, &[("a", "a", 5, 1, "{16}")]).await, json!([]), "{by:?}");
        assert_eq!(buckets(pool, states).await, idle, "{by:?}");
    }
    // Another worker's numbers are its own.
    assert_eq!(take(pool, (8, 2), &[("a", "a", 2, 1, "{17}")]).await, json!([[1, [17], 3]]));
    assert_eq!(buckets(pool, states).await, json!([[[7, 8], [0, 3], [4, 2], [17]]]));
    // The bound was lowered: nothing comes in, and what is there counts as before.
    assert_eq!(take(pool, (8, 3), &[("a", "a", 9, 2, "{18}")]).await, json!([[1, [], 9]]));
}

#[tokio::test(flavor = "multi_thread")]
async fn p70_each_bucket_answers_for_itself() {
    let db = database().await;
    let pool = db.pool();
    workers(pool).await;
    let limits = ["name, body, at_once: 'a', '', 5", "name, body, at_once: 'b', '', 1"];
    insert(pool, "limits", &limits).await;
    // The rows lie in another order.
    for (bucket, limit) in [("o", "a"), ("m", "m"), ("b/2", "b"), ("b/1", "b"), ("a", "a")] {
        let row = format!("bucket, limit_name: '{bucket}', '{limit}'");
        insert(pool, "limit_buckets", &[&row]).await;
    }
    let asks = [
        ("a", "a", 1, 2, "{1,2,3}"),
        ("b/1", "b", 0, 1, "{4,5}"),
        ("b/2", "b", 1, 1, "{6}"),
        // Nobody has declared this limit, and one bucket is not there.
        ("m", "m", 0, 1, "{7}"),
        ("n", "a", 0, 1, "{8}"),
    ];
    let found = take(pool, (7, 1), &asks).await;
    assert_eq!(found, json!([[1, [1, 2], 5], [2, [4], 1], [3, [], 1]]));
    let states = json!([
        ["a", [7], [5]],
        ["b/1", [7], [1]],
        ["b/2", [7], [1]],
        ["m", [], []],
        ["o", [], []],
    ]);
    assert_eq!(buckets(pool, "bucket, workers, held").await, states);
}

/// Three starts in 100 µs, and two at the same moment. A start uses 33⅓ µs up, and no rounding lets
/// a run in too early.
#[tokio::test(flavor = "multi_thread")]
async fn p70_runs_come_in_at_a_rate() {
    let db = database().await;
    let pool = db.pool();
    workers(pool).await;
    let limits = [
        "name, body, starts, period, burst: 'r', '', 3, 100, 2",
        "name, body, at_once, starts, period, burst: 's', '', 3, 3, 100, 2",
    ];
    insert(pool, "limits", &limits).await;
    insert(
        pool,
        "limit_buckets",
        &["bucket, limit_name: 'r', 'r'", "bucket, limit_name: 's', 's'"],
    )
    .await;
    let mut connection = pool.acquire().await.unwrap();
    // The time, the microseconds ahead, the weight of a run and those that ask; how many of them
    // are admitted, and how long the rate is used up then.
    let steps = [
        (0, 0, 1, "{1,2,3}", 2, 67),
        (0, 0, 1, "{3}", 0, 67),
        (33, 0, 1, "{3}", 0, 34),
        (34, 0, 1, "{3,4}", 1, 67),
        (34, 33, 1, "{4}", 0, 67),
        (34, 34, 1, "{4,5}", 1, 101),
        (134, 0, 2, "{5}", 0, 1),
        (135, 0, 2, "{5,6}", 1, 67),
        // After a long pause there is one burst, and no more.
        (1000, 0, 1, "{6,7,8}", 2, 67),
        (2000, 0, 1, "{}", 0, 0),
        (2000, 0, 1, "{6,7,8}", 2, 67),
        // The clock goes back.
        (0, 0, 1, "{8}", 0, 67),
        (33, 0, 1, "{8}", 0, 34),
        (34, 0, 1, "{8}", 1, 67),
        (0, 10, 1, "{9}", 0, 77),
    ];
    for (number, (after, ahead, weight, ids, admitted, used)) in (1..).zip(steps) {
        clock(pool, after).await;
        let asks = [("r", "r", 50, weight, ids)];
        let columns = "cardinality(admitted), used";
        let found = answers(&mut connection, columns, (7, number), &asks, ahead).await;
        assert_eq!(found, json!([[admitted, used]]), "{number}");
    }
    // The smaller bound holds.
    let asks = [("s", "s", 2, 1, "{1,2}")];
    assert_eq!(take(pool, (7, 101), &asks).await, json!([[1, [1], 3]]));
    clock(pool, 1000).await;
    let asks = [("s", "s", 0, 1, "{1,2,3}")];
    assert_eq!(take(pool, (7, 102), &asks).await, json!([[1, [1, 2], 2]]));
    // A limit of runs at once uses no rate up.
    sql(pool, "update gen_durable.limits set starts = null, period = null, burst = null").await;
    answers(&mut connection, "used", (7, 103), &asks, 50).await;
    let used = format!("used_until - {NOW}");
    assert_eq!(buckets(pool, &used).await[1], json!([1000]));
}

#[tokio::test(flavor = "multi_thread")]
async fn p70_while_rows_wait_those_that_were_let_in_come_first() {
    let db = database().await;
    let pool = db.pool();
    workers(pool).await;
    insert(pool, "limits", &["name, body, at_once: 'a', '', 2"]).await;
    let waited = "bucket, limit_name, let_in, wakes_at: 'a', 'a', '{3,5,9,8}', 1";
    insert(pool, "limit_buckets", &[waited]).await;
    let mut connection = pool.acquire().await.unwrap();
    let columns = "admitted, waited";
    let mut asked = async |number, ids| {
        answers(&mut connection, columns, (7, number), &[("a", "a", 0, 1, ids)], 0).await
    };
    // Two of them have room, and one asks in vain. It was let in no more.
    assert_eq!(asked(1, "{7,5,3,9}").await, json!([[[5, 3], true]]));
    assert_eq!(buckets(pool, "let_in").await, json!([[[8]]]));
    assert_eq!(asked(2, "{7}").await, json!([[[], true]]));
    assert_eq!(buckets(pool, "let_in").await, json!([[[8]]]));
    // Nobody waits any more.
    sql(pool, "update gen_durable.limit_buckets set wakes_at = null").await;
    assert_eq!(asked(3, "{7,8}").await, json!([[[7, 8], false]]));
    assert_eq!(buckets(pool, "let_in").await, json!([[[]]]));
}

#[tokio::test(flavor = "multi_thread")]
async fn p70_the_bounds_of_an_operator_are_in_force() {
    let db = database().await;
    let pool = db.pool();
    workers(pool).await;
    let limit = "name, body, at_once, starts, period, burst: 'a', '', 1, 2, 3, 4";
    insert(pool, "limits", &[limit]).await;
    insert(pool, "limit_buckets", &["bucket, limit_name: 'a', 'a'"]).await;
    let mut connection = pool.acquire().await.unwrap();
    let asks = [("a", "a", 0, 1, "{1,2,3}")];
    let columns = "admitted, at_once, starts, period, burst";
    let declared = answers(&mut connection, columns, (7, 1), &asks, 0).await;
    assert_eq!(declared, json!([[[1], 1, 2, 3, 4]]));
    sql(pool, "update gen_durable.limits set set_at = now(), set_at_once = 2").await;
    let set = answers(&mut connection, columns, (7, 2), &asks, 0).await;
    assert_eq!(set, json!([[[1, 2], 2, null, null, null]]));
}

/// The second of two statements waits for the first one, and reckons with what the bucket is then.
#[tokio::test(flavor = "multi_thread")]
async fn p70_a_statement_reckons_with_what_the_one_before_it_has_committed() {
    let db = database().await;
    let pool = db.pool();
    workers(pool).await;
    insert(pool, "limits", &["name, body, at_once: 'a', '', 3"]).await;
    insert(pool, "limit_buckets", &["bucket, limit_name: 'a', 'a'"]).await;
    let mut first = pool.begin().await.unwrap();
    answers(&mut first, "nth", (7, 1), &[("a", "a", 0, 1, "{1,2}")], 0).await;
    let second = take_later(pool, (8, 1), ("a", "a", 0, 1, "{3,4}")).await;
    until_a_session_waits(pool, 1).await;
    first.commit().await.unwrap();
    assert_eq!(second.await.unwrap(), json!([[[3], 3, false]]));
    // The first one frees two places, and is undone.
    let mut first = pool.begin().await.unwrap();
    answers(&mut first, "nth", (7, 2), &[("a", "a", 0, 1, "{}")], 0).await;
    let second = take_later(pool, (8, 2), ("a", "a", 1, 1, "{5}")).await;
    until_a_session_waits(pool, 1).await;
    first.rollback().await.unwrap();
    assert_eq!(second.await.unwrap(), json!([[[], 3, false]]));
    // The second one is an older statement of the same worker.
    let mut first = pool.begin().await.unwrap();
    answers(&mut first, "nth", (7, 5), &[("a", "a", 0, 1, "{}")], 0).await;
    let second = take_later(pool, (7, 4), ("a", "a", 0, 1, "{6}")).await;
    until_a_session_waits(pool, 1).await;
    first.commit().await.unwrap();
    assert_eq!(second.await.unwrap(), json!([]));
    // Rows are held back meanwhile.
    let mut first = pool.begin().await.unwrap();
    run(&mut first, "update gen_durable.limit_buckets set wakes_at = 1, let_in = '{8}'").await;
    let second = take_later(pool, (7, 6), ("a", "a", 0, 1, "{7,8}")).await;
    until_a_session_waits(pool, 1).await;
    first.commit().await.unwrap();
    assert_eq!(second.await.unwrap(), json!([[[8], 2, true]]));
    assert_eq!(buckets(pool, "let_in, workers").await, json!([[[], [8, 7]]]));
}

/// Inserts workers and what they declare: the limit, its text, the minute at which it appeared, and
/// true if the worker is alive. Each declares a schedule of the name too.
async fn declared(pool: &PgPool, rows: &[(&str, &str, i32, bool)]) {
    for (id, (name, body, minute, alive)) in (1..).zip(rows) {
        let lease = if *alive { "1 hour" } else { "-1 hour" };
        let worker = format!("id, name, lease_expires_at: {id}, 'w', now() + interval '{lease}'");
        insert(pool, "workers", &[&worker]).await;
        let columns = "worker, kind, name, body, appeared_at";
        let limit = format!(
            "{columns}: {id}, 'limit', '{name}', '{body} {name}', now() + {minute} * interval '1 minute'"
        );
        let schedule = format!(
            "{columns}: {id}, 'schedule', '{name}', 'of a schedule', now() + interval '1 day'"
        );
        insert(pool, "declarations", &[&limit, &schedule]).await;
    }
}

/// Runs a statement with limits, all of which have this text, with their names, and these bounds.
async fn with_limits(
    connection: &mut PgConnection,
    text: &'static str,
    names: &[&str],
    body: &str,
    bounds: [i32; 4],
) {
    let [at_once, starts, period, burst] = bounds.map(|bound| vec![Some(bound); names.len()]);
    sqlx::query(text)
        .bind(names)
        .bind(names.iter().map(|name| format!("{body} {name}")).collect::<Vec<_>>())
        .bind(at_once)
        .bind(starts)
        .bind(period.into_iter().map(|period| period.map(i64::from)).collect::<Vec<_>>())
        .bind(burst)
        .execute(connection)
        .await
        .unwrap();
}

/// The rows of the limits.
const LIMITS: &str = "select json_agg(json_build_array(
    name, body, revision, at_once, starts, period, burst) order by name) from gen_durable.limits";

#[tokio::test(flavor = "multi_thread")]
async fn p70_a_limit_is_added_once() {
    let db = database().await;
    let pool = db.pool();
    insert(pool, "limits", &["name, body, at_once, revision: 'a', 'old a', 9, 3"]).await;
    let mut own = pool.acquire().await.unwrap();
    run(&mut own, "set lock_timeout = '5s'").await;
    let add = statement!("register_limits");
    with_limits(&mut own, add, &["a"], "new", [1, 2, 3, 4]).await;
    // It does not wait for an operator.
    let mut operator = pool.begin().await.unwrap();
    run(&mut operator, "update gen_durable.limits set set_at_once = 7 where name = 'a'").await;
    with_limits(&mut own, add, &["a"], "new", [1, 2, 3, 4]).await;
    operator.rollback().await.unwrap();
    run(&mut own, "set lock_timeout = 0").await;
    let mut barrier = pool.begin().await.unwrap();
    run(&mut barrier, "insert into gen_durable.limits (name, body) values ('b', 'other')").await;
    let adding = tokio::spawn(async move {
        let names = ["z", "b", "a"];
        with_limits(&mut own, add, &names, "new", [1, 2, 3, 4]).await;
    });
    until_a_session_waits(pool, 1).await;
    // It waits for `b`, and has taken nothing that comes after it.
    let mut third = pool.begin().await.unwrap();
    let other = "set local lock_timeout = '5s';
                  insert into gen_durable.limits (name, body) values ('z', 'third')";
    run(&mut third, other).await;
    third.rollback().await.unwrap();
    barrier.commit().await.unwrap();
    adding.await.unwrap();
    let rows = json!([
        ["a", "old a", 3, 9, null, null, null],
        ["b", "other", 0, null, null, null, null],
        ["z", "new z", 0, 1, 2, 3, 4],
    ]);
    assert_eq!(see(pool, LIMITS).await, rows);
}

#[tokio::test(flavor = "multi_thread")]
async fn p70_a_limit_has_the_bounds_of_the_declaration_in_force() {
    let db = database().await;
    let pool = db.pool();
    let names = ["a", "b", "c", "d", "e", "f", "g"];
    let said = [
        ("a", "old", 1, true),
        ("a", "new", 2, true),
        ("b", "new", 1, true),
        ("b", "old", 2, true),
        ("c", "old", 1, true),
        ("c", "new", 2, false),
        ("d", "new", 2, true),
        ("e", "new", 2, true),
        ("f", "new", 2, true),
    ];
    declared(pool, &said).await;
    for (name, body) in
        [("a", "old"), ("b", "old"), ("c", "old"), ("d", "new"), ("f", "old"), ("g", "old")]
    {
        let row = format!("name, body, revision, at_once: '{name}', '{body} {name}', 3, 9");
        insert(pool, "limits", &[&row]).await;
    }
    let look = async || {
        let query = format!(
            "select json_agg(json_build_array(name, revision, unsettled) order by name)
             from ({}) as found",
            statement!("look_at_limits")
        );
        let found: Value = sqlx::query_scalar(AssertSqlSafe(query))
            .bind(names)
            .bind(names.map(|name| format!("new {name}")))
            .fetch_one(pool)
            .await
            .unwrap();
        found
    };
    // Nobody declares `g`, and `e` was deleted.
    let unsettled = json!([
        ["a", 3, true],
        ["b", 3, false],
        ["c", 3, false],
        ["d", 3, false],
        ["f", 3, true],
        ["g", 3, null],
    ]);
    assert_eq!(look().await, unsettled);
    let mut operator = pool.begin().await.unwrap();
    run(&mut operator, "update gen_durable.limits set set_by = 'x' where name = 'f'").await;
    let mut connection = pool.acquire().await.unwrap();
    run(&mut connection, "set lock_timeout = '5s'").await;
    let settle = statement!("settle_limits");
    with_limits(&mut connection, settle, &names, "new", [1, 2, 3, 4]).await;
    let old =
        |name: &str, body: &str| json!([name, format!("{body} {name}"), 3, 9, null, null, null]);
    let new = |name: &str| json!([name, format!("new {name}"), 4, 1, 2, 3, 4]);
    let others = [old("b", "old"), old("c", "old"), old("d", "new")];
    let rows = |f: Value| {
        let mut rows = vec![new("a")];
        rows.extend(others.clone());
        rows.extend([f, old("g", "old")]);
        Value::Array(rows)
    };
    assert_eq!(see(pool, LIMITS).await, rows(old("f", "old")), "an operator has `f`");
    operator.commit().await.unwrap();
    with_limits(&mut connection, settle, &names, "new", [1, 2, 3, 4]).await;
    assert_eq!(see(pool, LIMITS).await, rows(new("f")));
    assert_eq!(look().await[0], json!(["a", 4, false]));
}
