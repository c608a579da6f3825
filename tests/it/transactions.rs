//! Steps that run in a transaction: their own rows take effect with the outcome, once, or not at
//! all. A table of the user's is the oracle: each step writes an entry into `public.book`.

mod races;
mod sessions;

use std::{sync::Arc, time::Duration};

use gen_durable::{Isolation, prelude::*};
use gen_durable_postgres::TestDb;
use sqlx::{Connection, PgPool};

use crate::support::{
    Breakpoint, WAIT_MAX, database, engine, eventually, log, row, sql, until, until_a_session_waits,
};

/// The deed of a step after it has written its entry.
#[derive(Clone, Debug, PartialEq, DurableState)]
pub enum Deed {
    Next,
    NextIn,
    Replay,
    Snooze,
    Await,
    Done,
    Stop,
    Fail,
    Panic,
    /// Waits at the breakpoint, and is then done.
    Stand,
    /// Sleeps in Postgres for longer than the timeout.
    Sleep,
    /// Goes on after a statement that failed.
    Swallow,
    /// Sends this statement, and is then done.
    Run(String),
    /// Raises its isolation level before it writes its entry.
    Raise,
    /// Goes on after a nested transaction that could not begin, which ends the outer one.
    Unnest,
    /// Leaks the guard of a nested transaction.
    Leak,
    /// Undoes an entry in a nested transaction, and is then done.
    Nest,
}

#[derive(Clone, Debug, DurableState)]
pub struct Entry {
    pub deed: Deed,
    pub note: String,
}

fn entry(deed: Deed, note: &str) -> Entry {
    Entry { deed, note: note.to_owned() }
}

#[derive(Clone, Debug, DurableSignal)]
pub struct Word(String);

pub(crate) async fn write(tx: &mut PgConnection, id: i64, note: &str) -> Result<(), sqlx::Error> {
    sqlx::query("insert into public.book (instance, note) values ($1, $2)")
        .bind(id)
        .bind(note)
        .execute(tx)
        .await?;
    Ok(())
}

#[durable_fsm(state = Entry, output = String, signals(Word))]
pub enum Keep {
    #[allow(dead_code, reason = "it is the initial step")]
    Book,
    After,
}

#[durable_fsm]
impl Keep {
    #[step(timeout = "2s", next(After))]
    async fn book(
        mut cx: Context<Self>,
        tx: &mut PgConnection,
        breakpoint: &Arc<Breakpoint>,
    ) -> StepResult<Self> {
        let (id, note) = (cx.id().get(), cx.state.note.clone());
        if cx.state.deed == Deed::Raise {
            let raise = sqlx::raw_sql("set transaction isolation level serializable");
            raise.execute(&mut *tx).await?;
        }
        write(&mut *tx, id, &note).await?;
        if let Some(Word(word)) = cx.take_signal()? {
            return Ok(cx.done(word));
        }
        let again = cx.attempt() > 0 || cx.state.note == "again";
        Ok(match cx.state.deed.clone() {
            _ if again => cx.done(note),
            Deed::Next => cx.next(Keep::After),
            Deed::NextIn => cx.next_in(Keep::After, Duration::from_millis(1)),
            Deed::Replay => cx.replay(Duration::ZERO),
            Deed::Snooze => {
                "again".clone_into(&mut cx.state.note);
                cx.snooze(Duration::from_millis(1))
            }
            Deed::Await => cx.await_signal::<Word>(),
            Deed::Done | Deed::Raise => cx.done(note),
            Deed::Stop => cx.stop("enough"),
            Deed::Fail => return Err("it fails".into()),
            Deed::Panic => panic!("it panics"),
            Deed::Stand => {
                breakpoint.pass(id).await;
                cx.done(note)
            }
            Deed::Sleep => {
                // It must end by the step's timeout, and not by itself.
                sqlx::query("select pg_sleep(600)").execute(&mut *tx).await?;
                cx.done(note)
            }
            Deed::Swallow => {
                let _ = sqlx::query("select 1 / 0").execute(&mut *tx).await;
                cx.done(note)
            }
            Deed::Run(text) => {
                sqlx::raw_sql(sqlx::AssertSqlSafe(text)).execute(&mut *tx).await?;
                cx.done(note)
            }
            Deed::Unnest => {
                let _ = sqlx::query("select 1 / 0").execute(&mut *tx).await;
                assert!(tx.begin().await.is_err());
                write(&mut *tx, id, "outside").await?;
                cx.done(note)
            }
            Deed::Leak => {
                std::mem::forget(tx.begin().await?);
                cx.done(note)
            }
            Deed::Nest => {
                let mut nested = tx.begin().await?;
                write(&mut nested, id, "nested and undone").await?;
                nested.rollback().await?;
                let mut nested = tx.begin().await?;
                write(&mut nested, id, "nested").await?;
                nested.commit().await?;
                cx.done(note)
            }
        })
    }

    async fn after(cx: Context<Self>) -> Outcome<Self> {
        let note = cx.state.note.clone();
        cx.done(note)
    }
}

async fn book(db: &TestDb) -> PgPool {
    log();
    sql(db.pool(), "create table public.book (instance bigint not null, note text not null)").await;
    db.pool().clone()
}

async fn entries(pool: &PgPool, id: impl Into<i64>) -> Vec<String> {
    sqlx::query_scalar("select note from public.book where instance = $1 order by note")
        .bind(id.into())
        .fetch_all(pool)
        .await
        .unwrap()
}

fn keeper(db: &TestDb, breakpoint: &Arc<Breakpoint>) -> gen_durable::EngineBuilder {
    engine(db).machine::<Keep>().resource(Arc::clone(breakpoint))
}

#[tokio::test(flavor = "multi_thread")]
async fn p36_the_rows_of_a_step_take_effect_with_its_outcome() {
    let db = database().await;
    let pool = book(&db).await;
    let breakpoint = Arc::new(Breakpoint::new());
    let engine = keeper(&db, &breakpoint).start().await.unwrap();
    for (deed, expected) in [
        (Deed::Next, ["n"].as_slice()),
        (Deed::NextIn, &["n"]),
        (Deed::Replay, &["n", "n"]),
        (Deed::Snooze, &["again", "n"]),
        (Deed::Done, &["n"]),
        (Deed::Nest, &["n", "nested"]),
    ] {
        let id = Keep::insert(entry(deed.clone(), "n")).execute(&engine).await.unwrap();
        engine.wait(id, WAIT_MAX).await.unwrap();
        assert_eq!(entries(&pool, id).await, expected, "{deed:?}");
    }
    let id = Keep::insert(entry(Deed::Await, "n")).execute(&engine).await.unwrap();
    until(&pool, id, "awaiting_signal").await;
    assert_eq!(entries(&pool, id).await, ["n"]);
    Keep::signal_word(id, Word("heard".into())).execute(&engine).await.unwrap();
    assert_eq!(engine.wait(id, WAIT_MAX).await.unwrap(), "heard");
    assert_eq!(entries(&pool, id).await, ["n", "n"]);
    let id = Keep::insert(entry(Deed::Stop, "n")).execute(&engine).await.unwrap();
    until(&pool, id, "failed").await;
    assert_eq!(entries(&pool, id).await, ["n"], "stopping is an outcome");
    engine.shutdown().await.unwrap();
}

/// Each run fails in its own way. The instance fails with the error, and no entry stays.
#[tokio::test(flavor = "multi_thread")]
async fn p36_a_run_that_fails_leaves_no_rows() {
    let db = database().await;
    let pool = book(&db).await;
    sql(&pool, "create table public.paid (id int unique deferrable initially deferred)").await;
    let breakpoint = Arc::new(Breakpoint::new());
    let engine = keeper(&db, &breakpoint).start().await.unwrap();
    let run = |text: &str| Deed::Run(text.to_owned());
    for (deed, error) in [
        (Deed::Fail, "it fails"),
        (Deed::Panic, "panicked: it panics"),
        (Deed::Sleep, "ran longer than its timeout of 2s"),
        (Deed::Swallow, "a statement of the step failed, and the step went on"),
        (Deed::Leak, "the step left a nested transaction open"),
        (Deed::Unnest, "read-only transaction"),
        (run("rollback"), "the step ended its own transaction"),
        (run("rollback; begin"), "the step ended its own transaction"),
        (run("rollback and chain"), "the step ended its own transaction"),
        (run("reset all"), "the step ended its own transaction"),
        (run("set transaction read only"), "or made it read-only"),
        // It ends by the step's own setting.
        (run("set local statement_timeout = 1; select pg_sleep(1)"), "statement timeout"),
        (run("insert into public.paid values (1), (1)"), "duplicate key value"),
        (run("select gen_durable.none()"), "does not exist"),
    ] {
        let id = Keep::insert(entry(deed.clone(), "n")).execute(&engine).await.unwrap();
        let row = until(&pool, id, "failed").await;
        let last_error = row.last_error.unwrap();
        assert!(last_error.contains(error), "{deed:?}: {last_error}");
        assert_eq!(row.attempt, 0, "{deed:?}");
        assert_eq!(entries(&pool, id).await, Vec::<String>::new(), "{deed:?}");
    }
    // A commit by hand cannot be undone. The outcome does not take effect beside it.
    let id = Keep::insert(entry(run("commit"), "n")).execute(&engine).await.unwrap();
    let row = until(&pool, id, "failed").await;
    assert!(row.last_error.unwrap().contains("it sent `commit`, `rollback`"));
    // The sleep was cancelled, and nothing is left in a transaction.
    eventually("all sessions are idle", async || {
        let busy: i64 = sqlx::query_scalar(
            "select count(*) from pg_stat_activity where datname = current_database()
             and (query like '%600%' and state = 'active' or state like 'idle in %')
             and pid <> pg_backend_pid()",
        )
        .fetch_one(&pool)
        .await
        .unwrap();
        (busy == 0).then_some(())
    })
    .await;
    engine.shutdown().await.unwrap();
}

/// A worker loses its row while the step runs. Its rows are rolled back, and the other run's stay.
#[tokio::test(flavor = "multi_thread")]
async fn p36_a_worker_that_lost_the_row_leaves_no_rows() {
    let db = database().await;
    let pool = book(&db).await;
    let breakpoint = Arc::new(Breakpoint::new());
    let engine = keeper(&db, &breakpoint).start().await.unwrap();
    let id = Keep::insert(entry(Deed::Stand, "n")).execute(&engine).await.unwrap();
    assert_eq!(breakpoint.arrival().await, id.get());
    // This is what a reap does to the row of a lost worker.
    sql(
        &pool,
        "update gen_durable.instances set status = 'runnable', locked_by = null,
         revision = revision + 1, eligible_at = gen_durable.now()",
    )
    .await;
    eventually("it runs again", async || {
        (row(&pool, id).await.status == "executing").then_some(())
    })
    .await;
    assert_eq!(breakpoint.arrival().await, id.get());
    breakpoint.open(2);
    assert_eq!(engine.wait(id, WAIT_MAX).await.unwrap(), "n");
    eventually("one was dropped", async || (engine.metrics().lost_commits == 1).then_some(()))
        .await;
    assert_eq!(entries(&pool, id).await, ["n"]);
    engine.shutdown().await.unwrap();
}

/// An engine is dropped, or shut down in the middle of a step: the step's rows are gone, and
/// another engine runs the step with the attempt that it had.
#[tokio::test(flavor = "multi_thread")]
async fn p36_a_step_that_is_cut_off_leaves_no_rows_and_spends_no_attempt() {
    let db = database().await;
    let pool = book(&db).await;
    let breakpoint = Arc::new(Breakpoint::new());
    let id = Keep::insert(entry(Deed::Stand, "n")).execute(&pool).await.unwrap();
    for _ in 0..2 {
        let engine = keeper(&db, &breakpoint).drain_timeout(Duration::ZERO).start().await.unwrap();
        assert_eq!(breakpoint.arrival().await, id.get());
        engine.shutdown().await.unwrap();
        assert_eq!(entries(&pool, id).await, Vec::<String>::new());
        let row = row(&pool, id).await;
        assert_eq!((&*row.status, row.attempt, row.crashes), ("runnable", 0, 0));
    }
    let engine = keeper(&db, &breakpoint).start().await.unwrap();
    breakpoint.open(1);
    assert_eq!(engine.wait(id, WAIT_MAX).await.unwrap(), "n");
    assert_eq!(entries(&pool, id).await, ["n"]);
    engine.shutdown().await.unwrap();
}

/// Two steps read what the other writes. One of them is rolled back, and runs again at once with
/// the same attempt.
#[durable_fsm(state = i32, output = i64)]
pub enum Skew {
    Move,
}

#[durable_fsm]
impl Skew {
    #[step(isolation = "serializable")]
    async fn r#move(
        cx: Context<Self>,
        breakpoint: &Arc<Breakpoint>,
        tx: &mut PgConnection,
    ) -> StepResult<Self> {
        let there: i64 =
            sqlx::query_scalar("select count(*) from public.book").fetch_one(&mut *tx).await?;
        breakpoint.pass(cx.id()).await;
        write(&mut *tx, cx.id().get(), "moved").await?;
        assert_eq!(cx.attempt(), 0);
        Ok(cx.done(there))
    }

    #[step(isolation = "repeatable read")]
    async fn handle(
        cx: Context<Self>,
        error: StepError,
        tx: &mut PgConnection,
    ) -> StepResult<Self> {
        write(&mut *tx, cx.id().get(), "handled").await?;
        let conflict = error.downcast_ref::<sqlx::Error>().is_some();
        assert!(conflict, "{error}");
        Ok(cx.done(-1))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn p36_a_conflict_reruns_the_step_without_an_attempt() {
    let db = database().await;
    let pool = book(&db).await;
    let breakpoint = Arc::new(Breakpoint::new());
    let builder = engine(&db).machine::<Skew>().resource(Arc::clone(&breakpoint));
    let engine = builder.start().await.unwrap();
    let [one, other] = [1, 2].map(|n| Skew::insert(n).execute(&pool));
    let ids = [one.await.unwrap(), other.await.unwrap()];
    breakpoint.arrival().await;
    breakpoint.arrival().await;
    breakpoint.open(2);
    // The one that was rolled back comes again.
    breakpoint.arrival().await;
    breakpoint.open(1);
    let mut seen = [0; 2];
    for (seen, id) in seen.iter_mut().zip(ids) {
        *seen = engine.wait(id, WAIT_MAX).await.unwrap();
        assert_eq!(entries(&pool, id).await, ["moved"]);
    }
    seen.sort_unstable();
    assert_eq!(seen, [0, 1], "as if one had run after the other");
    // A step that always conflicts comes to `handle`, with the conflict.
    sql(
        &pool,
        "create function public.conflict() returns trigger language plpgsql as $$
             begin raise exception 'in conflict' using errcode = '40001'; end $$;
         create trigger conflict before insert on public.book for each row
             when (new.note = 'moved') execute function public.conflict()",
    )
    .await;
    let id = Skew::insert(3).execute(&engine).await.unwrap();
    breakpoint.open(11);
    assert_eq!(engine.wait(id, WAIT_MAX).await.unwrap(), -1);
    assert_eq!(entries(&pool, id).await, ["handled"]);
    assert!(row(&pool, id).await.last_error.unwrap().contains("in conflict"));
    engine.shutdown().await.unwrap();
}

/// A handwritten machine takes a transaction by the trait's own functions.
#[tokio::test]
async fn p36_the_trait_tells_which_steps_take_a_transaction() {
    assert_eq!(Keep::Book.transaction(), Some(Isolation::ReadCommitted));
    assert_eq!(Keep::After.transaction(), None);
    assert_eq!(Skew::Move.transaction(), Some(Isolation::Serializable));
    assert_eq!(Skew::handle_transaction(), Some(Isolation::RepeatableRead));
    assert_eq!(Keep::handle_transaction(), None);
    let graph = Keep::graph();
    assert!(graph.step("book").unwrap().transactional);
    assert!(!graph.step("after").unwrap().transactional);
    assert!(Skew::graph().handle.unwrap().transactional);
    assert!(graph.to_mermaid().contains("note left of book : runs in a transaction"));
}

/// The outcome waits for a row that a caller's transaction has locked, and takes effect after it.
#[tokio::test(flavor = "multi_thread")]
async fn p36_an_outcome_waits_for_its_locked_row() {
    let db = database().await;
    let pool = book(&db).await;
    let breakpoint = Arc::new(Breakpoint::new());
    let engine = keeper(&db, &breakpoint).start().await.unwrap();
    let id = Keep::insert(entry(Deed::Stand, "n")).execute(&engine).await.unwrap();
    breakpoint.arrival().await;
    let mut caller = pool.begin().await.unwrap();
    Keep::signal_word(id, Word("late".into())).execute(&mut *caller).await.unwrap();
    breakpoint.open(1);
    until_a_session_waits(&pool, 1).await;
    caller.commit().await.unwrap();
    assert_eq!(engine.wait(id, WAIT_MAX).await.unwrap(), "n");
    assert_eq!(row(&pool, id).await.inbox, 0, "an ended instance has no inbox");
    assert_eq!(entries(&pool, id).await, ["n"]);
    engine.shutdown().await.unwrap();
}
