//! Worker processes that are killed, and some that are stopped for longer than their lease. They
//! are real processes: the program `chaos` as a worker.

use std::{path::Path, time::Duration};

use gen_durable::prelude::*;
use gen_durable_postgres::TestDb;
use gen_durable_tests::{
    machines::{
        Chain, ChainState, Collector, CollectorState, Deadly, EXTERNAL, HOLD_LOCK, Held, Keyed,
        KeyedState, Once, Ping,
    },
    oracle,
    parcels::{Order, OrderState},
    process::Worker,
    proxy::{Direction, Effect},
    random::Random,
    worker::SOCKETS_MAX,
};

use crate::support::{count, database, eventually, proxy, row, until, until_a_session_waits};

fn worker(db: &TestDb, lease: Duration) -> Worker {
    let program = Path::new(env!("CARGO_BIN_EXE_chaos"));
    let lease = u64::try_from(lease.as_millis()).unwrap();
    Worker::start(program, db.url(), lease, &["--runs", db.url()], None).expect("a worker process")
}

/// Workers are killed at random moments. Every instance reaches its end, and no committed step is
/// undone. The oracle's triggers record every transition in the transaction that makes it.
#[tokio::test(flavor = "multi_thread")]
async fn p01_kill_9_at_any_moment_loses_nothing_and_undoes_nothing() {
    const KILLS: usize = 12;
    let lease = Duration::from_millis(500);
    let db = database().await;
    let pool = db.pool();
    oracle::install(pool).await.unwrap();
    let client = Client::new(pool.clone());
    let chains = (0..150).map(|seed| ChainState { hops: 20, seed, ..ChainState::default() });
    Chain::insert_many(chains).execute(&client).await.unwrap();
    let keyed = (0..60)
        .map(|n| Keyed::insert(KeyedState::default()).partition_key(format!("key {}", n % 5)));
    Keyed::insert_many(keyed).execute(&client).await.unwrap();
    let collector = CollectorState { leaves: 6, external: 2, ..CollectorState::default() };
    let collectors: Vec<_> = Collector::insert_many(vec![collector; 20])
        .execute(&client)
        .await
        .unwrap()
        .into_iter()
        .map(Result::unwrap)
        .collect();

    let mut random = Random::new(1);
    let mut workers = vec![worker(&db, lease), worker(&db, lease), worker(&db, lease)];
    for kill in 0..KILLS {
        // The next kill comes after a random number of transitions, or when there are no more.
        let seen = oracle::transitions(pool).await.unwrap();
        let more = i64::try_from(random.between(1, 300)).unwrap();
        eventually("some transitions more", async || {
            let done = live(&db).await == 0;
            (done || oracle::transitions(pool).await.unwrap() >= seen + more).then_some(())
        })
        .await;
        for collector in &collectors {
            // Each signal is sent again at every second kill. Its deduplication key makes that one
            // signal.
            let n = EXTERNAL + u32::try_from(kill % 2).unwrap();
            let ping = Collector::signal_ping(*collector, Ping { n });
            let sent = ping.dedup_key(n.to_string()).execute(&client).await;
            assert!(kill < 2 || !matches!(sent, Ok(gen_durable::Delivery::Delivered)), "{sent:?}");
        }
        let victim = usize::try_from(random.below(3)).unwrap();
        workers.swap_remove(victim).kill().unwrap();
        workers.push(worker(&db, lease));
    }
    eventually("everything has ended", async || (live(&db).await == 0).then_some(())).await;
    assert_eq!(oracle::check(pool).await.unwrap(), Vec::<String>::new());
    assert_eq!(oracle::figures(pool).await.unwrap().missing(false), Vec::<String>::new());
    for worker in workers {
        eventually("it has no more connections than it may have", async || {
            let sockets = worker.sockets().expect("it runs");
            (sockets > 0 && sockets <= SOCKETS_MAX as usize).then_some(())
        })
        .await;
        let ended = worker.shut_down().unwrap();
        assert!(ended.success(), "{ended:?}");
        assert_eq!(ended.panics().collect::<Vec<_>>(), Vec::<&str>::new());
    }
}

async fn live(db: &TestDb) -> i64 {
    sqlx::query_scalar("select count(*) from gen_durable.instances where finished_at is null")
        .fetch_one(db.pool())
        .await
        .unwrap()
}

/// A process is stopped in the middle of a step, and its lease runs out. Another process runs the
/// step. Then the first one goes on as if nothing had happened, and commits nothing.
#[tokio::test(flavor = "multi_thread")]
async fn p23_a_process_stopped_past_its_lease_commits_nothing() {
    let db = database().await;
    let pool = db.pool();
    oracle::install(pool).await.unwrap();
    let mut held = pool.begin().await.unwrap();
    sqlx::query("select pg_advisory_xact_lock($1)")
        .bind(HOLD_LOCK)
        .execute(&mut *held)
        .await
        .unwrap();
    let mut first = worker(&db, Duration::from_secs(1));
    let id = Held::insert(KeyedState::default()).execute(pool).await.unwrap();
    until_a_session_waits(pool, 1).await;
    let stopped = row(pool, id).await.locked_by;
    first.stop().unwrap();

    let second = worker(&db, Duration::from_secs(1));
    eventually("another worker has the instance", async || {
        let holder = row(pool, id).await.locked_by;
        (holder.is_some() && holder != stopped).then_some(())
    })
    .await;
    until_a_session_waits(pool, 2).await;
    held.commit().await.unwrap();
    until(pool, id, "done").await;
    let after = row(pool, id).await;

    first.go_on().unwrap();
    // Its step ends, and the outcome is dropped.
    eventually("it says so", async || (first.lost_commits() == 1).then_some(())).await;
    assert_eq!(row(pool, id).await, after);
    let effects: i64 =
        sqlx::query_scalar("select count(*) from gen_durable.instances where fsm = 'once'")
            .fetch_one(pool)
            .await
            .unwrap();
    assert_eq!(effects, 1, "the insert that the outcome carries happened once");
    // A shutdown runs no instance that has not begun, so the test waits for the inserted one.
    eventually("what was inserted has ended", async || (live(&db).await == 0).then_some(())).await;
    for worker in [first, second] {
        let status = tokio::task::spawn_blocking(|| worker.shut_down()).await.unwrap().unwrap();
        assert!(status.success(), "{status:?}");
    }
    assert_eq!(count(pool, "executing").await, 0);
    assert_eq!(oracle::check(pool).await.unwrap(), Vec::<String>::new());
}

/// A worker is killed not at random, but at each moment between a claim and its commit that can be
/// told apart on its connection.
#[tokio::test(flavor = "multi_thread")]
async fn p01_kill_9_at_each_moment_of_a_claim_and_a_commit() {
    /// A number in the chain's state. Therefore it is in the answer to the chain's claim and in the
    /// chain's commits.
    const SEED: u32 = 987_654_321;
    let moments = [
        // The claim is committed, and its rows do not reach the worker.
        (Some((Direction::Answer, "987654321")), Effect::FreezeBefore),
        // The step has run, and its outcome does not reach the database.
        (Some((Direction::Request, "987654321")), Effect::FreezeBefore),
        // The outcome reaches the database, and the answer does not reach the worker.
        (Some((Direction::Request, "987654321")), Effect::FreezeAfter),
        // The transaction with the outcome is open. Its COMMIT does not reach the database, or it
        // does, and the answer is lost.
        (None, Effect::FreezeBefore),
        (None, Effect::FreezeAfter),
    ];
    let lease = Duration::from_millis(500);
    let db = database().await;
    let pool = db.pool();
    oracle::install(pool).await.unwrap();
    let program = Path::new(env!("CARGO_BIN_EXE_chaos"));
    for (text, effect) in moments {
        let proxy = proxy().await;
        let sprung = match text {
            Some((direction, text)) => proxy.trap(direction, text, effect),
            None => proxy.trap_commit(effect),
        };
        let killed = Worker::start(program, &proxy.url(db.name()), 500, &[], None).unwrap();
        // With a key, a claim and a commit are transactions of several statements.
        let state = ChainState { hops: 3, seed: SEED, ..ChainState::default() };
        let keyed = Chain::insert(state.clone()).partition_key("k").execute(pool).await.unwrap();
        let plain = Chain::insert(state).execute(pool).await.unwrap();
        sprung.await.expect("the moment comes");
        killed.kill().unwrap();
        proxy.cut();
        let other = worker(&db, lease);
        until(pool, keyed, "done").await;
        until(pool, plain, "done").await;
        assert!(other.shut_down().unwrap().success());
    }
    assert_eq!(oracle::check(pool).await.unwrap(), Vec::<String>::new());
}

/// The step of an instance ends its process each time that it runs. Other instances happen to be
/// claimed with it: they run at the same moment, and lose their worker as often. Only the deadly
/// instance is failed.
#[tokio::test(flavor = "multi_thread")]
async fn p24_an_instance_that_kills_its_process_is_failed_and_its_neighbours_are_not() {
    const NEIGHBOURS: i64 = 30;
    let db = database().await;
    let pool = db.pool();
    let program = Path::new(env!("CARGO_BIN_EXE_chaos"));
    let start = || Worker::start(program, db.url(), 500, &["--crashes", "8"], None).unwrap();
    let deadly = Deadly::insert(KeyedState::default()).partition_key("k").priority(-1);
    let deadly = deadly.execute(pool).await.unwrap();
    let behind =
        Once::insert(KeyedState::default()).partition_key("k").execute(pool).await.unwrap();
    let neighbours = vec![KeyedState::default(); usize::try_from(NEIGHBOURS).unwrap()];
    Once::insert_many(neighbours).execute(pool).await.unwrap();
    let (mut worker, mut deaths) = (start(), 0);
    // The test starts the worker again, as a supervisor of the process does.
    let failed = eventually("it is failed", async || {
        if worker.has_ended() {
            deaths += 1;
            worker = start();
        }
        let row = row(pool, deadly).await;
        (row.status == "failed").then_some(row)
    })
    .await;
    assert_eq!(
        failed.last_error.as_deref(),
        Some("step kill: its worker was lost 8 times in a row")
    );
    assert_eq!((deaths, failed.crashes), (8, 8));
    until(pool, behind, "done").await;
    eventually("its neighbours have run", async || {
        (count(pool, "done").await == NEIGHBOURS + 1).then_some(())
    })
    .await;
    assert!(worker.shut_down().unwrap().success());
}

/// An order has 10,000 parcels. One of its workers is killed every 200 ms, until it has ended or
/// sixty times. The book has one entry for each parcel, and the order has counted each of them
/// once.
#[tokio::test(flavor = "multi_thread")]
async fn p37_ten_thousand_parcels_under_kills_keep_exact_books() {
    const PARCELS: u32 = 10_000;
    let db = database().await;
    let pool = db.pool();
    oracle::install(pool).await.unwrap();
    let order = OrderState { n: 0, parcels: PARCELS, seed: 7 };
    let order = Order::insert(order).execute(pool).await.unwrap();
    let lease = Duration::from_millis(500);
    let mut workers: Vec<Worker> = (0..5).map(|_| worker(&db, lease)).collect();
    let mut kills = 0;
    while row(pool, order).await.status != "done" && kills < 60 {
        // The time between two kills.
        tokio::time::sleep(Duration::from_millis(200)).await;
        workers.remove(0).kill().unwrap();
        workers.push(worker(&db, lease));
        kills += 1;
    }
    until(pool, order, "done").await;
    eventually("nothing is left", async || (live(&db).await == 0).then_some(())).await;
    for worker in workers {
        assert!(
            tokio::task::spawn_blocking(|| worker.shut_down()).await.unwrap().unwrap().success()
        );
    }
    assert!(kills > 3, "{kills} kills");
    let books: (i64, i64, i64) = sqlx::query_as(
        "select (select count(*) from chaos.parcels),
                (select count(distinct instance) from chaos.parcels),
                (select count(*) from gen_durable.instances where fsm = 'parcel')",
    )
    .fetch_one(pool)
    .await
    .unwrap();
    assert_eq!((books.0, books.1), (books.2, books.2));
    assert_eq!(oracle::check(pool).await.unwrap(), Vec::<String>::new());
}
