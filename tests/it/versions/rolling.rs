//! Rolling deployments: old and new engines run beside each other, forwards and back, and nothing
//! is lost.

use std::{collections::HashMap, sync::Arc, time::Duration};

use gen_durable::prelude::*;
use gen_durable_postgres::TestDb;
use sqlx::PgPool;

use super::{
    Stops,
    machines::{v1, v2},
    start, stored,
};
use crate::support::{Breakpoint, count, database, engine, eventually, row, sql, until};

/// Instances of version 1 in every status that one can be in.
struct Fleet {
    runnable: Vec<i64>,
    keyed: Vec<i64>,
    scheduled: Vec<i64>,
    parked: Vec<i64>,
    executing: i64,
}

const EACH: u32 = 40;

impl Fleet {
    /// Makes them with an old engine, which has stopped one of them at its breakpoint.
    async fn sail(pool: &PgPool, old: &Engine, breakpoint: &Breakpoint) -> Self {
        let ids = |ids: Vec<Result<InstanceId<v1::Parcel>, Duplicate<_>>>| -> Vec<i64> {
            ids.into_iter().map(|id| id.unwrap().get()).collect()
        };
        let parked = (0..EACH).map(|n| v1::State::new(n, "await"));
        let parked = ids(v1::Parcel::insert_many(parked).execute(old).await.unwrap());
        eventually("all are parked", async || {
            (count(pool, "awaiting_signal").await == i64::from(EACH)).then_some(())
        })
        .await;
        let executing = v1::Parcel::insert(v1::State::new(0, "breakpoint")).partition_key("0");
        let executing = executing.execute(old).await.unwrap().get();
        breakpoint.arrival().await;
        let scheduled = (0..EACH).map(|n| {
            v1::Parcel::insert(v1::State::new(n, "")).schedule_in(Duration::from_hours(1))
        });
        let scheduled = ids(v1::Parcel::insert_many(scheduled).execute(pool).await.unwrap());
        // Instances of key 0 wait for the one that is executing.
        let keyed = (0..EACH).map(|n| {
            let insert = v1::Parcel::insert(v1::State::new(n, ""));
            insert.partition_key((n % 4).to_string())
        });
        let keyed = ids(v1::Parcel::insert_many(keyed).execute(pool).await.unwrap());
        let runnable = (0..EACH).map(|n| v1::State::new(n, ""));
        let runnable = ids(v1::Parcel::insert_many(runnable).execute(pool).await.unwrap());
        Self { runnable, keyed, scheduled, parked, executing }
    }

    fn ids(&self) -> impl Iterator<Item = i64> {
        let many = [&self.runnable, &self.keyed, &self.scheduled, &self.parked];
        many.into_iter().flatten().copied().chain([self.executing])
    }

    /// Wakes those that wait for a time or a signal.
    async fn wake(&self, pool: &PgPool) {
        sql(
            pool,
            "update gen_durable.instances set eligible_at = now()
             where status = 'runnable' and eligible_at > now() + interval '10 minutes'",
        )
        .await;
        for id in &self.parked {
            let id = InstanceId::<v1::Parcel>::from_raw(*id);
            v1::Parcel::signal_paid(id, v1::Paid { amount: 5 }).execute(pool).await.unwrap();
        }
    }

    /// Checks that all have ended, in one version or the other, and that each ran its steps once
    /// and in order. Returns how many ended in each version.
    async fn all_done(&self, db: &TestDb) -> HashMap<i32, usize> {
        let mut versions = HashMap::new();
        for id in self.ids() {
            let row = until(db.pool(), id, "done").await;
            assert_eq!((row.attempt, row.crashes, row.last_error), (0, 0, None));
            let mut trail: Vec<String> = serde_json::from_value(row.result.unwrap()).unwrap();
            trail.retain(|entry| !entry.starts_with("paid"));
            let whole = [
                &["v1 start", "v1 finish"][..],
                &["v1 start", "v1 to v2", "v2 finish"],
                &["v1 to v2", "v2 begin", "v2 middle", "v2 finish"],
            ];
            assert!(whole.iter().any(|whole| trail == *whole), "{trail:?}");
            let version = stored(db.pool(), id).await.fsm_version;
            assert_eq!(version == 2, trail.contains(&"v2 finish".to_owned()), "{trail:?}");
            *versions.entry(version).or_default() += 1;
        }
        versions
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn p34_a_new_deployment_beside_an_old_one_loses_nothing() {
    let db = database().await;
    let pool = db.pool();
    let (old_breakpoint, new_breakpoint) =
        (Arc::new(Breakpoint::new()), Arc::new(Breakpoint::new()));
    let old = start::<v1::Parcel>(&db, &old_breakpoint).await;
    let fleet = Fleet::sail(pool, &old, &old_breakpoint).await;

    let new = start::<v2::Parcel>(&db, &new_breakpoint).await;
    let newer = (0..EACH).map(|n| v2::State::new(n.into(), ""));
    let newer = v2::Parcel::insert_many(newer).execute(&old).await.unwrap();
    // Both run at once. Then the old one shuts down, and may finish the step that it has under way.
    fleet.wake(pool).await;
    let shutdown = tokio::spawn(old.shutdown());
    old_breakpoint.open(1);
    shutdown.await.unwrap().unwrap();

    let versions = fleet.all_done(&db).await;
    assert_eq!(versions.values().sum::<usize>(), fleet.ids().count());
    for id in newer {
        let row = until(pool, id.unwrap(), "done").await;
        assert_eq!((row.attempt, row.crashes), (0, 0));
    }
    new.shutdown().await.unwrap();
}

/// An old deployment shuts down and leaves instances in every status. The new one, which is then
/// alone, must finish all of them.
#[tokio::test(flavor = "multi_thread")]
async fn p34_a_new_deployment_finishes_what_an_old_one_left() {
    let db = database().await;
    let pool = db.pool();
    let breakpoint = Arc::new(Breakpoint::new());
    let old = engine(&db).machine::<v1::Parcel>().drain_timeout(Duration::from_millis(10));
    let old = old.resource(Stops(Arc::clone(&breakpoint))).start().await.unwrap();
    let fleet = Fleet::sail(pool, &old, &breakpoint).await;
    // The shutdown cuts off the instance at the breakpoint, and releases it as version 1.
    old.shutdown().await.unwrap();
    assert_eq!(stored(pool, fleet.executing).await.fsm_version, 1);

    let new = start::<v2::Parcel>(&db, &breakpoint).await;
    breakpoint.open(2);
    fleet.wake(pool).await;
    let versions = fleet.all_done(&db).await;
    // Some had ended before. The new deployment took over all that waited.
    assert!(versions[&2] >= 2 * EACH as usize, "{versions:?}");
    new.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn p34_a_deployment_that_is_rolled_back_loses_nothing() {
    let db = database().await;
    let pool = db.pool();
    let (old_breakpoint, new_breakpoint) =
        (Arc::new(Breakpoint::new()), Arc::new(Breakpoint::new()));
    let old = start::<v1::Parcel>(&db, &old_breakpoint).await;
    let fleet = Fleet::sail(pool, &old, &old_breakpoint).await;
    let new = engine(&db).machine::<v2::Parcel>().drain_timeout(Duration::from_millis(10));
    let new = new.resource(Stops(Arc::clone(&new_breakpoint))).start().await.unwrap();
    // Brings two instances of version 1 to the new engine's breakpoint. The first is committed as
    // version 2 by then, and the second is not.
    let stopped = async || {
        let insert = v1::Parcel::insert(v1::State::new(0, "breakpoint")).priority(-1);
        insert.execute(&new).await.unwrap().get()
    };
    let mut taken = Vec::new();
    while taken.len() < 2 {
        let id = stopped().await;
        // Either deployment may claim it.
        let at_new = tokio::select! {
            at = new_breakpoint.arrival() => at == id,
            _ = old_breakpoint.arrival() => false,
        };
        if !at_new {
            old_breakpoint.open(1);
            continue;
        }
        if taken.is_empty() {
            new_breakpoint.open(1);
            assert_eq!(new_breakpoint.arrival().await, id);
        }
        taken.push(id);
    }
    let (committed, uncommitted) = (taken[0], taken[1]);
    new.shutdown().await.unwrap();
    assert_eq!(stored(pool, committed).await.fsm_version, 2);
    assert_eq!(stored(pool, uncommitted).await.fsm_version, 1);

    // The old engine finishes all that is still of version 1. The instance of version 2 waits, and
    // no attempt is spent.
    fleet.wake(pool).await;
    old_breakpoint.open(1_000);
    let row = until(pool, uncommitted, "done").await;
    assert_eq!((row.attempt, row.crashes), (0, 0));
    eventually("nothing of version 1 is left", async || {
        let left: i64 = sqlx::query_scalar(
            "select count(*) from gen_durable.instances where status <> 'done' and fsm_version = 1",
        )
        .fetch_one(pool)
        .await
        .unwrap();
        (left == 0).then_some(())
    })
    .await;
    let waiting = row_of(pool, committed).await;
    assert_eq!(waiting, ("runnable".to_owned(), 0, 0));

    // It waits until the new deployment comes back.
    new_breakpoint.open(1_000);
    let new = start::<v2::Parcel>(&db, &new_breakpoint).await;
    until(pool, committed, "done").await;
    fleet.all_done(&db).await;
    old.shutdown().await.unwrap();
    new.shutdown().await.unwrap();
}

async fn row_of(pool: &PgPool, id: i64) -> (String, i32, i32) {
    let row = row(pool, id).await;
    (row.status, row.attempt, row.crashes)
}
