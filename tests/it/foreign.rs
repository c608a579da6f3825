//! Databases with faults, and with unusual settings, for which no instance is to blame.

use std::{sync::Arc, time::Duration};

use gen_durable::{Engine, prelude::*};
use gen_durable_postgres::TestDb;
use sqlx::{AssertSqlSafe, PgPool, postgres::PgPoolOptions};

use crate::support::{
    Breakpoint, WAIT_MAX, database, empty_database, engine, eventually, row, sql, until,
};

async fn run(pool: &PgPool, statements: String) {
    sqlx::raw_sql(AssertSqlSafe(statements)).execute(pool).await.unwrap();
}

/// Its steps wait at a breakpoint. Its `handle` ends the instance with a reason that shows the
/// call.
#[durable_fsm(output = i64, signals(Go))]
pub enum Work {
    Run,
    End,
}

#[derive(DurableSignal)]
pub struct Go {
    n: i64,
}

#[durable_fsm]
impl Work {
    async fn run(mut cx: Context<Self>, breakpoint: &Arc<Breakpoint>) -> StepResult<Self> {
        if let Some(go) = cx.take_signal::<Go>()? {
            return Ok(cx.done(go.n));
        }
        breakpoint.pass(cx.id()).await;
        Ok(cx.await_signal::<Go>())
    }

    #[step(entry)]
    async fn end(cx: Context<Self>, breakpoint: &Arc<Breakpoint>) -> Outcome<Self> {
        breakpoint.pass(cx.id()).await;
        cx.done(1)
    }

    async fn handle(cx: Context<Self>, error: StepError) -> Outcome<Self> {
        cx.stop(format!("handled: {error}"))
    }
}

/// An operator breaks the database by mistake, and mends it. That counts as an outage: finished
/// steps are committed when it is over, and no instance fails.
#[tokio::test(flavor = "multi_thread")]
async fn p65_a_database_that_is_not_as_it_should_be_fails_no_instance() {
    // For a while a table, a column or the schema is gone, or a trigger raises an internal error.
    // Each entry has the statements that break the database and those that mend it.
    const FAULTS: [(&str, &str); 4] = [
        (
            "alter table gen_durable.instances rename to away",
            "alter table gen_durable.away rename to instances",
        ),
        (
            "alter table gen_durable.instances rename column last_error to away",
            "alter table gen_durable.instances rename column away to last_error",
        ),
        ("alter schema gen_durable rename to away", "alter schema away rename to gen_durable"),
        (
            "create function public.broken() returns trigger language plpgsql as $$
             begin raise exception 'broken' using errcode = 'internal_error'; end $$;
             create trigger broken before update on gen_durable.instances
             for each row execute function public.broken()",
            "drop trigger broken on gen_durable.instances; drop function public.broken()",
        ),
    ];
    let db = database().await;
    let breakpoint = Arc::new(Breakpoint::new());
    let builder = engine(&db).machine::<Work>().resource(Arc::clone(&breakpoint));
    let engine = builder.start().await.unwrap();
    for (breaks, mends) in FAULTS {
        let mut ids = Vec::new();
        for _ in 0..5 {
            ids.push(Work::insert(()).step(Work::End).execute(&engine).await.unwrap());
            breakpoint.arrival().await;
        }
        run(db.pool(), breaks.to_owned()).await;
        breakpoint.open(5);
        // A fixed time, long enough for several tries of each outcome.
        tokio::time::sleep(Duration::from_millis(700)).await;
        run(db.pool(), mends.to_owned()).await;
        for id in ids {
            assert_eq!(engine.wait(id, WAIT_MAX).await.unwrap(), 1, "{breaks}");
            assert_eq!(row(db.pool(), id).await.attempt, 0);
        }
    }
    engine.shutdown().await.unwrap();
}

/// One table cannot be used for longer than a lease: here it is renamed, as if a right on it were
/// missing. The outcome that needs it waits, and others are committed meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn p65_an_outcome_that_a_missing_right_stops_waits_for_it() {
    #[derive(Debug)]
    struct Rename<'a>(&'a PgPool);
    impl Rename<'_> {
        async fn away(&self) {
            sql(self.0, "alter table gen_durable.signal_keys rename to away").await;
        }
        async fn back(&self) {
            sql(self.0, "alter table gen_durable.away rename to signal_keys").await;
        }
    }
    let db = database().await;
    let breakpoint = Arc::new(Breakpoint::new());
    let builder =
        engine(&db).machine::<Work>().machine::<Sends>().resource(Arc::clone(&breakpoint));
    let engine = builder.lease_ttl(Duration::from_secs(1)).start().await.unwrap();
    let target = Work::insert(()).execute(&engine).await.unwrap();
    breakpoint.arrival().await;
    breakpoint.open(1);
    until(db.pool(), target, "awaiting_signal").await;
    let keys = Rename(db.pool());
    keys.away().await;
    let sends = Sends::insert(target).execute(&engine).await.unwrap();
    until(db.pool(), sends, "executing").await;
    let began = std::time::Instant::now();
    while began.elapsed() < Duration::from_secs(2) {
        let other = Work::insert(()).step(Work::End).execute(&engine).await.unwrap();
        breakpoint.arrival().await;
        breakpoint.open(1);
        assert_eq!(engine.wait(other, WAIT_MAX).await.unwrap(), 1);
    }
    keys.back().await;
    engine.wait(sends, WAIT_MAX).await.unwrap();
    assert_eq!(engine.wait(target, WAIT_MAX).await.unwrap(), 7);
    engine.shutdown().await.unwrap();
}

#[durable_fsm(state = InstanceId<Work>, output = ())]
pub enum Sends {
    Run,
}

#[durable_fsm]
impl Sends {
    async fn run(cx: Context<Self>) -> Outcome<Self> {
        let target = cx.state;
        cx.done(()).signal(Work::signal_go(target, Go { n: 7 }).dedup_key("once"))
    }

    async fn handle(cx: Context<Self>, error: StepError) -> Outcome<Self> {
        cx.stop(format!("handled: {error}"))
    }
}

/// A trigger raises an error for one row, while others that do the same are committed. Whatever its
/// SQLSTATE, the error is the fault of that row's outcome.
#[tokio::test(flavor = "multi_thread")]
async fn p65_an_error_that_hits_one_outcome_while_others_commit_is_its_own() {
    for code in ["internal_error", "insufficient_privilege"] {
        let db = database().await;
        let trigger = format!(
            "create function public.broken() returns trigger language plpgsql as $$
             begin raise exception 'broken' using errcode = '{code}'; end $$;
             create trigger broken before update on gen_durable.instances for each row
             when (new.priority = 7 and new.status = 'done') execute function public.broken();"
        );
        run(db.pool(), trigger).await;
        let breakpoint = Arc::new(Breakpoint::new());
        let builder = engine(&db).machine::<Work>().resource(Arc::clone(&breakpoint));
        let engine = builder.lease_ttl(Duration::from_secs(1)).start().await.unwrap();
        let broken = Work::insert(()).step(Work::End).priority(7).execute(&engine).await.unwrap();
        breakpoint.open(usize::MAX >> 8);
        let failed = eventually("it is refused", async || {
            let other = Work::insert(()).step(Work::End).execute(&engine).await.unwrap();
            assert_eq!(engine.wait(other, WAIT_MAX).await.unwrap(), 1);
            let row = row(db.pool(), broken).await;
            (row.status == "failed").then(|| row.last_error.unwrap())
        })
        .await;
        assert!(failed.contains("handled: ") && failed.contains("broken"), "{failed}");
        engine.shutdown().await.unwrap();
    }
}

/// The default isolation level is raised while an engine runs. No signal that races a park is lost,
/// even if the engine cannot set up its sessions (`poll_only`).
#[tokio::test(flavor = "multi_thread")]
async fn p66_every_isolation_level_is_as_good() {
    for level in ["repeatable read", "serializable"] {
        for poll_only in [false, true] {
            let db = database().await;
            let breakpoint = Arc::new(Breakpoint::new());
            let builder = engine(&db).machine::<Work>().resource(Arc::clone(&breakpoint));
            let builder = if poll_only { builder.poll_only() } else { builder };
            let engine = builder.start().await.unwrap();
            let name = db.name();
            run(
                db.pool(),
                format!("alter database \"{name}\" set default_transaction_isolation = '{level}'"),
            )
            .await;
            sql(
                db.pool(),
                "select pg_terminate_backend(pid) from pg_stat_activity
                 where datname = current_database() and pid <> pg_backend_pid()",
            )
            .await;
            let pool =
                PgPoolOptions::new().connect_lazy_with((*db.pool().connect_options()).clone());
            let id = Work::insert(()).partition_key("key").execute(&pool).await.unwrap();
            breakpoint.arrival().await;
            let mut tx = pool.begin().await.unwrap();
            Work::signal_go(id, Go { n: 9 }).execute(&mut *tx).await.unwrap();
            breakpoint.open(1);
            // The park finds its row locked by the signal, and waits for it sooner or later.
            crate::support::until_a_session_waits(&pool, 1).await;
            tx.commit().await.unwrap();
            assert_eq!(engine.wait(id, WAIT_MAX).await.unwrap(), 9, "{level}, {poll_only}");
            engine.shutdown().await.unwrap();
        }
    }
}

/// A transaction has the whole table locked. The server ends the statements that wait for it, and
/// their sessions, so these do not pile up.
#[tokio::test(flavor = "multi_thread")]
async fn p66_a_locked_table_gathers_no_backends() {
    const BACKENDS: &str = "select count(*) from pg_stat_activity
        where datname = current_database() and wait_event_type = 'Lock'";
    let db = database().await;
    let breakpoint = Arc::new(Breakpoint::new());
    let builder =
        engine(&db).machine::<Work>().resource(Arc::clone(&breakpoint)).queue("default", 50);
    let engine = builder.lease_ttl(Duration::from_secs(1)).start().await.unwrap();
    let many = Work::insert_many((0..30).map(|_| Work::insert(()).step(Work::End)));
    let ids = many.execute(&engine).await.unwrap();
    for _ in 0..30 {
        breakpoint.arrival().await;
    }
    let mut holder = db.pool().begin().await.unwrap();
    sqlx::raw_sql("lock table gen_durable.instances").execute(&mut *holder).await.unwrap();
    breakpoint.open(30);
    let mut most = 0;
    for _ in 0..60 {
        // A fixed time, as there is no condition to wait for.
        tokio::time::sleep(Duration::from_millis(100)).await;
        let now: i64 = sqlx::query_scalar(BACKENDS).fetch_one(&mut *holder).await.unwrap();
        most = most.max(now);
    }
    assert!(most <= 10, "{most} backends wait");
    holder.rollback().await.unwrap();
    for id in ids {
        engine.wait(id.unwrap(), WAIT_MAX).await.unwrap();
    }
    engine.shutdown().await.unwrap();
}

/// A schema that comes first in the search path has functions with the names of Postgres's own. The
/// engine does not call them.
#[tokio::test(flavor = "multi_thread")]
async fn p66_functions_of_the_same_names_shadow_none() {
    let db = database().await;
    let name = db.name();
    run(
        db.pool(),
        format!(
            "create schema evil;
             create function evil.now() returns timestamptz language sql as $$ select 'epoch'::timestamptz $$;
             create function evil.hashtextextended(text, bigint) returns bigint language sql as $$ select 1/0 $$;
             create function evil.pg_try_advisory_xact_lock(bigint) returns boolean language sql as $$ select false $$;
             create function evil.set_config(text, text, boolean) returns text language sql as $$ select 1/0 $$;
             create function evil.string_to_array(text, text) returns text[] language sql as $$ select null::text[] $$;
             create function evil.chr(int) returns text language sql as $$ select 'x' $$;
             create function evil.pg_notify(text, text) returns void language sql as $$ select 1/0 $$;
             alter database \"{name}\" set search_path = evil, public, pg_catalog"
        ),
    )
    .await;
    let pool = PgPoolOptions::new().connect_lazy_with((*db.pool().connect_options()).clone());
    let breakpoint = Arc::new(Breakpoint::new());
    breakpoint.open(10);
    let builder = Engine::builder(pool.clone()).machine::<Work>().queue("default", 5);
    let engine = builder.resource(Arc::clone(&breakpoint)).start().await.unwrap();
    let id = Work::insert(()).partition_key("key").unique_key("u").execute(&pool).await.unwrap();
    Work::signal_go(id, Go { n: 4 }).execute(&pool).await.unwrap();
    assert_eq!(engine.wait(id, WAIT_MAX).await.unwrap(), 4);
    engine.shutdown().await.unwrap();
}

/// A database in another encoding stores the values that it can express. A value that it cannot
/// express fails alone.
#[tokio::test(flavor = "multi_thread")]
async fn p66_a_database_need_not_be_utf8() {
    let db: TestDb = empty_database().await;
    run(
        db.pool(),
        format!(
            "create database \"{}_latin\" encoding 'LATIN1' lc_collate 'C' lc_ctype 'C' template template0",
            db.name()
        ),
    )
    .await;
    let name = format!("{}_latin", db.name());
    let options = (*db.pool().connect_options()).clone().database(&name);
    let pool = PgPoolOptions::new().connect_lazy_with(options);
    gen_durable_migrate::up(&pool).await.unwrap();
    let breakpoint = Arc::new(Breakpoint::new());
    breakpoint.open(10);
    let builder = Engine::builder(pool.clone()).machine::<Work>().queue("default", 5);
    let engine = builder.resource(Arc::clone(&breakpoint)).start().await.unwrap();
    let id = Work::insert(()).partition_key("schlüssel").execute(&pool).await.unwrap();
    Work::signal_go(id, Go { n: 5 }).execute(&pool).await.unwrap();
    assert_eq!(engine.wait(id, WAIT_MAX).await.unwrap(), 5);
    let error = Work::insert(()).unique_key("日本").execute(&engine).await.unwrap_err().to_string();
    assert!(error.contains("LATIN1"), "{error}");
    engine.shutdown().await.unwrap();
    let error = Engine::builder(pool.clone()).name("日本").start().await.unwrap_err();
    assert!(error.to_string().contains("LATIN1"), "{error}");
    pool.close().await;
    run(db.pool(), format!("drop database \"{name}\"")).await;
}

/// Statements and column defaults read the time only from the schema's functions.
#[tokio::test(flavor = "multi_thread")]
async fn p66_the_time_comes_from_the_schemas_functions() {
    let db = database().await;
    let breakpoint = Arc::new(Breakpoint::new());
    breakpoint.open(10);
    let builder = engine(&db).machine::<Work>().resource(Arc::clone(&breakpoint));
    let engine = builder.poll_interval(Duration::from_millis(50)).start().await.unwrap();
    let later = Work::insert(()).step(Work::End).schedule_in(Duration::from_hours(24));
    let id = later.execute(&engine).await.unwrap();
    assert_eq!(row(db.pool(), id).await.status, "runnable");
    // Sessions with prepared plans use the new functions too.
    sql(
        db.pool(),
        "create or replace function gen_durable.now() returns timestamptz language sql stable
         parallel safe as 'select pg_catalog.now() + interval ''25 hours''';
         create or replace function gen_durable.clock() returns timestamptz language sql volatile
         parallel safe as 'select pg_catalog.clock_timestamp() + interval ''25 hours'''",
    )
    .await;
    assert_eq!(engine.wait(id, WAIT_MAX).await.unwrap(), 1);
    engine.shutdown().await.unwrap();
}
