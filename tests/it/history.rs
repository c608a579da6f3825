//! The history of instances: each level records what it says, once, in the commit of the outcome.

mod faults;
mod partitions;
mod reads;

use std::{sync::Arc, time::Duration};

use gen_durable::{History, prelude::*};
use sqlx::PgPool;

use crate::support::{Breakpoint, WAIT_MAX, database, engine, eventually, sql, until};

#[derive(Clone, Debug, DurableSignal)]
pub struct Go;

/// Defines a machine whose runs come to each kind of end, with this history.
macro_rules! course {
    ($module:ident, $level:tt) => {
        pub mod $module {
            use super::*;

            #[durable_fsm(state = u32, output = u32, signals(Go), name = "course", history = $level)]
            pub enum Course {
                Begin,
                Wait,
                Own,
                Fail,
                End,
            }

            #[durable_fsm]
            impl Course {
                async fn begin(mut cx: Context<Self>) -> Outcome<Self> {
                    cx.state += 1;
                    match cx.state {
                        1 => cx.replay(Duration::ZERO),
                        2 => cx.snooze(Duration::ZERO),
                        _ => cx.next(Course::Wait),
                    }
                }

                async fn wait(mut cx: Context<Self>) -> StepResult<Self> {
                    Ok(match cx.take_signal::<Go>()? {
                        None => cx.await_signal::<Go>(),
                        Some(Go) => {
                            cx.state += 1;
                            cx.next_in(Course::Own, Duration::from_millis(1))
                        }
                    })
                }

                #[step(isolation = "serializable")]
                async fn own(mut cx: Context<Self>, tx: &mut PgConnection) -> StepResult<Self> {
                    sqlx::query("select").execute(tx).await?;
                    cx.state += 1;
                    Ok(cx.next(Course::Fail))
                }

                #[step(timeout = "500ms")]
                async fn fail(mut cx: Context<Self>) -> StepResult<Self> {
                    cx.state += 100;
                    match cx.attempt() {
                        0 => Err(std::io::Error::other("not yet"))?,
                        1 => panic!("nor now"),
                        _ => std::future::pending().await,
                    }
                }

                async fn handle(
                    mut cx: Context<Self>,
                    _error: StepError,
                    tx: &mut PgConnection,
                ) -> StepResult<Self> {
                    sqlx::query("select").execute(tx).await?;
                    cx.state += 1;
                    if cx.attempt() == 2 {
                        return Ok(cx.next(Course::End));
                    }
                    Ok(cx.replay(Duration::ZERO))
                }

                async fn end(cx: Context<Self>) -> Outcome<Self> {
                    let result = cx.state;
                    cx.done(result)
                }
            }
        }
    };
}

course!(off, "off");
course!(failures, "failures");
course!(steps, "steps");
course!(states, "states");

/// An entry as the tests compare it: step, attempt, outcome, next step, error and state.
type Entry = (String, i32, String, Option<String>, Option<String>, Option<String>);

/// Returns the entries of an instance.
async fn entries(pool: &PgPool, id: impl Into<i64>) -> Vec<Entry> {
    sqlx::query_as(
        "select step, attempt, outcome, next_step, error, state::text
         from gen_durable.history where instance_id = $1 order by id",
    )
    .bind(id.into())
    .fetch_all(pool)
    .await
    .unwrap()
}

fn entry(
    (step, attempt, outcome, next): (&str, i32, &str, &str),
    error: &str,
    state: &str,
) -> Entry {
    let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    (step.to_owned(), attempt, outcome.to_owned(), some(next), some(error), some(state))
}

/// All that a course does, with the state after each outcome.
fn whole() -> Vec<Entry> {
    vec![
        entry(("begin", 0, "replay", "begin"), "", "1"),
        entry(("begin", 1, "snooze", "begin"), "", "2"),
        entry(("begin", 1, "next", "wait"), "", "3"),
        entry(("wait", 0, "await", "wait"), "", "3"),
        entry(("wait", 0, "later", "own"), "", "4"),
        entry(("own", 0, "next", "fail"), "", "5"),
        entry(("fail", 0, "replay", "fail"), "not yet", "6"),
        entry(("fail", 1, "replay", "fail"), "panicked: nor now", "7"),
        entry(("fail", 2, "next", "end"), "ran longer than its timeout of 500ms", "8"),
        entry(("end", 0, "done", ""), "", "8"),
    ]
}

/// Returns entries without their states.
fn without_states(entries: Vec<Entry>) -> Vec<Entry> {
    entries.into_iter().map(|(a, b, c, d, e, _)| (a, b, c, d, e, None)).collect()
}

macro_rules! run_course {
    ($module:ident, $level:ident, $expected:expr) => {{
        use $module::Course;
        assert_eq!(Course::HISTORY, History::$level);
        assert_eq!(Course::HISTORY.as_str(), stringify!($module));
        let db = database().await;
        let engine = engine(&db).machine::<Course>().start().await.unwrap();
        let id = Course::insert(0).execute(&engine).await.unwrap();
        until(db.pool(), id, "awaiting_signal").await;
        Course::signal_go(id, Go).execute(&engine).await.unwrap();
        assert_eq!(engine.wait(id, WAIT_MAX).await.unwrap(), 8);
        assert_eq!(entries(db.pool(), id).await, $expected);
        engine.shutdown().await.unwrap();
    }};
}

#[tokio::test(flavor = "multi_thread")]
async fn p73_each_level_records_what_it_says() {
    let expected = without_states(whole());
    let failed: Vec<_> = expected.iter().filter(|entry| entry.4.is_some()).cloned().collect();
    assert_eq!(failed.len(), 3);
    run_course!(off, Off, Vec::<Entry>::new());
    run_course!(failures, Failures, failed);
    run_course!(steps, Steps, expected);
    run_course!(states, States, whole());
}

/// An ending of an instance of [`Ending`].
#[derive(Clone, Debug, PartialEq, DurableState)]
pub enum Way {
    Stop,
    HandleFails,
    HandleStops,
    HandleEnds,
    Refused,
    Done,
}

/// A machine with the default history.
#[durable_fsm(state = Way, output = ())]
pub enum Ending {
    Go,
}

#[durable_fsm]
impl Ending {
    async fn go(cx: Context<Self>) -> StepResult<Self> {
        match &cx.state {
            Way::Stop => Ok(cx.stop("enough")),
            Way::Done | Way::Refused => Ok(cx.done(())),
            _ => Err(std::io::Error::other("broken").into()),
        }
    }

    async fn handle(cx: Context<Self>, _error: StepError) -> StepResult<Self> {
        match &cx.state {
            Way::HandleFails => Err(std::io::Error::other("twice").into()),
            Way::HandleEnds => Ok(cx.done(())),
            _ => Ok(cx.stop("given up")),
        }
    }
}

/// The reasons for which an instance ends as failed, and an error that does not end it. The text is
/// the run's error, whatever `handle` says.
#[tokio::test(flavor = "multi_thread")]
async fn p73_failed_runs_are_recorded_however_the_instance_ends() {
    let db = database().await;
    let pool = db.pool();
    sql(
        pool,
        r#"create function refuse() returns trigger language plpgsql as $$
           begin
               raise exception 'refused' using errcode = 'check_violation';
           end $$;
           create trigger refuse before update on gen_durable.instances for each row
           when (new.state::text = '"Refused"' and new.status = 'done') execute function refuse()"#,
    )
    .await;
    let engine = engine(&db).machine::<Ending>().start().await.unwrap();
    for (way, status, expected) in [
        (Way::Done, "done", None),
        (Way::Stop, "failed", Some("enough")),
        (Way::HandleFails, "failed", Some("broken; then `handle` failed: twice")),
        (Way::HandleStops, "failed", Some("broken")),
        (Way::HandleEnds, "done", Some("broken")),
        (Way::Refused, "failed", Some("refused")),
    ] {
        let id = Ending::insert(way.clone()).execute(&engine).await.unwrap();
        until(pool, id, status).await;
        let mut found = entries(pool, id).await;
        let error = found.first().and_then(|entry| entry.4.clone()).unwrap_or_default();
        assert!(error.contains(expected.unwrap_or_default()), "{way:?}: {error}");
        if way != Way::Refused {
            assert_eq!(error, expected.unwrap_or_default(), "{way:?}");
        }
        let wanted = expected.map(|_| entry(("go", 0, status, ""), &error, ""));
        assert_eq!(std::mem::take(&mut found), Vec::from_iter(wanted), "{way:?}");
    }
    // A state that does not decode.
    let id: i64 = sqlx::query_scalar(
        "insert into gen_durable.instances (fsm, fsm_version, step, state, attempt)
         values ('ending', 1, 'go', '7', 3) returning id",
    )
    .fetch_one(pool)
    .await
    .unwrap();
    let row = until(pool, id, "failed").await;
    let error = row.last_error.unwrap();
    assert_eq!(entries(pool, id).await, [entry(("go", 3, "failed", ""), &error, "")]);
    engine.shutdown().await.unwrap();
}

/// Stands at the breakpoint in each of its steps.
#[durable_fsm(state = (), output = (), history = "steps")]
pub enum Stands {
    Plain,
    Own,
}

#[durable_fsm]
impl Stands {
    async fn plain(cx: Context<Self>, at: &Arc<Breakpoint>) -> Outcome<Self> {
        at.pass(cx.id()).await;
        cx.next(Stands::Own)
    }

    async fn own(cx: Context<Self>, at: &Arc<Breakpoint>, tx: &mut PgConnection) -> Outcome<Self> {
        let _ = tx;
        at.pass(cx.id()).await;
        cx.done(())
    }
}

/// The times are the run's, by the database's clock, also if its transaction began with it.
#[tokio::test(flavor = "multi_thread")]
async fn p73_an_entry_has_the_times_and_the_worker_of_its_run() {
    let db = database().await;
    let pool = db.pool();
    let at = Arc::new(Breakpoint::new());
    let builder = engine(&db).machine::<Stands>().resource(Arc::clone(&at));
    let engine = builder.start().await.unwrap();
    let id = Stands::insert(()).execute(&engine).await.unwrap();
    let now = "select (extract(epoch from clock_timestamp()) * 1000)::bigint";
    let now = async || -> i64 { sqlx::query_scalar(now).fetch_one(pool).await.unwrap() };
    let mut began = now().await;
    for step in ["plain", "own"] {
        at.arrival().await;
        let arrived = now().await;
        eventually("the step takes a while", async || (now().await > arrived + 300).then_some(()))
            .await;
        let opened = now().await;
        at.open(1);
        let (started, ended, worker): (i64, i64, i64) =
            eventually("the run is recorded", async || {
                sqlx::query_as(
                    "select (extract(epoch from started_at) * 1000)::bigint,
                            (extract(epoch from ended_at) * 1000)::bigint, worker
                     from gen_durable.history where instance_id = $1 and step = $2",
                )
                .bind(id.get())
                .bind(step)
                .fetch_optional(pool)
                .await
                .unwrap()
            })
            .await;
        assert!(began <= started && started + 250 <= opened, "{step}: {began} {started} {opened}");
        assert!(opened <= ended && ended <= now().await, "{step}: {opened} {ended}");
        let workers: Vec<i64> =
            sqlx::query_scalar("select id from gen_durable.workers").fetch_all(pool).await.unwrap();
        assert_eq!(workers, [worker]);
        began = opened;
    }
    engine.shutdown().await.unwrap();
}

/// Without a use there is no statement: no row of the history is written, and the batch is one
/// statement as before.
#[tokio::test(flavor = "multi_thread")]
async fn p73_a_batch_without_entries_needs_no_history() {
    let db = database().await;
    let pool = db.pool();
    sql(pool, "drop table gen_durable.history").await;
    let engine = engine(&db).machine::<Ending>().machine::<off::Course>().start().await.unwrap();
    let id = Ending::insert(Way::Done).execute(&engine).await.unwrap();
    engine.wait(id, WAIT_MAX).await.unwrap();
    let id = off::Course::insert(0).execute(&engine).await.unwrap();
    until(pool, id, "awaiting_signal").await;
    off::Course::signal_go(id, Go).execute(&engine).await.unwrap();
    engine.wait(id, WAIT_MAX).await.unwrap();
    engine.shutdown().await.unwrap();
}
