//! Options and inputs at their extremes. The engine accepts each, or refuses it and says what to
//! do. It never panics.

use std::time::{Duration, SystemTime};

use gen_durable::{
    EngineBuilder, Error, Resources, StepFuture,
    machine::{Machine, Steps},
    prelude::*,
};
use gen_durable_postgres::TestDb;
use gen_durable_tests::random::Random;

use crate::support::{NOT_HELD, WAIT_MAX, database, engine, eventually, holds, row, until};

#[durable_fsm(state = u32, output = u32, timeout = "1h")]
pub enum Add {
    One,
    Another,
}

#[durable_fsm]
impl Add {
    async fn one(mut cx: Context<Self>) -> Outcome<Self> {
        cx.state += 1;
        cx.next(Add::Another)
    }

    async fn another(cx: Context<Self>) -> Outcome<Self> {
        let n = cx.state;
        cx.done(n + 1)
    }
}

type Set = Box<dyn Fn(EngineBuilder) -> EngineBuilder>;

const DURATIONS: [Duration; 9] = [
    Duration::ZERO,
    Duration::from_nanos(1),
    Duration::from_millis(1),
    Duration::from_millis(100),
    Duration::from_hours(1),
    Duration::from_hours(7 * 24),
    Duration::from_hours(7 * 24 + 1),
    Duration::from_secs(i64::MAX as u64),
    Duration::MAX,
];

/// Every option at each of its extremes, with the name of the option.
fn extremes() -> Vec<(&'static str, Set)> {
    let mut all: Vec<(&str, Set)> = Vec::new();
    for duration in DURATIONS {
        all.push(("lease_ttl", Box::new(move |engine| engine.lease_ttl(duration))));
        all.push(("poll_interval", Box::new(move |engine| engine.poll_interval(duration))));
        all.push(("drain_timeout", Box::new(move |engine| engine.drain_timeout(duration))));
        all.push(("sample_interval", Box::new(move |engine| engine.sample_interval(duration))));
        all.push(("retention", Box::new(move |engine| engine.retention(duration))));
        all.push(("run_ahead", Box::new(move |engine| engine.run_ahead(usize::MAX, duration))));
    }
    for count in [0, 1, 5, 63, 64, 1_000, 1_001, 256 << 20, u32::MAX as usize, usize::MAX] {
        let few = u32::try_from(count).unwrap_or(u32::MAX);
        all.push(("value_max", Box::new(move |engine| engine.value_max(count))));
        all.push(("connections_max", Box::new(move |engine| engine.connections_max(few))));
        all.push(("crashes_max", Box::new(move |engine| engine.crashes_max(few))));
        all.push((
            "run_ahead_steps_max",
            Box::new(move |engine| engine.run_ahead(count, Duration::from_secs(1))),
        ));
        all.push(("queue", Box::new(move |engine| engine.queue("default", count))));
    }
    let long = "q".repeat(255);
    for name in ["", "\0", "a\0b", "\n\u{7f}\u{ad}", "\"'; drop table x; --", &long] {
        let name = name.to_owned();
        let names = name.clone();
        all.push(("queue", Box::new(move |engine| engine.queue(names.clone(), 1))));
        all.push(("name", Box::new(move |engine| engine.name(name.clone()))));
    }
    all.push(("queue", Box::new(|engine| engine.queue("q".repeat(256), 1))));
    all.push(("name", Box::new(|engine| engine.name("n".repeat(1 << 20)))));
    all.push(("maintenance", Box::new(|engine| engine.maintenance(false))));
    all.push(("poll_only", Box::new(EngineBuilder::poll_only)));
    all
}

/// Starts an engine with these options and lets it run an instance. Returns the option that the
/// engine refused, if it refused one.
async fn try_out(db: &TestDb, options: &[&(&'static str, Set)]) -> Option<String> {
    let builder = options.iter().fold(engine(db).machine::<Add>(), |engine, (_, set)| set(engine));
    match builder.start().await {
        Ok(engine) => {
            let id = Add::insert(0).execute(&engine).await.unwrap();
            match engine.wait(id, WAIT_MAX).await {
                // With a retention of zero the ended instance may already be gone.
                Ok(2) | Err(WaitError::Unknown { .. }) => {}
                other => panic!("{other:?}"),
            }
            engine.shutdown().await.unwrap();
            None
        }
        Err(Error::InvalidOption { option, reason }) => {
            assert!(!reason.is_empty());
            Some(option)
        }
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn p55_every_option_takes_its_extremes_or_refuses_them_at_start() {
    let db = database().await;
    let (mut taken, mut refused) = (0, 0);
    for extreme in &extremes() {
        match try_out(&db, &[extreme]).await {
            None => taken += 1,
            Some(option) => {
                refused += 1;
                assert!(option.starts_with(extreme.0.trim_end_matches("_steps_max")), "{option}");
            }
        }
    }
    assert!(taken > 40 && refused > 20, "{taken} were taken, {refused} refused");
}

/// Each accepted extreme is combined with others at random. The engine must accept every
/// combination.
#[tokio::test(flavor = "multi_thread")]
async fn p55_extremes_of_several_options_go_together() {
    let db = database().await;
    let extremes = extremes();
    let mut random = Random::new(55);
    let mut taken = Vec::new();
    for extreme in &extremes {
        if try_out(&db, &[extreme]).await.is_none() {
            taken.push(extreme);
        }
    }
    for _ in 0..30 {
        let options: Vec<_> = (0..4)
            .map(|_| taken[usize::try_from(random.below(taken.len() as u64)).unwrap()])
            .collect();
        let names: Vec<_> = options.iter().map(|(name, _)| *name).collect();
        assert_eq!(try_out(&db, &options).await, None, "{names:?}");
    }
}

#[derive(Clone, Debug, DurableSignal)]
pub struct Ping;

#[derive(Clone, Copy, Debug, PartialEq, DurableState)]
pub enum Plan {
    Next,
    Replay,
    Snooze,
    Await,
    Retry,
}

/// Asks for the longest possible delay, in each way in which a step can ask for one.
#[durable_fsm(state = Plan, output = (), signals(Ping))]
pub enum Late {
    Begin,
    End,
}

#[durable_fsm]
impl Late {
    async fn begin(cx: Context<Self>) -> StepResult<Self> {
        Ok(match cx.state {
            Plan::Next => cx.next_in(Late::End, Duration::MAX),
            Plan::Replay => cx.replay(Duration::MAX),
            Plan::Snooze => cx.snooze(Duration::MAX),
            Plan::Await => cx.await_signal_for::<Ping>(Duration::MAX),
            Plan::Retry => return Err("again".into()),
        })
    }

    async fn end(cx: Context<Self>) -> Outcome<Self> {
        cx.done(())
    }

    async fn handle(cx: Context<Self>, error: StepError) -> Outcome<Self> {
        let retry = Retry::exponential(Duration::MAX).max(Duration::MAX).max_attempts(u32::MAX);
        retry.jitter().decide(cx, error)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn p55_no_delay_is_too_long() {
    let db = database().await;
    let engine = engine(&db).machine::<Late>().machine::<Add>().start().await.unwrap();
    let client = engine.client().clone();
    for plan in [Plan::Next, Plan::Replay, Plan::Snooze, Plan::Await, Plan::Retry] {
        let id = Late::insert(plan).execute(&engine).await.unwrap();
        let status = if plan == Plan::Await { "awaiting_signal" } else { "runnable" };
        let first = eventually("it waits", async || {
            let waiting: bool = sqlx::query_scalar(
                "select coalesce(greatest(eligible_at, wake_at) > now() + interval '50 years', false)
                 from gen_durable.instances where id = $1",
            )
            .bind(id)
            .fetch_one(db.pool())
            .await
            .unwrap();
            waiting.then_some(())
        });
        first.await;
        until(db.pool(), id, status).await;
    }
    let (past, future) = (SystemTime::UNIX_EPOCH, SystemTime::now());
    let age = Duration::from_secs(i64::MAX as u64);
    let ages = [Duration::from_hours(24 * 366 * 10_000), age / 1_000, age];
    for insert in [
        ages.map(|age| past.checked_sub(age).unwrap_or(past))
            .map(|at| Add::insert(0).schedule_at(at)),
        [Duration::ZERO, Duration::from_nanos(1), Duration::from_nanos(999)]
            .map(|delay| Add::insert(0).schedule_in(delay)),
        [i16::MIN, 0, i16::MAX].map(|priority| Add::insert(0).priority(priority)),
    ]
    .into_iter()
    .flatten()
    {
        let id = insert.execute(&engine).await.unwrap();
        assert_eq!(client.wait(id, Duration::MAX).await.unwrap(), 2);
    }
    let later = ages.map(|age| future.checked_add(age).unwrap_or(future + ages[0]));
    for insert in later.map(|at| Add::insert(0).schedule_at(at)) {
        let id = insert.priority(i16::MIN).partition_key("later").execute(&engine).await.unwrap();
        assert_eq!(client.find(id).await.unwrap().unwrap().status, Status::Runnable);
    }
    let id = Add::insert(0).schedule_in(Duration::MAX).execute(&engine).await.unwrap();
    let error = client.wait(id, Duration::ZERO).await.unwrap_err();
    assert!(matches!(error, WaitError::TimedOut { .. }), "{error}");
    assert!(Add::insert_many::<u32>([]).execute(&engine).await.unwrap().is_empty());
    engine.shutdown().await.unwrap();
}

/// Writes a machine by hand: the macros would refuse these options at compile time.
macro_rules! by_hand {
    ($machine:ident, name = $name:expr, queue = $queue:expr, timeout = $timeout:expr) => {
        #[derive(Debug)]
        pub struct $machine;

        impl Machine for $machine {
            type State = ();
            type Output = ();
            const NAME: &'static str = $name;
            const VERSION: u32 = 1;
            const QUEUE: &'static str = $queue;
            const TIMEOUT: Option<Duration> = $timeout;
            const INITIAL: Self = $machine;
            const STEPS: &'static [&'static str] = &["do"];
            const SIGNALS: &'static [&'static str] = &["ping"];

            fn name(&self) -> &'static str {
                "do"
            }

            fn from_name(name: &str) -> Option<Self> {
                (name == "do").then_some($machine)
            }
        }

        impl gen_durable::Accepts<Ping> for $machine {}

        impl Steps for $machine {
            fn run(self, cx: Context<Self>, _: &Resources) -> StepFuture<'_, Self> {
                Box::pin(async move { Ok(cx.done(())) })
            }
        }
    };
}

/// A name of the longest length. It hardly compresses, so that it fills an index entry.
const LONG: &str = "0a1c9f4be27d835640fe9ab1c7d25e38b60f7a41d9c3e852076fb94ac1d8e53f\
                    72b0965ea3f8cd14079be6d2815c3fa4e967b0d8f21c5a3e7940bd68f15ca2e7\
                    9306db84fe17ca52039be6f8d41a75c20e983bf6d5a17c4e0289fb63da5e71c4\
                    f8063b9ed2a51c7f40e8963bda52f17c80e4b9635da2fe71c84096bd3a5e71f";

by_hand!(NoName, name = "", queue = "default", timeout = None);
by_hand!(NulName, name = "a\0", queue = "default", timeout = None);
by_hand!(NoQueue, name = "no_queue", queue = "", timeout = None);
by_hand!(NoTime, name = "no_time", queue = "default", timeout = Some(Duration::ZERO));
by_hand!(Endless, name = "endless", queue = "default", timeout = Some(Duration::MAX));
by_hand!(Long, name = LONG, queue = LONG, timeout = None);

#[tokio::test(flavor = "multi_thread")]
async fn p55_names_of_machines_are_checked_at_start_and_at_every_insert() {
    let db = database().await;
    for (builder, part) in [
        (engine(&db).machine::<NoName>(), "machine ``: its name is empty"),
        (engine(&db).machine::<NulName>(), "its name holds a NUL character"),
        (engine(&db).machine::<NoQueue>(), "machine `no_queue`: its queue is empty"),
        (engine(&db).machine::<NoTime>(), "step `do` has a timeout of 0"),
        (engine(&db).queue("", 1), "queue ``: its name is empty"),
        (engine(&db).name(""), "name: name is empty"),
    ] {
        let error = builder.start().await.unwrap_err();
        assert!(matches!(error, Error::InvalidOption { .. }), "{error}");
        assert!(error.to_string().contains(part), "{error}");
    }
    // A client in a process that runs none of these machines.
    let client = Client::new(db.pool().clone());
    let refused = |error: InsertError, name: &str| {
        let InsertError::Encode(EncodeError::Empty { what }) = error else { panic!("{error}") };
        assert_eq!(what, name);
    };
    let error = Insert::<NoName>::new(()).execute(&client).await.unwrap_err();
    refused(error.into(), "the machine's name");
    let error = Insert::<NoQueue>::new(()).execute(&client).await.unwrap_err();
    refused(error.into(), "queue");
    Insert::<NoQueue>::new(()).queue("other").execute(&client).await.unwrap();

    // Name, queue and keys have their greatest lengths at once: all of them must fit into one index
    // entry.
    let engine = engine(&db).machine::<Long>().machine::<Endless>().queue(LONG, 1);
    let engine = engine.start().await.unwrap();
    assert_eq!(LONG.len(), 255);
    let key = format!("{0}{0}{0}{0}{1}", LONG, "0123");
    assert_eq!(key.len(), 1024);
    let all = (0..20).map(|n| {
        let unique = format!("{}{n:04}", &key[..1020]);
        Insert::<Long>::new(()).partition_key(key.clone()).unique_key(unique)
    });
    for id in gen_durable::InsertMany::new(all).execute(&engine).await.unwrap() {
        engine.wait(id.unwrap(), WAIT_MAX).await.unwrap();
    }
    let id = Insert::<Endless>::new(()).execute(&engine).await.unwrap();
    engine.wait(id, WAIT_MAX).await.unwrap();
    engine.shutdown().await.unwrap();
}

/// Its outcome carries an insert or a signal that cannot be stored.
#[durable_fsm(state = String, output = (), signals(Ping))]
pub enum Carrier {
    Carry,
}

#[durable_fsm]
impl Carrier {
    async fn carry(cx: Context<Self>) -> Outcome<Self> {
        let (id, what) = (cx.id(), cx.state.clone());
        let child = Carrier::insert("child".to_owned());
        match what.as_str() {
            "partition_key" => cx.done(()).insert(child.partition_key("")),
            "unique_key" => cx.done(()).insert_many([child.unique_key("")]),
            "queue" => cx.done(()).insert(child.queue("")),
            "dedup_key" => cx.done(()).signal(Carrier::signal_ping(id, Ping).dedup_key("")),
            _ => cx.done(()),
        }
    }
}

/// An empty key is refused: two orders without a number are not the same order. An insert, an
/// insert in a transaction, one of many, a signal and an outcome must all refuse it, and store
/// nothing.
#[tokio::test(flavor = "multi_thread")]
async fn p55_empty_keys_are_refused_at_every_entrance() {
    let db = database().await;
    let engine = engine(&db).machine::<Carrier>().start().await.unwrap();
    let child = || Carrier::insert("child".to_owned());
    let empty = |error: InsertError, name: &str| {
        let text = error.to_string();
        let InsertError::Encode(EncodeError::Empty { what }) = error else { panic!("{text}") };
        assert_eq!(
            (what, text),
            (name, format!("{name} is empty; give it a value, or leave it out"))
        );
    };
    for (name, insert) in [
        ("partition_key", child().partition_key("")),
        ("unique_key", child().unique_key("")),
        ("queue", child().queue("")),
    ] {
        let error = insert.clone().execute(&engine).await.unwrap_err();
        empty(error.into(), name);
        empty(insert.clone().execute(db.pool()).await.unwrap_err().into(), name);
        let mut tx = db.pool().begin().await.unwrap();
        empty(insert.clone().execute(&mut *tx).await.unwrap_err().into(), name);
        tx.commit().await.unwrap();
        let many = Carrier::insert_many([child(), insert]);
        empty(many.execute(&engine).await.unwrap_err(), name);
    }
    for what in ["partition_key", "unique_key", "queue", "dedup_key"] {
        let id = Carrier::insert(what.to_owned()).execute(&engine).await.unwrap();
        let error = engine.wait(id, WAIT_MAX).await.unwrap_err().to_string();
        assert!(error.contains(&format!("{what} is empty")), "{error}");
    }
    let id = child().schedule_in(WAIT_MAX).execute(&engine).await.unwrap();
    let error = Carrier::signal_ping(id, Ping).dedup_key("").execute(&engine).await.unwrap_err();
    assert!(
        matches!(error, SignalError::Encode(EncodeError::Empty { what: "dedup_key" })),
        "{error}"
    );
    let null = serde_json::json!(null);
    for (name, key, what) in [("ping", Some(""), "dedup_key"), ("", None, "signal name")] {
        let error = engine.client().signal_by_name(id.get(), name, &null, key).await.unwrap_err();
        let SignalError::Encode(EncodeError::Empty { what: found }) = error else {
            panic!("{error}")
        };
        assert_eq!(found, what);
    }
    assert_eq!(row(db.pool(), id).await.inbox, 0);
    let children: i64 = sqlx::query_scalar(
        "select count(*) from gen_durable.instances where state::text = '\"child\"'",
    )
    .fetch_one(db.pool())
    .await
    .unwrap();
    assert_eq!(children, 1, "nothing of what was refused has been stored");
    engine.shutdown().await.unwrap();
}

/// A key may be any other text up to the greatest length. A longer one, or one with NUL, is
/// refused.
#[tokio::test(flavor = "multi_thread")]
async fn p55_keys_hold_any_text_that_fits() {
    let db = database().await;
    let client = Client::new(db.pool().clone());
    let mut long = "\u{10ffff}".repeat(256);
    if !holds(db.pool(), &long).await {
        let error = Add::insert(0).unique_key(&long).execute(&client).await.unwrap_err();
        assert!(error.to_string().contains(NOT_HELD), "{error}");
        long = "\u{ff}".repeat(512);
    }
    for key in [" ", "\t\r\n\u{1}\u{7f}", "'; drop table x; --", "{a,b}", "null", "\\", &long] {
        let insert = Add::insert(0).partition_key(key).unique_key(key);
        let id = insert.clone().execute(&client).await.unwrap();
        let InsertError::Duplicate(held) = insert.execute(&client).await.unwrap_err() else {
            panic!("it is taken")
        };
        assert_eq!(held.id, id);
    }
    let longer = format!("{long}x");
    for key in [longer.as_str(), "a\0"] {
        let error = Add::insert(0).unique_key(key).execute(&client).await.unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("over the limit of 1024; shorten it") || text.contains("NUL character"),
            "{text}"
        );
    }
}

#[derive(Debug)]
pub struct Mailer;

#[tokio::test]
async fn p55_two_resources_of_one_type_are_refused() {
    let db = database().await;
    let builder = engine(&db).resource(Mailer).resource(7_u32).resource(Mailer);
    let error = builder.start().await.unwrap_err();
    let Error::DuplicateResource { resource } = &error else { panic!("{error}") };
    assert!(resource.ends_with("options::Mailer"), "{resource}");
    assert!(error.to_string().contains("leave one out"), "{error}");
    engine(&db).resource(Mailer).resource(7_u32).start().await.unwrap().shutdown().await.unwrap();
}
