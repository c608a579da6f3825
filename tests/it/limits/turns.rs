//! One or two engines with limits: what waits, in which order, and what comes in.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use gen_durable::{Engine, Limit, prelude::*, testing::Lab};
use gen_durable_postgres::TestDb;
use sqlx::PgPool;

use crate::support::{Breakpoint, WAIT_MAX, count, database, engine, eventually, note_claims, row};

const SECOND: Duration = Duration::from_secs(1);

/// The state of a call: its customer.
#[derive(Clone, Debug, DurableState)]
pub struct Caller {
    customer: String,
}

pub(super) fn of(customer: &str) -> Caller {
    Caller { customer: customer.to_owned() }
}

/// A limited step between two that are not.
#[durable_fsm(state = Caller, output = String, queue = "calls")]
pub enum Call {
    Look,
    Dial,
    Note,
}

#[durable_fsm]
impl Call {
    async fn look(cx: Context<Self>) -> Outcome<Self> {
        cx.next(Call::Dial)
    }

    #[step(limit("line", key = state.customer))]
    async fn dial(cx: Context<Self>, breakpoint: &Arc<Breakpoint>) -> Outcome<Self> {
        breakpoint.pass(cx.id()).await;
        cx.next(Call::Note)
    }

    async fn note(cx: Context<Self>) -> Outcome<Self> {
        let customer = cx.state.customer.clone();
        cx.done(customer)
    }
}

/// No step of it is limited.
#[durable_job(queue = "calls")]
pub async fn free(_cx: JobContext<()>) {}

pub(super) async fn start(db: &TestDb, limit: Limit) -> (Engine, Arc<Breakpoint>) {
    let breakpoint = Arc::new(Breakpoint::new());
    let engine = engine(db)
        .machine::<Call>()
        .machine::<Free>()
        .queue("calls", 50)
        .resource(Arc::clone(&breakpoint))
        .limit("line", limit)
        .start()
        .await
        .unwrap();
    (engine, breakpoint)
}

pub(super) async fn waiting(pool: &PgPool) -> i64 {
    let waiting = "select count(*) from gen_durable.instances
                   where status = 'runnable' and blocked_by & 16 = 16";
    sqlx::query_scalar(waiting).fetch_one(pool).await.unwrap()
}

pub(super) async fn until_waiting(pool: &PgPool, wanted: i64) {
    eventually("rows wait", async || (waiting(pool).await == wanted).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p44_runs_beyond_the_bound_wait_in_the_database_and_come_in_one_by_one() {
    let db = database().await;
    let pool = db.pool();
    let (engine, breakpoint) = start(&db, Limit::new().at_once(2)).await;
    let mut calls = Vec::new();
    for _ in 0..6 {
        calls.push(Call::insert(of("ada")).execute(&engine).await.unwrap());
    }
    until_waiting(pool, 4).await;
    // Two run, and stand at the breakpoint before the one of the other customer.
    breakpoint.arrival().await;
    breakpoint.arrival().await;
    let other = Call::insert(of("bob")).execute(&engine).await.unwrap();
    assert_eq!(breakpoint.arrival().await, other.get());
    assert_eq!(count(pool, "executing").await, 3, "the rest is not even claimed");
    for _ in 0..50 {
        let free = Free::insert(()).execute(&engine).await.unwrap();
        engine.wait(free, WAIT_MAX).await.unwrap();
    }
    assert_eq!(waiting(pool).await, 4, "they came in while nothing has ended");
    breakpoint.open(1);
    eventually("one comes in", async || (waiting(pool).await <= 3).then_some(())).await;
    breakpoint.open(100);
    for id in calls.into_iter().chain([other]) {
        engine.wait(id, WAIT_MAX).await.unwrap();
    }
    assert_eq!(waiting(pool).await, 0);
    engine.shutdown().await.unwrap();
    let held: Option<i64> = sqlx::query_scalar(
        "select sum(h)::bigint from gen_durable.limit_buckets b, unnest(b.held) as h
         where exists (select from gen_durable.workers w where w.id = any (b.workers))",
    )
    .fetch_one(pool)
    .await
    .unwrap();
    assert_eq!(held, None);
}

/// A chain whose steps are all limited keeps its claim while there is room, and gives it back when
/// there is none.
#[tokio::test(flavor = "multi_thread")]
async fn p44_a_chained_step_takes_its_turn_without_passing_through_the_queue() {
    let db = database().await;
    let pool = db.pool();
    note_claims(pool).await;
    let (engine, breakpoint) = start(&db, Limit::new().at_once(1)).await;
    breakpoint.open(1);
    let first = Call::insert(of("ada")).execute(&engine).await.unwrap();
    engine.wait(first, WAIT_MAX).await.unwrap();
    // One claim, the commits of three steps.
    assert_eq!(revision(pool, first).await, 4);
    let holder = Call::insert(of("ada")).step(Call::Dial).execute(&engine).await.unwrap();
    assert_eq!(breakpoint.arrival().await, first.get());
    assert_eq!(breakpoint.arrival().await, holder.get());
    let second = Call::insert(of("ada")).execute(&engine).await.unwrap();
    until_waiting(pool, 1).await;
    let held = row(pool, second).await;
    assert_eq!((held.step.as_str(), held.locked_by, held.attempt), ("dial", None, 0));
    breakpoint.open(2);
    engine.wait(second, WAIT_MAX).await.unwrap();
    // Two claims, the commits of three steps, and the one that gave it back.
    assert_eq!(revision(pool, second).await, 6);
    engine.shutdown().await.unwrap();
}

async fn revision(pool: &PgPool, id: InstanceId<Call>) -> i64 {
    let revision = "select revision from gen_durable.instances where id = $1";
    sqlx::query_scalar(revision).bind(id.get()).fetch_one(pool).await.unwrap()
}

/// The order of those that wait is that of any claim. One that comes while others wait goes behind
/// them, although there may be room at that moment.
#[tokio::test(flavor = "multi_thread")]
async fn p44_rows_come_in_by_priority_and_age() {
    let db = database().await;
    let pool = db.pool();
    let (engine, breakpoint) = start(&db, Limit::new().at_once(1)).await;
    let dial = |priority| Call::insert(of("ada")).step(Call::Dial).priority(priority);
    let holder = dial(0).execute(&engine).await.unwrap();
    assert_eq!(breakpoint.arrival().await, holder.get());
    let mut wanted = Vec::new();
    for (waiting, priority) in [(1, 1), (2, 0), (3, 1), (4, -1)] {
        let id = dial(priority).execute(&engine).await.unwrap();
        until_waiting(pool, waiting).await;
        wanted.push((priority, id.get()));
    }
    wanted.sort_unstable();
    breakpoint.open(1);
    for (_, id) in wanted {
        assert_eq!(breakpoint.arrival().await, id);
        // The next one is let in by the end of this one, and by nothing else.
        breakpoint.open(1);
    }
    engine.shutdown().await.unwrap();
}

/// A row that waits keeps its place in its partition key.
#[tokio::test(flavor = "multi_thread")]
async fn p44_later_rows_of_a_partition_key_wait_behind_one_that_a_limit_holds_back() {
    let db = database().await;
    let pool = db.pool();
    let (engine, breakpoint) = start(&db, Limit::new().at_once(1)).await;
    let holder = Call::insert(of("ada")).step(Call::Dial).execute(&engine).await.unwrap();
    assert_eq!(breakpoint.arrival().await, holder.get());
    let first = Call::insert(of("ada")).step(Call::Dial).partition_key("k");
    let first = first.execute(&engine).await.unwrap();
    until_waiting(pool, 1).await;
    let second = Free::insert(()).partition_key("k").execute(&engine).await.unwrap();
    let other = Free::insert(()).partition_key("other").execute(&engine).await.unwrap();
    engine.wait(other, WAIT_MAX).await.unwrap();
    assert_eq!(row(pool, second).await.status, "runnable");
    breakpoint.open(2);
    engine.wait(second, WAIT_MAX).await.unwrap();
    assert_eq!(row(pool, first).await.status, "done");
    engine.shutdown().await.unwrap();
}

/// The times of a lab are exact: so many starts at the first moment, and then one in each period.
#[tokio::test(flavor = "multi_thread")]
async fn p44_the_rate_is_that_of_the_databases_clock() {
    let db = database().await;
    let breakpoint = Arc::new(Breakpoint::new());
    breakpoint.open(1000);
    let lab = Lab::new(db.pool()).machine::<Call>().resource(Arc::clone(&breakpoint));
    let limit = Limit::new().per(2, SECOND).burst(3);
    let mut lab = lab.limit("line", limit).start().await.unwrap();
    for _ in 0..10 {
        Call::insert(of("ada")).step(Call::Dial).execute(lab.client()).await.unwrap();
    }
    lab.run_until_idle().await.unwrap();
    assert_eq!(count(db.pool(), "done").await, 3, "the burst");
    for (advance, done) in [(499, 3), (1, 4), (500, 5), (1000, 7), (1499, 9), (1, 10)] {
        lab.advance(Duration::from_millis(advance)).await.unwrap();
        assert_eq!(count(db.pool(), "done").await, done, "after {advance} ms more");
    }
    // A pause brings the burst back, and no more than that.
    lab.advance(SECOND * 60).await.unwrap();
    for _ in 0..5 {
        Call::insert(of("ada")).step(Call::Dial).execute(lab.client()).await.unwrap();
    }
    lab.run_until_idle().await.unwrap();
    assert_eq!(count(db.pool(), "done").await, 13);
    lab.close().await.unwrap();
}

/// Weights of one limit, in one bucket.
#[durable_fsm(output = (), queue = "calls")]
pub enum Load {
    Light,
    Heavy,
}

#[durable_fsm]
impl Load {
    #[step(limit("line", weight = 1), entry)]
    async fn light(cx: Context<Self>, breakpoint: &Arc<Breakpoint>) -> Outcome<Self> {
        breakpoint.pass(cx.id()).await;
        cx.done(())
    }

    #[step(limit("line", weight = 3), entry)]
    async fn heavy(cx: Context<Self>, breakpoint: &Arc<Breakpoint>) -> Outcome<Self> {
        breakpoint.pass(cx.id()).await;
        cx.done(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn p44_a_heavy_run_takes_the_room_of_several_and_is_not_starved() {
    let db = database().await;
    let pool = db.pool();
    let breakpoint = Arc::new(Breakpoint::new());
    let builder =
        engine(&db).machine::<Load>().queue("calls", 50).resource(Arc::clone(&breakpoint));
    let engine = builder.limit("line", Limit::new().at_once(4)).start().await.unwrap();
    let light = || Load::insert(()).step(Load::Light);
    let heavy = Load::insert(()).step(Load::Heavy).execute(&engine).await.unwrap();
    assert_eq!(breakpoint.arrival().await, heavy.get());
    let beside = light().execute(&engine).await.unwrap();
    assert_eq!(breakpoint.arrival().await, beside.get());
    let second = Load::insert(()).step(Load::Heavy).execute(&engine).await.unwrap();
    until_waiting(pool, 1).await;
    // Light ones that come later wait behind it, and do not take its room again and again.
    for waiting in 2..6 {
        light().execute(&engine).await.unwrap();
        until_waiting(pool, waiting).await;
    }
    breakpoint.open(1);
    assert_eq!(breakpoint.arrival().await, second.get());
    breakpoint.open(100);
    eventually("all end", async || (count(pool, "done").await == 7).then_some(())).await;
    engine.shutdown().await.unwrap();
}

/// The key of a run that has none, or whose `Display` panics.
struct Picky(&'static str);

impl std::fmt::Display for Picky {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        assert!(self.0 != "panic", "no key on purpose");
        f.write_str(self.0)
    }
}

#[durable_fsm(state = String, output = String, queue = "calls")]
pub enum Keyless {
    Begin,
}

#[durable_fsm]
impl Keyless {
    #[step(limit("line", key = Picky(match state.as_str() { "long" => LONG, "nul" => "a\0", "panic" => "panic", _ => "" })))]
    async fn begin(cx: Context<Self>) -> Outcome<Self> {
        cx.done("begun".to_owned())
    }

    async fn handle(cx: Context<Self>, error: StepError) -> Outcome<Self> {
        cx.done(error.to_string())
    }
}

const LONG: &str = match str::from_utf8(&[b'x'; 1025]) {
    Ok(long) => long,
    Err(_) => "",
};

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_none_is_an_error_of_the_run() {
    let db = database().await;
    let builder = engine(&db).machine::<Keyless>().queue("calls", 10);
    let engine = builder.limit("line", Limit::new().at_once(1)).start().await.unwrap();
    for (state, wanted) in [
        ("empty", "it is empty"),
        ("long", "longer than 1,024 bytes"),
        ("nul", "it has a NUL"),
        ("panic", "no key on purpose"),
    ] {
        let id = Keyless::insert(state.to_owned()).execute(&engine).await.unwrap();
        let text = engine.wait(id, WAIT_MAX).await.unwrap();
        assert!(text.contains(wanted), "{text}");
    }
    engine.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn p44_a_limit_that_cannot_be_kept_is_an_error_at_start() {
    let db = database().await;
    let refused = async |name: &str, limit: Limit, wanted: &str| {
        let builder = engine(&db).machine::<Load>().queue("calls", 1).limit(name, limit);
        let breakpoint = Arc::new(Breakpoint::new());
        let error = builder.resource(breakpoint).start().await.unwrap_err().to_string();
        assert!(error.contains(wanted), "{error}");
    };
    refused("other", Limit::new().at_once(9), "the engine has no limit `line`").await;
    refused("line", Limit::new().at_once(2), "its weight 3 is above the limit's `at_once` of 2")
        .await;
    refused("line", Limit::new().per(9, SECOND), "above the limit's `burst` of 1").await;
    refused("line", Limit::new(), "it bounds nothing").await;
    refused("line", Limit::new().at_once(9).burst(3), "a burst needs `per`").await;
    refused("", Limit::new().at_once(9), "the name of a limit").await;
    let twice =
        engine(&db).limit("line", Limit::new().at_once(1)).limit("line", Limit::new().at_once(2));
    let error = twice.start().await.unwrap_err().to_string();
    assert!(error.contains("declared twice"), "{error}");
}

/// The step ends as if Postgres had resolved a conflict, so often as the test says.
#[durable_fsm(output = (), queue = "calls")]
pub enum Clash {
    Write,
}

#[durable_fsm]
impl Clash {
    #[step(limit = "line")]
    async fn write(
        cx: Context<Self>,
        tx: &mut PgConnection,
        left: &Arc<AtomicUsize>,
    ) -> StepResult<Self> {
        if left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok()
        {
            sqlx::query("do $$ begin raise exception 'on purpose' using errcode = '40001'; end $$")
                .execute(&mut *tx)
                .await?;
        }
        Ok(cx.done(()))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn p44_a_run_that_is_repeated_after_a_conflict_counts_again() {
    let db = database().await;
    let conflicts = Arc::new(AtomicUsize::new(3));
    let builder = engine(&db).machine::<Clash>().queue("calls", 1).resource(conflicts);
    let limit = Limit::new().per(1, SECOND * 3600).burst(10);
    let engine = builder.limit("line", limit).start().await.unwrap();
    let id = Clash::insert(()).execute(&engine).await.unwrap();
    engine.wait(id, WAIT_MAX).await.unwrap();
    let starts: i64 = sqlx::query_scalar(
        "select round((used_until - extract(epoch from now()) * 1000000) / 3600000000.0)::bigint
         from gen_durable.limit_buckets",
    )
    .fetch_one(db.pool())
    .await
    .unwrap();
    assert_eq!(starts, 4);
    engine.shutdown().await.unwrap();
}

/// Cancels, kills and pauses of rows that wait.
#[tokio::test(flavor = "multi_thread")]
async fn p44_a_row_that_waits_can_be_cancelled_paused_and_resumed() {
    let db = database().await;
    let pool = db.pool();
    let (engine, breakpoint) = start(&db, Limit::new().at_once(1)).await;
    let client = engine.client();
    let dial = || Call::insert(of("ada")).step(Call::Dial);
    let holder = dial().execute(&engine).await.unwrap();
    assert_eq!(breakpoint.arrival().await, holder.get());
    let mut ids = Vec::new();
    for waiting in 1..=4 {
        ids.push(dial().execute(&engine).await.unwrap());
        until_waiting(pool, waiting).await;
    }
    client.instance(ids[0]).cancel("on purpose").execute(client).await.unwrap();
    client.instance(ids[1]).kill("on purpose").execute(client).await.unwrap();
    client.instance(ids[2]).pause().execute(client).await.unwrap();
    breakpoint.open(1);
    // The paused one does not stand in the way of the last one.
    assert_eq!(breakpoint.arrival().await, ids[3].get());
    client.instance(ids[2]).resume().execute(client).await.unwrap();
    breakpoint.open(2);
    engine.wait(ids[2], WAIT_MAX).await.unwrap();
    for id in &ids[..2] {
        assert_eq!(row(pool, *id).await.status, "cancelled");
    }
    engine.shutdown().await.unwrap();
}
