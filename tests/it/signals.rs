//! Signals: an instance gets each of them and loses none, and sees those of one deduplication key
//! once.

use std::{sync::Arc, time::Duration};

use gen_durable::{Delivery, SignalError, prelude::*};

use crate::support::{
    Breakpoint, WAIT_MAX, database, engine, eventually, row, sql, until, until_a_session_waits,
};

#[derive(Clone, Debug, PartialEq, DurableSignal)]
pub struct Ping {
    n: u32,
}

#[derive(Clone, Debug, DurableSignal)]
pub struct Pong;

/// The state of a machine that takes `wanted` pings, ends with their numbers, and counts its runs.
#[derive(Clone, Debug, Default, DurableState)]
pub struct Wanted {
    wanted: usize,
    #[serde(default)]
    got: Vec<u32>,
    #[serde(default)]
    runs: u32,
}

#[durable_fsm(state = Wanted, output = Vec<u32>, signals(Ping, Pong))]
pub enum Collect {
    Wait,
}

#[durable_fsm]
impl Collect {
    async fn wait(mut cx: Context<Self>) -> StepResult<Self> {
        cx.state.runs += 1;
        while let Some(ping) = cx.take_signal::<Ping>()? {
            cx.state.got.push(ping.n);
        }
        if cx.state.got.len() < cx.state.wanted {
            return Ok(cx.await_signal::<Ping>());
        }
        let got = cx.state.got.clone();
        Ok(cx.done(got))
    }
}

fn wanted(wanted: usize) -> Wanted {
    Wanted { wanted, ..Wanted::default() }
}

/// Parks unless it has a signal. A signal that arrives while it parks must wake it.
#[durable_fsm(state = u32, output = u32, signals(Ping))]
pub enum Racer {
    Race,
}

#[durable_fsm]
impl Racer {
    async fn race(mut cx: Context<Self>, sender: &Client) -> StepResult<Self> {
        if let Some(ping) = cx.take_signal::<Ping>()? {
            return Ok(cx.done(ping.n));
        }
        if cx.state == 1 {
            // This signal races the park that the step is about to commit.
            let signal = Racer::signal(cx.id(), Ping { n: 1 });
            let sender = sender.clone();
            tokio::spawn(async move { signal.execute(&sender).await });
        }
        Ok(cx.await_signal::<Ping>())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn p03_signal_races_park_ten_thousand_times() {
    const INSTANCES: usize = 10_000;
    let db = database().await;
    let client = Client::new(db.pool().clone());
    let engine =
        engine(&db).machine::<Racer>().queue("default", 50).resource(client).start().await.unwrap();
    let ids = Racer::insert_many(vec![1; INSTANCES]).execute(&engine).await.unwrap();
    assert_eq!(ids.len(), INSTANCES);
    eventually("every instance has taken its signal", async || {
        (crate::support::count(db.pool(), "done").await == INSTANCES as i64).then_some(())
    })
    .await;
    engine.shutdown().await.unwrap();
}

/// A signal arrives while the park's transaction holds the row's lock and has not looked at the
/// inbox yet. The signal must wait for the park, and must then wake the instance.
#[tokio::test(flavor = "multi_thread")]
async fn p03_signal_arrives_inside_the_parks_transaction() {
    let db = database().await;
    let pool = db.pool();
    // A park stops in this trigger, with its row locked and changed, until the test lets it go.
    sql(
        pool,
        "create function hold_park() returns trigger language plpgsql as $$
         begin
             perform pg_advisory_xact_lock(77);
             return new;
         end $$;
         create trigger hold_park after update on gen_durable.instances for each row
         when (new.status = 'awaiting_signal' and old.status = 'executing')
         execute function hold_park();",
    )
    .await;
    for n in 0..20 {
        let mut holder = pool.begin().await.unwrap();
        sqlx::query("select pg_advisory_xact_lock(77)").execute(&mut *holder).await.unwrap();
        let client = Client::new(pool.clone());
        let engine = engine(&db).machine::<Racer>().resource(client.clone()).start().await.unwrap();
        let id = Racer::insert(0).execute(&engine).await.unwrap();
        until_a_session_waits(pool, 1).await;
        let signal = tokio::spawn({
            let client = client.clone();
            async move { Racer::signal(id, Ping { n }).execute(&client).await }
        });
        // The park waits for the test, and the signal for the park.
        until_a_session_waits(pool, 2).await;
        holder.commit().await.unwrap();
        assert_eq!(signal.await.unwrap().unwrap(), Delivery::Delivered);
        assert_eq!(engine.wait(id, WAIT_MAX).await.unwrap(), n);
        engine.shutdown().await.unwrap();
    }
}

/// An instance parks while the transaction of a signal to it is open. The park must wait for the
/// transaction without holding up other instances, and the signal must then wake the instance.
#[tokio::test(flavor = "multi_thread")]
async fn p03_park_happens_while_a_signals_transaction_is_open() {
    let db = database().await;
    let pool = db.pool();
    let client = Client::new(pool.clone());
    let engine = engine(&db).machine::<Held>().machine::<Racer>();
    let breakpoint = Arc::new(Breakpoint::new());
    let engine =
        engine.resource(Arc::clone(&breakpoint)).resource(client.clone()).start().await.unwrap();
    for n in 0..20 {
        let id = Held::insert(0).execute(&engine).await.unwrap();
        breakpoint.arrival().await;
        let mut tx = pool.begin().await.unwrap();
        Held::signal(id, Ping { n }).execute(&mut *tx).await.unwrap();
        breakpoint.open(1);
        // The locked row does not hold up another instance.
        let other = Racer::insert(1).execute(&engine).await.unwrap();
        engine.wait(other, WAIT_MAX).await.unwrap();
        assert_eq!(row(pool, id).await.status, "executing");
        tx.commit().await.unwrap();
        assert_eq!(breakpoint.arrival().await, id.get(), "it wakes");
        breakpoint.open(1);
        assert_eq!(engine.wait(id, WAIT_MAX).await.unwrap(), n);
    }
    engine.shutdown().await.unwrap();
}

#[durable_fsm(state = u32, output = u32, signals(Ping))]
pub enum Held {
    Wait,
}

#[durable_fsm]
impl Held {
    async fn wait(mut cx: Context<Self>, breakpoint: &Arc<Breakpoint>) -> StepResult<Self> {
        breakpoint.pass(cx.id()).await;
        match cx.take_signal::<Ping>()? {
            Some(ping) => Ok(cx.done(ping.n)),
            None => Ok(cx.await_signal::<Ping>()),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn p04_one_key_is_seen_once_and_two_keys_are_both_seen() {
    let db = database().await;
    let pool = db.pool();
    let engine = engine(&db).machine::<Collect>().start().await.unwrap();
    let id = Collect::insert(wanted(3)).execute(&engine).await.unwrap();
    let send = async |n: u32, key: &str| {
        Collect::signal_ping(id, Ping { n }).dedup_key(key).execute(&engine).await.unwrap()
    };
    assert_eq!(send(1, "a").await, Delivery::Delivered);
    assert_eq!(send(1, "a").await, Delivery::Duplicate);
    // The key stays known after its signal was consumed.
    eventually("the first is consumed", async || {
        let row = row(pool, id).await;
        (row.status == "awaiting_signal" && row.inbox == 0).then_some(())
    })
    .await;
    assert_eq!(send(1, "a").await, Delivery::Duplicate);
    // Four calls send signals at once, three of them with the same key.
    let sent = tokio::join!(send(2, "b"), send(2, "b"), send(2, "b"), send(3, "c"));
    let delivered = [sent.0, sent.1, sent.2, sent.3];
    assert_eq!(delivered.iter().filter(|one| **one == Delivery::Delivered).count(), 2);
    let mut got = engine.wait(id, WAIT_MAX).await.unwrap();
    got.sort_unstable();
    assert_eq!(got, [1, 2, 3]);
    engine.shutdown().await.unwrap();
}

#[derive(Clone, Debug, Default, DurableState)]
pub struct Runs {
    runs: u32,
}

/// Looks at its signals and takes none, until there are three.
#[durable_fsm(state = Runs, output = u32, signals(Ping, Pong))]
pub enum Gather {
    Look,
}

#[durable_fsm]
impl Gather {
    async fn look(mut cx: Context<Self>) -> StepResult<Self> {
        cx.state.runs += 1;
        assert!(cx.count_signals::<Ping>() == 0 || cx.peek_signal::<Ping>()?.is_some());
        if cx.count_signals::<Ping>() < 3 {
            return Ok(cx.await_signal::<Ping>());
        }
        let runs = cx.state.runs;
        Ok(cx.done(runs))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn p05_accumulating_signals_neither_spins_nor_loses_one() {
    let db = database().await;
    let pool = db.pool();
    let engine = engine(&db).machine::<Gather>().start().await.unwrap();
    let id = Gather::insert(Runs::default()).execute(&engine).await.unwrap();
    for n in 1..=2_u32 {
        until(pool, id, "awaiting_signal").await;
        // The instance does not await this signal, so it must not wake.
        Gather::signal_pong(id, Pong).execute(&engine).await.unwrap();
        assert_eq!(row(pool, id).await.status, "awaiting_signal");
        Gather::signal_ping(id, Ping { n }).execute(&engine).await.unwrap();
        eventually("it has looked and parked again", async || {
            let row = row(pool, id).await;
            (row.status == "awaiting_signal" && row.state["runs"] == n + 1).then_some(())
        })
        .await;
    }
    assert_eq!(row(pool, id).await.inbox, 4, "nothing was taken");
    Gather::signal_ping(id, Ping { n: 3 }).execute(&engine).await.unwrap();
    assert_eq!(engine.wait(id, WAIT_MAX).await.unwrap(), 4, "one run for each new signal");
    assert_eq!(row(pool, id).await.inbox, 0, "a terminal outcome empties the inbox");
    engine.shutdown().await.unwrap();
}

#[durable_fsm(state = (), output = u32, signals(Ping))]
pub enum Retry {
    Take,
}

#[durable_fsm]
impl Retry {
    async fn take(mut cx: Context<Self>) -> StepResult<Self> {
        let Some(ping) = cx.take_signal::<Ping>()? else { return Ok(cx.await_signal::<Ping>()) };
        match cx.attempt() {
            0 => Ok(cx.replay(Duration::ZERO)),
            1 => Err(std::io::Error::other("no luck").into()),
            _ => Ok(cx.done(ping.n)),
        }
    }

    async fn handle(cx: Context<Self>, _error: StepError) -> Outcome<Self> {
        cx.replay(Duration::ZERO)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_and_a_failed_step_consume_nothing() {
    let db = database().await;
    let engine = engine(&db).machine::<Retry>().start().await.unwrap();
    let id = Retry::insert(()).execute(&engine).await.unwrap();
    Retry::signal_ping(id, Ping { n: 9 }).execute(&engine).await.unwrap();
    assert_eq!(engine.wait(id, WAIT_MAX).await.unwrap(), 9);
    engine.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_that_cannot_arrive_is_refused() {
    let db = database().await;
    let pool = db.pool();
    let engine = engine(&db).machine::<Collect>().machine::<Retry>().start().await.unwrap();
    let id = Collect::insert(wanted(0)).execute(&engine).await.unwrap();
    engine.wait(id, WAIT_MAX).await.unwrap();
    let error = Collect::signal_ping(id, Ping { n: 1 }).execute(&engine).await.unwrap_err();
    assert!(matches!(error, SignalError::Terminal { status: Status::Done, .. }), "{error}");
    let nobody = InstanceId::<Collect>::from_raw(404);
    let error = Collect::signal_ping(nobody, Ping { n: 1 }).execute(pool).await.unwrap_err();
    assert!(matches!(error, SignalError::Unknown { id: 404 }), "{error}");
    let retry = Retry::insert(()).execute(&engine).await.unwrap();
    let wrong = InstanceId::<Collect>::from_raw(retry.get());
    let error = Collect::signal_ping(wrong, Ping { n: 1 }).execute(&engine).await.unwrap_err();
    assert_eq!(error.to_string(), format!("instance {retry} is of machine `retry`, not `collect`"));
    // A tool that knows only the number of an instance and the name of a signal can send it too.
    let client = engine.client();
    let payload = serde_json::json!({ "n": 5 });
    client.signal_by_name(retry.get(), "ping", &payload, None).await.unwrap();
    assert_eq!(engine.wait(retry, WAIT_MAX).await.unwrap(), 5);
    engine.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_commits_with_the_callers_transaction_or_not_at_all() {
    let db = database().await;
    let pool = db.pool();
    let engine = engine(&db).machine::<Collect>().start().await.unwrap();
    let id = Collect::insert(wanted(1)).execute(&engine).await.unwrap();
    until(pool, id, "awaiting_signal").await;
    let mut tx = pool.begin().await.unwrap();
    Collect::signal_ping(id, Ping { n: 1 }).execute(&mut *tx).await.unwrap();
    tx.rollback().await.unwrap();
    assert_eq!(row(pool, id).await.status, "awaiting_signal");
    let mut tx = pool.begin().await.unwrap();
    Collect::signal_ping(id, Ping { n: 2 }).execute(&mut *tx).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(engine.wait(id, WAIT_MAX).await.unwrap(), [2]);
    engine.shutdown().await.unwrap();
}

#[durable_fsm(state = (), output = bool, signals(Ping))]
pub enum Waiter {
    Wait,
}

#[durable_fsm]
impl Waiter {
    async fn wait(mut cx: Context<Self>) -> StepResult<Self> {
        if cx.take_signal::<Ping>()?.is_some() {
            return Ok(cx.done(true));
        }
        if cx.timed_out() {
            return Ok(cx.done(false));
        }
        Ok(cx.await_signal_for::<Ping>(Duration::from_millis(50)))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_await_may_time_out_and_the_step_can_tell() {
    let db = database().await;
    let engine = engine(&db).machine::<Waiter>().start().await.unwrap();
    let id = Waiter::insert(()).execute(&engine).await.unwrap();
    assert!(!engine.wait(id, WAIT_MAX).await.unwrap());
    engine.shutdown().await.unwrap();
}

#[durable_fsm(state = Option<i64>, output = (), signals(Ping))]
pub enum Sender {
    Send,
}

#[durable_fsm]
impl Sender {
    async fn send(cx: Context<Self>) -> Outcome<Self> {
        let target = InstanceId::<Collect>::from_raw(cx.state.unwrap_or(404));
        cx.done(())
            .signal(Collect::signal_ping(target, Ping { n: 1 }).dedup_key("one"))
            .signal(Collect::signal_ping(target, Ping { n: 1 }).dedup_key("one"))
            .signal(Collect::signal_ping(target, Ping { n: 2 }))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outcome_carries_signals_and_one_that_cannot_arrive_is_dropped() {
    let db = database().await;
    let engine = engine(&db).machine::<Collect>().machine::<Sender>().start().await.unwrap();
    let target = Collect::insert(wanted(2)).execute(&engine).await.unwrap();
    let sender = Sender::insert(Some(target.get())).execute(&engine).await.unwrap();
    let lost = Sender::insert(None).execute(&engine).await.unwrap();
    assert_eq!(engine.wait(target, WAIT_MAX).await.unwrap(), [1, 2]);
    engine.wait(sender, WAIT_MAX).await.unwrap();
    engine.wait(lost, WAIT_MAX).await.unwrap();
    engine.shutdown().await.unwrap();
}

/// Its first step sends a signal to its own instance. The next step must see it, as after a fresh
/// claim.
#[durable_fsm(name = "talks_to_itself", state = u32, output = u32, signals(Ping))]
pub enum Soliloquy {
    Speak,
    Hear,
}

#[durable_fsm]
impl Soliloquy {
    async fn speak(cx: Context<Self>) -> Outcome<Self> {
        let id = cx.id();
        cx.next(Soliloquy::Hear).signal(Soliloquy::signal_ping(id, Ping { n: 7 }))
    }

    async fn hear(mut cx: Context<Self>) -> StepResult<Self> {
        let heard = cx.take_signal::<Ping>()?;
        Ok(cx.done(heard.map_or(0, |ping| ping.n)))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_to_oneself_is_in_the_next_steps_inbox() {
    let db = database().await;
    let engine = engine(&db).machine::<Soliloquy>().start().await.unwrap();
    let id = Soliloquy::insert(0).execute(&engine).await.unwrap();
    assert_eq!(engine.wait(id, WAIT_MAX).await.unwrap(), 7);
    engine.shutdown().await.unwrap();
}

/// A signal is delivered after the commit of an end has taken its snapshot, and before it locks the
/// row. The commit does not see the signal, and the inbox must be emptied all the same.
#[tokio::test(flavor = "multi_thread")]
async fn an_ended_instance_leaves_no_signal_behind() {
    let db = database().await;
    let pool = db.pool();
    // The commit stops in this trigger. It has its snapshot, and has not looked at any row.
    sql(
        pool,
        "create function hold_commit() returns trigger language plpgsql as $$
         begin
             if current_query() like '-- Applies the outcomes%' then
                 perform pg_advisory_xact_lock(78);
             end if;
             return null;
         end $$;
         create trigger hold_commit before update on gen_durable.instances for each statement
         execute function hold_commit();",
    )
    .await;
    let mut holder = pool.begin().await.unwrap();
    sqlx::query("select pg_advisory_xact_lock(78)").execute(&mut *holder).await.unwrap();
    let engine = engine(&db).machine::<Collect>().start().await.unwrap();
    let id = Collect::insert(wanted(0)).execute(&engine).await.unwrap();
    until_a_session_waits(pool, 1).await;
    let sent = Collect::signal_ping(id, Ping { n: 1 }).execute(pool).await.unwrap();
    assert_eq!(sent, Delivery::Delivered);
    holder.commit().await.unwrap();
    engine.wait(id, WAIT_MAX).await.unwrap();
    let left: i64 = sqlx::query_scalar("select count(*) from gen_durable.signals")
        .fetch_one(pool)
        .await
        .unwrap();
    assert_eq!(left, 0);
    engine.shutdown().await.unwrap();
}
