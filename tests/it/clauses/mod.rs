//! The clauses of the SQL statements. If a clause that matters is taken away, a test here fails.
//! The tests run single statements on rows that they make.
//!
//! `tools/mutations` takes the clauses away one by one, and reports which test fails.

mod buckets;
mod by_name;
mod claim;
mod claim_known;
mod claim_loads;
mod commit;
mod commit_step;
mod declarations;
mod deliver;
mod heads;
mod history;
mod inbox;
mod insert;
mod insert_or_signal;
mod keys;
mod limit_acts;
mod limits;
mod lives;
mod looks;
mod maintenance;
mod observer;
mod operate;
mod parks;
mod pauses;
mod registered;
mod reports;
mod schedules;
mod scopes;
mod traces;
mod turns;

use serde_json::{Map, Value};
use sqlx::{AssertSqlSafe, PgConnection, PgPool, SqlSafeStr, types::Json};
use tokio::task::JoinHandle;

use crate::support::until_a_session_waits;

/// A time long ago, and a time long after the tests.
const PAST: &str = "2020-01-01T00:00:00+00:00";
const FUTURE: &str = "2100-01-01T00:00:00+00:00";

/// Inserts rows of `instances` with these columns, in this order in the table. By default a row is
/// of the machine `m`, version 1, at the step `s`.
async fn rows(pool: &PgPool, rows: Value) {
    // One session inserts them: each session chooses a page of its own.
    let mut connection = pool.acquire().await.expect("a connection");
    let mut places = Vec::new();
    for row in rows.as_array().expect("an array of objects") {
        let mut columns = Map::new();
        columns.insert("fsm".to_owned(), "m".into());
        columns.insert("fsm_version".to_owned(), 1.into());
        columns.insert("step".to_owned(), "s".into());
        columns.insert("state".to_owned(), "old".into());
        columns.extend(row.as_object().expect("an object").clone());
        let names: Vec<&str> = columns.keys().map(String::as_str).collect();
        let names = names.join(", ");
        let insert = format!(
            "insert into gen_durable.instances ({names})
             select {names} from jsonb_populate_record(null::gen_durable.instances, $1)
             returning array_to_json(string_to_array(trim(ctid::text, '()'), ',')::int[])"
        );
        let insert = sqlx::query_scalar(AssertSqlSafe(insert)).bind(Value::Object(columns));
        let place: Json<(i32, i32)> =
            insert.fetch_one(&mut *connection).await.expect("the row is inserted");
        places.push(place.0);
    }
    assert!(places.is_sorted(), "the rows lie in another order: {places:?}");
}

/// Inserts rows into a table, each as `columns: values`.
async fn insert(pool: &PgPool, table: &str, rows: &[&str]) {
    let mut connection = pool.acquire().await.expect("a connection");
    for row in rows {
        let (columns, values) = row.split_once(": ").expect("columns and values");
        let insert = format!(
            "insert into gen_durable.{table} ({columns}) overriding system value values ({values})"
        );
        run(&mut connection, insert).await;
    }
}

/// Inserts signals of the name `go` with these ids, in this order in the table.
async fn signals(pool: &PgPool, signals: &[(i64, i64)]) {
    let mut connection = pool.acquire().await.expect("a connection");
    for (target, id) in signals {
        sqlx::query(
            "insert into gen_durable.signals (target_id, id, name, payload)
             overriding system value values ($1, $2, 'go', to_json($2::bigint))",
        )
        .bind(target)
        .bind(id)
        .execute(&mut *connection)
        .await
        .expect("the signal is inserted");
    }
}

/// Inserts the worker 7, whose lease is running.
async fn worker(pool: &PgPool) {
    crate::support::sql(
        pool,
        "insert into gen_durable.workers (id, name, lease_expires_at)
         overriding system value values (7, 'w', now() + interval '1 hour')",
    )
    .await;
}

/// Returns the values of an expression over all rows of `instances`, in the order of their ids.
async fn each(pool: &PgPool, expression: &str) -> Value {
    let query = format!(
        "select coalesce(json_agg({expression} order by i.id), '[]') from gen_durable.instances i"
    );
    see(pool, query).await
}

/// Returns the answer of a query for one value.
async fn see(pool: &PgPool, query: impl Into<String>) -> Value {
    let query = format!("select to_json(({}))", query.into());
    let seen: Option<Value> =
        sqlx::query_scalar(AssertSqlSafe(query)).fetch_one(pool).await.expect("an answer");
    seen.unwrap_or(Value::Null)
}

/// Opens a session that finds rows only by reading the table, in the order of its pages.
async fn without_indexes(pool: &PgPool) -> PgConnection {
    let settings =
        "set enable_indexscan = off; set enable_indexonlyscan = off; set enable_bitmapscan = off";
    session(pool, settings).await
}

/// Opens a session outside of the pool, with these settings.
async fn session(pool: &PgPool, settings: &'static str) -> PgConnection {
    let mut connection = pool.acquire().await.expect("a connection").detach();
    run(&mut connection, settings).await;
    connection
}

/// Runs statements in a session.
async fn run(connection: &mut PgConnection, statements: impl Into<String>) {
    let statements = AssertSqlSafe(statements.into()).into_sql_str();
    sqlx::raw_sql(statements).execute(connection).await.expect("the statements run");
}

/// True if another transaction has locked a row, so that no other can change it.
async fn is_locked(pool: &PgPool, id: i64) -> bool {
    let free: Vec<i64> = sqlx::query_scalar(
        "select id from gen_durable.instances where id = $1 for no key update skip locked",
    )
    .bind(id)
    .fetch_all(pool)
    .await
    .expect("an answer");
    free.is_empty()
}

/// Runs two statements that lock the rows 1 and 2, each in a transaction of its own. Row 2 lies
/// before row 1 on the table's page.
///
/// Both wait for row 1. The second one reads the table in the order of its pages. If it had locked
/// row 2 by now, the first one would get row 1 next, and each would wait for the other.
async fn in_a_circle<T: Send + 'static>(
    pool: &PgPool,
    lock: impl Fn(PgConnection, [i64; 2]) -> JoinHandle<T>,
) -> [T; 2] {
    rows(pool, serde_json::json!([{ "id": 2 }, { "id": 1 }])).await;
    let mut barrier = pool.begin().await.expect("a transaction");
    run(&mut barrier, "select from gen_durable.instances where id = 1 for update").await;
    let by_key = session(pool, "set enable_seqscan = off; set enable_bitmapscan = off").await;
    let first = lock(by_key, [1, 2]);
    until_a_session_waits(pool, 1).await;
    let second = lock(without_indexes(pool).await, [2, 1]);
    until_a_session_waits(pool, 2).await;
    barrier.rollback().await.expect("the barrier ends");
    [first.await.expect("no panic"), second.await.expect("no panic")]
}
