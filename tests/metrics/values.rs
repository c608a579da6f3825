//! The counts of engines match what has run.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use gen_durable::{Limit, prelude::*};

use crate::{
    program::{Program, WAIT_MAX, database, eventually, exporter, free_address, options, scrape},
    scrape::{Scrape, check_names},
};

#[derive(Debug, DurableSignal)]
pub struct Go {
    pub done: bool,
}

/// Comes to each outcome once, but for `failed`.
#[durable_fsm(state = u32, output = (), signals(Go))]
pub enum Tour {
    Begin,
    Later,
    Again,
    Fails,
    Parks,
    Ends,
}

#[durable_fsm]
impl Tour {
    async fn begin(cx: Context<Self>) -> Outcome<Self> {
        cx.next_in(Tour::Later, Duration::from_millis(1))
    }

    async fn later(cx: Context<Self>) -> Outcome<Self> {
        if cx.attempt() == 0 { cx.replay(Duration::ZERO) } else { cx.next(Tour::Again) }
    }

    async fn again(mut cx: Context<Self>) -> Outcome<Self> {
        cx.state += 1;
        if cx.state == 1 { cx.snooze(Duration::ZERO) } else { cx.next(Tour::Fails) }
    }

    async fn fails(cx: Context<Self>) -> Result<Outcome<Self>, StepError> {
        match cx.failures() {
            0 => Err("a secret of 4711".into()),
            1 => panic!("a secret of 4712"),
            _ => Ok(cx.next(Tour::Parks)),
        }
    }

    async fn parks(mut cx: Context<Self>) -> Outcome<Self> {
        match cx.take_signal::<Go>() {
            Ok(Some(go)) if go.done => cx.next(Tour::Ends),
            _ => cx.await_signal::<Go>(),
        }
    }

    async fn ends(cx: Context<Self>) -> Outcome<Self> {
        cx.done(()).insert(Stops::insert(()))
    }

    async fn handle(cx: Context<Self>, _error: StepError) -> Outcome<Self> {
        cx.replay(Duration::ZERO)
    }
}

#[durable_fsm(output = ())]
pub enum Stops {
    Stop,
}

#[durable_fsm]
impl Stops {
    async fn stop(cx: Context<Self>) -> Outcome<Self> {
        cx.stop("a secret of 4713")
    }
}

fn steps(scrape: &Scrape, machine: &str, step: &str, outcome: &str) -> f64 {
    let labels = [("machine", machine), ("step", step), ("outcome", outcome)];
    scrape.get("gen_durable_steps_total", &labels).unwrap_or(-1.0)
}

fn count(scrape: &Scrape, name: &str, labels: &[(&str, &str)]) -> f64 {
    scrape.get(name, labels).unwrap_or(-1.0)
}

async fn tour(client: &Client, key: i64) -> InstanceId<Tour> {
    let id = Tour::insert(0).unique_key(format!("tour {key}")).execute(client).await.unwrap();
    eventually("it parks", async || {
        let found = client.find(id.get()).await.unwrap().unwrap();
        (found.status == Status::AwaitingSignal).then_some(())
    })
    .await;
    id
}

#[tokio::test(flavor = "multi_thread")]
async fn p77_each_outcome_and_error_is_counted_once() {
    let db = database().await;
    let program = Program::start(options(&db), |engine| {
        engine.machine::<Tour>().machine::<Stops>().queue("default", 3)
    })
    .await;
    let before = program.scrape().await;
    check_names(&before);
    assert_eq!(steps(&before, "tour", "begin", "later"), 0.0, "a series begins at 0");
    let client = program.engine.client();
    for key in 0..3 {
        let id = tour(client, key).await;
        let error = Tour::insert(0).unique_key(format!("tour {key}")).execute(client).await;
        assert!(error.is_err(), "its key is taken");
        let go = |done| Tour::signal(id, Go { done });
        for _ in 0..2 {
            go(false).dedup_key("a").execute(client).await.unwrap();
        }
        // It awaits signals that come after those that it has seen.
        let parked = f64::from(u32::try_from(key).unwrap() + 1) * 2.0;
        eventually("it parks again", async || {
            (steps(&program.scrape().await, "tour", "parks", "await") == parked).then_some(())
        })
        .await;
        go(true).execute(client).await.unwrap();
        client.wait(id, WAIT_MAX).await.unwrap();
        assert!(go(true).execute(client).await.is_err(), "it has ended");
    }
    let stopped = eventually("the inserted instances fail", async || {
        let scrape = program.scrape().await;
        (steps(&scrape, "stops", "stop", "failed") >= 3.0).then_some(scrape)
    })
    .await;
    let scrape = stopped;
    check_names(&scrape);
    for (step, outcome, each) in [
        ("begin", "later", 1.0),
        ("later", "replay", 1.0),
        ("later", "next", 1.0),
        ("again", "snooze", 1.0),
        ("again", "next", 1.0),
        ("fails", "replay", 2.0),
        ("fails", "next", 1.0),
        ("parks", "await", 2.0),
        ("parks", "next", 1.0),
        ("ends", "done", 1.0),
    ] {
        assert_eq!(steps(&scrape, "tour", step, outcome), each * 3.0, "{step} {outcome}");
    }
    let all = scrape.sum("gen_durable_steps_total", &[("machine", "tour")]);
    assert_eq!(all, 36.0, "nothing else is counted");
    for kind in ["failed", "panicked"] {
        let labels = [("machine", "tour"), ("step", "fails"), ("kind", kind)];
        assert_eq!(count(&scrape, "gen_durable_step_errors_total", &labels), 3.0, "{kind}");
    }
    assert_eq!(scrape.sum("gen_durable_step_errors_total", &[]), 6.0);
    let durations = scrape.sum("gen_durable_step_duration_seconds_count", &[("machine", "tour")]);
    assert_eq!(durations, 36.0);
    // The claims are one for the insert, and one after each outcome that leaves the worker.
    let waited = count(&scrape, "gen_durable_waiting_seconds_count", &[("queue", "default")]);
    let claimed = scrape.sum("gen_durable_claimed_total", &[("queue", "default")]);
    assert_eq!(waited, claimed);
    assert!(claimed >= 3.0 * 6.0 + 3.0, "{claimed}");
    assert!(count(&scrape, "gen_durable_claims_total", &[]) > 0.0);
    let (call, outcome) = (("by", "call"), ("by", "outcome"));
    for (name, by, result, expected) in [
        ("gen_durable_inserts_total", call, "inserted", 3.0),
        ("gen_durable_inserts_total", call, "duplicate", 3.0),
        ("gen_durable_inserts_total", outcome, "inserted", 3.0),
        ("gen_durable_signals_total", call, "delivered", 6.0),
        ("gen_durable_signals_total", call, "duplicate", 3.0),
        ("gen_durable_signals_total", call, "refused", 3.0),
    ] {
        assert_eq!(count(&scrape, name, &[by, ("result", result)]), expected, "{name} {result}");
    }
    let outcomes = count(&scrape, "gen_durable_committed_outcomes_total", &[("by", "batch")]);
    assert_eq!(outcomes, 39.0);
    let commits = [("by", "batch"), ("result", "committed")];
    let commits = count(&scrape, "gen_durable_commits_total", &commits);
    assert!((1.0..=39.0).contains(&commits), "{commits}");
    assert_eq!(count(&scrape, "gen_durable_slots", &[("queue", "default")]), 3.0);
    assert_eq!(count(&scrape, "gen_durable_slots_in_use", &[("queue", "default")]), 0.0);
    program.engine.shutdown().await.unwrap();
}

/// Waits in its slot until it may end.
#[durable_fsm(output = ())]
pub enum Holds {
    Hold,
}

type Free = Arc<AtomicBool>;

#[durable_fsm]
impl Holds {
    #[step(limit = "one")]
    async fn hold(cx: Context<Self>, free: &Free) -> Outcome<Self> {
        while !free.load(Ordering::Relaxed) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        cx.done(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn slots_turns_and_waiting_times_are_shown() {
    let db = database().await;
    let free = Free::default();
    let given = Arc::clone(&free);
    let program = Program::start(options(&db), |engine| {
        let engine = engine.machine::<Holds>().queue("default", 4).resource(given);
        engine.limit("one", Limit::new().at_once(1)).sample_interval(Duration::from_millis(100))
    })
    .await;
    let client = program.engine.client();
    let first = Holds::insert(()).execute(client).await.unwrap();
    let second = Holds::insert(()).execute(client).await.unwrap();
    let turns = |scrape: &Scrape, result: &str| {
        count(scrape, "gen_durable_limit_turns_total", &[("limit", "one"), ("result", result)])
    };
    eventually("one runs and one is held back", async || {
        let scrape = program.scrape().await;
        let in_use = count(&scrape, "gen_durable_slots_in_use", &[("queue", "default")]);
        let shown = count(&scrape, "gen_durable_limit_waiting", &[("limit", "one")]);
        let running = count(&scrape, "gen_durable_limit_in_use", &[("limit", "one")]);
        let at_once = count(&scrape, "gen_durable_limit_at_once", &[("limit", "one")]);
        let counts = (turns(&scrape, "admitted"), turns(&scrape, "held_back"));
        ((in_use, shown, running, at_once) == (1.0, 1.0, 1.0, 1.0) && counts == (1.0, 1.0))
            .then_some(())
    })
    .await;
    free.store(true, Ordering::Relaxed);
    for id in [first, second] {
        client.wait(id, WAIT_MAX).await.unwrap();
    }
    // It came into its queue an hour ago, by its time.
    let hour = Duration::from_hours(1);
    let late = std::time::SystemTime::now() - hour;
    let late = Holds::insert(()).schedule_at(late).execute(client).await.unwrap();
    client.wait(late, WAIT_MAX).await.unwrap();
    let scrape = program.scrape().await;
    let seconds = count(&scrape, "gen_durable_waiting_seconds_sum", &[("queue", "default")]);
    assert!((3600.0..3900.0).contains(&seconds), "{seconds}");
    assert_eq!(turns(&scrape, "admitted"), 3.0);
    program.engine.shutdown().await.unwrap();
}

/// The usual way: one recorder for the whole process. Two engines of a process add up.
#[tokio::test(flavor = "multi_thread")]
async fn a_recorder_that_is_installed_gets_all_engines_of_the_process() {
    let db = database().await;
    let address = free_address();
    exporter(address).install().unwrap();
    let engine = || {
        let engine = gen_durable::Engine::builder(db.pool().clone());
        engine.machine::<Stops>().queue("default", 3).start()
    };
    let (one, two) = (engine().await.unwrap(), engine().await.unwrap());
    let slots =
        async || count(&scrape(address).await, "gen_durable_slots", &[("queue", "default")]);
    assert_eq!(slots().await, 6.0);
    for on in [&one, &two] {
        let id = Stops::insert(()).execute(on).await.unwrap();
        on.wait(id, WAIT_MAX).await.unwrap_err();
    }
    one.shutdown().await.unwrap();
    drop(one);
    eventually("its slots are gone", async || (slots().await == 3.0).then_some(())).await;
    two.shutdown().await.unwrap();
    let scrape = scrape(address).await;
    check_names(&scrape);
    assert_eq!(steps(&scrape, "stops", "stop", "failed"), 2.0);
}
