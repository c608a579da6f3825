//! Outcomes whose row another transaction has locked. They wait only for that row, and no other
//! outcome waits for them.

use std::{collections::HashSet, sync::Arc, time::Duration};

use gen_durable::prelude::*;
use sqlx::{PgConnection, PgPool, Postgres, Transaction};

use crate::support::{
    Breakpoint, WAIT_MAX, database, engine, eventually, row, sql, until, until_a_session_waits,
};

#[derive(Clone, Debug, DurableSignal)]
pub struct Ping;

/// Sends a signal to the instance whose id is its state, if there is one.
#[durable_fsm(state = Option<i64>, output = ())]
pub enum Sender {
    Send,
}

#[durable_fsm]
impl Sender {
    async fn send(cx: Context<Self>, breakpoint: &Arc<Breakpoint>) -> Outcome<Self> {
        breakpoint.pass(cx.id()).await;
        match cx.state {
            Some(target) => {
                let target = InstanceId::<Target>::from_raw(target);
                cx.done(()).signal(Target::signal_ping(target, Ping))
            }
            None => cx.done(()),
        }
    }
}

/// No engine here knows this machine, so its instances stay as they were inserted.
#[durable_fsm(state = (), output = (), signals(Ping))]
pub enum Target {
    Wait,
}

#[durable_fsm]
impl Target {
    async fn wait(cx: Context<Self>) -> Outcome<Self> {
        cx.await_signal::<Ping>()
    }
}

/// Locks a row, as a signal in a caller's transaction does.
async fn lock(connection: &mut PgConnection, id: impl Into<i64>) {
    sqlx::query("select from gen_durable.instances where id = $1 for no key update")
        .bind(id.into())
        .execute(connection)
        .await
        .unwrap();
}

/// Waits until an outcome was tried and found its row locked. Then an engine asks what became of
/// the row.
async fn until_found_locked(pool: &PgPool) {
    eventually("an outcome found its row locked", async || {
        let asked: bool = sqlx::query_scalar(
            "select exists (select from pg_stat_activity where datname = current_database()
             and query like '-- Tells what became of rows%')",
        )
        .fetch_one(pool)
        .await
        .unwrap();
        asked.then_some(())
    })
    .await;
}

/// The lane of outcomes that send waits for a target that a caller's transaction has locked. An
/// outcome that sends nothing does not wait in that lane, even if its own row was locked at the
/// first try.
#[tokio::test(flavor = "multi_thread")]
async fn an_outcome_whose_row_was_locked_does_not_wait_behind_signals_that_wait() {
    let db = database().await;
    let pool = db.pool();
    let breakpoint = Arc::new(Breakpoint::new());
    let engine =
        engine(&db).machine::<Sender>().resource(Arc::clone(&breakpoint)).start().await.unwrap();
    let target = Target::insert(()).execute(pool).await.unwrap();
    let sends = Sender::insert(Some(target.get())).execute(&engine).await.unwrap();
    assert_eq!(breakpoint.arrival().await, sends.get());
    let plain = Sender::insert(None).execute(&engine).await.unwrap();
    assert_eq!(breakpoint.arrival().await, plain.get());
    let mut has_target = pool.begin().await.unwrap();
    lock(&mut has_target, target).await;
    let mut has_plain = pool.begin().await.unwrap();
    lock(&mut has_plain, plain).await;
    breakpoint.open(1);
    until_a_session_waits(pool, 1).await;
    breakpoint.open(1);
    until_found_locked(pool).await;
    has_plain.rollback().await.unwrap();
    engine.wait(plain, WAIT_MAX).await.unwrap();
    assert_eq!(row(pool, sends).await.status, "executing", "it still waits");
    has_target.rollback().await.unwrap();
    engine.wait(sends, WAIT_MAX).await.unwrap();
    assert_eq!(row(pool, target).await.inbox, 1);
    engine.shutdown().await.unwrap();
}

/// A transaction that has a row locked, or is about to lock one.
struct Holder {
    transaction: Transaction<'static, Postgres>,
    pid: i32,
}

impl Holder {
    async fn begin(pool: &PgPool) -> Self {
        let mut transaction = pool.begin().await.unwrap();
        let pid = sqlx::query_scalar("select pg_backend_pid()")
            .fetch_one(&mut *transaction)
            .await
            .unwrap();
        Self { transaction, pid }
    }

    /// Waits until an outcome waits for the row behind this transaction. Then the next transaction
    /// queues up for the row as well, and this one ends. Returns the next one.
    async fn hand_over(self, pool: &PgPool, id: i64) -> Self {
        let mut next = Self::begin(pool).await;
        let next_pid = next.pid;
        until_blocked(pool, "an outcome waits for the row", |_, by| by.contains(&self.pid)).await;
        let next = tokio::spawn(async move {
            lock(&mut next.transaction, id).await;
            next
        });
        until_blocked(pool, "the next one waits for the row", |pid, _| pid == next_pid).await;
        self.transaction.rollback().await.unwrap();
        next.await.unwrap()
    }
}

/// Waits until `found` is true for a session that waits for a lock. Its arguments are the session's
/// pid and the pids of those that it waits for.
async fn until_blocked(pool: &PgPool, what: &str, found: impl Fn(i32, &[i32]) -> bool) {
    eventually(what, async || {
        let blocked: Vec<(i32, Vec<i32>)> = sqlx::query_as(
            "select pid, pg_blocking_pids(pid) from pg_stat_activity
             where datname = current_database() and wait_event_type = 'Lock'",
        )
        .fetch_all(pool)
        .await
        .unwrap();
        blocked.iter().any(|(pid, by)| !by.is_empty() && found(*pid, by)).then_some(())
    })
    .await;
}

/// Transactions lock a row one after another, and each begins to wait for it before the one before
/// ends. Signals of many processes to one instance may do that. The row's outcome gets the row in
/// between, although another outcome waits as well, for a row that stays locked.
#[tokio::test(flavor = "multi_thread")]
async fn an_outcome_is_not_starved_by_transactions_that_have_its_row_locked_in_turn() {
    let db = database().await;
    let pool = db.pool();
    let breakpoint = Arc::new(Breakpoint::new());
    let engine =
        engine(&db).machine::<Sender>().resource(Arc::clone(&breakpoint)).start().await.unwrap();
    let stuck = Sender::insert(None).execute(&engine).await.unwrap();
    assert_eq!(breakpoint.arrival().await, stuck.get());
    let starved = Sender::insert(None).execute(&engine).await.unwrap();
    assert_eq!(breakpoint.arrival().await, starved.get());
    let mut for_good = Holder::begin(pool).await;
    lock(&mut for_good.transaction, stuck).await;
    let mut holder = Holder::begin(pool).await;
    lock(&mut holder.transaction, starved).await;
    breakpoint.open(1);
    let stuck_waits = |_, by: &[i32]| by.contains(&for_good.pid);
    until_blocked(pool, "the first outcome waits for its row", stuck_waits).await;
    breakpoint.open(1);
    // The loop repeats only if the outcome stopped waiting before the next holder had queued up, as
    // it may after a second.
    let takers = async {
        while row(pool, starved).await.status == "executing" {
            holder = holder.hand_over(pool, starved.get()).await;
        }
    };
    tokio::time::timeout(WAIT_MAX, takers).await.expect("the outcome gets the row");
    assert_eq!(row(pool, stuck).await.status, "executing");
    for_good.transaction.rollback().await.unwrap();
    until(pool, stuck, "done").await;
    assert_eq!(engine.metrics().lost_commits, 0);
    engine.shutdown().await.unwrap();
}

/// Only one outcome at a time waits for its row. While one waits for very long, another one is
/// still tried: not only five times, but again and again. It is committed as soon as its own row is
/// free.
#[tokio::test(flavor = "multi_thread")]
async fn an_outcome_is_tried_while_another_one_waits_for_its_row() {
    const TRIES: usize = 15;
    let db = database().await;
    let pool = db.pool();
    let breakpoint = Arc::new(Breakpoint::new());
    // The lease is long: a statement counts as lost if it has no answer for as long as a lease.
    let builder = engine(&db).machine::<Sender>().lease_ttl(WAIT_MAX * 4);
    let engine = builder.resource(Arc::clone(&breakpoint)).start().await.unwrap();
    let stuck = Sender::insert(None).execute(&engine).await.unwrap();
    assert_eq!(breakpoint.arrival().await, stuck.get());
    let other = Sender::insert(None).execute(&engine).await.unwrap();
    assert_eq!(breakpoint.arrival().await, other.get());
    // A wait for a lock ends after a second. This trigger keeps the outcome in its place for
    // longer: until its row of `stays` is deleted.
    sql(
        pool,
        "create table stays (id bigint);
         create function stay() returns trigger language plpgsql as $$
         begin
             while exists (select from stays where id = new.id) loop
                 perform pg_sleep_for('10 ms');
             end loop;
             return null;
         end $$;
         create trigger stay after update on gen_durable.instances for each row
         when (new.status = 'done') execute function stay();",
    )
    .await;
    let stays = sqlx::query("insert into stays values ($1)").bind(stuck.get());
    stays.execute(pool).await.unwrap();
    let mut has_stuck = Holder::begin(pool).await;
    lock(&mut has_stuck.transaction, stuck).await;
    let mut has_other = Holder::begin(pool).await;
    lock(&mut has_other.transaction, other).await;
    breakpoint.open(1);
    let stuck_waits = |_, by: &[i32]| by.contains(&has_stuck.pid);
    until_blocked(pool, "the first outcome waits for its row", stuck_waits).await;
    has_stuck.transaction.rollback().await.unwrap();
    breakpoint.open(1);
    // Each try ends with the question what became of the row. The questions differ in the time at
    // which they began.
    let mut tries = HashSet::new();
    eventually("the other one is tried more often than it takes to wait", async || {
        let found_locked: Vec<String> = sqlx::query_scalar(
            "select query_start::text from pg_stat_activity
             where datname = current_database() and query like '-- Tells what became of rows%'
             and state = 'idle'",
        )
        .fetch_all(pool)
        .await
        .unwrap();
        tries.extend(found_locked);
        (tries.len() >= TRIES).then_some(())
    })
    .await;
    has_other.transaction.rollback().await.unwrap();
    until(pool, other, "done").await;
    assert_eq!(row(pool, stuck).await.status, "executing", "it still keeps its place");
    sql(pool, "delete from stays").await;
    until(pool, stuck, "done").await;
    assert_eq!(engine.metrics().lost_commits, 0);
    engine.shutdown().await.unwrap();
}

/// A claim leaves out a row that a caller's signal has locked. The signal announces nothing, as the
/// row was runnable before. Therefore the engine must claim again by itself.
#[tokio::test(flavor = "multi_thread")]
async fn p20_a_row_that_a_claim_found_locked_does_not_wait_for_the_next_poll() {
    let db = database().await;
    let pool = db.pool();
    let id = Sender::insert(None).execute(pool).await.unwrap();
    let mut signal = pool.begin().await.unwrap();
    lock(&mut signal, id).await;
    let breakpoint = Arc::new(Breakpoint::new());
    breakpoint.open(1000);
    let engine = engine(&db).machine::<Sender>().resource(breakpoint);
    // No maintenance service announces rows, and no renewal of the lease wakes the claimer.
    let hour = Duration::from_hours(1);
    let engine = engine.poll_interval(hour).lease_ttl(hour).maintenance(false);
    let engine = engine.start().await.unwrap();
    // Each look that finds nothing doubles the pause before the next one.
    for _ in 0..500 {
        let other = Sender::insert(None).execute(&engine).await.unwrap();
        engine.wait(other, WAIT_MAX).await.unwrap();
    }
    let now: f64 = sqlx::query_scalar("select extract(epoch from clock_timestamp())::float8")
        .fetch_one(pool)
        .await
        .unwrap();
    eventually("the engine claims, also when nothing else has happened for a second", async || {
        let claims: i64 = sqlx::query_scalar(
            "select count(*) from pg_stat_activity
             where datname = current_database() and query like '-- Claims runnable rows%'
               and query_start > to_timestamp($1) + interval '1 second'",
        )
        .bind(now)
        .fetch_one(pool)
        .await
        .unwrap();
        (claims > 0).then_some(())
    })
    .await;
    signal.commit().await.unwrap();
    engine.wait(id, WAIT_MAX).await.unwrap();
    engine.shutdown().await.unwrap();
}
