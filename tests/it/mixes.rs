//! Everything at once: statements that lock the same rows and keys, in every order. Nothing may
//! deadlock for good, and nothing may be lost or doubled.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};
use std::time::Duration;

use gen_durable::{Delivery, Engine, SignalError, prelude::*};
use gen_durable_postgres::TestDb;
use gen_durable_tests::{
    machines::{Collector, CollectorState, EXTERNAL, Keyed, KeyedState, Leaf, Once, Ping},
    oracle,
    random::Random,
};

use crate::support::{
    Breakpoint, WAIT_MAX, count_reaps, database, deadlocks, engine, eventually, expire_lease,
    reaps, row, sql, until, until_a_session_waits,
};

const COLLECTORS: usize = 60;
const LEAVES: u32 = 5;
const EXTERNALS: u32 = 4;
/// More crashes in a row than can happen here. The test takes leases away very often, so on a busy
/// machine an instance may lose dozens of workers in a row. The collectors must end all the same.
const CRASHES_MAX: u32 = 1_000_000;

/// Executes until the test lets it pass, so that there is a row to take from a lost worker.
#[durable_fsm(state = KeyedState, output = ())]
pub enum Stays {
    Stay,
}

#[durable_fsm]
impl Stays {
    async fn stay(cx: Context<Self>, breakpoint: &Arc<Breakpoint>) -> Outcome<Self> {
        breakpoint.pass(cx.id()).await;
        cx.done(())
    }
}

async fn start(db: &TestDb, breakpoint: &Arc<Breakpoint>) -> Engine {
    let builder = engine(db).machine::<Collector>().machine::<Leaf>().machine::<Keyed>();
    let builder = builder.machine::<Stays>().resource(Arc::clone(breakpoint));
    // The worker renews such a short lease soon after the test has taken it away.
    let builder = builder.machine::<Once>().lease_ttl(Duration::from_millis(300));
    let builder = builder.crashes_max(CRASHES_MAX);
    builder.queue("keyed", 10).start().await.unwrap()
}

/// Sends signals to several collectors in one transaction of the caller, in any order. Postgres may
/// abort it to resolve a deadlock with another such transaction, or with a commit of the engine.
/// Then this function tries again.
async fn signal_in_transaction(db: &TestDb, targets: &[InstanceId<Collector>], n: u32) {
    loop {
        let all = async {
            let mut tx = db.pool().begin().await?;
            for target in targets {
                let ping = Collector::signal_ping(*target, Ping { n }).dedup_key(format!("e{n}"));
                match ping.execute(&mut *tx).await {
                    // The collector cannot have ended, as it needs this signal, and it has not
                    // accepted it before.
                    Ok(delivery) => assert_eq!(delivery, Delivery::Delivered),
                    Err(SignalError::Database(error)) => {
                        return Err(error.into());
                    }
                    Err(error) => panic!("{error}"),
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

/// Sends signals to several collectors by calls that run at once and share transactions.
async fn signal_by_calls(client: &Client, targets: &[InstanceId<Collector>], n: u32) {
    let calls = targets.iter().map(|target| {
        let (client, target) = (client.clone(), *target);
        let ping = Collector::signal_ping(target, Ping { n }).dedup_key(format!("e{n}"));
        tokio::spawn(async move { ping.execute(&client).await })
    });
    for call in calls.collect::<Vec<_>>() {
        assert_eq!(call.await.unwrap().unwrap(), Delivery::Delivered);
    }
}

/// Copies each row that the engine prunes into a table, where the test can see it.
const KEPT: &str = "
    create table kept (like gen_durable.instances);
    create function keep() returns trigger language plpgsql as $$
    begin
        insert into public.kept select old.*;
        return null;
    end $$;
    create trigger keep after delete on gen_durable.instances for each row execute function keep();";

/// Puts the pruned rows back for the oracle, except those that had a unique key: the oracle
/// believes that a row holds its unique key for ever.
const RESTORE: &str = "
    drop trigger record_inserted on gen_durable.instances;
    delete from gen_durable.instances where fsm = 'once';
    do $$
    declare
        names text;
    begin
        select string_agg(quote_ident(attname), ', ') into names from pg_attribute
        where attrelid = 'gen_durable.instances'::regclass and attnum > 0 and attgenerated = '';
        execute format(
            'insert into gen_durable.instances (%1$s) select %1$s from kept where fsm <> ''once''', names
        );
    end $$;";

/// Sends a signal to each collector, in a random order that differs from task to task.
async fn send(
    db: Arc<TestDb>,
    client: Client,
    mut ids: Vec<InstanceId<Collector>>,
    n: u32,
    transactions: bool,
) {
    shuffle(&mut ids, &mut Random::new(u64::from(n)));
    for targets in ids.chunks(7) {
        if transactions {
            signal_in_transaction(&db, targets, EXTERNAL + n).await;
        } else {
            signal_by_calls(&client, targets, EXTERNAL + n).await;
        }
    }
}

/// Inserts instances whose unique keys other tasks use too. Returns how many were not refused.
async fn insert_once(db: Arc<TestDb>, task: u64) -> i64 {
    let mut random = Random::new(task);
    let mut inserted = 0;
    for round in 0..15 {
        let mut keys: Vec<u64> = (0..40).collect();
        shuffle(&mut keys, &mut random);
        let rows = keys.iter().map(|key| {
            let insert = Once::insert(KeyedState::default()).partition_key(format!("p{}", key % 3));
            insert.unique_key(format!("{key} of {}", round / 4))
        });
        let rows: Vec<_> = rows.collect();
        let answers = Once::insert_many(rows).execute(db.pool()).await.expect("an answer for each");
        inserted += answers.iter().filter(|row| row.is_ok()).count() as i64;
    }
    inserted
}

/// Runs the mix to its end. Callers send signals in transactions of their own, or by calls.
async fn mix(db: &Arc<TestDb>, transactions: bool) {
    let pool = db.pool();
    oracle::install(pool).await.unwrap();
    count_reaps(pool).await;
    sql(pool, KEPT).await;
    oracle::allow(pool, &[], &[("stays", "stay", "done")]).await.unwrap();
    let breakpoint = Arc::new(Breakpoint::new());
    Stays::insert(KeyedState::default()).execute(pool).await.unwrap();
    let engines = [start(db, &breakpoint).await, start(db, &breakpoint).await];
    // These clients belong to no engine. An engine's client gives an answer up after the engine's
    // lease, which is short here.
    let clients = [(); 2].map(|()| Client::new(pool.clone()));
    // This engine runs no machine. It reaps and prunes all the time.
    let keeper = engine(db).retention(Duration::ZERO).crashes_max(CRASHES_MAX);
    let keeper = keeper.start().await.unwrap();
    let state = CollectorState { leaves: LEAVES, external: EXTERNALS, ..CollectorState::default() };
    let ids = Collector::insert_many(vec![state; COLLECTORS]).execute(pool).await.unwrap();
    let ids: Vec<_> = ids.into_iter().map(Result::unwrap).collect();

    let signals: Vec<_> = (0..EXTERNALS)
        .map(|n| {
            let client = clients[n as usize % 2].clone();
            tokio::spawn(send(Arc::clone(db), client, ids.clone(), n, transactions))
        })
        .collect();
    let inserts: Vec<_> =
        (0..4).map(|task| tokio::spawn(insert_once(Arc::clone(db), task))).collect();
    let stop = Arc::new(AtomicBool::new(false));
    let maintenance = tokio::spawn({
        let (db, stop) = (Arc::clone(db), Arc::clone(&stop));
        async move {
            let mut random = Random::new(19);
            while !stop.load(Ordering::Relaxed) {
                let victim = &engines[usize::try_from(random.below(2)).unwrap()];
                if random.below(40) == 0 {
                    expire_lease(db.pool(), victim.worker()).await;
                }
                keeper.maintain().await.expect("it skips what is locked");
            }
            for engine in engines {
                engine.shutdown().await.unwrap();
            }
            keeper.shutdown().await.unwrap();
        }
    });
    for task in signals {
        task.await.unwrap();
    }
    let mut once = 0;
    for task in inserts {
        once += task.await.unwrap();
    }
    eventually("a row is taken from a lost worker", async || (reaps(pool).await > 0).then_some(()))
        .await;
    // Opens it for every run of `Stays`: the runs that lost their rows pass too.
    breakpoint.open(1_000_000);
    let collectors = i64::try_from(COLLECTORS).unwrap();
    // The log counts the rows that have ended: some of them are already pruned, and each may end
    // only once.
    let expected = [
        ("collector", collectors),
        ("leaf", collectors * i64::from(LEAVES)),
        ("once", once),
        ("stays", 1),
    ];
    eventually("everything has ended", async || {
        let ended: Vec<(String, i64)> = sqlx::query_as(
            "select fsm, count(*) from chaos.log where new_status in ('done', 'failed')
             group by fsm order by fsm",
        )
        .fetch_all(pool)
        .await
        .unwrap();
        ended.iter().map(|(fsm, count)| (fsm.as_str(), *count)).eq(expected).then_some(())
    })
    .await;
    stop.store(true, Ordering::Relaxed);
    maintenance.await.unwrap();
    let pruned: Vec<String> =
        sqlx::query_scalar("select distinct fsm from kept where fsm <> 'stays' order by fsm")
            .fetch_all(pool)
            .await
            .unwrap();
    assert_eq!(pruned, ["collector", "leaf", "once"]);
    sql(pool, RESTORE).await;
    let there: i64 = sqlx::query_scalar("select count(*) from gen_durable.instances")
        .fetch_one(pool)
        .await
        .unwrap();
    assert_eq!(there, collectors * (1 + i64::from(LEAVES)) + 1);
    assert_eq!(oracle::check(pool).await.unwrap(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn p19_a_mix_of_everything_deadlocks_nobody_for_good_and_loses_nothing() {
    let db = Arc::new(database().await);
    // Postgres looks for a deadlock after this time. Its default of a second would make the test
    // slow.
    sql(
        db.pool(),
        "do $$ begin execute format('alter database %I set deadlock_timeout = ''20ms''', current_database()); end $$",
    )
    .await;
    mix(&db, true).await;
}

/// No caller has a transaction of its own. The engine's transactions take their locks in one order,
/// so Postgres must not find a single deadlock.
#[tokio::test(flavor = "multi_thread")]
async fn p19_without_transactions_of_callers_there_is_no_deadlock() {
    let db = Arc::new(database().await);
    mix(&db, false).await;
    assert_eq!(deadlocks(&db).await, 0);
}

#[derive(Clone, Debug, DurableSignal)]
pub struct Token {
    n: u32,
}

/// Ends as soon as it has two tokens.
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

/// Sends a token to a sink, whose id is its state.
#[durable_fsm(state = i64, output = ())]
pub enum Source {
    Send,
}

#[durable_fsm]
impl Source {
    async fn send(cx: Context<Self>, breakpoint: &Arc<Breakpoint>) -> Outcome<Self> {
        breakpoint.pass(cx.id()).await;
        let token = Sink::signal_token(InstanceId::from_raw(cx.state), Token { n: 1 });
        cx.done(()).signal(token)
    }
}

/// A caller's transaction locks one row of a commit, and then waits for the other row, which the
/// commit has locked. The commit waits only briefly for a lock and then gives up all its locks.
/// Therefore the caller's transaction goes on, and the signal that the commit carries arrives once.
#[tokio::test(flavor = "multi_thread")]
async fn p19_a_commit_and_a_callers_transaction_wait_in_no_circle() {
    let db = database().await;
    let pool = db.pool();
    // No session looks for a deadlock before the test is over, so that only the commit can end the
    // circle.
    let options = (*pool.connect_options()).clone().options([("deadlock_timeout", "1h")]);
    let own = sqlx::postgres::PgPoolOptions::new().connect_lazy_with(options);
    let breakpoint = Arc::new(Breakpoint::new());
    let engine = Engine::builder(own).machine::<Sink>().machine::<Source>().queue("default", 10);
    let engine = engine.resource(Arc::clone(&breakpoint)).start().await.unwrap();
    let sink = Sink::insert(Vec::new()).execute(pool).await.unwrap();
    until(pool, sink, "awaiting_signal").await;
    let source = Source::insert(sink.get()).execute(pool).await.unwrap();
    breakpoint.arrival().await;
    let mut tx = pool.begin().await.unwrap();
    sqlx::query("set local deadlock_timeout = '1h'").execute(&mut *tx).await.unwrap();
    sqlx::query("select from gen_durable.instances where id = $1 for no key update")
        .bind(source.get())
        .execute(&mut *tx)
        .await
        .unwrap();
    breakpoint.open(1);
    // The commit has locked the sink, and waits for its own row.
    until_a_session_waits(pool, 1).await;
    let sent = Sink::signal_token(sink, Token { n: 2 }).execute(&mut *tx).await;
    sent.expect("the commit gives up, and not the caller's transaction");
    tx.commit().await.unwrap();
    engine.wait(source, WAIT_MAX).await.unwrap();
    assert_eq!(engine.wait(sink, WAIT_MAX).await.unwrap(), [1, 2]);
    assert_eq!(engine.metrics().lost_commits, 0);
    assert_eq!(row(pool, source).await.attempt, 0);
    engine.shutdown().await.unwrap();
}

fn shuffle<T>(items: &mut [T], random: &mut Random) {
    for index in (1..items.len()).rev() {
        items.swap(index, usize::try_from(random.below(index as u64 + 1)).unwrap());
    }
}
