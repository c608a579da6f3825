//! The clauses of the statements that hold rows back, and of those that keep the buckets in order.

use serde_json::{Value, json};
use sqlx::PgConnection;

use super::{
    each, insert,
    limits::{NOW, buckets, workers},
    rows, run, see, session,
};
use crate::support::{database, sql, until_a_session_waits};

macro_rules! statement {
    ($name:literal) => {
        include_str!(concat!("../../../gen_durable/src/storage/sql/", $name, ".sql"))
    };
}

/// The moment before that at which the clock of the tests stands.
const JUST_NOW: &str = "1970-01-12T13:46:39.999999+00:00";

/// A row, and the bucket in which it has no room: its id, its revision, the bucket and its weight.
pub(super) type Held = (i64, i64, &'static str, i32);

/// Holds rows of worker 7 back. Returns the marked ones, and for each whether it is given back.
pub(super) async fn hold_back(connection: &mut PgConnection, held: &[Held]) -> Vec<(i64, bool)> {
    let mut marked: Vec<(i64, bool)> = sqlx::query_as(statement!("hold_back"))
        .bind(7_i64)
        .bind(held.iter().map(|held| held.0).collect::<Vec<_>>())
        .bind(held.iter().map(|held| held.1).collect::<Vec<_>>())
        .bind(held.iter().map(|held| held.2).collect::<Vec<_>>())
        .bind(held.iter().map(|held| held.3).collect::<Vec<_>>())
        .fetch_all(connection)
        .await
        .unwrap();
    marked.sort_unstable();
    marked
}

/// The microseconds from the beginning until the next look at a bucket.
pub(super) fn next_look() -> String {
    format!("bucket, wakes_at - {NOW}")
}

/// A row that waits for room in a bucket, with more columns.
pub(super) fn waits(id: i64, bucket: &str, more: Value) -> Value {
    let mut row = json!({
        "id": id, "limited_by": bucket, "blocked_by": 16, "eligible_at": JUST_NOW, "queue": "q",
    });
    row.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    row
}

/// Has the database note the buckets that are inserted or updated, in their order.
const NOTE: &str = "
    create table public.noted (nth int generated always as identity, bucket text);
    create function public.note() returns trigger language plpgsql as $$
    begin
        insert into public.noted (bucket) values (new.bucket);
        return new;
    end $$;
    create trigger note before insert or update on gen_durable.limit_buckets
        for each row execute function public.note()";

#[tokio::test(flavor = "multi_thread")]
async fn p70_a_worker_holds_its_own_rows_back() {
    let db = database().await;
    let pool = db.pool();
    workers(pool).await;
    let row = |id: i64, more: Value| {
        let mut row = json!({
            "id": id, "status": "executing", "locked_by": 7, "revision": 3, "updated_at": JUST_NOW,
        });
        row.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        row
    };
    let all = json!([
        row(1, json!({})),
        row(2, json!({ "partition_key": "p", "unique_scope": ["executing"] })),
        row(3, json!({ "owes": 5 })),
        row(4, json!({ "owes": 1, "blocked_by": 8 })),
        row(5, json!({ "revision": 4 })),
        row(6, json!({ "locked_by": 8 })),
        row(7, json!({ "status": "runnable" })),
        row(8, json!({})),
        row(9, json!({ "unique_scope": ["executing"] })),
        row(10, json!({ "unique_scope": ["runnable", "executing"] })),
        row(11, json!({ "unique_scope": ["runnable"], "unique_released": true })),
        row(12, json!({})),
    ]);
    rows(pool, all).await;
    let buckets_of = [
        "bucket, limit_name, waits, weight: 'a', 'a', 5, 8",
        "bucket, limit_name, wakes_at, waits: 'b', 'b', 9, 5",
        "bucket, limit_name, weight: 'c', 'c', 4",
        "bucket, limit_name, wakes_at, waits, weight: 'd', 'd', 9, 5, 7",
    ];
    insert(pool, "limit_buckets", &buckets_of).await;
    let mut other = pool.begin().await.unwrap();
    run(&mut other, "select from gen_durable.instances where id = 8 for share").await;
    let mut connection = session(pool, "set lock_timeout = '5s'").await;
    let held: Vec<Held> = (1..=11)
        .map(|id| {
            let bucket = ["d", "b"].get(usize::try_from(id).unwrap() - 1).unwrap_or(&"a");
            (id, 3, *bucket, if id == 3 { 6 } else { 2 })
        })
        .collect();
    let marked = hold_back(&mut connection, &held).await;
    let alone = [(1, true), (2, false), (3, false), (4, true), (9, true), (10, true), (11, true)];
    assert_eq!(marked, alone);
    let columns = "json_build_array(i.id, i.status, i.blocked_by, i.limited_by, i.locked_by,
                   i.revision, i.unique_released, i.updated_at = gen_durable.now())";
    let given_back = |id: i64, blocked_by: i32, released: Option<bool>| {
        json!([id, "runnable", blocked_by, "a", null, 4, released, true])
    };
    let expected = json!([
        [1, "runnable", 16, "d", null, 4, null, true],
        [2, "executing", 16, "b", 7, 3, null, true],
        [3, "executing", 16, "a", 7, 3, null, true],
        given_back(4, 24, None),
        [5, "executing", 0, null, 7, 4, null, false],
        [6, "executing", 0, null, 8, 3, null, false],
        [7, "runnable", 0, null, 7, 3, null, false],
        [8, "executing", 0, null, 7, 3, null, false],
        given_back(9, 16, Some(true)),
        given_back(10, 16, None),
        given_back(11, 16, Some(true)),
        [12, "executing", 0, null, 7, 3, null, false],
    ]);
    assert_eq!(each(pool, columns).await, expected);
    // The next look at a bucket is due, and one that had a time before keeps it. While rows wait,
    // the weight is the largest of all.
    let found = buckets(pool, "bucket, wakes_at, waits, weight").await;
    let expected = json!([["a", NOW, 6, 6], ["b", 9, 6, 2], ["c", null, 0, 4], ["d", 9, 6, 7]]);
    assert_eq!(found, expected);
}

/// Statements that hold rows back wait for the buckets that others have, while they have some.
#[tokio::test(flavor = "multi_thread")]
async fn p70_buckets_are_marked_in_their_order() {
    let db = database().await;
    let pool = db.pool();
    workers(pool).await;
    let mut held = Vec::new();
    for (id, bucket) in (1..).zip(["f", "c", "e", "a", "d", "b"]) {
        let row =
            json!([{ "id": id, "status": "executing", "locked_by": 7, "limited_by": bucket }]);
        rows(pool, row).await;
        insert(pool, "limit_buckets", &[&format!("bucket, limit_name: '{bucket}', 'l'")]).await;
        held.push((id, 0, bucket, 1));
    }
    sql(pool, NOTE).await;
    let engine = include_str!("../../../gen_durable/src/storage/sql/session.sql");
    let mut connection = session(pool, engine).await;
    // Postgres could also group by hashing, and join by hashing what waits.
    let other = "set enable_sort = off; set enable_nestloop = off; set enable_mergejoin = off";
    run(&mut connection, "set enable_sort = off").await;
    assert_eq!(hold_back(&mut connection, &held).await.len(), 6);
    let noted = "select json_agg(bucket order by nth) from public.noted";
    assert_eq!(see(pool, noted).await, json!(["a", "b", "c", "d", "e", "f"]));
    // The rows of buckets are lost. Some come back, and others get a time. A trigger sees those
    // twice.
    sql(
        pool,
        "update gen_durable.limit_buckets set wakes_at = null;
         delete from gen_durable.limit_buckets where bucket in ('a', 'd');
         insert into gen_durable.limit_buckets (bucket, limit_name)
         select 'x' || n, 'l' from generate_series(1, 1000) as n;
         analyze gen_durable.limit_buckets;
         truncate public.noted",
    )
    .await;
    run(&mut connection, other).await;
    sqlx::query(statement!("stranded_buckets")).execute(&mut connection).await.unwrap();
    let all = json!(["a", "b", "b", "c", "c", "d", "e", "e", "f", "f"]);
    assert_eq!(see(pool, noted).await, all);
}

#[tokio::test(flavor = "multi_thread")]
async fn p70_idle_buckets_are_deleted_by_pages() {
    let db = database().await;
    let pool = db.pool();
    workers(pool).await;
    let long_ago = NOW - 60_000_001;
    for (bucket, columns, values) in [
        ("h", "used_until", "0".to_owned()),
        ("c", "used_until", format!("{long_ago} + 1")),
        ("a", "used_until", format!("{long_ago}")),
        ("f", "used_until", "0".to_owned()),
        ("d", "workers, held", "'{4,7}', '{1,0}'".to_owned()),
        ("b", "used_until, wakes_at", format!("{long_ago}, 1")),
        ("g", "used_until", "0".to_owned()),
        ("e", "workers, held", "'{4,5}', '{0,1}'".to_owned()),
    ] {
        let row = format!("bucket, limit_name, {columns}: '{bucket}', 'l', {values}");
        insert(pool, "limit_buckets", &[&row]).await;
    }
    let mut other = pool.begin().await.unwrap();
    run(&mut other, "select from gen_durable.limit_buckets where bucket = 'f' for key share").await;
    let mut connection = super::without_indexes(pool).await;
    run(&mut connection, "set lock_timeout = '5s'").await;
    let mut prune = async |after: &str, most: i64| {
        let last: Option<String> = sqlx::query_scalar(statement!("prune_buckets"))
            .bind(after)
            .bind(most)
            .fetch_one(&mut connection)
            .await
            .unwrap();
        (last, buckets(pool, "bucket").await.to_string().replace(['[', ']', '"', ','], ""))
    };
    assert_eq!(prune("a", 4).await, (Some("e".to_owned()), "abcefgh".to_owned()));
    assert_eq!(prune("", 3).await, (Some("c".to_owned()), "bcefgh".to_owned()));
    assert_eq!(prune("e", 4).await, (None, "bcef".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn p70_a_bucket_for_which_rows_wait_gets_a_time() {
    let db = database().await;
    let pool = db.pool();
    workers(pool).await;
    let known = [
        "bucket, limit_name, waits: 'a', 'l', 2",
        "bucket, limit_name, wakes_at, waits: 'b', 'l', 9, 2",
        "bucket, limit_name, waits: 'd', 'l', 2",
        "bucket, limit_name, waits: 'z', 'l', 2",
    ];
    insert(pool, "limit_buckets", &known).await;
    let all = json!([
        waits(1, "a", json!({})),
        waits(2, "a", json!({ "blocked_by": 24 })),
        waits(3, "b", json!({})),
        waits(4, "c\u{1f}k", json!({})),
        waits(5, "d", json!({})),
        waits(6, "0", json!({ "blocked_by": 8 })),
        waits(7, "z", json!({ "blocked_by": 8 })),
    ]);
    rows(pool, all).await;
    // A row is held back in `d` meanwhile.
    let mut other = pool.begin().await.unwrap();
    run(&mut other, "update gen_durable.limit_buckets set wakes_at = 7 where bucket = 'd'").await;
    let mut own = session(pool, "").await;
    let giving = tokio::spawn(async move {
        sqlx::query(statement!("stranded_buckets")).execute(&mut own).await.unwrap().rows_affected()
    });
    until_a_session_waits(pool, 1).await;
    other.commit().await.unwrap();
    assert_eq!(giving.await.unwrap(), 3);
    let rows = json!([
        ["a", "l", NOW, 3],
        ["b", "l", 9, 2],
        ["c\u{1f}k", "c", NOW, 0],
        ["d", "l", 7, 3],
        ["z", "l", null, 2],
    ]);
    assert_eq!(buckets(pool, "bucket, limit_name, wakes_at, waits").await, rows);
}

#[tokio::test(flavor = "multi_thread")]
async fn p70_buckets_of_changed_limits_are_due_now() {
    let db = database().await;
    let pool = db.pool();
    workers(pool).await;
    for (bucket, limit, wakes_at) in [
        ("a", "l", "5"),
        ("b", "m", "5"),
        ("c", "l", "-5"),
        ("d", "l", "null"),
        ("e", "l", "5"),
        ("f", "n", "5"),
    ] {
        let row =
            format!("bucket, limit_name, wakes_at: '{bucket}', '{limit}', {NOW} + {wakes_at}");
        insert(pool, "limit_buckets", &[&row]).await;
    }
    let mut other = pool.begin().await.unwrap();
    run(&mut other, "select from gen_durable.limit_buckets where bucket = 'e' for update").await;
    let mut connection = session(pool, "set lock_timeout = '5s'").await;
    sqlx::query(statement!("touch_buckets"))
        .bind(["l", "n"])
        .execute(&mut connection)
        .await
        .unwrap();
    let looks = json!([["a", 0], ["b", 5], ["c", -5], ["d", null], ["e", 5], ["f", 0]]);
    assert_eq!(buckets(pool, &next_look()).await, looks);
}

async fn add(connection: &mut PgConnection, buckets: &[&str]) {
    sqlx::query(statement!("add_buckets"))
        .bind(buckets)
        .bind(vec!["l"; buckets.len()])
        .execute(connection)
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn p70_a_bucket_is_added_once() {
    let db = database().await;
    let pool = db.pool();
    insert(pool, "limit_buckets", &["bucket, limit_name, waits: 'a', 'old', 9"]).await;
    let mut barrier = pool.begin().await.unwrap();
    let other = "insert into gen_durable.limit_buckets (bucket, limit_name) values ('b', 'other')";
    run(&mut barrier, other).await;
    let mut own = session(pool, "").await;
    add(&mut own, &["a"]).await;
    let adding = tokio::spawn(async move { add(&mut own, &["z", "b", "a"]).await });
    until_a_session_waits(pool, 1).await;
    // It waits for `b`, and has taken nothing that comes after it.
    let mut third = pool.begin().await.unwrap();
    let other = "set local lock_timeout = '5s';
                 insert into gen_durable.limit_buckets (bucket, limit_name) values ('z', 'third')";
    run(&mut third, other).await;
    third.rollback().await.unwrap();
    barrier.commit().await.unwrap();
    adding.await.unwrap();
    let rows = json!([["a", "old", 9], ["b", "other", 0], ["z", "l", 0]]);
    assert_eq!(buckets(pool, "bucket, limit_name, waits").await, rows);
}
