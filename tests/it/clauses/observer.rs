//! The lease of the observer, and what it reads: `observe.sql`, `stop_observing.sql`,
//! `sample_limits.sql`, `sample_schedules.sql` and `sample_workers.sql`.

use serde_json::{Value, json};
use sqlx::{PgConnection, PgPool, Row};

use super::{insert, run, see, session};
use crate::support::{database, sql};

const OBSERVE: &str = include_str!("../../../gen_durable/src/storage/sql/observe.sql");
const STOP: &str = include_str!("../../../gen_durable/src/storage/sql/stop_observing.sql");
const LIMITS: &str = include_str!("../../../gen_durable/src/storage/sql/sample_limits.sql");
const SCHEDULES: &str = include_str!("../../../gen_durable/src/storage/sql/sample_schedules.sql");
const WORKERS: &str = include_str!("../../../gen_durable/src/storage/sql/sample_workers.sql");

/// Asks for the lease, for ten seconds.
async fn observe(connection: &mut PgConnection, worker: i64) -> bool {
    let asked = sqlx::query(OBSERVE).bind(worker).bind(10_000_000_i64);
    asked.fetch_optional(connection).await.unwrap().is_some()
}

/// Moves the database's clock.
async fn move_clock(pool: &PgPool, seconds: i64) {
    let mut connection = pool.acquire().await.unwrap();
    run(
        &mut connection,
        format!(
            "create or replace function gen_durable.now() returns timestamptz language sql stable
             as 'select timestamptz ''2030-01-01 00:00:00+00'' + interval ''{seconds} seconds'''"
        ),
    )
    .await;
}

async fn lease(pool: &PgPool) -> Value {
    see(
        pool,
        "select json_build_array(worker, extract(epoch from lease_expires_at - '2030-01-01 00:00:00+00')::int)
         from gen_durable.observer",
    )
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn one_worker_observes_until_its_lease_is_over() {
    let db = database().await;
    let pool = db.pool();
    let mut connection = session(pool, "set lock_timeout = '1s'").await;
    move_clock(pool, 0).await;
    assert!(observe(&mut connection, 7).await);
    assert_eq!(lease(pool).await, json!([7, 10]));
    assert!(!observe(&mut connection, 8).await, "it is another one's");
    move_clock(pool, 5).await;
    assert!(observe(&mut connection, 7).await, "its own is renewed");
    assert_eq!(lease(pool).await, json!([7, 15]));
    move_clock(pool, 14).await;
    assert!(!observe(&mut connection, 8).await);
    move_clock(pool, 15).await;
    assert!(observe(&mut connection, 8).await, "it is over");
    assert_eq!(lease(pool).await, json!([8, 25]));
    let stop = async |worker: i64| sqlx::query(STOP).bind(worker).execute(pool).await.unwrap();
    stop(7).await;
    assert_eq!(lease(pool).await, json!([8, 25]), "it has not the lease");
    stop(8).await;
    assert_eq!(lease(pool).await, json!([0, 15]));
    assert!(observe(&mut connection, 7).await, "at the same moment");
}

/// Two ask at the same moment, after the lease is over. The second one has an older snapshot.
#[tokio::test(flavor = "multi_thread")]
async fn one_of_two_that_ask_at_once_observes_and_nobody_waits() {
    let db = database().await;
    let pool = db.pool();
    let mut first = pool.begin().await.unwrap();
    assert!(observe(&mut first, 7).await);
    // The first one's transaction is open.
    let mut second = session(pool, "set lock_timeout = '1ms'").await;
    assert!(!observe(&mut second, 8).await, "it skips the locked row");
    first.commit().await.unwrap();
    assert!(!observe(&mut second, 8).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_show_what_runs_and_waits_in_all_their_buckets() {
    let db = database().await;
    let pool = db.pool();
    insert(
        pool,
        "limits",
        &[
            "name, body, at_once: 'a', '', 5",
            "name, body, starts, period: 'ab', '', 3, 500000",
            "name, body: 'free', ''",
        ],
    )
    .await;
    sql(
        pool,
        "insert into gen_durable.workers (id, name, lease_expires_at) overriding system value
         values (1, 'w', now() + interval '1 hour'), (2, 'stale', now() - interval '1 hour');
         insert into gen_durable.lost_workers (worker, lost_at, counts_until)
         values (3, now(), now() + interval '1 hour'), (4, now(), now() - interval '1 s'),
                (5, now() + interval '1 hour', now() + interval '2 hours');
         insert into gen_durable.limit_buckets (bucket, limit_name, workers, held) values
         ('a', 'a', '{1,2,3,4,5,6}', '{1,10,100,1000,1000,1000}'),
         ('a' || chr(31) || 'key', 'a', '{1}', '{10000}'),
         ('a!', 'a!', '{1}', '{7}'),
         ('a' || chr(31), 'other', '{1}', '{7}'),
         ('ab', 'ab', '{1}', '{2}');
         insert into gen_durable.instances (fsm, fsm_version, step, state, queue, blocked_by, limited_by) values
         ('m', 1, 's', '1', 'q', 16, 'a'), ('m', 1, 's', '1', 'q', 16, 'a' || chr(31) || 'key'),
         ('m', 1, 's', '1', 'q', 16, 'a' || chr(1)), ('m', 1, 's', '1', 'q', 16, 'a!'),
         ('m', 1, 's', '1', 'q', 0, 'a'), ('m', 1, 's', '1', 'q', 16, 'ab')",
    )
    .await;
    let rows = sqlx::query(LIMITS).fetch_all(pool).await.unwrap();
    let seen: Vec<_> = rows
        .iter()
        .map(|row| {
            json!([
                row.get::<String, _>("name"),
                row.get::<Option<i32>, _>("at_once"),
                row.get::<Option<f64>, _>("starts_per_second"),
                row.get::<i64, _>("in_use"),
                row.get::<i64, _>("waiting"),
            ])
        })
        .collect();
    let expected = [
        json!(["a", 5, null, 10_111, 2]),
        json!(["ab", null, 6.0, 2, 1]),
        json!(["free", null, null, 0, 0]),
    ];
    assert_eq!(seen, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn schedules_show_their_times_failures_and_pauses() {
    let db = database().await;
    let pool = db.pool();
    let given = "name, body, fsm, passed_at, skipped, skipped_to, next_at, last_at, failed_at, paused_at, paused_until";
    let row = |name: &str, last: &str, failed: &str, pause: &str| {
        format!(
            "{given}: '{name}', '', 'm', now(), '{{}}', now(), timestamptz 'epoch' + interval '9 s', {last}, {failed}, {pause}"
        )
    };
    let at = |seconds: u32| format!("timestamptz 'epoch' + interval '{seconds} s'");
    let rows = [
        row("e", &at(2), &at(1), "now(), now() - interval '1 s'"),
        row("a", "null", "null", "null, null"),
        row("b", &at(1), &at(2), "null, null"),
        row("c", &at(2), &at(1), "now(), null"),
        row("d", "null", &at(1), "now(), now() + interval '1 hour'"),
    ];
    insert(pool, "schedules", &rows.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let rows = sqlx::query(SCHEDULES).fetch_all(pool).await.unwrap();
    let seen: Vec<_> = rows
        .iter()
        .map(|row| {
            json!([
                row.get::<String, _>("name"),
                row.get::<Option<i64>, _>("next_at"),
                row.get::<Option<i64>, _>("last_at"),
                row.get::<bool, _>("failing"),
                row.get::<bool, _>("paused"),
            ])
        })
        .collect();
    let second = 1_000_000;
    let expected = [
        json!(["a", 9 * second, null, false, false]),
        json!(["b", 9 * second, second, true, false]),
        json!(["c", 9 * second, 2 * second, false, true]),
        json!(["d", 9 * second, null, true, true]),
        json!(["e", 9 * second, 2 * second, false, false]),
    ];
    assert_eq!(seen, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_count_by_their_leases() {
    let db = database().await;
    let pool = db.pool();
    move_clock(pool, 0).await;
    sql(
        pool,
        "insert into gen_durable.workers (name, lease_expires_at)
         select 'w', gen_durable.now() + n * interval '1 s' from generate_series(-2, 1) as n",
    )
    .await;
    let row = sqlx::query(WORKERS).fetch_one(pool).await.unwrap();
    assert_eq!((row.get::<i64, _>("alive"), row.get::<i64, _>("stale")), (1, 3));
    assert_eq!(row.get::<i64, _>("now"), 1_893_456_000_000_000);
}

/// Beside many buckets and many rows that wait, a sample reads a bounded number of each.
#[tokio::test(flavor = "multi_thread")]
async fn a_sample_of_limits_is_bounded() {
    let db = database().await;
    let pool = db.pool();
    let mut connection =
        session(pool, include_str!("../../../gen_durable/src/storage/sql/session.sql")).await;
    let read = async |connection: &mut PgConnection| {
        let row = sqlx::query(LIMITS).fetch_one(connection).await.unwrap();
        (row.get::<i64, _>("in_use"), row.get::<i64, _>("waiting"))
    };
    insert(pool, "limits", &["name, body, at_once: 'a', '', 5"]).await;
    // Postgres keeps the plan that it makes for empty tables.
    assert_eq!(read(&mut connection).await, (0, 0));
    sql(
        pool,
        "insert into gen_durable.workers (id, name, lease_expires_at) overriding system value
         values (1, 'w', now() + interval '1 hour');
         insert into gen_durable.limit_buckets (bucket, limit_name, workers, held)
         select 'a' || chr(31) || n, 'a', '{1}', '{1}' from generate_series(1, 5000) as n;
         insert into gen_durable.instances (fsm, fsm_version, step, state, queue, blocked_by, limited_by)
         select 'm', 1, 's', '1', 'q', 16, 'a' || chr(31) || n from generate_series(1, 5000) as n",
    )
    .await;
    assert_eq!(read(&mut connection).await, (1_000, 1_000));
    let plan = format!("explain (analyze, buffers, timing off, summary off) {LIMITS}");
    let lines: Vec<String> =
        sqlx::query_scalar(sqlx::AssertSqlSafe(plan)).fetch_all(&mut connection).await.unwrap();
    let plan = lines.join("\n");
    assert!(plan.contains("instances_limited"), "{plan}");
    assert!(plan.contains("limit_buckets_pkey"), "{plan}");
    for whole in ["Seq Scan on instances", "Seq Scan on limit_buckets"] {
        assert!(!plan.contains(whole), "{plan}");
    }
}
