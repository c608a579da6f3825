//! Rows that are blocked for another reason than their partition key: they keep their place among
//! the rows of the key, and come back when their last reason ends.

use std::{sync::Arc, time::Duration};

use crate::{
    blocked::{Waits, blocked},
    support::{Breakpoint, database, engine, eventually, sql, until},
};

/// The reason of a block that is not the key's, as later features will have some.
const OTHER: i32 = 2;

/// Sets and clears bits of `blocked_by`, as who begins or ends a reason does.
async fn block(pool: &sqlx::PgPool, place: i64, set: i32, clear: i32) {
    sqlx::query(
        "update gen_durable.instances set blocked_by = (blocked_by | $2) & ~$3
         where state::text = $1::text",
    )
    .bind(place)
    .bind(set)
    .bind(clear)
    .execute(pool)
    .await
    .unwrap();
}

/// The first row of a key is blocked for another reason than its key. It keeps its place: the rows
/// behind it wait, out of the claim's index, and neither claims nor maintenance let them in.
#[tokio::test(flavor = "multi_thread")]
async fn p72_who_is_blocked_for_another_reason_keeps_its_place() {
    let db = database().await;
    let pool = db.pool();
    let later = Duration::from_mins(10);
    for n in [1, 2, 3] {
        let row = Waits::insert(n).partition_key("k").schedule_in(later);
        row.execute(pool).await.unwrap();
    }
    block(pool, 1, OTHER, 0).await;
    sql(pool, "update gen_durable.instances set eligible_at = now()").await;
    let breakpoint = Arc::new(Breakpoint::new());
    let engine = engine(&db).machine::<Waits>().resource(Arc::clone(&breakpoint));
    let engine = engine.start().await.unwrap();
    eventually("they wait", async || (blocked(pool).await == [2, 3]).then_some(())).await;
    engine.maintain().await.unwrap();
    assert_eq!(blocked(pool).await, [2, 3]);
    // Rows of other keys go on.
    breakpoint.open(1);
    let other = Waits::insert(9).partition_key("free").execute(&engine).await.unwrap();
    assert_eq!(breakpoint.arrival().await, 9);
    until(pool, other, "done").await;
    block(pool, 1, 0, OTHER).await;
    breakpoint.open(3);
    for n in [1, 2, 3] {
        assert_eq!(breakpoint.arrival().await, n);
    }
    engine.shutdown().await.unwrap();
}

/// A row waits for its key and is blocked for another reason. Whichever ends first does not let the
/// row in.
#[tokio::test(flavor = "multi_thread")]
async fn p72_the_end_of_one_reason_does_not_end_another() {
    for key_first in [true, false] {
        let db = database().await;
        let pool = db.pool();
        let breakpoint = Arc::new(Breakpoint::new());
        let engine = engine(&db).machine::<Waits>().resource(Arc::clone(&breakpoint));
        let engine = engine.start().await.unwrap();
        let rows = [1, 2, 3].map(|n| Waits::insert(n).partition_key("k"));
        let ids = Waits::insert_many(rows).execute(&engine).await.unwrap();
        assert_eq!(breakpoint.arrival().await, 1);
        block(pool, 2, OTHER, 0).await;
        if key_first {
            breakpoint.open(1);
            until(pool, *ids[0].as_ref().unwrap(), "done").await;
            engine.maintain().await.unwrap();
            assert_eq!(blocked(pool).await, [3], "the second one keeps its place");
            block(pool, 2, 0, OTHER).await;
        } else {
            block(pool, 2, 0, OTHER).await;
            engine.maintain().await.unwrap();
            assert_eq!(blocked(pool).await, [2, 3], "the first one still runs");
            breakpoint.open(1);
        }
        breakpoint.open(2);
        for n in [2, 3] {
            assert_eq!(breakpoint.arrival().await, n);
        }
        engine.shutdown().await.unwrap();
    }
}

/// The row that keeps its place ends without a run, as an operator may delete it. No commit frees
/// the key then, so the maintenance finds the rows behind it.
#[tokio::test(flavor = "multi_thread")]
async fn p72_who_waits_behind_a_row_that_is_deleted_is_found() {
    let db = database().await;
    let pool = db.pool();
    let rows = [1, 2].map(|n| Waits::insert(n).partition_key("k"));
    Waits::insert_many(rows).execute(pool).await.unwrap();
    block(pool, 1, OTHER, 0).await;
    let breakpoint = Arc::new(Breakpoint::new());
    let engine = engine(&db).machine::<Waits>().resource(Arc::clone(&breakpoint));
    let engine = engine.start().await.unwrap();
    engine.maintain().await.unwrap();
    assert_eq!(blocked(pool).await, [2]);
    sql(pool, "delete from gen_durable.instances where state::text = '1'").await;
    breakpoint.open(1);
    engine.maintain().await.unwrap();
    assert_eq!(breakpoint.arrival().await, 2);
    engine.shutdown().await.unwrap();
}
