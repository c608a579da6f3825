//! Versions of a machine: side by side in one engine, and a newer one that takes over the instances
//! of an older one.

mod failures;
mod keys;
pub(crate) mod machines;
mod rolling;

use std::{sync::Arc, time::Duration};

use gen_durable::{Error, InsertError, Upgrades, prelude::*};
use gen_durable_postgres::TestDb;
use sqlx::PgPool;

use self::machines::{Stops, v1, v2, v3};
use crate::support::{Breakpoint, WAIT_MAX, count, database, engine, lose_worker, row, sql, until};

/// The columns of an instance that an upgrade changes.
#[derive(Debug, PartialEq, sqlx::FromRow)]
struct Stored {
    fsm_version: i32,
    step: String,
    state: serde_json::Value,
}

async fn stored(pool: &PgPool, id: impl Into<i64>) -> Stored {
    sqlx::query_as("select fsm_version, step, state from gen_durable.instances where id = $1")
        .bind(id.into())
        .fetch_one(pool)
        .await
        .unwrap()
}

/// Returns the id of an older version's instance as an id of the newer version, so that `wait`
/// decodes the result as the newer version's.
fn now_of<New: Machine, Old: Machine>(id: InstanceId<Old>) -> InstanceId<New> {
    InstanceId::from_raw(id.get())
}

/// Starts an engine that knows one version alone.
async fn start<M: Steps>(db: &TestDb, breakpoint: &Arc<Breakpoint>) -> Engine {
    let engine = engine(db).machine::<M>().resource(Stops(Arc::clone(breakpoint)));
    engine.start().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn p31_versions_side_by_side_finish_their_own_instances() {
    let db = database().await;
    let breakpoint = Arc::new(Breakpoint::new());
    let both = engine(&db).machine::<v1::Parcel>().machine::<v2::Parcel>();
    let both = both.machine::<v3::Parcel>().resource(Stops(breakpoint)).start().await.unwrap();
    let mut ids = Vec::new();
    for n in 0..50 {
        let one = v1::Parcel::insert(v1::State::new(n, "")).execute(&both).await.unwrap();
        let two = v2::Parcel::insert(v2::State::new(n.into(), "")).execute(&both).await.unwrap();
        let three = v3::Parcel::insert(v3::State::new(n, "")).execute(&both).await.unwrap();
        ids.push((one, two, three));
    }
    for (one, two, three) in ids {
        assert_eq!(both.wait(one, WAIT_MAX).await.unwrap(), ["v1 start", "v1 finish"]);
        assert_eq!(both.wait(two, WAIT_MAX).await.unwrap(), ["v2 begin", "v2 middle", "v2 finish"]);
        assert_eq!(both.wait(three, WAIT_MAX).await.unwrap(), ["v3 begin"]);
        let pool = db.pool();
        assert_eq!(stored(pool, one).await.fsm_version, 1, "it knows the older one by itself");
        assert_eq!(stored(pool, two).await.fsm_version, 2);
    }
    both.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn p32_version_step_and_state_change_in_one_commit() {
    let db = database().await;
    let pool = db.pool();
    let breakpoint = Arc::new(Breakpoint::new());
    let id = v1::Parcel::insert(v1::State::new(7, "breakpoint")).execute(pool).await.unwrap();
    let before = stored(pool, id).await;
    let engine = start::<v2::Parcel>(&db, &breakpoint).await;
    breakpoint.arrival().await;
    assert_eq!(stored(pool, id).await, before, "the step of version 2 runs, and nothing is stored");
    breakpoint.open(1);
    // The next step stops at the breakpoint as well.
    breakpoint.arrival().await;
    let after = stored(pool, id).await;
    assert_eq!((after.fsm_version, after.step.as_str()), (2, "middle"));
    assert_eq!(after.state["count"], 7);
    breakpoint.open(1);
    let trail = engine.wait(now_of::<v2::Parcel, _>(id), WAIT_MAX).await.unwrap();
    assert_eq!(trail, ["v1 to v2", "v2 begin", "v2 middle", "v2 finish"]);
    engine.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn p32_upgrades_form_a_chain_and_each_step_has_its_counterpart() {
    let db = database().await;
    let pool = db.pool();
    let breakpoint = Arc::new(Breakpoint::new());
    let first = v1::Parcel::insert(v1::State::new(1, "")).execute(pool).await.unwrap();
    let last = v1::Parcel::insert(v1::State::new(1, "")).step(v1::Parcel::Finish);
    let last = last.execute(pool).await.unwrap();
    let second = v2::Parcel::insert(v2::State::new(2, "")).execute(pool).await.unwrap();
    let engine = start::<v3::Parcel>(&db, &breakpoint).await;
    for (id, expected) in [
        (first.get(), &["v1 to v2", "v2 to v3", "v3 begin"][..]),
        (last.get(), &["v1 to v2", "v2 to v3", "v3 finish"]),
        (second.get(), &["v2 to v3", "v3 begin"]),
    ] {
        let id = InstanceId::<v3::Parcel>::from_raw(id);
        assert_eq!(engine.wait(id, WAIT_MAX).await.unwrap(), expected);
        assert_eq!(stored(pool, id).await.fsm_version, 3);
    }
    engine.shutdown().await.unwrap();

    // An engine knows versions 2 and 3. An instance of version 1, which both of them could upgrade,
    // becomes version 3. One of version 2 stays as it is.
    let both = engine_of_two(&db, &breakpoint).await;
    let first = v1::Parcel::insert(v1::State::new(1, "")).execute(pool).await.unwrap();
    let second = v2::Parcel::insert(v2::State::new(2, "")).execute(pool).await.unwrap();
    let trail = both.wait(now_of::<v3::Parcel, _>(first), WAIT_MAX).await.unwrap();
    assert_eq!(trail, ["v1 to v2", "v2 to v3", "v3 begin"]);
    let trail = both.wait(second, WAIT_MAX).await.unwrap();
    assert_eq!(trail, ["v2 begin", "v2 middle", "v2 finish"]);
    both.shutdown().await.unwrap();
}

async fn engine_of_two(db: &TestDb, breakpoint: &Arc<Breakpoint>) -> Engine {
    let engine = engine(db).machine::<v2::Parcel>().machine::<v3::Parcel>();
    engine.resource(Stops(Arc::clone(breakpoint))).start().await.unwrap()
}

/// The first outcome after an upgrade is a replay, an await, a stop, a failure or a delay. Each
/// must be stored with the newer version, its step and its state.
#[tokio::test(flavor = "multi_thread")]
async fn p32_replay_await_and_stop_are_stored_as_the_newer_version() {
    let db = database().await;
    let pool = db.pool();
    let breakpoint = Arc::new(Breakpoint::new());
    let mut ids = Vec::new();
    for plan in ["replay", "await", "stop", "fail", "later"] {
        ids.push(v1::Parcel::insert(v1::State::new(1, plan)).execute(pool).await.unwrap());
    }
    let engine = start::<v2::Parcel>(&db, &breakpoint).await;
    for (id, (status, attempt)) in ids.iter().zip([
        ("runnable", 1),
        ("awaiting_signal", 0),
        ("failed", 0),
        // Its step fails, and `handle` replays.
        ("runnable", 1),
        ("runnable", 0),
    ]) {
        let row = crate::support::eventually("the first outcome is stored", async || {
            let row = row(pool, *id).await;
            (row.status == status && row.locked_by.is_none() && row.state["count"] == 1)
                .then_some(row)
        })
        .await;
        let stored = stored(pool, *id).await;
        let step = if row.state["plan"] == "later" { "middle" } else { "begin" };
        assert_eq!((stored.fsm_version, stored.step.as_str()), (2, step), "{stored:?}");
        assert_eq!((row.attempt, row.crashes), (attempt, 0), "{row:?}");
        assert_eq!(row.state["trail"][0], "v1 to v2");
    }
    // Version 2 goes on with what it has stored, without a second upgrade.
    v1::Parcel::signal_paid(ids[1], v1::Paid { amount: 5 }).execute(&engine).await.unwrap();
    let trail = engine.wait(now_of::<v2::Parcel, _>(ids[1]), WAIT_MAX).await.unwrap();
    assert_eq!(trail, ["v1 to v2", "paid 5", "v2 begin", "v2 middle", "v2 finish"]);
    engine.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn p32_what_is_released_or_lost_before_the_first_commit_is_of_the_older_version() {
    let db = database().await;
    let pool = db.pool();
    let breakpoint = Arc::new(Breakpoint::new());
    let id = v1::Parcel::insert(v1::State::new(7, "breakpoint")).execute(pool).await.unwrap();
    let before = stored(pool, id).await;
    // The row looks as if a timeout had ended its park.
    sql(pool, "update gen_durable.instances set awaits = '{}'").await;

    let cut_off = engine(&db).machine::<v2::Parcel>().drain_timeout(Duration::from_millis(10));
    let cut_off = cut_off.resource(Stops(Arc::clone(&breakpoint))).start().await.unwrap();
    breakpoint.arrival().await;
    cut_off.shutdown().await.unwrap();
    assert_eq!(stored(pool, id).await, before);
    let released = row(pool, id).await;
    assert_eq!((released.status.as_str(), released.attempt), ("runnable", 0));
    let timed_out: bool = sqlx::query_scalar("select awaits = '{}' from gen_durable.instances")
        .fetch_one(pool)
        .await
        .unwrap();
    assert!(timed_out, "the next run can tell as well");

    let lost = start::<v2::Parcel>(&db, &breakpoint).await;
    breakpoint.arrival().await;
    let reaper = engine(&db).start().await.unwrap();
    lose_worker(pool, lost.worker(), &reaper, id).await;
    drop(lost);
    assert_eq!(stored(pool, id).await, before);
    let reaped = row(pool, id).await;
    assert_eq!((reaped.status.as_str(), reaped.attempt, reaped.crashes), ("runnable", 1, 1));

    // The old deployment comes back and finds its instance as it left it. Only the reap has raised
    // the attempt.
    breakpoint.open(10);
    let old = start::<v1::Parcel>(&db, &breakpoint).await;
    assert_eq!(old.wait(id, WAIT_MAX).await.unwrap(), ["v1 start, attempt 1", "v1 finish"]);
    old.shutdown().await.unwrap();
    reaper.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_inbox_is_read_with_the_newer_versions_types() {
    let db = database().await;
    let pool = db.pool();
    let breakpoint = Arc::new(Breakpoint::new());
    let waiting = v1::Parcel::insert(v1::State::new(1, "await")).execute(pool).await.unwrap();
    let wrong = v1::Parcel::insert(v1::State::new(1, "await")).execute(pool).await.unwrap();
    let old = start::<v1::Parcel>(&db, &breakpoint).await;
    until(pool, waiting, "awaiting_signal").await;
    until(pool, wrong, "awaiting_signal").await;
    old.shutdown().await.unwrap();
    v1::Parcel::signal_paid(waiting, v1::Paid { amount: 5 }).execute(pool).await.unwrap();
    let client = gen_durable::Client::new(pool.clone());
    let payload = serde_json::json!({ "amount": "five" });
    client.signal_by_name(wrong.get(), "paid", &payload, None).await.unwrap();

    let new = start::<v2::Parcel>(&db, &breakpoint).await;
    let trail = new.wait(now_of::<v2::Parcel, _>(waiting), WAIT_MAX).await.unwrap();
    assert_eq!(trail, ["v1 to v2", "paid 5", "v2 begin", "v2 middle", "v2 finish"]);
    // A payload that does not decode is an error of the newer version, whose `handle` replays.
    let failed = crate::support::eventually("the payload is refused", async || {
        let row = row(pool, wrong).await;
        (row.status == "runnable" && row.attempt == 1).then_some(row)
    });
    let failed = failed.await;
    assert_eq!((failed.inbox, failed.failures), (1, 1));
    assert!(failed.last_error.unwrap().contains("machine `parcel` version 2"));
    new.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_stay_and_hold_across_versions() {
    let db = database().await;
    let pool = db.pool();
    let breakpoint = Arc::new(Breakpoint::new());
    let first =
        v1::Parcel::insert(v1::State::new(1, "breakpoint")).partition_key("k").unique_key("u");
    let first = first.execute(pool).await.unwrap();
    let second = v2::Parcel::insert(v2::State::new(2, "")).partition_key("k");
    let second = second.execute(pool).await.unwrap();
    let engine = start::<v2::Parcel>(&db, &breakpoint).await;
    breakpoint.arrival().await;
    breakpoint.open(1);
    breakpoint.arrival().await;
    assert_eq!(stored(pool, first).await.fsm_version, 2);
    assert_eq!(row(pool, second).await.status, "runnable", "the key is held");
    let twin = v2::Parcel::insert(v2::State::new(3, "")).unique_key("u").execute(pool).await;
    assert!(
        matches!(twin, Err(InsertError::Duplicate(taken)) if taken.id.get() == first.get()),
        "the unique key is held"
    );
    breakpoint.open(1);
    engine.wait(now_of::<v2::Parcel, _>(first), WAIT_MAX).await.unwrap();
    engine.wait(second, WAIT_MAX).await.unwrap();
    v2::Parcel::insert(v2::State::new(3, "")).unique_key("u").execute(pool).await.unwrap();
    engine.shutdown().await.unwrap();
    assert_eq!(count(pool, "failed").await, 0);
}

/// Writes a machine by hand, with a name and a version, and on demand with an upgrade from another
/// machine.
macro_rules! by_hand {
    ($machine:ident, $name:literal, $version:literal $(, upgrades $older:ident)?) => {
        pub struct $machine;

        impl Machine for $machine {
            type State = ();
            type Output = ();
            const NAME: &'static str = $name;
            const VERSION: u32 = $version;
            const INITIAL: Self = $machine;
            const STEPS: &'static [&'static str] = &["only"];
            $(const UPGRADES: Upgrades<Self> = Upgrades::from::<$older>();)?

            fn name(&self) -> &'static str {
                "only"
            }

            fn from_name(name: &str) -> Option<Self> {
                (name == "only").then_some($machine)
            }
        }

        impl Steps for $machine {
            fn run(self, cx: Context<Self>, _: &Resources) -> gen_durable::StepFuture<'_, Self> {
                Box::pin(async move { Ok(cx.done(())) })
            }
        }

        $(impl Upgrade<$older> for $machine {
            fn upgrade(_: $older, state: ()) -> Result<(Self, ()), UpgradeError> {
                Ok(($machine, state))
            }
        })?
    };
}

by_hand!(One, "hand", 1);
by_hand!(AnotherOne, "hand", 1);
by_hand!(Renamed, "handed", 2, upgrades One);
by_hand!(Same, "hand", 1, upgrades AnotherOne);
by_hand!(Two, "hand", 2, upgrades One);
by_hand!(Three, "hand", 3, upgrades AnotherOne);
by_hand!(Circle, "hand", 2, upgrades Back);
by_hand!(Back, "hand", 1, upgrades Circle);

/// The macros refuse such upgrades when the user's crate is compiled. For machines that are written
/// by hand, `start` must refuse them.
#[tokio::test]
async fn upgrades_that_make_no_sense_are_refused_at_start() {
    let db = database().await;
    for (builder, part) in [
        (engine(&db).machine::<Renamed>(), "another name in the database"),
        (engine(&db).machine::<Same>(), "not a lower one"),
        (engine(&db).machine::<Circle>(), "not a lower one"),
        // Two types claim the same stored name and version.
        (
            engine(&db).machine::<Two>().machine::<Three>(),
            "two machines are called `hand` version 1",
        ),
        (
            engine(&db).machine::<Two>().machine::<AnotherOne>(),
            "two machines are called `hand` version 1",
        ),
    ] {
        let error = builder.start().await.unwrap_err();
        assert!(error.to_string().contains(part), "{error}");
        assert!(matches!(error, Error::InvalidOption { .. } | Error::DuplicateMachine { .. }));
    }
    let engine = engine(&db).machine::<Two>().machine::<One>().start().await.unwrap();
    engine.shutdown().await.unwrap();
    assert_eq!(format!("{:?}", Two::UPGRADES), "Upgrades { machine: \"hand\", versions: [1] }");
}
