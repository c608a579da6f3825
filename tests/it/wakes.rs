//! Waking a parked instance: each new signal wakes it once, and either a signal or a timeout wakes
//! it, not both. A delivery holds up no claim, and no claim holds up a delivery.

use std::{sync::Arc, time::Duration};

use gen_durable::{Delivery, prelude::*};
use gen_durable_tests::{
    machines::{Collector, CollectorState, EXTERNAL, Ping as Number},
    oracle,
    random::Random,
};

use crate::support::{
    Breakpoint, WAIT_MAX, count, database, engine, eventually, row, sql, until,
    until_a_session_waits,
};

#[derive(Clone, Debug, DurableSignal)]
pub struct Ping {
    n: u32,
}

#[derive(Clone, Debug, Default, DurableState)]
pub struct Seen {
    wanted: usize,
    /// The number of signals in the inbox at each run.
    #[serde(default)]
    runs: Vec<usize>,
    #[serde(default)]
    got: Vec<u32>,
}

/// Takes all signals of its inbox, stops at the breakpoint, and then parks or ends.
#[durable_fsm(state = Seen, output = Seen, signals(Ping))]
pub enum Taker {
    Take,
}

#[durable_fsm]
impl Taker {
    async fn take(mut cx: Context<Self>, breakpoint: &Arc<Breakpoint>) -> StepResult<Self> {
        let count = cx.count_signals::<Ping>();
        cx.state.runs.push(count);
        while let Some(ping) = cx.take_signal::<Ping>()? {
            cx.state.got.push(ping.n);
        }
        breakpoint.pass(cx.id()).await;
        if cx.state.got.len() < cx.state.wanted {
            return Ok(cx.await_signal::<Ping>());
        }
        let seen = cx.state.clone();
        Ok(cx.done(seen))
    }
}

/// Looks at its inbox, and takes nothing until it has enough signals.
#[durable_fsm(state = Seen, output = Seen, signals(Ping))]
pub enum Looker {
    Look,
}

#[durable_fsm]
impl Looker {
    async fn look(mut cx: Context<Self>, breakpoint: &Arc<Breakpoint>) -> StepResult<Self> {
        let count = cx.count_signals::<Ping>();
        cx.state.runs.push(count);
        breakpoint.pass(cx.id()).await;
        if count < cx.state.wanted {
            return Ok(cx.await_signal::<Ping>());
        }
        let seen = cx.state.clone();
        Ok(cx.done(seen))
    }
}

fn wanted(wanted: usize) -> Seen {
    Seen { wanted, ..Seen::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn p17_a_latecomer_survives_the_commit_that_consumes_its_siblings() {
    let db = database().await;
    let breakpoint = Arc::new(Breakpoint::new());
    let engine =
        engine(&db).machine::<Taker>().resource(Arc::clone(&breakpoint)).start().await.unwrap();
    let id = Taker::insert(wanted(4)).execute(db.pool()).await.unwrap();
    breakpoint.arrival().await;
    for n in 0..4 {
        // The step has loaded its inbox and taken all signals in it. It has not seen this one.
        Taker::signal(id, Ping { n }).execute(db.pool()).await.unwrap();
        breakpoint.open(1);
        assert_eq!(breakpoint.arrival().await, id.get(), "the latecomer wakes it");
    }
    breakpoint.open(1);
    let seen = engine.wait(id, WAIT_MAX).await.unwrap();
    assert_eq!((seen.got, seen.runs), (vec![0, 1, 2, 3], vec![0, 1, 1, 1, 1]));
    engine.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn p17_wake_ups_never_exceed_new_signals() {
    const SIGNALS: usize = 40;
    let db = database().await;
    let breakpoint = Arc::new(Breakpoint::new());
    breakpoint.open(SIGNALS * 3);
    let engine =
        engine(&db).machine::<Looker>().resource(Arc::clone(&breakpoint)).start().await.unwrap();
    let id = Looker::insert(wanted(SIGNALS)).execute(&engine).await.unwrap();
    let sends = (0..SIGNALS).map(|n| {
        let (client, n) = (engine.client().clone(), u32::try_from(n).unwrap());
        tokio::spawn(async move { Looker::signal(id, Ping { n }).execute(&client).await })
    });
    for send in sends.collect::<Vec<_>>() {
        assert_eq!(send.await.unwrap().unwrap(), Delivery::Delivered);
    }
    let seen = engine.wait(id, WAIT_MAX).await.unwrap();
    assert!(seen.runs.len() <= SIGNALS + 1, "{:?}", seen.runs);
    assert!(seen.runs.windows(2).all(|runs| runs[0] < runs[1]), "{:?}", seen.runs);
    engine.shutdown().await.unwrap();
}

/// A signal gets a lower id than another one, and is committed after it, while a step runs that has
/// seen the other one. The engine must remember the set of ids that a step has seen, and not the
/// highest: the park must find the latecomer.
#[tokio::test(flavor = "multi_thread")]
async fn p17_signals_may_be_committed_out_of_the_order_of_their_ids() {
    let db = database().await;
    let pool = db.pool();
    let breakpoint = Arc::new(Breakpoint::new());
    let engine =
        engine(&db).machine::<Looker>().resource(Arc::clone(&breakpoint)).start().await.unwrap();
    let id = Looker::insert(wanted(2)).execute(pool).await.unwrap();
    breakpoint.arrival().await;
    sql(pool, "alter sequence gen_durable.signals_id_seq restart with 100").await;
    breakpoint.open(1);
    until(pool, id, "awaiting_signal").await;
    Looker::signal(id, Ping { n: 1 }).execute(pool).await.unwrap();
    breakpoint.arrival().await;
    // Signal 7 is committed while a step runs that has seen signal 100.
    sqlx::query(
        "insert into gen_durable.signals (id, target_id, name, payload)
         overriding system value values (7, $1, 'ping', '{\"n\": 2}')",
    )
    .bind(id.get())
    .execute(pool)
    .await
    .unwrap();
    breakpoint.open(1);
    assert_eq!(breakpoint.arrival().await, id.get(), "the park sees it");
    breakpoint.open(1);
    assert_eq!(engine.wait(id, WAIT_MAX).await.unwrap().runs, [0, 1, 2]);
    engine.shutdown().await.unwrap();
}

/// A signal gets a lower id than another one, and is committed after it, while a step runs that has
/// taken the other one. The commit must consume only the signal that the step has taken, and not
/// the latecomer.
#[tokio::test(flavor = "multi_thread")]
async fn p17_a_latecomer_with_a_lower_id_is_not_consumed_unseen() {
    let db = database().await;
    let pool = db.pool();
    let breakpoint = Arc::new(Breakpoint::new());
    let engine =
        engine(&db).machine::<Taker>().resource(Arc::clone(&breakpoint)).start().await.unwrap();
    let id = Taker::insert(wanted(2)).execute(pool).await.unwrap();
    breakpoint.arrival().await;
    sql(pool, "alter sequence gen_durable.signals_id_seq restart with 100").await;
    breakpoint.open(1);
    until(pool, id, "awaiting_signal").await;
    Taker::signal(id, Ping { n: 1 }).execute(pool).await.unwrap();
    breakpoint.arrival().await;
    // Signal 7 is committed while a step runs that has taken signal 100.
    sqlx::query(
        "insert into gen_durable.signals (id, target_id, name, payload)
         overriding system value values (7, $1, 'ping', '{\"n\": 2}')",
    )
    .bind(id.get())
    .execute(pool)
    .await
    .unwrap();
    breakpoint.open(1);
    assert_eq!(breakpoint.arrival().await, id.get(), "the latecomer wakes it");
    assert_eq!(row(pool, id).await.inbox, 1, "what was taken is consumed, and nothing else");
    breakpoint.open(1);
    let seen = engine.wait(id, WAIT_MAX).await.unwrap();
    assert_eq!((seen.got, seen.runs), (vec![1, 2], vec![0, 1, 1]));
    assert_eq!(row(pool, id).await.inbox, 0);
    engine.shutdown().await.unwrap();
}

/// Awaits with a timeout, and records what woke it.
#[durable_fsm(state = Vec<bool>, output = Vec<bool>, signals(Ping))]
pub enum Timed {
    Wait,
}

#[durable_fsm]
impl Timed {
    async fn wait(mut cx: Context<Self>, breakpoint: &Arc<Breakpoint>) -> StepResult<Self> {
        let timed_out = cx.timed_out();
        cx.state.push(timed_out);
        breakpoint.pass(cx.id()).await;
        if cx.take_signal::<Ping>()?.is_some() {
            let woken = cx.state.clone();
            return Ok(cx.done(woken));
        }
        if cx.state.len() > 1 {
            return Ok(cx.await_signal::<Ping>());
        }
        Ok(cx.await_signal_for::<Ping>(Duration::from_millis(1)))
    }
}

/// A signal races the timeout of a parked row. The one that locks the row first must wake it, and
/// the other one must find it awake.
#[tokio::test(flavor = "multi_thread")]
async fn p18_a_signal_that_races_a_timeout_wakes_once() {
    let db = database().await;
    let pool = db.pool();
    let breakpoint = Arc::new(Breakpoint::new());
    let engine =
        engine(&db).machine::<Timed>().resource(Arc::clone(&breakpoint)).start().await.unwrap();
    // The signal comes first: its transaction holds the row while the time is up.
    let id = Timed::insert(Vec::new()).execute(pool).await.unwrap();
    breakpoint.arrival().await;
    let mut tx = pool.begin().await.unwrap();
    Timed::signal(id, Ping { n: 1 }).execute(&mut *tx).await.unwrap();
    breakpoint.open(1);
    engine.maintain().await.unwrap();
    tx.commit().await.unwrap();
    breakpoint.arrival().await;
    engine.maintain().await.unwrap();
    breakpoint.open(1);
    assert_eq!(engine.wait(id, WAIT_MAX).await.unwrap(), [false, false]);
    // The timeout comes first: the signal arrives while the woken step runs.
    let id = Timed::insert(Vec::new()).execute(pool).await.unwrap();
    breakpoint.arrival().await;
    breakpoint.open(1);
    breakpoint.arrival().await;
    Timed::signal(id, Ping { n: 1 }).execute(pool).await.unwrap();
    breakpoint.open(1);
    breakpoint.arrival().await;
    breakpoint.open(1);
    assert_eq!(engine.wait(id, WAIT_MAX).await.unwrap(), [false, true, false]);
    engine.shutdown().await.unwrap();
}

/// The statements of a signal and of a timeout run in either order, the second one while the
/// transaction of the first one is open. The second one must not wake the row.
#[tokio::test(flavor = "multi_thread")]
async fn p18_whoever_locks_the_row_first_wakes_it_and_the_other_one_does_not() {
    const WAKE_TIMED_OUT: &str =
        include_str!("../../gen_durable/src/storage/sql/wake_timed_out.sql");
    let db = database().await;
    let pool = db.pool();
    // No engine runs yet. The test parks the row by hand, and its time is up.
    let park = async || {
        let id = Timed::insert(vec![false]).execute(pool).await.unwrap();
        sqlx::query(
            "update gen_durable.instances
             set status = 'awaiting_signal', awaits = '{ping}', wake_at = now() where id = $1",
        )
        .bind(id.get())
        .execute(pool)
        .await
        .unwrap();
        id
    };
    let time_out = async |connection: &mut sqlx::PgConnection| {
        let woken = sqlx::query(WAKE_TIMED_OUT).bind(10_i64).execute(connection).await.unwrap();
        woken.rows_affected()
    };
    let mut other = pool.acquire().await.unwrap();

    let by_signal = park().await;
    let mut tx = pool.begin().await.unwrap();
    Timed::signal(by_signal, Ping { n: 1 }).execute(&mut *tx).await.unwrap();
    assert_eq!(time_out(&mut other).await, 0, "the row is locked, and skipped");
    tx.commit().await.unwrap();
    assert_eq!(time_out(&mut other).await, 0, "it is awake");

    let by_timeout = park().await;
    let mut tx = pool.begin().await.unwrap();
    assert_eq!(time_out(&mut tx).await, 1);
    let signal = tokio::spawn({
        let pool = pool.clone();
        async move { Timed::signal(by_timeout, Ping { n: 1 }).execute(&pool).await }
    });
    until_a_session_waits(pool, 1).await;
    tx.commit().await.unwrap();
    assert_eq!(signal.await.unwrap().unwrap(), Delivery::Delivered);
    assert_eq!(time_out(&mut other).await, 0);

    let breakpoint = Arc::new(Breakpoint::new());
    breakpoint.open(10);
    let engine = engine(&db).machine::<Timed>().resource(breakpoint).start().await.unwrap();
    assert_eq!(engine.wait(by_signal, WAIT_MAX).await.unwrap(), [false, false]);
    assert_eq!(engine.wait(by_timeout, WAIT_MAX).await.unwrap(), [false, true]);
    for id in [by_signal, by_timeout] {
        let revision: i64 =
            sqlx::query_scalar("select revision from gen_durable.instances where id = $1")
                .bind(id.get())
                .fetch_one(pool)
                .await
                .unwrap();
        assert_eq!(revision, 2, "one claim, one commit");
    }
    engine.shutdown().await.unwrap();
}

/// A hundred instances park with a timeout, and signals arrive at about the time at which it is
/// over. Each park must be woken once.
#[tokio::test(flavor = "multi_thread")]
async fn p18_each_park_of_many_is_woken_once() {
    let db = database().await;
    let pool = db.pool();
    oracle::install(pool).await.unwrap();
    let engine = engine(&db).machine::<Collector>().start().await.unwrap();
    let state = CollectorState { external: 3, ..CollectorState::default() };
    let ids = Collector::insert_many(vec![state; 100]).execute(&engine).await.unwrap();
    let ids: Vec<_> = ids.into_iter().map(Result::unwrap).collect();
    let mut random = Random::new(18);
    for n in 0..3 {
        for id in &ids {
            // Before about half of the signals, the engine wakes the instances whose time is up.
            if random.below(2) == 0 {
                engine.maintain().await.unwrap();
            }
            let ping = Collector::signal_ping(*id, Number { n: EXTERNAL + n });
            ping.execute(&engine).await.unwrap();
        }
    }
    for id in ids {
        engine.wait(id, WAIT_MAX).await.unwrap();
    }
    let uneven: Vec<i64> = sqlx::query_scalar(
        "select id from chaos.log group by id
         having count(*) filter (where old_status = 'awaiting_signal') + 1
             <> count(*) filter (where old_status = 'runnable' and new_status = 'executing')",
    )
    .fetch_all(pool)
    .await
    .unwrap();
    assert_eq!(uneven, Vec::<i64>::new(), "claimed more often than woken");
    assert_eq!(oracle::check(pool).await.unwrap(), Vec::<String>::new());
    engine.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn p20_a_delivery_never_blocks_a_claim() {
    let db = database().await;
    let pool = db.pool();
    let locked = Taker::insert(wanted(1)).execute(pool).await.unwrap();
    let mut tx = pool.begin().await.unwrap();
    Taker::signal(locked, Ping { n: 1 }).execute(&mut *tx).await.unwrap();
    let breakpoint = Arc::new(Breakpoint::new());
    let engine =
        engine(&db).machine::<Taker>().resource(Arc::clone(&breakpoint)).start().await.unwrap();
    // The delivery's transaction has locked the row at the head of the queue. The rows behind it
    // must run.
    let others = Taker::insert_many(vec![wanted(0); 5]).execute(pool).await.unwrap();
    // There may be one run more than rows. A claim that began just before the delivery committed
    // gets the row without the signal. Its step parks, the park finds the signal, and the step runs
    // again.
    breakpoint.open(7);
    for other in others {
        engine.wait(other.unwrap(), WAIT_MAX).await.unwrap();
    }
    assert_eq!(row(pool, locked).await.status, "runnable");
    tx.commit().await.unwrap();
    assert_eq!(engine.wait(locked, WAIT_MAX).await.unwrap().got, [1]);
    engine.shutdown().await.unwrap();
}

/// A claim stops in this trigger, in the middle of its statement and with its rows locked, until
/// the test releases its own lock.
const HOLD_ANY: &str = "create function hold_claim() returns trigger language plpgsql
     set lock_timeout = 0 as $$
     begin
         perform pg_advisory_xact_lock(20);
         return new;
     end $$;";

/// The same for the statement that claims the heads of keys and holds the keys' locks. The
/// statement before it finds a lock taken, so it leaves the keys to this one.
const HOLD_PARTITIONS: &str = "create function hold_claim() returns trigger language plpgsql
     set lock_timeout = 0 as $$
     begin
         if current_query() not like '-- Claims the head of each partition key%' then
             raise lock_not_available;
         end if;
         perform pg_advisory_xact_lock(20);
         return new;
     end $$;";

/// Holds a claim in the statement that begins with `statement`, and sends a signal to a parked row.
/// The delivery must not wait for the claim.
async fn deliver_beside_a_claim(key: Option<&str>, hold: &'static str, statement: &str) {
    let db = database().await;
    let pool = db.pool();
    let breakpoint = Arc::new(Breakpoint::new());
    breakpoint.open(10);
    let engine =
        engine(&db).machine::<Taker>().resource(Arc::clone(&breakpoint)).start().await.unwrap();
    let insert = async |count| {
        let insert = Taker::insert(wanted(count));
        let insert = match key {
            Some(key) => insert.partition_key(key),
            None => insert,
        };
        insert.execute(pool).await.unwrap()
    };
    let parked = insert(1).await;
    until(pool, parked, "awaiting_signal").await;
    sql(pool, hold).await;
    sql(
        pool,
        "create trigger hold_claim before update on gen_durable.instances for each row
         when (new.status = 'executing' and old.status = 'runnable')
         execute function hold_claim();",
    )
    .await;
    let mut holder = pool.begin().await.unwrap();
    sqlx::query("select pg_advisory_xact_lock(20)").execute(&mut *holder).await.unwrap();
    let claimed = insert(0).await;
    until_a_session_waits(pool, 1).await;
    let held: String = sqlx::query_scalar(
        "select query from pg_stat_activity where datname = current_database()
         and pid in (select pid from pg_locks where not granted)",
    )
    .fetch_one(pool)
    .await
    .unwrap();
    assert!(held.starts_with(statement), "{held}");
    let sent =
        tokio::time::timeout(WAIT_MAX / 2, Taker::signal(parked, Ping { n: 1 }).execute(pool));
    assert_eq!(sent.await.expect("it does not wait").unwrap(), Delivery::Delivered);
    assert_eq!(row(pool, parked).await.inbox, 1);
    assert_eq!(row(pool, claimed).await.status, "runnable", "the claim is still held");
    holder.commit().await.unwrap();
    engine.wait(claimed, WAIT_MAX).await.unwrap();
    engine.wait(parked, WAIT_MAX).await.unwrap();
    engine.shutdown().await.unwrap();
    eventually("nothing is left", async || (count(pool, "executing").await == 0).then_some(()))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p20_a_claim_never_blocks_a_delivery() {
    deliver_beside_a_claim(None, HOLD_ANY, "-- Claims runnable rows").await;
}

/// Both rows have the same partition key, and the held claim has the key's lock too.
#[tokio::test(flavor = "multi_thread")]
async fn p20_a_claim_never_blocks_a_delivery_of_its_key() {
    deliver_beside_a_claim(Some("k"), HOLD_ANY, "-- Claims runnable rows").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p20_a_claim_of_heads_never_blocks_a_delivery_of_their_keys() {
    let statement = "-- Claims the head of each partition key";
    deliver_beside_a_claim(Some("k"), HOLD_PARTITIONS, statement).await;
}
