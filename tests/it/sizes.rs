//! Work that is too large, too slow or too much. The engine divides it until it works. Work that
//! cannot succeed alone ends visibly, and no other instance waits for it.

use gen_durable::{StepErrorKind, prelude::*};
use gen_durable_postgres::{Server, TestDb};
use serde_json::value::RawValue;
use sqlx::PgPool;

use crate::support::{WAIT_MAX, count, database, engine, eventually, row, sql, until};

/// A state of any size, which is neither read nor written letter by letter.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct Text(Box<RawValue>);

impl DurableState for Text {}

impl Text {
    fn of(bytes: usize) -> Self {
        Self(RawValue::from_string(format!("\"{}\"", "x".repeat(bytes))).unwrap())
    }
}

#[durable_fsm(queue = "big", state = Text, output = usize)]
pub enum Big {
    Run,
}

#[durable_fsm]
impl Big {
    async fn run(cx: Context<Self>) -> Outcome<Self> {
        let length = cx.state.0.get().len();
        cx.done(length)
    }
}

#[durable_fsm(queue = "small", output = i64)]
pub enum Small {
    Run,
}

#[durable_fsm]
impl Small {
    async fn run(cx: Context<Self>) -> Outcome<Self> {
        cx.done(1)
    }
}

/// An answer of Postgres is bounded, and so is a process's memory. Many slots are free and forty
/// instances have states of 8 MiB. A claim must take only a few of them at a time, and an instance
/// of another queue must run.
#[tokio::test(flavor = "multi_thread")]
async fn p61_a_claim_of_large_states_is_bounded_in_bytes() {
    const ROWS: i64 = 40;
    let db = database().await;
    sql(
        db.pool(),
        "insert into gen_durable.instances (fsm, fsm_version, step, state, queue)
         select 'big', 1, 'run', to_json(repeat('x', 8 * 1024 * 1024 - 100)), 'big'
         from generate_series(1, 40);
         create table public.claims (rows bigint);
         create function public.count_claim() returns trigger language plpgsql as $$
         begin
             insert into public.claims select count(*) from claimed where status = 'executing';
             return null;
         end $$;
         create trigger count_claim after update on gen_durable.instances
         referencing new table as claimed
         for each statement execute function public.count_claim();",
    )
    .await;
    let builder = engine(&db).machine::<Big>().machine::<Small>();
    let engine = builder.queue("big", 200).queue("small", 5).start().await.unwrap();
    let small = Small::insert(()).execute(&engine).await.unwrap();
    assert_eq!(engine.wait(small, WAIT_MAX).await.unwrap(), 1);
    eventually("all have run", async || (count(db.pool(), "done").await > ROWS).then_some(()))
        .await;
    let most: i64 = sqlx::query_scalar("select max(rows) from public.claims")
        .fetch_one(db.pool())
        .await
        .unwrap();
    // At least two, by the size that they have on disk at the default compression.
    assert!((2..=8).contains(&most), "{most} rows of 8 MiB in one claim");
    engine.shutdown().await.unwrap();
}

/// A claim of many rows exceeds the statement timeout, and a claim of a few rows does not. The
/// engine must ask for fewer rows until claims succeed, and another queue must go on.
#[tokio::test(flavor = "multi_thread")]
async fn p61_a_claim_that_is_too_slow_asks_for_less_and_other_queues_go_on() {
    let db = database().await;
    sql(
        db.pool(),
        "insert into gen_durable.instances (fsm, fsm_version, step, state, queue)
         select 'big', 1, 'run', to_json(repeat('x', 1000)), 'big' from generate_series(1, 60);
         create function public.slowly() returns trigger language plpgsql as $$
         begin
             if new.status = 'executing' and old.status = 'runnable' and new.fsm = 'big' then
                 -- This must be a time, as the statement timeout is one.
                 perform pg_sleep(0.02);
             end if;
             return new;
         end $$;
         create trigger slowly before update on gen_durable.instances
         for each row execute function public.slowly();",
    )
    .await;
    let alter = format!("alter database \"{}\" set statement_timeout = '300ms'", db.name());
    sqlx::raw_sql(sqlx::AssertSqlSafe(alter)).execute(db.pool()).await.unwrap();
    let builder = engine(&db).machine::<Big>().machine::<Small>();
    let engine = builder.queue("big", 200).queue("small", 5).start().await.unwrap();
    let small = Small::insert(()).execute(&engine).await.unwrap();
    assert_eq!(engine.wait(small, WAIT_MAX).await.unwrap(), 1);
    eventually("all have run", async || (count(db.pool(), "done").await == 61).then_some(())).await;
    engine.shutdown().await.unwrap();
}

/// A state is too large for any statement to load. The instance must fail and say why, and the
/// instance beside it must run.
#[tokio::test(flavor = "multi_thread")]
async fn p61_a_state_that_cannot_be_loaded_fails_its_instance_alone() {
    let db = database().await;
    let id: i64 = sqlx::query_scalar(
        "insert into gen_durable.instances (fsm, fsm_version, step, state, queue)
         select 'big', 1, 'run', to_json(repeat('x', 300 * 1024 * 1024)), 'big' returning id",
    )
    .fetch_one(db.pool())
    .await
    .unwrap();
    let engine = engine(&db).machine::<Big>().queue("big", 10).start().await.unwrap();
    let neighbour = Big::insert(Text::of(1)).execute(&engine).await.unwrap();
    let error = eventually("it fails", async || error_of(&db, id).await).await;
    assert!(error.contains("256 MiB"), "{error}");
    assert_eq!(engine.wait(neighbour, WAIT_MAX).await.unwrap(), 3);
    engine.shutdown().await.unwrap();
}

async fn error_of(db: &TestDb, id: i64) -> Option<String> {
    sqlx::query_scalar(
        "select last_error from gen_durable.instances where id = $1 and status = 'failed'",
    )
    .bind(id)
    .fetch_optional(db.pool())
    .await
    .unwrap()
    .flatten()
}

/// Its end carries as many inserts as its state says.
#[durable_fsm(state = u32, output = u32)]
pub enum Sends {
    Run,
}

#[durable_fsm]
impl Sends {
    async fn run(cx: Context<Self>) -> Outcome<Self> {
        let count = cx.state;
        cx.done(count).insert_many(Sent::insert_many((0..count).map(|_| ())))
    }

    async fn handle(cx: Context<Self>, error: StepError) -> Outcome<Self> {
        assert_eq!(error.kind(), StepErrorKind::Rejected);
        cx.stop(error)
    }
}

/// No engine serves its queue.
#[durable_fsm(queue = "elsewhere", output = ())]
pub enum Sent {
    Run,
}

#[durable_fsm]
impl Sent {
    async fn run(cx: Context<Self>) -> Outcome<Self> {
        cx.done(())
    }
}

/// The commit of one outcome exceeds the statement timeout whenever it is tried. The outcome must
/// end visibly, in `handle`, and must take no effect. Other outcomes that send must not wait for
/// it.
#[tokio::test(flavor = "multi_thread")]
async fn p61_an_outcome_that_is_too_slow_reaches_handle_and_others_that_send_do_not_wait() {
    let db = database().await;
    let alter = format!("alter database \"{}\" set statement_timeout = '400ms'", db.name());
    sqlx::raw_sql(sqlx::AssertSqlSafe(alter)).execute(db.pool()).await.unwrap();
    let builder = engine(&db).machine::<Sends>().lease_ttl(std::time::Duration::from_secs(3));
    let engine = builder.start().await.unwrap();
    let large = Sends::insert(150_000).execute(&engine).await.unwrap();
    for _ in 0..20 {
        let small = Sends::insert(3).execute(&engine).await.unwrap();
        assert_eq!(engine.wait(small, WAIT_MAX).await.unwrap(), 3);
    }
    let failed = engine.wait(large, WAIT_MAX).await.unwrap_err().to_string();
    assert!(failed.contains("statement timeout"), "{failed}");
    let sent: i64 =
        sqlx::query_scalar("select count(*) from gen_durable.instances where fsm = 'sent'")
            .fetch_one(db.pool())
            .await
            .unwrap();
    assert_eq!(sent, 60, "all or nothing");
    engine.shutdown().await.unwrap();
}

/// Fails with a text as long as its state says.
#[durable_fsm(state = usize, output = ())]
pub enum Talkative {
    Run,
}

#[durable_fsm]
impl Talkative {
    async fn run(cx: Context<Self>) -> StepResult<Self> {
        Err(std::io::Error::other("ü".repeat(cx.state)).into())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn p61_the_text_of_an_error_is_bounded() {
    let db = database().await;
    let engine = engine(&db).machine::<Talkative>().start().await.unwrap();
    let id = Talkative::insert(5_000_000).execute(&engine).await.unwrap();
    engine.wait(id, WAIT_MAX).await.unwrap_err();
    let text = row(db.pool(), id).await.last_error.unwrap();
    assert!(text.len() < 20_000 && text.starts_with("üü"), "{} bytes", text.len());
    assert!(text.ends_with("more bytes]"), "{}", &text[text.len() - 60..]);
    engine.shutdown().await.unwrap();
}

/// Postgres accepts no message over 1 GiB. Inserts that are far below that already go in several
/// statements. If one of these fails, none of the instances may be inserted.
#[tokio::test(flavor = "multi_thread")]
async fn p61_large_inserts_are_sent_in_parts() {
    let db = database().await;
    sql(
        db.pool(),
        "create sequence public.statements;
         create function public.count_insert() returns trigger language plpgsql as $$
         begin
             if nextval('public.statements') = 3 then
                 raise exception 'the third statement' using errcode = 'check_violation';
             end if;
             return null;
         end $$;
         create trigger count_insert after insert on gen_durable.instances
         for each statement execute function public.count_insert();",
    )
    .await;
    let client = Client::new(db.pool().clone());
    let state = Text::of(8 * 1024 * 1024 - 100);
    let rows = |count| Big::insert_many((0..count).map(|_| state.clone()));
    assert_eq!(rows(20).execute(&client).await.unwrap().len(), 20);
    assert_eq!(count(db.pool(), "runnable").await, 20, "in two statements");
    let error = rows(20).execute(&client).await.unwrap_err();
    assert!(error.to_string().contains("the third statement"), "{error}");
    rows(20).execute(db.pool()).await.unwrap();
    assert_eq!(count(db.pool(), "runnable").await, 40, "nothing is left of what failed");
}

#[derive(DurableSignal)]
pub struct Go {
    n: u32,
}

#[derive(DurableSignal)]
pub struct Rare {
    n: u32,
}

/// Takes its signals one by one and checks at each step how many are left. Other steps gather them,
/// or await a rare one behind them.
#[durable_fsm(state = u32, output = u32, signals(Go, Rare))]
pub enum Reads {
    OneByOne,
    Gathers,
    AwaitsRare,
}

const SIGNALS: u32 = 10_000;

#[durable_fsm]
impl Reads {
    async fn one_by_one(mut cx: Context<Self>) -> StepResult<Self> {
        let left = SIGNALS - cx.state;
        assert_eq!(cx.count_signals::<Go>(), left as usize);
        let Some(go) = cx.take_signal::<Go>()? else {
            let n = cx.state;
            return Ok(cx.done(n));
        };
        assert_eq!(go.n, cx.state);
        cx.state += 1;
        Ok(cx.next(Reads::OneByOne))
    }

    #[step(entry)]
    async fn gathers(mut cx: Context<Self>) -> StepResult<Self> {
        cx.state += 1;
        match cx.gather::<Go>(2 * SIGNALS as usize)? {
            Some(all) => Ok(cx.done(all.last().map_or(0, |go| go.n))),
            None => Ok(cx.await_signal::<Go>()),
        }
    }

    #[step(entry)]
    async fn awaits_rare(mut cx: Context<Self>) -> StepResult<Self> {
        match cx.take_signal::<Rare>()? {
            Some(rare) => Ok(cx.done(rare.n)),
            None => Ok(cx.await_signal::<Rare>()),
        }
    }
}

async fn fill(pool: &PgPool, id: impl Into<i64>, signals: u32) {
    sqlx::query(
        "insert into gen_durable.signals (target_id, name, payload)
         select $1, 'go', json_build_object('n', n) from generate_series(0, $2 - 1) as n",
    )
    .bind(id.into())
    .bind(i64::from(signals))
    .execute(pool)
    .await
    .unwrap();
}

/// An inbox has more signals than are loaded at once. Steps that read it one by one must get each
/// signal in order, and must know how many are left.
#[tokio::test(flavor = "multi_thread")]
async fn p63_a_long_inbox_is_read_one_by_one() {
    let db = database().await;
    let client = Client::new(db.pool().clone());
    let id = Reads::insert(0).execute(&client).await.unwrap();
    fill(db.pool(), id, SIGNALS).await;
    let engine = engine(&db).machine::<Reads>().start().await.unwrap();
    assert_eq!(engine.wait(id, WAIT_MAX).await.unwrap(), SIGNALS);
    engine.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn p63_what_is_not_loaded_is_gathered_and_awaited() {
    let db = database().await;
    let client = Client::new(db.pool().clone());
    let gathers = Reads::insert(0).step(Reads::Gathers).execute(&client).await.unwrap();
    fill(db.pool(), gathers, 2 * SIGNALS).await;
    let awaits = Reads::insert(0).step(Reads::AwaitsRare).execute(&client).await.unwrap();
    fill(db.pool(), awaits, 3 * SIGNALS).await;
    Reads::signal_rare(awaits, Rare { n: 7 }).execute(&client).await.unwrap();
    let engine = engine(&db).machine::<Reads>().start().await.unwrap();
    assert_eq!(engine.wait(gathers, WAIT_MAX).await.unwrap(), 2 * SIGNALS - 1);
    assert_eq!(engine.wait(awaits, WAIT_MAX).await.unwrap(), 7, "behind all the others");
    engine.shutdown().await.unwrap();
}

/// A step awaits a signal that is not in its long inbox. It must park, and the signal must wake it
/// when it comes.
#[tokio::test(flavor = "multi_thread")]
async fn p63_a_long_inbox_does_not_keep_a_step_from_parking() {
    let db = database().await;
    let client = Client::new(db.pool().clone());
    let id = Reads::insert(0).step(Reads::AwaitsRare).execute(&client).await.unwrap();
    fill(db.pool(), id, 3 * SIGNALS).await;
    let engine = engine(&db).machine::<Reads>().start().await.unwrap();
    until(db.pool(), id, "awaiting_signal").await;
    Reads::signal_rare(id, Rare { n: 8 }).execute(&client).await.unwrap();
    assert_eq!(engine.wait(id, WAIT_MAX).await.unwrap(), 8);
    engine.shutdown().await.unwrap();
}

/// An inbox is larger than any answer of Postgres can be. Its instance must run, and so must the
/// others.
#[tokio::test(flavor = "multi_thread")]
async fn p63_an_inbox_beyond_a_gibibyte_stops_nobody() {
    let db = database().await;
    let client = Client::new(db.pool().clone());
    let id = Reads::insert(0).step(Reads::AwaitsRare).execute(&client).await.unwrap();
    sql(db.pool(), "alter table gen_durable.signals alter column payload set storage external")
        .await;
    sqlx::query(
        "insert into gen_durable.signals (target_id, name, payload)
         select $1, 'go', json_build_object('n', g, 'text', repeat('x', 1024 * 1024))
         from generate_series(1, 1100) as g",
    )
    .bind(id)
    .execute(db.pool())
    .await
    .unwrap();
    let engine = engine(&db).machine::<Reads>().machine::<Small>().queue("small", 5).start();
    let engine = engine.await.unwrap();
    for _ in 0..5 {
        let small = Small::insert(()).execute(&engine).await.unwrap();
        assert_eq!(engine.wait(small, WAIT_MAX).await.unwrap(), 1);
    }
    until(db.pool(), id, "awaiting_signal").await;
    Reads::signal_rare(id, Rare { n: 9 }).execute(&client).await.unwrap();
    assert_eq!(engine.wait(id, WAIT_MAX).await.unwrap(), 9);
    engine.shutdown().await.unwrap();
}

/// A server's lock table holds only a few hundred locks. An engine claims rows of two thousand
/// keys, and another engine serves seven hundred queues. Each transaction must take a bounded
/// number of advisory locks.
#[tokio::test(flavor = "multi_thread")]
async fn p64_a_transaction_takes_a_bounded_number_of_advisory_locks() {
    let server = Server::builder()
        .fast(true)
        .setting("max_locks_per_transaction", "20")
        .setting("max_connections", "30")
        .start()
        .unwrap();
    let pool = PgPool::connect(&server.url("postgres")).await.unwrap();
    gen_durable_migrate::up(&pool).await.unwrap();
    sql(
        &pool,
        "create table public.locks (held bigint);
         create function public.count_locks() returns trigger language plpgsql as $$
         begin
             insert into public.locks
             select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid();
             return null;
         end $$;
         create trigger count_locks after update on gen_durable.instances
         for each statement execute function public.count_locks();",
    )
    .await;
    let engine = gen_durable::Engine::builder(pool.clone()).machine::<Small>().queue("small", 500);
    let engine = engine.start().await.unwrap();
    let rows = (0..2000).map(|n| Small::insert(()).partition_key(format!("key {n}")));
    for row in rows.collect::<Vec<_>>() {
        row.execute(&pool).await.unwrap();
    }
    eventually("all have run", async || (count(&pool, "done").await == 2000).then_some(())).await;
    let most: i64 =
        sqlx::query_scalar("select max(held) from public.locks").fetch_one(&pool).await.unwrap();
    // The limit is 500 keys, one lock for the queue, and one for the second round of a claim.
    assert!(most <= 502, "{most} locks in a transaction");
    engine.shutdown().await.unwrap();
    let mut builder = gen_durable::Engine::builder(pool.clone()).machine::<Small>();
    for n in 0..700 {
        builder = builder.queue(format!("queue {n}"), 1);
    }
    let engine = builder.start().await.unwrap();
    sql(
        &pool,
        "truncate public.locks;
         insert into gen_durable.instances (fsm, fsm_version, step, state, queue)
         select 'small', 1, 'run', 'null', 'queue ' || n from generate_series(0, 699) as n;
         notify gen_durable;",
    )
    .await;
    eventually("all have run", async || (count(&pool, "done").await == 2700).then_some(())).await;
    let most: i64 =
        sqlx::query_scalar("select max(held) from public.locks").fetch_one(&pool).await.unwrap();
    assert!((200..=250).contains(&most), "{most} locks in a transaction");
    engine.shutdown().await.unwrap();
}

/// Fails whenever it has its signal, which lies behind two thousand others in the inbox.
#[durable_fsm(output = (), signals(Go, Rare), retry(max_attempts = 3, backoff = "constant", initial = "10ms"))]
pub enum Fails {
    Run,
}

#[durable_fsm]
impl Fails {
    async fn run(mut cx: Context<Self>) -> StepResult<Self> {
        if cx.take_signal::<Rare>()?.is_none() {
            return Ok(cx.await_signal::<Rare>());
        }
        Err(std::io::Error::other("as ever").into())
    }
}

/// A step fails, and before each run the engine has to load more of its inbox. Loading is no run:
/// it must not reset the count of failures, so the policy must end the instance.
#[tokio::test(flavor = "multi_thread")]
async fn p63_a_retry_policy_ends_also_behind_a_long_inbox() {
    let db = database().await;
    let client = Client::new(db.pool().clone());
    let id = Fails::insert(()).execute(&client).await.unwrap();
    fill(db.pool(), id, 2_000).await;
    Fails::signal_rare(id, Rare { n: 1 }).execute(&client).await.unwrap();
    let engine = engine(&db).machine::<Fails>().start().await.unwrap();
    let error = engine.wait(id, WAIT_MAX).await.unwrap_err().to_string();
    assert!(error.contains("as ever"), "{error}");
    assert_eq!(row(db.pool(), id).await.failures, 3);
    engine.shutdown().await.unwrap();
}
