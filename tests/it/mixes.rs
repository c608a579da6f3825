//! Everything at once: statements that lock the same rows and keys in every order.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};
use std::time::Duration;

use gen_durable::{Engine, SignalError, prelude::*};
use gen_durable_test_postgres::TestDb;
use gen_durable_tests::{
    machines::{Collector, CollectorState, EXTERNAL, Keyed, KeyedState, Leaf, Once, Ping},
    oracle,
    random::Random,
};

use crate::support::{
    Gate, PATIENCE, database, engine, eventually, expire_lease, row, until, until_somebody_waits,
};

const COLLECTORS: usize = 60;
const LEAVES: u32 = 5;
const EXTERNALS: u32 = 4;
/// Leases are taken away so often that on a busy machine an instance may lose dozens of workers in a
/// row; the collectors must end all the same.
const CRASHES_MAX: u32 = 1_000_000;

async fn start(db: &TestDb) -> Engine {
    let builder = engine(db).machine::<Collector>().machine::<Leaf>().machine::<Keyed>();
    // Renewed soon after it was taken away.
    let builder = builder.machine::<Once>().lease_ttl(Duration::from_millis(300));
    let builder = builder.crashes_max(CRASHES_MAX);
    builder.queue("keyed", 10).start().await.unwrap()
}

/// Signals to several collectors in one transaction of the caller's, in any order. Postgres may abort
/// it to resolve a deadlock with another one, or with a commit of the engine's; then it is tried again.
async fn signal(db: &TestDb, targets: &[InstanceId<Collector>], n: u32) {
    loop {
        let all = async {
            let mut tx = db.pool().begin().await?;
            for target in targets {
                let ping = Collector::signal_ping(*target, Ping { n }).dedup_key(format!("e{n}"));
                // Any other error says that it has ended, or is gone: it had all that it needed.
                if let Err(SignalError::Database(error)) = ping.execute(&mut *tx).await {
                    return Err(error.source.to_string().into());
                }
            }
            tx.commit().await?;
            Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
        };
        match all.await {
            Ok(()) => return,
            Err(error) => assert!(error.to_string().contains("deadlock detected"), "{error}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn p19_a_mix_of_everything_deadlocks_nobody_for_good_and_loses_nothing() {
    let db = Arc::new(database().await);
    let pool = db.pool();
    oracle::install(pool).await.unwrap();
    // A deadlock is found after this long; the default of a second makes the test slow.
    sqlx::raw_sql(
        "do $$ begin execute format('alter database %I set deadlock_timeout = ''20ms''', current_database()); end $$",
    )
    .execute(pool)
    .await
    .unwrap();
    let engines = [start(&db).await, start(&db).await];
    // Reaps and prunes all the time, and runs nothing.
    let keeper = engine(&db).retention(Duration::ZERO).crashes_max(CRASHES_MAX);
    let keeper = keeper.start().await.unwrap();
    let state = CollectorState { leaves: LEAVES, external: EXTERNALS, ..CollectorState::default() };
    let ids = Collector::insert_many(vec![state; COLLECTORS]).execute(pool).await.unwrap();
    let ids: Vec<_> = ids.into_iter().map(Result::unwrap).collect();

    let mut tasks = Vec::new();
    for n in 0..EXTERNALS {
        let (db, mut ids) = (Arc::clone(&db), ids.clone());
        tasks.push(tokio::spawn(async move {
            let mut random = Random::new(u64::from(n));
            shuffle(&mut ids, &mut random);
            for targets in ids.chunks(7) {
                signal(&db, targets, EXTERNAL + n).await;
            }
        }));
    }
    for task in 0..4_u64 {
        let db = Arc::clone(&db);
        tasks.push(tokio::spawn(async move {
            let mut random = Random::new(task);
            for round in 0..15 {
                let mut keys: Vec<u64> = (0..40).collect();
                shuffle(&mut keys, &mut random);
                let rows = keys.iter().map(|key| {
                    let insert =
                        Once::insert(KeyedState::default()).partition_key(format!("p{}", key % 3));
                    insert.unique_key(format!("{key} of {}", round / 4))
                });
                let rows: Vec<_> = rows.collect();
                Once::insert_many(rows).execute(db.pool()).await.expect("no deadlock");
            }
        }));
    }
    let stop = Arc::new(AtomicBool::new(false));
    let upkeep = tokio::spawn({
        let (db, stop) = (Arc::clone(&db), Arc::clone(&stop));
        async move {
            let mut random = Random::new(19);
            while !stop.load(Ordering::Relaxed) {
                let victim = &engines[usize::try_from(random.below(2)).unwrap()];
                if random.below(40) == 0 {
                    expire_lease(db.pool(), victim.worker()).await;
                }
                keeper.maintain().await.expect("no deadlock");
            }
            for engine in engines {
                engine.shutdown().await.unwrap();
            }
            keeper.shutdown().await.unwrap();
        }
    });
    for task in tasks {
        task.await.unwrap();
    }
    let ended = async |fsm: &str| -> i64 {
        sqlx::query_scalar(
            "select count(distinct id) from chaos.log
             where fsm = $1 and new_status in ('done', 'failed')",
        )
        .bind(fsm)
        .fetch_one(pool)
        .await
        .unwrap()
    };
    let collectors = i64::try_from(COLLECTORS).unwrap();
    eventually("every collector and every leaf has ended", async || {
        let all = ended("collector").await == collectors
            && ended("leaf").await == collectors * i64::from(LEAVES);
        all.then_some(())
    })
    .await;
    eventually("everything has ended", async || {
        let live: i64 = sqlx::query_scalar(
            "select count(*) from gen_durable.instances where finished_at is null",
        )
        .fetch_one(pool)
        .await
        .unwrap();
        (live == 0).then_some(())
    })
    .await;
    stop.store(true, Ordering::Relaxed);
    upkeep.await.unwrap();
    // What has been pruned is in the log.
    assert_eq!(oracle::check(pool).await.unwrap(), Vec::<String>::new());
}

#[derive(Clone, Debug, DurableSignal)]
pub struct Token {
    n: u32,
}

/// Ends with the first two tokens.
#[durable_fsm(state = Vec<u32>, output = Vec<u32>, signals(Token))]
pub enum Sink {
    Take,
}

#[durable_fsm]
impl Sink {
    async fn take(mut cx: Context<Self>) -> StepResult<Self> {
        while let Some(token) = cx.take_signal::<Token>()? {
            cx.state.push(token.n);
        }
        if cx.state.len() < 2 {
            return Ok(cx.await_signal::<Token>());
        }
        let mut all = cx.state.clone();
        all.sort_unstable();
        Ok(cx.done(all))
    }
}

/// Its state is the id of a sink.
#[durable_fsm(state = i64, output = ())]
pub enum Source {
    Send,
}

#[durable_fsm]
impl Source {
    async fn send(cx: Context<Self>, gate: &Arc<Gate>) -> Outcome<Self> {
        gate.pass(cx.id()).await;
        let token = Sink::signal_token(InstanceId::from_raw(cx.state), Token { n: 1 });
        cx.done(()).signal(token)
    }
}

/// A caller's transaction has locked one row of a commit and waits for the other. Postgres aborts the
/// commit, which began to wait first; it is tried again, and what it carries arrives once.
#[tokio::test(flavor = "multi_thread")]
async fn p19_a_commit_that_postgres_aborts_for_a_deadlock_is_tried_again() {
    let db = database().await;
    let pool = db.pool();
    // The engine's sessions look for a deadlock when they have waited for so long; the caller's, below,
    // look much later, so that they are not the ones to be aborted.
    let options = (*pool.connect_options()).clone().options([("deadlock_timeout", "3s")]);
    let own = sqlx::postgres::PgPoolOptions::new().connect_lazy_with(options);
    let gate = Arc::new(Gate::new());
    let engine = Engine::builder(own).machine::<Sink>().machine::<Source>().queue("default", 10);
    let engine = engine.resource(Arc::clone(&gate)).start().await.unwrap();
    let sink = Sink::insert(Vec::new()).execute(pool).await.unwrap();
    until(pool, sink, "awaiting_signal").await;
    let source = Source::insert(sink.get()).execute(pool).await.unwrap();
    gate.arrival().await;
    let mut tx = pool.begin().await.unwrap();
    sqlx::query("set local deadlock_timeout = '1min'").execute(&mut *tx).await.unwrap();
    sqlx::query("select from gen_durable.instances where id = $1 for no key update")
        .bind(source.get())
        .execute(&mut *tx)
        .await
        .unwrap();
    gate.open(1);
    // The commit has locked the sink, and waits for its own row.
    until_somebody_waits(pool, 1).await;
    let sent = Sink::signal_token(sink, Token { n: 2 }).execute(&mut *tx).await;
    sent.expect("the commit is aborted, and not the caller's transaction");
    tx.commit().await.unwrap();
    engine.wait(source, PATIENCE).await.unwrap();
    assert_eq!(engine.wait(sink, PATIENCE).await.unwrap(), [1, 2]);
    assert_eq!(engine.metrics().lost_commits, 0);
    assert_eq!(row(pool, source).await.attempt, 0);
    eventually("Postgres has counted it", async || {
        let deadlocks: i64 = sqlx::query_scalar(
            "select deadlocks from pg_stat_database where datname = current_database()",
        )
        .fetch_one(pool)
        .await
        .unwrap();
        (deadlocks == 1).then_some(())
    })
    .await;
    engine.shutdown().await.unwrap();
}

fn shuffle<T>(items: &mut [T], random: &mut Random) {
    for index in (1..items.len()).rev() {
        items.swap(index, usize::try_from(random.below(index as u64 + 1)).unwrap());
    }
}
