//! Unique keys across an upgrade.
//!
//! An instance holds its key until it first leaves the statuses that hold it. It does not take the
//! key again when it comes back to them. Therefore an upgrade cannot collide with an instance that
//! took the key meanwhile.

use std::sync::Arc;

use gen_durable::{Duplicate, InsertError, prelude::*};
use sqlx::PgPool;

use super::{
    machines::{mended, v1, v2},
    now_of, start, stored,
};
use crate::support::{Breakpoint, WAIT_MAX, database, eventually, row, sql, until};

/// Inserts an instance of version 1 that holds its key while it is runnable.
async fn keyed(pool: &PgPool, plan: &str) -> InstanceId<v1::Parcel> {
    let insert = v1::Parcel::insert(v1::State::new(1, plan)).unique_key(plan);
    insert.unique_while([Status::Runnable]).execute(pool).await.unwrap()
}

/// A trigger: when an instance is claimed, another instance of the same machine takes its key at
/// the same moment.
const TAKE_KEYS: &str = r#"
create function take_key() returns trigger language plpgsql as $$
begin
    insert into gen_durable.instances (fsm, fsm_version, step, state, unique_key, unique_scope, eligible_at)
    values ('parcel', 1, 'start', '{"n": 7, "plan": "", "trail": []}', new.unique_key,
            '{runnable}', now() + interval '1 hour');
    return null;
end $$;
create trigger take_key after update on gen_durable.instances for each row
when (old.status = 'runnable' and new.status = 'executing' and new.state ->> 'plan' <> ''
      and old.unique_released is null)
execute function take_key();
"#;

/// Returns the instance that holds a key now.
async fn holder(pool: &PgPool, key: &str) -> InstanceId<v1::Parcel> {
    let id = sqlx::query_scalar("select id from gen_durable.instances where unique_guard = $1")
        .bind(key)
        .fetch_one(pool)
        .await
        .unwrap();
    InstanceId::from_raw(id)
}

#[tokio::test(flavor = "multi_thread")]
async fn p22_what_an_upgrade_puts_back_never_collides_with_who_took_its_key() {
    let db = database().await;
    let pool = db.pool();
    let breakpoint = Arc::new(Breakpoint::new());
    sql(pool, TAKE_KEYS).await;
    let failing = keyed(pool, "no upgrade").await;
    let mut upgraded = Vec::new();
    for plan in ["replay", "later", "fail", "await"] {
        upgraded.push((keyed(pool, plan).await, plan));
    }
    let engine = start::<v2::Parcel>(&db, &breakpoint).await;
    // The upgrade fails, and the row goes back to `runnable`, a status that holds keys.
    let after = eventually("it was put back", async || {
        let row = row(pool, failing).await;
        (row.status == "runnable" && row.last_error.is_some()).then_some(row)
    })
    .await;
    assert!(after.last_error.unwrap().contains("this plan has no counterpart"));
    assert_eq!((after.attempt, after.crashes, after.locked_by), (0, 0, None));
    assert_eq!(stored(pool, failing).await.fsm_version, 1);
    // The upgrade works, and its first outcome leads back to `runnable`, at once or after a park.
    for (id, plan) in &upgraded {
        let status = if *plan == "await" { "awaiting_signal" } else { "runnable" };
        eventually("it is of version 2", async || {
            (stored(pool, *id).await.fsm_version == 2).then_some(())
        })
        .await;
        let row = until(pool, *id, status).await;
        // The error after which `handle` replays is kept in the row.
        assert_eq!((row.last_error.is_some(), row.crashes), (*plan == "fail", 0), "{plan}");
    }
    let (waiting, _) = upgraded[3];
    v1::Parcel::signal_paid(waiting, v1::Paid { amount: 1 }).execute(pool).await.unwrap();
    let trail = engine.wait(now_of::<v2::Parcel, _>(waiting), WAIT_MAX).await.unwrap();
    assert_eq!(trail, ["v1 to v2", "paid 1", "v2 begin", "v2 middle", "v2 finish"]);

    // Each key is still with the instance that took it. That instance runs, and is upgraded as
    // well.
    let mut holders = Vec::new();
    for plan in ["no upgrade", "replay", "later", "fail", "await"] {
        let other = holder(pool, plan).await;
        assert_ne!(other, failing);
        assert!(upgraded.iter().all(|(id, _)| *id != other));
        let error = v2::Parcel::insert(v2::State::new(1, "")).unique_key(plan);
        let error = error.execute(&engine).await.unwrap_err();
        assert!(
            matches!(error, InsertError::Duplicate(Duplicate { id, .. }) if id.get() == other.get()),
            "a newer version's key is the same key: {error}"
        );
        holders.push(other);
    }
    sql(pool, "update gen_durable.instances set eligible_at = now() where state ->> 'plan' = ''")
        .await;
    for other in holders {
        let _ = v1::Parcel::insert(v1::State::new(1, "")).execute(&engine).await.unwrap();
        engine.wait(now_of::<v2::Parcel, _>(other), WAIT_MAX).await.unwrap();
    }
    engine.shutdown().await.unwrap();
    let new = start::<mended::Parcel>(&db, &breakpoint).await;
    sql(pool, "update gen_durable.instances set eligible_at = now() where status = 'runnable' and fsm_version = 1")
        .await;
    let plan = new.wait(now_of::<mended::Parcel, _>(failing), WAIT_MAX).await.unwrap();
    assert_eq!(plan, "\"no upgrade\"");
    new.shutdown().await.unwrap();
}

/// An instance holds its key in all live statuses. The key must stay with it through a failed
/// upgrade and one that works, and must be free when the instance has ended.
#[tokio::test(flavor = "multi_thread")]
async fn p22_an_instance_keeps_its_key_through_an_upgrade() {
    let db = database().await;
    let pool = db.pool();
    let breakpoint = Arc::new(Breakpoint::new());
    let insert = || v1::Parcel::insert(v1::State::new(1, "no upgrade")).unique_key("k");
    let id = insert().execute(pool).await.unwrap();
    let taken = async || {
        let error = insert().execute(pool).await.unwrap_err();
        let newer = v2::Parcel::insert(v2::State::new(1, "")).unique_key("k");
        let newer = newer.execute(pool).await.unwrap_err();
        let errors: [InsertError; 2] = [error.into(), newer.into()];
        for error in errors {
            assert!(
                matches!(error, InsertError::Duplicate(Duplicate { id: by, .. }) if by == id.get()),
                "{error}"
            );
        }
    };
    let engine = start::<v2::Parcel>(&db, &breakpoint).await;
    eventually("the upgrade has failed", async || {
        let row = row(pool, id).await;
        (row.status == "runnable" && row.last_error.is_some()).then_some(())
    })
    .await;
    taken().await;
    sql(pool, r#"update gen_durable.instances set eligible_at = now(), state = state::jsonb || '{"plan": "breakpoint"}'"#)
        .await;
    // The key is held in the middle of the first step after the upgrade, and of the next one.
    for version in [1, 2] {
        v1::Parcel::insert(v1::State::new(1, "")).execute(&engine).await.unwrap();
        breakpoint.arrival().await;
        assert_eq!(stored(pool, id).await.fsm_version, version);
        taken().await;
        breakpoint.open(1);
    }
    engine.wait(now_of::<v2::Parcel, _>(id), WAIT_MAX).await.unwrap();
    insert().execute(pool).await.expect("the key is free");
    engine.shutdown().await.unwrap();
}
