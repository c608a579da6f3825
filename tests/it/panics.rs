//! Panics in user code, at every place. Each is a failed run of its instance and harms no other
//! one.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use gen_durable::{StepErrorKind, prelude::*};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::support::{WAIT_MAX, database, engine, until};

/// A state that panics at the place that its text names.
#[derive(Clone, Debug)]
pub struct Mine(String);

/// The text that makes a state panic at a place. A step writes it into its state.
fn armed(place: &str) -> String {
    format!("armed: {place}")
}

impl Serialize for Mine {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        assert!(self.0 != armed("serialize"), "in serialize");
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Mine {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let place = String::deserialize(deserializer)?;
        assert!(place != armed("deserialize"), "in deserialize");
        Ok(Self(place))
    }
}

impl Drop for Mine {
    fn drop(&mut self) {
        // The copy that the engine reads back has the same text, and is dropped elsewhere.
        let armed = self.0.starts_with(&armed("drop")) && !std::thread::panicking();
        assert!(!armed, "in drop");
    }
}

impl DurableState for Mine {}

/// An error that panics when it is printed, or when it is dropped.
#[derive(Debug)]
struct Bad(&'static str);

impl fmt::Display for Bad {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        assert!(self.0 != "display", "in display");
        f.write_str(self.0)
    }
}

impl std::error::Error for Bad {}

impl Drop for Bad {
    fn drop(&mut self) {
        let armed = self.0 == "drop of an error" && !std::thread::panicking();
        assert!(!armed, "in drop of an error");
    }
}

/// A value that panics when it is dropped. It serves as a panic's payload and as a local variable.
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            std::panic::panic_any(Bomb);
        }
    }
}

/// The number of runs of the first step.
type Runs = Arc<AtomicU32>;

#[durable_fsm(state = Mine, output = Mine)]
pub enum Poison {
    Run,
    Hang,
    End,
}

#[durable_fsm]
impl Poison {
    async fn run(mut cx: Context<Self>, runs: &Runs) -> StepResult<Self> {
        runs.fetch_add(1, Ordering::SeqCst);
        let place = cx.state.0.clone();
        match place.as_str() {
            "serialize" | "deserialize" | "drop" => cx.state.0 = armed(&place),
            "drop with done" => return Ok(cx.done(Mine(armed("drop")))),
            "serialize an output" => return Ok(cx.done(Mine(armed("serialize")))),
            "read an output" => return Ok(cx.done(Mine(armed("deserialize")))),
            "insert" => {
                let child = Poison::insert(Mine(armed("serialize")));
                return Ok(cx.next(Poison::End).insert(child));
            }
            "display" => return Err(Bad("display").into()),
            "drop of an error" => return Err(Bad("drop of an error").into()),
            "display of a reason" => return Ok(cx.stop(Bad("display"))),
            "payload" => std::panic::panic_any(Bomb),
            "local" => {
                let _local = Bomb;
                tokio::task::yield_now().await;
            }
            "timeout" => return Ok(cx.next(Poison::Hang)),
            _ => {}
        }
        Ok(cx.next(Poison::End))
    }

    /// Holds a value that panics when the timeout drops it.
    #[step(timeout = "10ms")]
    async fn hang(cx: Context<Self>) -> Outcome<Self> {
        let _local = Bomb;
        std::future::pending::<()>().await;
        cx.next(Poison::End)
    }

    async fn end(cx: Context<Self>) -> Outcome<Self> {
        cx.done(Mine("the end".to_owned()))
    }

    async fn handle(cx: Context<Self>, error: StepError, handled: &AtomicU32) -> Outcome<Self> {
        handled.fetch_add(1, Ordering::SeqCst);
        if error.downcast_ref::<Bad>().is_some_and(|bad| bad.0 == "display") {
            return cx.stop("its error has no words");
        }
        if cx.step_name() == "hang" {
            assert_eq!(error.kind(), StepErrorKind::TimedOut);
        } else if error.downcast_ref::<Bad>().is_none() {
            assert_eq!(error.kind(), StepErrorKind::Panicked);
        }
        cx.stop(error)
    }
}

/// User code panics at one place after the other, beside five instances that are well. Each time
/// the instance fails with the reason, after one run, and the others end as they should.
#[tokio::test(flavor = "multi_thread")]
async fn p50_a_panic_anywhere_is_a_failed_run() {
    for (place, reason) in [
        ("serialize", "panicked: in serialize"),
        ("deserialize", "panicked: in deserialize"),
        ("drop", "panicked: in drop"),
        ("drop with done", "panicked: in drop"),
        ("serialize an output", "panicked: in serialize"),
        ("read an output", "panicked: in deserialize"),
        ("insert", "panicked: in serialize"),
        ("display", "its error has no words"),
        ("drop of an error", "then `handle` failed: panicked: in drop of an error"),
        ("display of a reason", "panicked: in display"),
        ("payload", "panicked: a value that is not text"),
        ("local", "panicked: a value that is not text"),
        ("timeout", "ran longer than its timeout of 10ms"),
    ] {
        let db = database().await;
        let runs = Runs::default();
        let engine = engine(&db).machine::<Poison>().resource(Arc::clone(&runs));
        let engine = engine.resource(AtomicU32::new(0)).start().await.unwrap();
        let id = Poison::insert(Mine(place.to_owned())).execute(&engine).await.unwrap();
        let well = Poison::insert_many((0..5).map(|_| Mine("well".to_owned())));
        let well = well.execute(&engine).await.unwrap();
        let row = until(db.pool(), id, "failed").await;
        let error = row.last_error.clone().unwrap();
        assert!(error.contains(reason), "{place}: {error}");
        assert_eq!((row.crashes, row.attempt), (0, 0), "{place}: {row:?}");
        assert!(row.state.as_str().is_some_and(|state| state == place), "{place}: {row:?}");
        for id in well {
            assert_eq!(engine.wait(id.unwrap(), WAIT_MAX).await.unwrap().0, "the end");
        }
        assert_eq!(runs.load(Ordering::SeqCst), 6, "{place}: once each");
        // The instance's task ends only after its commit.
        let ended = async || (engine.metrics().claimed == 0).then_some(());
        crate::support::eventually("nothing is left", ended).await;
        assert_eq!(engine.metrics().lost_commits, 0, "{place}");
        engine.shutdown().await.unwrap();
    }
}

/// The reader of a stored state panics. The instance must fail with the reason and keep its stored
/// state, and the instance beside it must end as it should.
#[tokio::test(flavor = "multi_thread")]
async fn p50_a_state_whose_reader_panics_fails_its_instance_alone() {
    let db = database().await;
    let pool = db.pool();
    let id = Poison::insert(Mine("well".to_owned())).execute(pool).await.unwrap();
    sqlx::query("update gen_durable.instances set state = to_json($1::text)")
        .bind(armed("deserialize"))
        .execute(pool)
        .await
        .unwrap();
    let well = Poison::insert(Mine("well".to_owned())).execute(pool).await.unwrap();
    let engine = engine(&db).machine::<Poison>().resource(Runs::default());
    let engine = engine.resource(AtomicU32::new(0)).start().await.unwrap();
    let row = until(pool, id, "failed").await;
    let error = row.last_error.unwrap();
    assert!(error.contains("the state does not decode: panicked: in deserialize"), "{error}");
    assert_eq!(row.state.as_str(), Some(armed("deserialize").as_str()), "it stays as it was");
    assert_eq!(engine.wait(well, WAIT_MAX).await.unwrap().0, "the end");
    engine.shutdown().await.unwrap();
}

/// Runs until the shutdown cuts it off, and panics when it is dropped.
#[durable_fsm(output = ())]
pub enum CutOff {
    Run,
}

#[durable_fsm]
impl CutOff {
    async fn run(cx: Context<Self>, breakpoint: &Arc<crate::support::Breakpoint>) -> Outcome<Self> {
        let _local = Bomb;
        breakpoint.pass(cx.id()).await;
        cx.done(())
    }
}

/// A shutdown cuts a run off, and the run's destructor panics. The engine must give the row back
/// with no attempt spent, and the shutdown must succeed.
#[tokio::test(flavor = "multi_thread")]
async fn p50_a_panic_while_a_run_is_cut_off_spends_nothing() {
    let db = database().await;
    let breakpoint = Arc::new(crate::support::Breakpoint::new());
    let engine = engine(&db).machine::<CutOff>().resource(Arc::clone(&breakpoint));
    let engine = engine.drain_timeout(Duration::from_millis(1)).start().await.unwrap();
    let id = CutOff::insert(()).execute(&engine).await.unwrap();
    assert_eq!(breakpoint.arrival().await, id.get());
    engine.shutdown().await.unwrap();
    let row = until(db.pool(), id, "runnable").await;
    assert_eq!((row.attempt, row.crashes, row.locked_by), (0, 0, None));
}

/// Fails, and then hangs in its `handle`.
#[durable_fsm(state = bool, output = (), timeout = "20ms")]
pub enum Stuck {
    Run,
}

#[durable_fsm]
impl Stuck {
    async fn run(cx: Context<Self>) -> StepResult<Self> {
        if cx.state {
            return Err(std::io::Error::other("it fails"))?;
        }
        Ok(cx.done(()))
    }

    async fn handle(cx: Context<Self>, _error: StepError) -> Outcome<Self> {
        std::future::pending::<()>().await;
        cx.done(())
    }
}

/// `handle` hangs, in a queue of one slot. The timeout must end it and give the slot back, as only
/// then the next instance can run.
#[tokio::test(flavor = "multi_thread")]
async fn p52_a_hang_in_handle_ends_with_the_timeout_and_frees_its_slot() {
    let db = database().await;
    let engine = engine(&db).queue("default", 1).machine::<Stuck>().start().await.unwrap();
    let stuck = Stuck::insert(true).execute(&engine).await.unwrap();
    let next = Stuck::insert(false).execute(&engine).await.unwrap();
    engine.wait(next, WAIT_MAX).await.unwrap();
    let row = until(db.pool(), stuck, "failed").await;
    let error = row.last_error.unwrap();
    assert_eq!(error, "it fails; then `handle` failed: ran longer than its timeout of 20ms");
    engine.shutdown().await.unwrap();
}
