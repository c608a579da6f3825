//! Upgrades that fail: the row stays as it is, it shows the reason, and another engine may run it.

use std::sync::Arc;

use gen_durable::prelude::*;
use sqlx::PgPool;

use super::{
    machines::{mended, v1, v2},
    now_of, start, stored,
};
use crate::support::{Breakpoint, WAIT_MAX, database, eventually, row, sql};

/// Returns how often the row was claimed and put back, and for how many seconds it is left alone.
async fn tries(pool: &PgPool, id: InstanceId<v1::Parcel>) -> (i64, f64) {
    sqlx::query_as(
        "select revision / 2, extract(epoch from eligible_at - now())::float8
         from gen_durable.instances where id = $1",
    )
    .bind(id.get())
    .fetch_one(pool)
    .await
    .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn p33_a_failing_upgrade_leaves_the_row_as_it_was() {
    let db = database().await;
    let pool = db.pool();
    let breakpoint = Arc::new(Breakpoint::new());
    let mut ids = Vec::new();
    for plan in ["no upgrade", "panic", "nul", "state", "step"] {
        let insert = v1::Parcel::insert(v1::State::new(1, plan)).partition_key(plan);
        ids.push(insert.unique_key(plan).priority(-1).execute(pool).await.unwrap());
    }
    v1::Parcel::signal_paid(ids[0], v1::Paid { amount: 1 }).execute(pool).await.unwrap();
    sql(pool, "update gen_durable.instances set attempt = 3, crashes = 2, awaits = '{}'").await;
    sql(
        pool,
        r#"update gen_durable.instances set state = state::jsonb || '{"n": "one"}' where state->>'plan' = 'state'"#,
    )
    .await;
    sql(pool, "update gen_durable.instances set step = 'gone' where state->>'plan' = 'step'").await;
    let mut before = Vec::new();
    for id in &ids {
        before.push((stored(pool, *id).await, row(pool, *id).await));
    }

    let engine = start::<v2::Parcel>(&db, &breakpoint).await;
    for ((id, (stored_before, row_before)), reason) in ids.iter().zip(before).zip([
        "not upgraded from version 1 to 2, and left as it is: from version 1 to 2: this plan has no counterpart",
        "not upgraded from version 1 to 2, and left as it is: panicked: an upgrade that gives up",
        "the upgraded state cannot be stored: state holds a NUL character",
        "the state does not decode as version 1 at field `n`",
        "version 1 has no step `gone`; it has start, finish",
    ]) {
        let mut after = eventually("it was tried", async || {
            let row = row(pool, *id).await;
            row.last_error.is_some().then_some(row)
        })
        .await;
        let error = after.last_error.take().unwrap();
        assert!(error.contains(reason), "{error}");
        assert_eq!(after, row_before, "attempts and inbox included");
        assert_eq!(stored(pool, *id).await, stored_before);
        let (tries, seconds) = tries(pool, *id).await;
        assert_eq!(tries, 1);
        assert!((20.0..=40.0).contains(&seconds), "left alone for {seconds} s");
    }
    let woken: i64 = sqlx::query_scalar(
        "select count(*) from gen_durable.instances where awaits = '{}' and unique_guard is not null",
    )
    .fetch_one(pool)
    .await
    .unwrap();
    assert_eq!(woken, 5, "that a timeout woke them is not forgotten, and their keys are held");

    // These rows hold up no other row, and are not tried again for a while.
    for _ in 0..20 {
        let id = v1::Parcel::insert(v1::State::new(1, "")).execute(&engine).await.unwrap();
        engine.wait(now_of::<v2::Parcel, _>(id), WAIT_MAX).await.unwrap();
    }
    assert_eq!(tries(pool, ids[0]).await.0, 1);

    // When they are due, they are tried again, even if the upgrade is not mended.
    sql(pool, "update gen_durable.instances set eligible_at = now() where status = 'runnable'")
        .await;
    eventually("it was tried again", async || (tries(pool, ids[0]).await.0 == 2).then_some(()))
        .await;
    engine.shutdown().await.unwrap();

    // A deployment whose upgrade works takes one row, and the old deployment, rolled back, takes
    // another.
    sql(
        pool,
        "update gen_durable.instances set eligible_at = now()
         where status = 'runnable' and state->>'plan' = 'no upgrade'",
    )
    .await;
    let new = start::<mended::Parcel>(&db, &breakpoint).await;
    let plan = new.wait(now_of::<mended::Parcel, _>(ids[0]), WAIT_MAX).await.unwrap();
    assert_eq!(plan, "\"no upgrade\"");
    new.shutdown().await.unwrap();
    sql(
        pool,
        "update gen_durable.instances set eligible_at = now()
         where status = 'runnable' and state->>'plan' = 'panic'",
    )
    .await;
    let old = start::<v1::Parcel>(&db, &breakpoint).await;
    assert_eq!(old.wait(ids[1], WAIT_MAX).await.unwrap(), ["v1 start, attempt 3", "v1 finish"]);
    old.shutdown().await.unwrap();
}

/// The upgrades of two thousand rows fail. The rows must come back one after another and not all at
/// once, and another instance must run meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn p33_many_failing_upgrades_come_back_at_a_bounded_rate() {
    const ROWS: i64 = 2_000;
    let db = database().await;
    let pool = db.pool();
    let breakpoint = Arc::new(Breakpoint::new());
    let rows = (0..ROWS).map(|_| v1::State::new(1, "no upgrade"));
    v1::Parcel::insert_many(rows).execute(pool).await.unwrap();
    let engine = start::<v2::Parcel>(&db, &breakpoint).await;
    let tried = async || {
        sqlx::query_as::<_, (i64, f64)>(
            "select count(*), coalesce(extract(epoch from max(eligible_at) - min(eligible_at)), 0)::float8
             from gen_durable.instances where last_error is not null and status = 'runnable'",
        )
        .fetch_one(pool)
        .await
        .unwrap()
    };
    let seconds = eventually("all were tried", async || {
        let (rows, seconds) = tried().await;
        (rows == ROWS).then_some(seconds)
    })
    .await;
    // The engine delays the rows by a millisecond more each. Postgres adds that delay to the time
    // of the commit.
    assert!(seconds > 1.0, "{ROWS} rows come back within {seconds} s");
    let id = v1::Parcel::insert(v1::State::new(1, "")).execute(&engine).await.unwrap();
    engine.wait(now_of::<v2::Parcel, _>(id), WAIT_MAX).await.unwrap();
    engine.shutdown().await.unwrap();
}
