//! Steps that block their thread: the log names them, and they cost no other instance its time, its
//! attempt or its lease. Also runs that end without an outcome.

use std::{
    sync::{Arc, mpsc},
    time::Duration,
};

use gen_durable::prelude::*;

use crate::{
    secrets::Kept,
    support::{
        Breakpoint, WAIT_MAX, count_reaps, database, engine, eventually, reaps, row, sql, until,
    },
};

const LEASE: Duration = Duration::from_millis(400);

/// The channels of a step that blocks its thread. The step reports that it began, and blocks until
/// it is told to end.
pub struct Block {
    began: mpsc::Sender<()>,
    ends: std::sync::Mutex<mpsc::Receiver<()>>,
}

#[durable_fsm(state = String, output = u32, timeout = "600ms")]
pub enum Neighbours {
    Run,
    Held,
}

#[durable_fsm]
impl Neighbours {
    /// Waits twice, so that it has not ended when the thread is free again.
    async fn run(cx: Context<Self>, breakpoint: &Arc<Breakpoint>) -> Outcome<Self> {
        if cx.state == "waits" {
            breakpoint.pass(cx.id()).await;
            // This is a fixed time. The timeout of the step must count it, and must not count the
            // time in which the other step blocks the thread.
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
        let attempt = cx.attempt();
        cx.done(attempt)
    }

    #[step(entry, timeout = "1h")]
    async fn held(cx: Context<Self>, block: &Block) -> Outcome<Self> {
        block.began.send(()).unwrap();
        block.ends.lock().unwrap().recv().unwrap();
        let attempt = cx.attempt();
        cx.done(attempt)
    }
}

/// One thread runs everything. A step blocks it for several leases. Meanwhile another engine looks
/// for lost workers all the time, and finds none.
#[tokio::test]
async fn p53_a_step_that_blocks_its_thread_is_named_and_charges_nobody() {
    let (log, _here) = Kept::log("gen_durable=warn");
    let db = database().await;
    let pool = db.pool();
    count_reaps(pool).await;
    let breakpoint = Arc::new(Breakpoint::new());
    let (began, has_begun) = mpsc::channel();
    let (end, ends) = mpsc::channel();
    let engine =
        engine(&db).machine::<Neighbours>().resource(Arc::clone(&breakpoint)).lease_ttl(LEASE);
    let engine = engine.resource(Block { began, ends: std::sync::Mutex::new(ends) });
    let engine = engine.maintenance(false).start().await.unwrap();
    let waits = Neighbours::insert("waits".to_owned()).execute(&engine).await.unwrap();
    assert_eq!(breakpoint.arrival().await, waits.get());

    // The other engine has a thread and a runtime of its own, as this thread will be blocked.
    let options = (*pool.connect_options()).clone();
    let watcher = std::thread::spawn(move || {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            let pool = sqlx::PgPool::connect_with(options).await.unwrap();
            let reaper = Engine::builder(pool).start().await.unwrap();
            has_begun.recv_timeout(WAIT_MAX).unwrap();
            // The thread is blocked from here on. A lease that is not renewed would run out within
            // this time.
            let until = std::time::Instant::now() + LEASE * 4;
            while std::time::Instant::now() < until {
                reaper.maintain().await.unwrap();
            }
            reaper.shutdown().await.unwrap();
            end.send(()).unwrap();
        });
    });
    // The step may block the thread before the insert has returned.
    let blocks = Neighbours::insert(String::new()).step(Neighbours::Held);
    let blocks = blocks.execute(&engine).await.unwrap();
    assert_eq!(engine.wait(blocks, WAIT_MAX).await.unwrap(), 0);
    breakpoint.open(1);
    assert_eq!(engine.wait(waits, WAIT_MAX).await.unwrap(), 0, "nor did its time run out");
    watcher.join().unwrap();
    assert_eq!(reaps(pool).await, 0, "nobody lost a worker");
    let log = log.text();
    for part in ["blocked its thread", "neighbours", "held", "spawn_blocking"] {
        assert!(log.contains(part), "{part}: {log}");
    }
    for blamed in ["lease", "connection", "no answer"] {
        assert!(!log.contains(blamed), "{blamed}: {log}");
    }
    engine.shutdown().await.unwrap();
}

/// The engine is forgotten and its runtime ends. From then on its lease is not renewed, so the
/// reaper takes its row.
#[tokio::test(flavor = "multi_thread")]
async fn p53_no_lease_is_kept_for_a_runtime_that_has_ended() {
    let db = database().await;
    let pool = db.pool();
    let breakpoint = Arc::new(Breakpoint::new());
    let options = (*pool.connect_options()).clone();
    let breakpoint_of_the_lost = Arc::clone(&breakpoint);
    let lost = std::thread::spawn(move || {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let engine = runtime.block_on(async {
            let pool = sqlx::PgPool::connect_with(options).await.unwrap();
            let engine = Engine::builder(pool).machine::<Neighbours>().lease_ttl(LEASE);
            let (began, ends) = (mpsc::channel().0, std::sync::Mutex::new(mpsc::channel().1));
            let engine = engine.resource(breakpoint_of_the_lost).resource(Block { began, ends });
            engine.maintenance(false).start().await.unwrap()
        });
        let id = runtime.block_on(Neighbours::insert("waits".to_owned()).execute(&engine));
        // The engine is not dropped, so its row is not given back. Only the end of the runtime
        // drops its step.
        std::mem::forget(engine);
        (runtime, id.unwrap())
    });
    let (runtime, id) = tokio::task::spawn_blocking(|| lost.join().unwrap()).await.unwrap();
    assert_eq!(breakpoint.arrival().await, id.get());
    let worker = row(pool, id).await.locked_by;
    tokio::task::spawn_blocking(|| drop(runtime)).await.unwrap();
    let reaper = engine(&db).start().await.unwrap();
    let row = eventually("its lease has run out", async || {
        reaper.maintain().await.unwrap();
        let row = row(pool, id).await;
        (row.locked_by != worker).then_some(row)
    });
    let row = row.await;
    assert_eq!((row.status.as_str(), row.attempt, row.crashes), ("runnable", 1, 1));
    reaper.shutdown().await.unwrap();
}

/// A run ends without an outcome, although its worker lives. It counts as a run whose worker was
/// lost, so that it is not repeated for nothing.
#[tokio::test(flavor = "multi_thread")]
async fn p50_a_run_without_an_outcome_spends_an_attempt() {
    let db = database().await;
    let pool = db.pool();
    let breakpoint = Arc::new(Breakpoint::new());
    let engine =
        engine(&db).machine::<Hold>().resource(Arc::clone(&breakpoint)).start().await.unwrap();
    let id = Hold::insert(()).execute(&engine).await.unwrap();
    assert_eq!(breakpoint.arrival().await, id.get());
    // The outcome will find another revision, so it is not applied. The row is still in this
    // worker's name.
    sql(pool, "update gen_durable.instances set revision = revision + 7").await;
    breakpoint.open(1);
    eventually("the reaper has it", async || {
        engine.maintain().await.unwrap();
        (row(pool, id).await.crashes == 1).then_some(())
    })
    .await;
    assert_eq!(breakpoint.arrival().await, id.get());
    breakpoint.open(1);
    assert_eq!(engine.wait(id, WAIT_MAX).await.unwrap(), 1);
    let row = until(pool, id, "done").await;
    assert_eq!(row.attempt, 1);
    engine.shutdown().await.unwrap();
}

/// The same while the engine shuts down, when no claimer is left to look. The row is not given back
/// as if it had not run.
#[tokio::test(flavor = "multi_thread")]
async fn p50_a_run_without_an_outcome_spends_an_attempt_in_a_shutdown_too() {
    let db = database().await;
    let pool = db.pool();
    let breakpoint = Arc::new(Breakpoint::new());
    let start = || engine(&db).machine::<Hold>().resource(Arc::clone(&breakpoint)).start();
    let first = start().await.unwrap();
    let id = Hold::insert(()).execute(&first).await.unwrap();
    assert_eq!(breakpoint.arrival().await, id.get());
    sql(pool, "update gen_durable.instances set revision = revision + 7").await;
    let mut shutdown = std::pin::pin!(first.shutdown());
    tokio::select! {
        biased;
        _ = &mut shutdown => panic!("it did not wait for the run"),
        () = std::future::ready(()) => {}
    }
    breakpoint.open(1);
    shutdown.await.unwrap();
    let second = start().await.unwrap();
    eventually("the reaper has it", async || {
        second.maintain().await.unwrap();
        (row(pool, id).await.attempt == 1).then_some(())
    })
    .await;
    assert_eq!(breakpoint.arrival().await, id.get());
    assert_eq!(row(pool, id).await.crashes, 1);
    breakpoint.open(1);
    assert_eq!(second.wait(id, WAIT_MAX).await.unwrap(), 1);
    second.shutdown().await.unwrap();
}

#[durable_fsm(output = u32)]
pub enum Hold {
    Run,
}

#[durable_fsm]
impl Hold {
    async fn run(cx: Context<Self>, breakpoint: &Arc<Breakpoint>) -> Outcome<Self> {
        breakpoint.pass(cx.id()).await;
        let attempt = cx.attempt();
        cx.done(attempt)
    }
}
