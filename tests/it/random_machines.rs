//! Random machines: graphs of steps, outcomes, signals and failures. The engine runs them, and so
//! does a small reference in memory. Both must come to the same end and have the same effects.
//!
//! A case that differs is shrunk and printed, with the command that runs it again:
//!
//! ```text
//! RANDOM_MACHINES_SEED=7 RANDOM_MACHINES=5000 \
//!     cargo test -p gen_durable_tests --test it random_machines
//! ```

mod model;
mod plan;

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::{Duration, Instant},
};

use gen_durable::{Delivery, Engine, SignalError, prelude::*};
use gen_durable_postgres::TestDb;
use proptest::{
    strategy::{Strategy, ValueTree},
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};
use sqlx::{PgPool, types::Json};

use self::{
    model::{Expected, Fate, Flaw, expect},
    plan::{Blue, Case, Colour, End, Interpreter, Offspring, Plan, Red, When, case, step},
};
use crate::support::{WAIT_MAX, count_reaps, database, engine, expire_lease, reaps, sql};

/// The longest time that a case may take while it is shrunk. It is short, as most cases that differ
/// hang.
const SHRINK_WAIT_MAX: Duration = Duration::from_secs(5);
/// The longest time that the shrinking may take.
const SHRINK_MAX: Duration = Duration::from_mins(2);

const LEASE: Duration = Duration::from_secs(30);

/// The number of cases so far. Each has a unique key of its own.
static CASES: AtomicU64 = AtomicU64::new(0);

/// The database and the engine that run the cases.
struct World {
    db: TestDb,
    engine: Engine,
}

impl World {
    async fn new(lease: Duration) -> Self {
        std::panic::set_hook(Box::new(|panic| {
            if !panic.to_string().contains("a panic") {
                eprintln!("{panic}");
            }
        }));
        let db = database().await;
        sql(db.pool(), "create table public.notes (instance bigint not null)").await;
        let engine = Self::engine(&db, lease).await;
        Self { db, engine }
    }

    async fn engine(db: &TestDb, lease: Duration) -> Engine {
        let engine = engine(db).machine::<Interpreter>().machine::<Offspring>().lease_ttl(lease);
        // A test may take leases away at any rate, so an instance may crash any number of times.
        engine.queue("default", 30).crashes_max(1_000_000).start().await.unwrap()
    }

    fn pool(&self) -> &PgPool {
        self.db.pool()
    }

    /// Runs all cases at once. Returns the first that differs from the reference, and the
    /// difference.
    async fn differing(
        &self,
        cases: &[Case],
        flaw: Flaw,
        wait_max: Duration,
    ) -> Option<(usize, String)> {
        let ids = self.begin(cases).await;
        for (index, ((id, refused), case)) in ids.into_iter().zip(cases).enumerate() {
            if let Err(difference) = self.compare(id, refused, case, flaw, wait_max).await {
                return Some((index, difference));
            }
        }
        None
    }

    /// Inserts the cases together with the signals that are sent before they run, and sends the
    /// signals that are sent while they run. Returns for each case how many of the latter were
    /// refused: an instance that has ended accepts none.
    async fn begin(&self, cases: &[Case]) -> Vec<(InstanceId<Interpreter>, i64)> {
        let mut tx = self.pool().begin().await.unwrap();
        let inserts = cases.iter().map(|case| {
            let acts = case.acts.clone();
            let first = step(&acts, 0);
            let key = format!("case {}", CASES.fetch_add(1, Ordering::Relaxed));
            let plan = Plan { acts, key: key.clone(), ..Plan::default() };
            Interpreter::insert(plan).step(first).unique_key(key)
        });
        let inserts: Vec<_> = inserts.collect();
        let ids = Interpreter::insert_many(inserts).execute(&mut *tx).await.unwrap();
        let ids: Vec<_> = ids.into_iter().map(Result::unwrap).collect();
        for (id, case) in ids.iter().zip(cases) {
            for (n, colour) in case.sent(When::Before) {
                let sent = match colour {
                    Colour::Red => Interpreter::signal_red(*id, Red { n }).execute(&mut *tx).await,
                    _ => Interpreter::signal_blue(*id, Blue { n }).execute(&mut *tx).await,
                };
                assert!(matches!(sent, Ok(Delivery::Delivered)), "{sent:?}");
            }
        }
        tx.commit().await.unwrap();
        let sends = ids.iter().zip(cases).map(|(id, case)| {
            let (id, case, client) = (*id, case.clone(), self.engine.client().clone());
            tokio::spawn(async move { send(&client, id, &case, When::During).await })
        });
        let mut begun = Vec::new();
        for ((send, id), case) in sends.collect::<Vec<_>>().into_iter().zip(&ids).zip(cases) {
            let refused = case.sent(When::During).count() - send.await.unwrap();
            begun.push((*id, i64::try_from(refused).unwrap()));
        }
        begun
    }

    /// Waits until a case is at rest and compares it. Then sends the signals that are sent at rest,
    /// and compares it again.
    async fn compare(
        &self,
        id: InstanceId<Interpreter>,
        refused: i64,
        case: &Case,
        flaw: Flaw,
        wait_max: Duration,
    ) -> Result<(), String> {
        let mut first = expect(case, When::During, flaw);
        if matches!(first.fate, Fate::Failed(_)) {
            first.inbox -= refused;
        }
        self.comes_to(id, &first, wait_max).await?;
        let delivered = send(self.engine.client(), id, case, When::AtRest).await;
        if first.fate == Fate::Waits {
            return self.comes_to(id, &expect(case, When::AtRest, flaw), wait_max).await;
        }
        if delivered > 0 {
            return Err(format!(
                "{delivered} signals were delivered to an instance that has ended"
            ));
        }
        Ok(())
    }

    /// Waits until an instance is at rest, and compares it. At rest it has ended, or is parked with
    /// no timeout, and all of its children have ended. All signals were acknowledged before, so
    /// nothing can happen to it any more.
    async fn comes_to(
        &self,
        id: InstanceId<Interpreter>,
        expected: &Expected,
        wait_max: Duration,
    ) -> Result<(), String> {
        let since = Instant::now();
        loop {
            let found = self.found(id).await;
            if found.as_ref() == Some(expected) {
                return Ok(());
            }
            if found.is_some() || since.elapsed() > wait_max {
                return Err(format!("expected {expected:?}\n   found {found:?}"));
            }
            // The pause between two looks.
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Returns what an instance has come to, or none while it is not at rest.
    async fn found(&self, id: InstanceId<Interpreter>) -> Option<Expected> {
        let (fate, Json(plan), result, inbox, inserted, notes): Found = sqlx::query_as(
            "select case
                        when i.status in ('done', 'failed') then coalesce(i.last_error, i.status)
                        when i.status = 'awaiting_signal' and i.wake_at is null and not exists (
                            select from gen_durable.instances c
                            where c.report_to = i.id and c.status not in ('done', 'failed')
                        ) then i.status
                    end,
                    i.state, i.result,
                    (select count(*) from gen_durable.signals s where s.target_id = i.id),
                    (select count(*) from gen_durable.instances o
                     where o.fsm = 'offspring' and abs(o.state::text::bigint) = i.id),
                    (select count(*) from public.notes n where n.instance = i.id)
             from gen_durable.instances i where i.id = $1",
        )
        .bind(id.get())
        .fetch_one(self.pool())
        .await
        .unwrap();
        let mut end = End { trail: plan.trail, taken: plan.taken };
        let fate = match (fate?.as_str(), result) {
            ("awaiting_signal", _) => Fate::Waits,
            (_, Some(Json(result))) => {
                end = result;
                Fate::Done
            }
            (reason, None) => Fate::Failed(reason.to_owned()),
        };
        Some(Expected { fate, end, inbox, inserted, notes })
    }
}

/// The columns: status or reason, state, result, size of the inbox, number of inserted instances
/// and of notes.
type Found = (Option<String>, Json<Plan>, Option<Json<End>>, i64, i64, i64);

/// Sends the signals that a case has for this moment, in order. Returns how many were delivered.
async fn send(client: &Client, id: InstanceId<Interpreter>, case: &Case, when: When) -> usize {
    let mut delivered = 0;
    for (n, colour) in case.sent(when) {
        let sent = match colour {
            Colour::Red => Interpreter::signal_red(id, Red { n }).execute(client).await,
            _ => Interpreter::signal_blue(id, Blue { n }).execute(client).await,
        };
        assert!(matches!(sent, Ok(_) | Err(SignalError::Terminal { .. })), "{sent:?}");
        delivered += usize::from(sent.is_ok());
    }
    delivered
}

impl Case {
    fn sent(&self, at: When) -> impl Iterator<Item = (usize, Colour)> {
        let numbered = self.signals.iter().enumerate();
        numbered.filter(move |(_, (when, _))| *when == at).map(|(n, (_, colour))| (n, *colour))
    }
}

/// Returns a number from the environment, or a default.
fn setting(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |text| text.parse().expect("a number"))
}

/// Makes the cases of a seed, each with what proptest needs to shrink it.
fn cases(seed: u64, count: usize) -> Vec<impl ValueTree<Value = Case>> {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let random = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let mut runner = TestRunner::new_with_rng(Config::default(), random);
    (0..count).map(|_| case().new_tree(&mut runner).unwrap()).collect()
}

/// Shrinks a case by running each candidate alone. Returns the smallest that differs, and the
/// difference.
async fn shrink(
    world: &World,
    tree: &mut impl ValueTree<Value = Case>,
    flaw: Flaw,
) -> Option<(Case, String)> {
    // With a wrong reference no case hangs, so a case that is not yet at rest is only slow.
    let wait_max = if matches!(flaw, Flaw::None) { SHRINK_WAIT_MAX } else { WAIT_MAX };
    let since = Instant::now();
    let mut smallest = None;
    loop {
        let case = tree.current();
        let difference = world.differing(std::slice::from_ref(&case), flaw, wait_max).await;
        let go_on = if let Some((_, difference)) = difference {
            smallest = Some((case, difference));
            tree.simplify()
        } else {
            tree.complicate()
        };
        if !go_on || since.elapsed() > SHRINK_MAX {
            return smallest;
        }
    }
}

/// Runs cases, and panics with the smallest one that differs.
async fn must_agree(world: &World, count: u64) {
    let seed = setting("RANDOM_MACHINES_SEED", 1);
    let count = setting("RANDOM_MACHINES", count);
    let mut trees = cases(seed, usize::try_from(count).unwrap());
    let all: Vec<Case> = trees.iter().map(ValueTree::current).collect();
    println!("random machines: {count} of seed {seed}");
    let Some((index, difference)) = world.differing(&all, Flaw::None, WAIT_MAX).await else {
        return;
    };
    let shrunk = match shrink(world, &mut trees[index], Flaw::None).await {
        Some((case, difference)) => format!("shrunk to {case:?}\n{difference}"),
        None => "alone it agrees: it is the others that it needs, or the moment".to_owned(),
    };
    panic!(
        "case {index} of seed {seed} differs: {:?}\n{difference}\n{shrunk}\n\
         again: RANDOM_MACHINES_SEED={seed} RANDOM_MACHINES={count} \
         cargo test -p gen_durable_tests --test it random_machines",
        all[index]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn random_machines_end_as_the_reference_model_says() {
    let world = World::new(LEASE).await;
    must_agree(&world, 400).await;
    let all = cases(1, 400);
    for fate in [Fate::Done, Fate::Failed("a fatal error".to_owned()), Fate::Waits] {
        let often = all
            .iter()
            .filter(|tree| expect(&tree.current(), When::AtRest, Flaw::None).fate == fate);
        assert!(often.count() > 20, "{fate:?} comes often");
    }
    world.engine.shutdown().await.unwrap();
}

/// Two engines run the cases and lose their leases again and again. Steps then run more often, but
/// the cases must come to the same ends.
#[tokio::test(flavor = "multi_thread")]
async fn random_machines_end_the_same_when_workers_are_lost() {
    // The worker renews such a short lease soon after the test has taken it away.
    let lease = Duration::from_millis(300);
    let world = World::new(lease).await;
    let other = World::engine(&world.db, lease).await;
    count_reaps(world.pool()).await;
    let over = AtomicBool::new(false);
    let cases = async {
        for _ in 0..10 {
            must_agree(&world, 200).await;
            if reaps(world.pool()).await > 0 {
                break;
            }
        }
        over.store(true, Ordering::Relaxed);
    };
    let losses = async {
        while !over.load(Ordering::Relaxed) {
            for engine in [&world.engine, &other] {
                expire_lease(world.pool(), engine.worker()).await;
                engine.maintain().await.unwrap();
                // The workers need some time with a lease, in which steps are committed.
                tokio::time::sleep(Duration::from_millis(300)).await;
            }
        }
    };
    tokio::join!(cases, losses);
    assert!(reaps(world.pool()).await > 0, "some were taken from lost workers");
    other.shutdown().await.unwrap();
    world.engine.shutdown().await.unwrap();
}

/// The reference has a flaw. The comparison must notice it, and must shrink the case until a person
/// can read it.
#[tokio::test(flavor = "multi_thread")]
async fn a_difference_is_caught_and_shrinks_to_something_readable() {
    let world = World::new(LEASE).await;
    for (flaw, acts_max, signals_max) in
        [(Flaw::TakesTheLast, 2, 2), (Flaw::InsertsAtEachRun, 2, 0)]
    {
        // The cases run one by one. Beside two hundred others, a case that agrees might exceed its
        // time.
        let mut caught = None;
        for mut tree in cases(1, 200) {
            caught = shrink(&world, &mut tree, flaw).await;
            if caught.is_some() {
                break;
            }
        }
        let (case, difference) = caught.expect("it is caught");
        println!("{flaw:?}: {case:?}\n{difference}");
        assert!(case.acts.len() <= acts_max, "{case:?}");
        assert!(case.signals.len() <= signals_max, "{case:?}");
    }
    world.engine.shutdown().await.unwrap();
}
