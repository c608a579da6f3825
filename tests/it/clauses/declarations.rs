//! The clauses of `declare.sql` and `lock_declarations.sql`.

use serde_json::{Value, json};
use sqlx::{PgConnection, PgPool};

use super::{run, see};
use crate::support::{database, sql, until_a_session_waits};

/// A time that lies before all tests, in microseconds since 1970.
const KNOWN: i64 = 1_000_000;

async fn worker(pool: &PgPool, id: i64, lease: &str) {
    let insert = format!(
        "insert into gen_durable.workers (id, name, lease_expires_at)
         overriding system value values ({id}, 'w', now() + interval '{lease}')"
    );
    run(&mut pool.acquire().await.unwrap(), insert).await;
}

/// Declares schedules: the name of each, its text, and the time that a former worker knows.
async fn declare(connection: &mut PgConnection, worker: i64, said: &[(&str, &str, Option<i64>)]) {
    sqlx::query(include_str!("../../../gen_durable/src/storage/sql/declare.sql"))
        .bind(worker)
        .bind(vec!["schedule"; said.len()])
        .bind(said.iter().map(|said| said.0).collect::<Vec<_>>())
        .bind(said.iter().map(|said| said.1).collect::<Vec<_>>())
        .bind(said.iter().map(|said| said.2).collect::<Vec<_>>())
        .execute(connection)
        .await
        .unwrap();
}

/// Returns the texts of a name in the order in which they appeared, each with its workers.
async fn order(pool: &PgPool, name: &str) -> Value {
    let texts = format!(
        "select json_agg(json_build_array(body, workers) order by appeared_at)
         from (
             select body, appeared_at, array_agg(worker order by worker) as workers
             from gen_durable.declarations
             where kind = 'schedule' and name = '{name}'
             group by body, appeared_at
         ) as texts"
    );
    see(pool, texts).await
}

#[tokio::test(flavor = "multi_thread")]
async fn p45_a_text_appears_with_the_first_of_its_living_workers() {
    let db = database().await;
    let pool = db.pool();
    let mut connection = pool.acquire().await.unwrap();
    for id in 1..=6 {
        worker(pool, id, "1 hour").await;
    }
    declare(&mut connection, 1, &[("a", "old", None), ("b", "new", None)]).await;
    declare(&mut connection, 2, &[("a", "new", None)]).await;
    // A further worker of the old text makes it no younger, and one of another name neither.
    declare(&mut connection, 3, &[("a", "old", None), ("b", "old", None)]).await;
    assert_eq!(order(pool, "a").await, json!([["old", [1, 3]], ["new", [2]]]));
    assert_eq!(order(pool, "b").await, json!([["new", [1]], ["old", [3]]]));
    // No living worker has the old text any more. One that comes makes it appear anew.
    let lapse = "update gen_durable.workers set lease_expires_at = now() - interval '1 s'
                 where id in (1, 3)";
    sql(pool, lapse).await;
    declare(&mut connection, 4, &[("a", "old", None)]).await;
    assert_eq!(order(pool, "a").await, json!([["old", [1, 3]], ["new", [2]], ["old", [4]]]));
    // A worker that was lost for a while brings its own time, unless others have the text.
    declare(&mut connection, 5, &[("a", "older", Some(KNOWN)), ("b", "x", Some(KNOWN))]).await;
    declare(&mut connection, 6, &[("a", "new", Some(KNOWN))]).await;
    let texts = json!([["older", [5]], ["old", [1, 3]], ["new", [2, 6]], ["old", [4]]]);
    assert_eq!(order(pool, "a").await, texts);
    // The declarations go with their workers.
    sql(pool, "delete from gen_durable.workers where id <> 5").await;
    assert_eq!(order(pool, "a").await, json!([["older", [5]]]));
}

/// The clock goes back, or stands still: the order of the texts is that of their registrations.
#[tokio::test(flavor = "multi_thread")]
async fn p45_a_text_appears_after_all_others_of_its_name_whatever_the_clock_does() {
    let db = database().await;
    let pool = db.pool();
    let mut connection = pool.acquire().await.unwrap();
    for id in 1..=4 {
        worker(pool, id, "100 years").await;
    }
    declare(&mut connection, 1, &[("a", "one", None)]).await;
    let ahead = "update gen_durable.declarations set appeared_at = now() + interval '10 years'";
    sql(pool, ahead).await;
    declare(&mut connection, 2, &[("a", "two", None), ("b", "two", None)]).await;
    declare(&mut connection, 3, &[("a", "three", None)]).await;
    declare(&mut connection, 4, &[("a", "two", None)]).await;
    let texts = json!([["one", [1]], ["two", [2, 4]], ["three", [3]]]);
    assert_eq!(order(pool, "a").await, texts);
    // The other name has nothing to do with it.
    let near = "select appeared_at < now() + interval '1 hour'
                from gen_durable.declarations where name = 'b'";
    assert_eq!(see(pool, near).await, json!(true));
}

/// Two engines of a new text start at once. The second one waits, and then sees the first.
#[tokio::test(flavor = "multi_thread")]
async fn p45_engines_declare_one_after_the_other() {
    let db = database().await;
    let pool = db.pool();
    for id in 1..=2 {
        worker(pool, id, "1 hour").await;
    }
    let lock = include_str!("../../../gen_durable/src/storage/sql/lock_declarations.sql");
    let mut first = pool.begin().await.unwrap();
    run(&mut first, lock).await;
    declare(&mut first, 1, &[("a", "new", None)]).await;
    let mut own = pool.begin().await.unwrap();
    let second = tokio::spawn(async move {
        run(&mut own, lock).await;
        declare(&mut own, 2, &[("a", "new", None)]).await;
        own.commit().await.unwrap();
    });
    until_a_session_waits(pool, 1).await;
    first.commit().await.unwrap();
    second.await.unwrap();
    assert_eq!(order(pool, "a").await, json!([["new", [1, 2]]]));
}
